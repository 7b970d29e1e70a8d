"""Real Sigstore bundles of a Rekor v2 log: their leaf, inclusion proof and checkpoint, checked from the bundle alone.

What is not about the log is not checked: timestamps, the certificate's chain and whom it names.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from treehead.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.dsse import pre_authentication_encoding
from treehead.encoding import (
    Fields,
    JsonValue,
    format_base64,
    format_canonical_json,
    parse_base64,
    parse_decimal,
    parse_json_object,
)
from treehead.entry import KINDS, parse_entry, verify_entry
from treehead.entry.base import KEY_DETAILS
from treehead.errors import RefusedError, SignatureError, TreeheadError, UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import Note, parse_note
from treehead.policy import check_quorum, parse_policy, verify_head
from treehead.publickey import Scheme, public_key_from_spki

BUNDLE_BYTES_MAX = 1_048_576

# Faults in these parts of a bundle are faults about the log, so a bundle named after them must be refused here.
LOG_PARTS = ("checkpoint", "inclusion", "proof", "tlog", "rekor-entry", "log-id", "leaf", "body")

# Public witnesses that cosigned the staging log, as their operators publish them.
WITNESSES = {
    b"stagemole": "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
    b"navigli": "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G",
    b"ring-any-bells": "staging.witness.transparency.goog/ring-any-bells+2e1a8dc9+"
    "BG5JTpLc3FJtwzgh1Uv+Qelz9qeOH2bfWjS1s0s+y4rL",
}


def read(path: Path) -> Fields:
    return Fields(parse_json_object(path.read_bytes(), what=path.name, bytes_max=BUNDLE_BYTES_MAX), path="")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedBundle:
    """The parts of a bundle that are about its log, as they stand there."""

    bundle: Fields
    material: Fields
    kind: str
    log_id: bytes
    log_index: int
    leaf: bytes
    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes


def parse_bundle(path: Path) -> LoggedBundle:
    bundle = read(path)
    material = bundle.object("verificationMaterial")
    [item] = material.array("tlogEntries")
    entry = Fields(item, path="tlogEntries[0]")
    proof = entry.object("inclusionProof")
    kind_version = entry.object("kindVersion")
    return LoggedBundle(
        bundle=bundle,
        material=material,
        kind=f"{kind_version.text('kind')}/{kind_version.text('version')}",
        log_id=entry.object("logId").base64("keyId", length=32),
        log_index=parse_decimal(entry.text("logIndex"), what="logIndex"),
        leaf=entry.base64("canonicalizedBody"),
        index=parse_decimal(proof.text("logIndex"), what="logIndex of the proof"),
        size=parse_decimal(proof.text("treeSize"), what="treeSize"),
        root=proof.base64("rootHash"),
        hashes=tuple(hash_from(value) for value in proof.array("hashes")),
        checkpoint=proof.object("checkpoint").text("envelope").encode(),
    )


def hash_from(value: JsonValue) -> bytes:
    assert isinstance(value, str)
    return parse_base64(value, what="hash")


def log_key(trusted_root: Fields, *, log_id: bytes, origin: str) -> VerifierKey:
    """The key of the log with this id, which is the whole hash of which a note's key id is the beginning."""
    for item in trusted_root.array("tlogs"):
        log = Fields(item, path="tlogs")
        if log.object("logId").base64("keyId") == log_id:
            public_key = public_key_from_spki(log.object("publicKey").base64("rawBytes")).spki[-32:]
            full_id = sha256(origin.encode() + b"\n\x01" + public_key).digest()
            if full_id != log_id:
                raise SignatureError(f"log id does not belong to a key of {origin}")
            return VerifierKey(name=origin, key_type=NoteKeyType.ED25519, public_key=public_key)
    raise SignatureError("no log of the trusted root has this id")


def verify_bundle(folder: Path) -> tuple[LoggedBundle, Note, VerifierKey, Checkpoint]:
    """The log's part of a bundle, every claim in it checked."""
    parts = parse_bundle(folder / "bundle.sigstore.json")
    note = parse_note(parts.checkpoint)
    origin = parse_checkpoint(note.text).origin
    key = log_key(read(folder / "trusted_root.json"), log_id=parts.log_id, origin=origin)
    checkpoint = verify_checkpoint(note, key=key)
    if (parts.size, parts.root, parts.log_index) != (checkpoint.size, checkpoint.root, parts.index):
        raise RefusedError("the proof is not of the checkpoint's tree")
    verify_inclusion(
        index=parts.index,
        size=checkpoint.size,
        leaf_hash=hash_leaf(parts.leaf),
        proof=parts.hashes,
        root=checkpoint.root,
    )
    if is_known(parts.kind):
        entry = parse_entry(parts.leaf)
        verify_entry(entry)
        if entry.kind != parts.kind:
            raise RefusedError("the leaf is of another kind than the bundle says")
        if parts.bundle.has("messageSignature") or parts.bundle.has("dsseEnvelope"):
            rebuilt = rebuild_leaf(parts, scheme=entry.signer.scheme)
            if rebuilt is not None and rebuilt != parts.leaf:
                raise RefusedError("the leaf is not of what the bundle holds")
    return parts, note, key, checkpoint


def is_known(kind: str) -> bool:
    return kind in {f"{name}/{version}" for name, version in KINDS}


