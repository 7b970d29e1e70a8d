"""Whatever bytes come in, a parser returns, or raises one of our own errors, and does so soon."""

import contextlib
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.library.signers import public_of
from tests.unit.library.specimens import (
    LEAF,
    LOG_KEY,
    NOW,
    P256_PUBLISHER,
    POLICY,
    POLICY_FILE,
    PUBLISHER,
    TRUST,
    TRUST_FILE,
    artifact,
    hashedrekord_leaf,
    prefix_evidence,
    proof_file,
    same_size_evidence,
    statement,
)
from treehead.checkpoint import parse_checkpoint
from treehead.encoding import (
    parse_base64,
    parse_canonical_json,
    parse_decimal,
    parse_hex,
    parse_json_object,
    parse_protobuf_base64,
    parse_utf8,
)
from treehead.entry import parse_entry, verify_entry
from treehead.errors import MalformedError, TreeheadError, UsageError
from treehead.evidence import format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey, parse_vkey
from treehead.note import format_note, parse_note, verify_note
from treehead.policy import parse_policy, verify_head
from treehead.privatekey import format_private_key, parse_private_key
from treehead.publickey import Scheme, parse_public_key, public_key_from_spki
from treehead.statement import parse_statement
from treehead.tile import ExpandedTile, format_entry_bundle, parse_entry_bundle, parse_tile_path
from treehead.tlogproof import parse_proof
from treehead.trust import parse_trust
from treehead.verify import verify_artifact

SEED = 20_261_122
SECONDS_MAX = 2.0
"""Far more than any of these takes; what takes longer is quadratic."""


def on_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Feed a parser of text with any text at all, halves of surrogate pairs too."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def check_note(data: bytes) -> None:
    note = parse_note(data)
    with contextlib.suppress(TreeheadError):
        verify_note(note, key=LOG_KEY)
    verify_head(POLICY, note)


def check_evidence(data: bytes) -> None:
    verify_evidence(parse_evidence(data), key=LOG_KEY)


def check_entry(data: bytes) -> None:
    verify_entry(parse_entry(data))


def check_proof(data: bytes) -> None:
    parse_proof(data)
    verify_artifact(artifact(), proof=data, policy=POLICY, trust=TRUST, now=NOW)


NOTE = parse_proof(proof_file()).checkpoint

# Each parser with files that it accepts, from which bad ones are bred.
PARSERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "base64": (on_text(lambda text: parse_base64(text, what="x")), [b"AAEC"]),
    "canonical_json": (lambda data: parse_canonical_json(data, what="x", bytes_max=1_000_000), [LEAF]),
    "checkpoint": (on_text(parse_checkpoint), [NOTE.partition(b"\n\n")[0] + b"\n"]),
    "decimal": (on_text(lambda text: parse_decimal(text, what="x")), [b"1234567890"]),
    "entry": (check_entry, [LEAF, hashedrekord_leaf()]),
    "entry_bundle": (parse_entry_bundle, [format_entry_bundle([b"one", b"two"])]),
    "evidence": (check_evidence, [format_evidence(same_size_evidence()), format_evidence(prefix_evidence())]),
    "hex": (on_text(lambda text: parse_hex(text, what="x")), [b"00ff"]),
    "json": (lambda data: parse_json_object(data, what="x", bytes_max=1_000_000), [LEAF, statement()]),
    "note": (check_note, [NOTE, format_note(parse_note(NOTE))]),
    "policy": (parse_policy, [POLICY_FILE]),
    "private_key": (
        lambda data: parse_private_key(data, passphrase=None),
        [format_private_key(key, passphrase=None) for key in (PUBLISHER, P256_PUBLISHER)],
    ),
    "proof": (check_proof, [proof_file()]),
    "protobuf_base64": (on_text(lambda text: parse_protobuf_base64(text, what="x")), [b"AAEC", b"-_8", b"+/8="]),
    "public_key": (on_text(parse_public_key), [str(public_of(scheme)).encode() for scheme in Scheme]),
    "spki": (public_key_from_spki, [public_of(scheme).spki for scheme in Scheme]),
    "statement": (parse_statement, [statement()]),
    "tile": (ExpandedTile.of, [bytes(64)]),
    "tile_path": (on_text(parse_tile_path), [b"tile/0/x001/x234/067.p/89"]),
    "trust": (parse_trust, [TRUST_FILE]),
    "utf8": (lambda data: parse_utf8(data, what="x", bytes_max=1_000_000), [b"text"]),
    "vkey": (on_text(parse_vkey), [format_vkey(LOG_KEY).encode()]),
}

PIECES = [
    *(b"\x00 \x7f \x80 \xff \xc0\x80 \xed\xa0\x80 \xef\xbb\xbf \xf4\x90\x80\x80 \xe2\x80\xa8 \xe2\x80\xae".split(b" ")),
    *(b'\\ud800 \\u0000 "\\ud800" 1e400 -0 1E5 NaN Infinity {} [] [[[[ }}}} "" null true'.split(b" ")),
    *(b"0 -1 00 9223372036854775807 9223372036854775808 18446744073709551616 0x10 1_0".split(b" ")),
    *(b"= == ==== +  / - _ * # : :: @ ' , .".split(b" ")),
    *(b"\n|\n\n|\n\n\n|\r\n|\t| |  |\x0b|\x0c|\x85|\n\xe2\x80\x94 |\xe2\x80\x94".split(b"|")),
    *(b"log witness group quorum none any all extra index root fork prefix same-size".split(b" ")),
    b"9" * 5_000,
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"A" * 70_000,
    b"\n" * 3_000,
]


