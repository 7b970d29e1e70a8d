"""The note that ends a log: what it says, and that nothing passes for one that is not exactly as specified."""

from __future__ import annotations

import pytest

from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, OTHER_LOG, WITNESS_KEYS, Tree
from treehead.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from treehead.errors import StorageError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey
from treehead.privatekey import PrivateKey
from treehead_logserver.freeze import is_freeze, open_freeze, parse_successor, sign_freeze, successor_in

TREE = Tree(b"%d" % index for index in range(7))
LAST = Checkpoint(origin=ORIGIN, size=7, root=TREE.root(7))


def named(name: str) -> VerifierKey:
    return OTHER_LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519)


SUCCESSOR = named("log.example/2027")
LINE = f"successor {format_vkey(SUCCESSOR)}"


def noted(*extensions: str, key: PrivateKey = LOG, origin: str = ORIGIN) -> bytes:
    return sign_checkpoint(Checkpoint(origin=origin, size=7, root=LAST.root, extensions=extensions), key=key)


@pytest.mark.parametrize("name", ["log.example/2027", "l", "\u00fc" * 127 + "x"])
def test_what_was_signed_is_what_is_read(name: str) -> None:
    successor = named(name)
    note = sign_freeze(LAST, successor=successor, key=LOG)
    freeze = open_freeze(note, vkey=LOG_KEY)
    assert (freeze.note, freeze.size, freeze.root, freeze.successor) == (note, 7, LAST.root, successor)
    assert parse_successor(format_vkey(successor), vkey=LOG_KEY) == successor
    assert len(note) < 4_096


@pytest.mark.parametrize(
    ("note", "complaint"),
    [
        pytest.param(noted(), "ends nothing", id="a_checkpoint"),
        pytest.param(noted(LINE), "ends nothing", id="no_frozen"),
        pytest.param(noted(LINE, "frozen"), "ends nothing", id="the_other_order"),
        pytest.param(noted("Frozen", LINE), "ends nothing", id="another_spelling"),
        pytest.param(noted("frozen"), "does not name a successor", id="no_successor"),
        pytest.param(noted("frozen", LINE, "more"), "and nothing else", id="a_line_too_many"),
        pytest.param(noted("frozen", LINE, LINE), "and nothing else", id="two_successors"),
        pytest.param(noted("frozen", f"Successor {format_vkey(SUCCESSOR)}"), "does not name a successor", id="case"),
        pytest.param(noted("frozen", "successor nonsense"), "not a verifier key", id="nonsense"),
        pytest.param(noted("frozen", f"{LINE} "), "not base64|base64", id="a_space_after_it"),
        pytest.param(
            noted("frozen", f"successor {format_vkey(WITNESS_KEYS['w1'])}"), "cannot be a log's", id="a_witness"
        ),
        pytest.param(noted("frozen", f"successor {format_vkey(named(ORIGIN))}"), "succeed itself", id="the_same_name"),
        pytest.param(noted("frozen", f"successor {format_vkey(LOG_KEY)}"), "succeed itself", id="itself"),
        pytest.param(
            noted("frozen", f"successor {format_vkey(named('l' * 256))}"), "more than 255 bytes", id="a_long_name"
        ),
        pytest.param(noted("frozen", LINE, key=OTHER_LOG), "damaged", id="another_key"),
        pytest.param(noted("frozen", LINE, origin="log.example/2026"), "damaged", id="another_log"),
        pytest.param(b"", "damaged", id="empty"),
    ],
)
def test_what_is_not_exactly_as_specified_ends_no_log(note: bytes, complaint: str) -> None:
    with pytest.raises(StorageError, match="the note that froze the log is damaged: ") as caught:
        open_freeze(note, vkey=LOG_KEY)
    assert any(words in str(caught.value) for words in complaint.split("|"))


def test_a_checkpoint_that_only_begins_as_an_end_is_not_taken_for_an_ordinary_one() -> None:
    assert successor_in(LAST) is None
    for extensions in ((), ("more",), (LINE, "frozen")):
        checkpoint = open_checkpoint(noted(*extensions), key=LOG_KEY)
        assert not is_freeze(checkpoint)
        assert successor_in(checkpoint) is None
    for lines in ((), ("more",), (LINE, "more")):
        checkpoint = open_checkpoint(noted("frozen", *lines), key=LOG_KEY)
        assert is_freeze(checkpoint)
        with pytest.raises(StorageError):
            successor_in(checkpoint)


@pytest.mark.parametrize("name", ["l" * 256, "\u00fc" * 128, "l" * 4_000])
def test_a_successor_whose_note_would_not_fit_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--successor: a name of more than 255 bytes cannot be a log's"):
        parse_successor(format_vkey(named(name)), vkey=LOG_KEY)