def rebuild_leaf(parts: LoggedBundle, *, scheme: Scheme) -> bytes | None:
    """The leaf that the bundle's signature and certificate give; None if the key is not in the bundle."""
    hash_name = scheme.digest or ""
    if not parts.material.has("certificate"):
        return None
    if parts.bundle.has("messageSignature"):
        message = parts.bundle.object("messageSignature")
        digest = message.object("messageDigest").base64("digest")
        signature = message.base64("signature")
    else:
        envelope = parts.bundle.object("dsseEnvelope")
        signed = pre_authentication_encoding(envelope.text("payloadType"), envelope.base64("payload"))
        digest = hashlib.new(hash_name, signed).digest()
        [item] = envelope.array("signatures")
        signature = Fields(item, path="signatures[0]").base64("sig")
    certificate = parts.material.object("certificate").base64("rawBytes")
    record: JsonValue = {
        "data": {"algorithm": hash_name.replace("sha", "SHA2_"), "digest": format_base64(digest)},
        "signature": {
            "content": format_base64(signature),
            "verifier": {
                "keyDetails": KEY_DETAILS[scheme],
                "x509Certificate": {"rawBytes": format_base64(certificate)},
            },
        },
    }
    return format_canonical_json({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}})


def bundles(vectors: Path, *, fail: bool) -> Iterator[Path]:
    folders = sorted(path.parent for path in (vectors / "rekor2").glob("*/bundle.sigstore.json"))
    chosen = [folder for folder in folders if folder.name.endswith("_fail") is fail]
    if not chosen:
        pytest.skip(f"no such bundles in {vectors / 'rekor2'}")
    yield from chosen


def test_a_good_bundle_is_in_the_log_that_it_names(vectors: Path) -> None:
    for folder in bundles(vectors, fail=False):
        parts, note, key, checkpoint = verify_bundle(folder)
        assert checkpoint.size > parts.index, folder.name
        assert note.by(key) is not None


def test_a_leaf_that_we_know_is_canonical_signed_and_rebuilt_from_the_bundle(vectors: Path) -> None:
    rebuilt = 0
    for folder in bundles(vectors, fail=False):
        parts = parse_bundle(folder / "bundle.sigstore.json")
        if not is_known(parts.kind):
            with pytest.raises(UnsupportedError):
                parse_entry(parts.leaf)
            continue
        entry = parse_entry(parts.leaf)
        verify_entry(entry)
        assert rebuild_leaf(parts, scheme=entry.signer.scheme) in (parts.leaf, None), folder.name
        rebuilt += 1
    assert rebuilt


def test_a_bad_bundle_is_refused(vectors: Path) -> None:
    refused, accepted = [], []
    for folder in bundles(vectors, fail=True):
        try:
            verify_bundle(folder)
        except TreeheadError:
            refused.append(folder.name)
        else:
            accepted.append(folder.name)
    assert [name for name in accepted if any(part in name for part in LOG_PARTS)] == []
    assert refused


def test_lines_of_unknown_cosigners_are_ignored(vectors: Path) -> None:
    cosigned = 0
    for folder in bundles(vectors, fail=False):
        _, note, key, checkpoint = verify_bundle(folder)
        policy = parse_policy(f"log {format_vkey(key)}\nquorum none\n".encode())
        head = verify_head(policy, note)
        assert head.checkpoint == checkpoint
        assert head.cosigned == {}
        cosigned += len(note.signatures) > 1
    assert cosigned


def test_public_witnesses_cosignatures_verify_and_meet_a_quorum(vectors: Path) -> None:
    keys = {name: parse_vkey(vkey) for name, vkey in WITNESSES.items()}
    found = 0
    for folder in bundles(vectors, fail=False):
        _, note, key, _ = verify_bundle(folder)
        present = {name: verify_cosignature(note, key=cosigner) for name, cosigner in keys.items() if note.by(cosigner)}
        lines = b"".join(b"witness %b %b\n" % (name, vkey.encode()) for name, vkey in WITNESSES.items())
        members = b" ".join(WITNESSES)
        policy = parse_policy(
            b"log %b\n%bgroup two-of-three 2 %b\nquorum two-of-three\n" % (format_vkey(key).encode(), lines, members)
        )
        head = verify_head(policy, note)
        assert head.cosigned == present
        if len(present) >= 2:
            check_quorum(policy, head.cosigned)
            found += 1
    if not found:
        pytest.skip("no bundle here is cosigned by the public witnesses")


def test_a_bundle_is_refused_when_any_part_of_the_log_is_anothers(vectors: Path) -> None:
    heads = []
    for folder in bundles(vectors, fail=False):
        parts, note, key, checkpoint = verify_bundle(folder)
        heads.append((parts, note, key, checkpoint))
    for parts, note, key, _ in heads:
        for other_parts, _, other_key, other in heads:
            if other_parts.leaf == parts.leaf:
                continue
            with pytest.raises(RefusedError):
                verify_inclusion(
                    index=parts.index,
                    size=other.size,
                    leaf_hash=hash_leaf(parts.leaf),
                    proof=parts.hashes,
                    root=other.root,
                )
            if other_key != key:
                with pytest.raises(SignatureError):
                    verify_checkpoint(note, key=other_key)