def run(parse: Callable[[bytes], object], data: bytes) -> None:
    """Parse, and let nothing but our own errors pass for a refusal."""
    with contextlib.suppress(TreeheadError):
        parse(data)


# `cryptography` warns of certificates whose serial number is not positive, and of nothing else that is bred here.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", PARSERS)
def test_bred_bytes(name: str) -> None:
    parse, good = PARSERS[name]
    randomness = random.Random(f"{SEED} {name}")
    for data in good:
        run(parse, data)
    for _ in range(600):
        bred = bytearray(randomness.choice(good))
        for _ in range(randomness.choice((1, 1, 1, 2, 3, 8))):
            at = randomness.randrange(len(bred) + 1)
            end = min(len(bred), at + randomness.choice((0, 0, 1, 1, 2, 5, 40)))
            match randomness.randrange(4):
                case 0:
                    bred[at:end] = randomness.choice(PIECES)
                case 1:
                    bred[at:end] = randomness.randbytes(randomness.choice((1, 1, 2, 4, 30)))
                case 2:
                    other = randomness.choice(good)
                    begin = randomness.randrange(len(other))
                    bred[at:end] = other[begin : begin + randomness.randrange(60)]
                case _:
                    del bred[at:end]
        run(parse, bytes(bred))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=60).map(str.encode)))
@example(data=b"")
@example(data=b"\x00")
@example(data=b"\xef\xbb\xbf")
@example(data=b"\xed\xa0\x80")
@example(data=b"\n\n")
@example(data=b'{"a":"\\ud800"}')
@example(data=b'"\\ud800"')
@example(data=b"\r\n")
def test_any_bytes(name: str, data: bytes) -> None:
    run(PARSERS[name][0], data)


@pytest.mark.parametrize("parse", [parse_vkey, parse_public_key, parse_tile_path, parse_checkpoint])
@pytest.mark.parametrize("text", ["\ud800", "\udc00+00000000+AAAA", "\udcff\n0\n\n", "ed25519:\ud800", "tile/0/\udce9"])
def test_text_that_is_no_unicode(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(MalformedError):
        parse(text)


LONG = 500_000
OVERLONG: dict[str, bytes] = {
    "zeros": bytes(LONG),
    "newlines": b"\n" * LONG,
    "spaces": b" " * LONG,
    "digits": b"1" * LONG,
    "base64": b"A" * LONG,
    "padding": b"=" * LONG,
    "hashes": (b"A" * 43 + b"=\n") * (LONG // 45),
    "comments": b"#\n" * (LONG // 2),
    "dashes": "— ".encode() * (LONG // 4),
    "signature_lines": b"text\n\n" + "— n AAAAAAA=\n".encode() * (LONG // 15),
    "blank_lines_and_dashes": "\n\n— ".encode() * (LONG // 6),
    "open_brackets": b"[" * LONG,
    "open_braces": b'{"a":' * (LONG // 5),
    "quotes": b'"' * LONG,
    "backslashes": b'{"' + b"\\\\" * (LONG // 2),
    "many_keys": b"{" + b",".join(b'"%d":0' % number for number in range(LONG // 10)) + b"}",
    "proof_of_newlines": b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"\n" * LONG,
    "proof_of_hashes": b"c2sp.org/tlog-proof@v1\nindex 0\n" + (b"A" * 43 + b"=\n") * (LONG // 45),
    "evidence_of_hashes": b"treehead.dev/evidence@v1\nfork prefix\n" + (b"A" * 43 + b"=\n") * (LONG // 45),
    "groups": b"".join(b"group g%d any g\n" % number for number in range(LONG // 20)),
    "one_group": b"group g any " + b"w " * (LONG // 2) + b"\n",
    "tile_path": b"tile/0/" + b"x999/" * (LONG // 5) + b"999",
    "vkey": b"x" * LONG + b"+00000000+AAAA",
    "pem": b"-----BEGIN PRIVATE KEY-----\n" + b"A" * LONG,
}


@pytest.mark.parametrize("what", OVERLONG)
def test_overlong_input_is_refused_soon(what: str) -> None:
    data = OVERLONG[what]
    for name, (parse, _) in PARSERS.items():
        begin = time.process_time_ns()
        run(parse, data)
        assert time.process_time_ns() - begin < SECONDS_MAX * 1e9, name


def test_a_private_key_file_of_any_kind_is_at_most_unusable() -> None:
    for data in (b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\n\xff", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"):
        for passphrase in (None, b"", b"x", b"x" * 5_000):
            with pytest.raises(UsageError):
                parse_private_key(data, passphrase=passphrase)
