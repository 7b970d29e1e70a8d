"""Our own vectors: one mistake or attack a file, refused with the error that `refused.toml` names, and good neighbours.

A message has to contain what the table says, which is the line or field at fault, and may hold no control characters.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY
from treehead import errors
from treehead.checkpoint import parse_checkpoint
from treehead.encoding import parse_utf8
from treehead.entry import parse_entry
from treehead.errors import TreeheadError
from treehead.evidence import format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey, parse_vkey
from treehead.note import format_note, parse_note
from treehead.policy import format_policy, parse_policy
from treehead.tlogproof import format_proof, parse_proof
from treehead.trust import parse_trust

DATA = Path(__file__).parent / "data"


def read_policy(data: bytes) -> None:
    policy = parse_policy(data)
    assert parse_policy(format_policy(policy)) == policy


def read_vkey(data: bytes) -> None:
    assert format_vkey(parse_vkey(parse_utf8(data, what="verifier key", bytes_max=65_536))).encode() == data


def read_note(data: bytes) -> None:
    assert format_note(parse_note(data)) == data


def read_proof(data: bytes) -> None:
    proof = parse_proof(data)
    assert format_proof(proof) == data
    parse_checkpoint(parse_note(proof.checkpoint).text)


def read_evidence(data: bytes) -> None:
    evidence = parse_evidence(data)
    assert format_evidence(evidence) == data
    verify_evidence(evidence, key=LOG_KEY)


READERS: dict[str, Callable[[bytes], object]] = {
    "entry": parse_entry,
    "evidence": read_evidence,
    "note": read_note,
    "policy": read_policy,
    "proof": read_proof,
    "trust": parse_trust,
    "vkey": read_vkey,
}

REFUSED = {kind: tomllib.loads((DATA / kind / "refused.toml").read_text(encoding="utf-8")) for kind in READERS}


def files(verdict: str) -> list[Path]:
    return sorted(path for kind in READERS for path in (DATA / kind / verdict).iterdir())


def name_of(path: Path) -> str:
    return f"{path.parts[-3]}-{path.stem}"


@pytest.mark.parametrize("path", files("refused"), ids=name_of)
def test_refused(path: Path) -> None:
    kind = path.parts[-3]
    expected = REFUSED[kind][path.stem]
    with pytest.raises(TreeheadError) as caught:
        READERS[kind](path.read_bytes())
    assert type(caught.value) is getattr(errors, expected["error"])
    assert expected["message"] in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("path", files("accepted"), ids=name_of)
def test_accepted(path: Path) -> None:
    READERS[path.parts[-3]](path.read_bytes())


@pytest.mark.parametrize("kind", READERS)
def test_every_file_has_its_row_and_every_row_its_file(kind: str) -> None:
    assert {path.stem for path in (DATA / kind / "refused").iterdir()} == REFUSED[kind].keys()


def test_every_folder_has_a_reader() -> None:
    assert {path.name for path in DATA.iterdir() if path.is_dir()} == READERS.keys()
