"""What a client of Rekor v2 is answered: every member, in the spelling of Rekor's gateway."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from tests.unit.library.specimens import LOG, ORIGIN, Tree, attestation_leaf, hashedrekord_leaf, signed_checkpoint
from treehead.checkpoint import open_checkpoint
from treehead.encoding import format_base64, parse_base64
from treehead.errors import MalformedError, UnsupportedError
from treehead.keys import NoteKeyType
from treehead.merkle import hash_leaf, verify_inclusion
from treehead.note import format_note, parse_note
from treehead_logserver.rekor.response import format_error, format_log_entry, log_id

KEY = LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519)
LEAF = hashedrekord_leaf()


def answer(leaf: bytes = LEAF, *, index: int = 3, size: int = 11) -> bytes:
    tree = Tree(leaf if at == index else b"filler %d" % at for at in range(size))
    return format_log_entry(
        leaf=leaf,
        leaf_index=index,
        tree_size=size,
        root=tree.root(),
        hashes=tree.inclusion(index),
        checkpoint=format_note(signed_checkpoint(size, tree.root())),
        log_id=log_id(KEY),
    )


def test_an_entry_is_printed_with_every_member_as_rekors_gateway_does() -> None:
    checkpoint = format_note(signed_checkpoint(1, hash_leaf(LEAF)))
    answered = format_log_entry(
        leaf=LEAF,
        leaf_index=0,
        tree_size=1,
        root=hash_leaf(LEAF),
        hashes=(),
        checkpoint=checkpoint,
        log_id=bytes(range(32)),
    )
    assert answered.decode() == (
        '{"logIndex":"0","logId":{"keyId":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},'
        '"kindVersion":{"kind":"hashedrekord","version":"0.0.2"},"integratedTime":"0","inclusionPromise":null,'
        f'"inclusionProof":{{"logIndex":"0","rootHash":"{format_base64(hash_leaf(LEAF))}","treeSize":"1","hashes":[],'
        f'"checkpoint":{{"envelope":{json.dumps(checkpoint.decode(), ensure_ascii=False)}}}}},'
        f'"canonicalizedBody":"{format_base64(LEAF)}"}}'
    )


def test_what_is_answered_proves_the_entry() -> None:
    entry = json.loads(answer())
    proof = entry["inclusionProof"]
    note = parse_note(proof["checkpoint"]["envelope"].encode())
    checkpoint = open_checkpoint(proof["checkpoint"]["envelope"].encode(), key=KEY)
    assert (entry["logIndex"], proof["logIndex"], proof["treeSize"]) == ("3", "3", "11")
    assert parse_base64(proof["rootHash"], what="root") == checkpoint.root
    verify_inclusion(
        index=3,
        size=checkpoint.size,
        leaf_hash=hash_leaf(parse_base64(entry["canonicalizedBody"], what="leaf")),
        proof=[parse_base64(hash_, what="hash") for hash_ in proof["hashes"]],
        root=checkpoint.root,
    )
    # By the first bytes of the log's id clients find the signature line.
    assert note.signatures[0].key_id == parse_base64(entry["logId"]["keyId"], what="log id")[:4]


def test_kind_and_version_are_the_leafs() -> None:
    assert json.loads(answer(attestation_leaf()))["kindVersion"] == {"kind": "attestation", "version": "0.0.1"}


@pytest.mark.parametrize("leaf", [b"", b"opaque", b"{}", LEAF + b"\n"])
def test_a_leaf_without_kind_and_version_is_no_entry_of_rekors(leaf: bytes) -> None:
    with pytest.raises(MalformedError):
        answer(leaf)


def test_numbers_beyond_what_javascript_can_count_are_exact() -> None:
    index, size = 2**53 + 1, 2**63 - 1
    entry = json.loads(
        format_log_entry(
            leaf=LEAF, leaf_index=index, tree_size=size, root=bytes(32), hashes=(), checkpoint=b"x", log_id=bytes(32)
        )
    )
    assert (entry["logIndex"], entry["inclusionProof"]["treeSize"]) == (f"{index}", f"{size}")


def test_the_log_id_is_the_whole_hash_of_which_the_key_id_is_the_start() -> None:
    assert log_id(KEY) == sha256(ORIGIN.encode() + b"\n\x01" + KEY.public_key).digest()
    assert log_id(KEY)[:4] == KEY.key_id


def test_the_log_id_is_that_of_a_real_log() -> None:
    # log2025-alpha1.rekor.sigstage.dev, from the trusted root of Sigstore's staging instance.
    public_key = parse_base64("MCowBQYDK2VwAyEAPn+AREHoBaZ7wgS1zBqpxmLSGnyhxXj4lFxSdWVB8o8=", what="key")[-32:]
    key = type(KEY)(name="log2025-alpha1.rekor.sigstage.dev", key_type=NoteKeyType.ED25519, public_key=public_key)
    assert format_base64(log_id(key)) == "8w1amZ2S5mJIQkQmPxdMuOrL/oJkvFg9MnQXmeOCXck="


@pytest.mark.parametrize("key_type", [NoteKeyType.ECDSA, NoteKeyType.COSIGNATURE_ED25519])
def test_a_key_that_signs_no_checkpoints_of_ours_has_no_log_id(key_type: NoteKeyType) -> None:
    with pytest.raises(UnsupportedError, match=f"type 0x{key_type:02x}"):
        log_id(LOG.verifier_key(name=ORIGIN, key_type=key_type))


def test_an_error_is_a_status_of_grpc() -> None:
    assert format_error(3, 'field "x" — no') == '{"code":3,"message":"field \\"x\\" — no","details":[]}'.encode()
