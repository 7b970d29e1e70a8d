"""One byte changed, anywhere: a file means something else or nothing, and what is proof proves nothing any more."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives import serialization

from tests.unit.library.signers import CURVES, public_of, sign
from tests.unit.library.specimens import (
    CONTENT,
    LEAF,
    LOG_KEY,
    NOW,
    P256_PUBLISHER,
    POLICY_FILE,
    PUBLISHER,
    TRUST,
    TRUST_FILE,
    WITNESSES,
    artifact,
    attestation_leaf,
    hashedrekord_leaf,
    policy,
    prefix_evidence,
    proof_file,
    same_size_evidence,
    statement,
    tree_with,
    witness_line,
)
from treehead.checkpoint import parse_checkpoint
from treehead.encoding import parse_canonical_json, parse_utf8
from treehead.entry import hashedrekord, parse_entry, verify_entry
from treehead.errors import TreeheadError
from treehead.evidence import Evidence, format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey, parse_vkey
from treehead.note import format_note, parse_note, verify_note
from treehead.policy import parse_policy
from treehead.publickey import Scheme, parse_public_key, public_key_from_spki
from treehead.statement import parse_statement
from treehead.tile import format_entry_bundle, parse_entry_bundle, parse_tile_path
from treehead.tlogproof import parse_proof
from treehead.trust import parse_trust
from treehead.verify import verify_artifact

INSERTED = (0x00, 0x09, 0x0A, 0x0D, 0x20, 0x22, 0x2B, 0x2F, 0x30, 0x3D, 0x41, 0x7F, 0x80, 0xFF)


def mutations(data: bytes, *, inserted: tuple[int, ...] = INSERTED) -> Iterator[bytes]:
    """Every bit flipped, every byte taken out or doubled, and telling bytes put in everywhere."""
    for at, byte in enumerate(data):
        for bit in range(8):
            yield data[:at] + bytes([byte ^ 1 << bit]) + data[at + 1 :]
        yield data[:at] + data[at + 1 :]
        yield data[:at] + bytes([byte, byte]) + data[at + 1 :]
    for at in range(len(data) + 1):
        for byte in inserted:
            yield data[:at] + bytes([byte]) + data[at:]


def text(data: bytes) -> str:
    return parse_utf8(data, what="text", bytes_max=100_000)


NOTE = format_note(parse_note(parse_proof(proof_file()).checkpoint))

EXACT: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "canonical_json": (lambda data: parse_canonical_json(data, what="json", bytes_max=100_000), LEAF),
    "checkpoint": (lambda data: parse_checkpoint(text(data)), parse_note(NOTE).text.encode()),
    "entry_bundle": (parse_entry_bundle, format_entry_bundle([b"one", b"", b"three"])),
    "evidence": (parse_evidence, format_evidence(prefix_evidence())),
    "note": (parse_note, NOTE),
    "p256_public_key": (lambda data: parse_public_key(text(data)), str(P256_PUBLISHER.public).encode()),
    "ed25519_public_key": (lambda data: parse_public_key(text(data)), str(PUBLISHER.public).encode()),
    "p521_public_key": (lambda data: parse_public_key(text(data)), str(public_of(Scheme.P521)).encode()),
    "rsa_public_key": (lambda data: parse_public_key(text(data)), str(public_of(Scheme.RSA2048)).encode()),
    "proof": (parse_proof, proof_file()),
    "tile_path": (lambda data: parse_tile_path(text(data)), b"tile/1/x001/x234/067.p/89"),
    "vkey": (lambda data: parse_vkey(text(data)), format_vkey(LOG_KEY).encode()),
}


@pytest.mark.parametrize("name", EXACT)
def test_one_value_has_one_spelling(name: str) -> None:
    parse, data = EXACT[name]
    value = parse(data)
    for mutated in mutations(data, inserted=INSERTED[:9]):
        try:
            other = parse(mutated)
        except TreeheadError:
            continue
        assert other != value or mutated == data, mutated


@pytest.mark.parametrize("scheme", Scheme)
def test_a_public_key_is_accepted_in_the_spelling_of_every_der_encoder(scheme: Scheme) -> None:
    accepted = 0
    for mutated in mutations(public_of(scheme).spki, inserted=(0x00,)):
        try:
            key = public_key_from_spki(mutated)
        except TreeheadError:
            continue
        der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        assert serialization.load_der_public_key(mutated).public_bytes(der, spki) == mutated == key.spki
        accepted += 1
    # Any 32 bytes are an Ed25519 key, and any odd number a modulus; but two points never differ in one bit alone.
    assert (accepted == 0) is (scheme in CURVES)


# What these mean does not depend on every byte, but nothing else than our own errors may come of any.
LOOSE: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "entry": (parse_entry, LEAF),
    "hashedrekord": (parse_entry, hashedrekord_leaf()),
    "policy": (parse_policy, POLICY_FILE),
    "statement": (parse_statement, statement()),
    "trust": (parse_trust, TRUST_FILE),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_changed_byte_leads_to_no_foreign_exception(name: str) -> None:
    parse, data = LOOSE[name]
    parse(data)
    for mutated in mutations(data, inserted=INSERTED[:5]):
        with contextlib.suppress(TreeheadError):
            parse(mutated)


# --- what is proof ---------------------------------------------------------------------------------------------------


def survivors(check: Callable[[bytes], object], data: bytes, *, inserted: tuple[int, ...]) -> list[bytes]:
    """The changed files that still pass."""
    check(data)
    passed = []
    for mutated in mutations(data, inserted=inserted):
        if mutated == data:
            continue
        try:
            check(mutated)
        except TreeheadError:
            continue
        passed.append(mutated)
    return passed


@pytest.mark.parametrize(
    "evidence",
    [same_size_evidence(), prefix_evidence(), prefix_evidence(4, 7)],
    ids=["same_size", "prefix", "prefix_of_a_power_of_two"],
)
def test_no_changed_evidence_proves_anything(evidence: Evidence) -> None:
    def check(data: bytes) -> None:
        verify_evidence(parse_evidence(data), key=LOG_KEY)

    assert survivors(check, format_evidence(evidence), inserted=INSERTED) == []


def test_no_changed_proof_verifies_when_every_line_of_it_is_needed() -> None:
    everyone = policy(*(witness_line(name) for name in WITNESSES), "group g all w1 w2 w3", "quorum g")

    def check(data: bytes) -> None:
        verify_artifact(artifact(), proof=data, policy=everyone, trust=TRUST, now=NOW)

    assert survivors(check, proof_file(), inserted=(0x0A, 0x20, 0x41)) == []


def digest_signed_by(scheme: Scheme) -> bytes:
    return hashedrekord.format_leaf(
        digest=hashlib.new(scheme.digest or "", CONTENT).digest(),
        signature=sign(scheme, CONTENT),
        signer=public_of(scheme),
    )


@pytest.mark.parametrize(
    "leaf",
    [
        LEAF,
        attestation_leaf(signer=P256_PUBLISHER),
        hashedrekord_leaf(),
        digest_signed_by(Scheme.P384),
        digest_signed_by(Scheme.RSA2048),
    ],
    ids=["ed25519", "p256", "digest", "p384_digest", "rsa_digest"],
)
def test_no_changed_leaf_is_signed(leaf: bytes) -> None:
    assert survivors(lambda data: verify_entry(parse_entry(data)), leaf, inserted=(0x0A, 0x20)) == []


def test_no_changed_note_is_signed_and_the_same_head() -> None:
    head = tree_with().root()

    def check(data: bytes) -> None:
        note = parse_note(data)
        verify_note(note, key=LOG_KEY)
        assert parse_checkpoint(note.text).root == head, "what verifies is the same head"

    for mutated in survivors(check, NOTE, inserted=(0x0A, 0x20)):
        # Only lines by keys that this reader does not know can vary: that is what they are for.
        assert parse_note(mutated).text == parse_note(NOTE).text
        assert parse_note(mutated).by(LOG_KEY) == parse_note(NOTE).by(LOG_KEY)
