"""What Sigstore's clients are answered: a TransparencyLogEntry, or an error, as the gateway of Rekor v2 prints it.

Printed is JSON of protobuf (dev.sigstore.rekor.v1) with every member, set or not: 64-bit integers are strings, bytes
are base64, and what Rekor v2 no longer gives is 0 or null. An entry has no time of its own and no promise, since it is
in the tree when it is answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from treehead.encoding import Fields, JsonValue, format_base64, format_decimal, parse_canonical_json, parse_utf8
from treehead.errors import UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import NOTE_BYTES_MAX
from treehead.tile import ENTRY_BYTES_MAX


def format_log_entry(
    *,
    leaf: bytes,
    leaf_index: int,
    tree_size: int,
    root: bytes,
    hashes: Sequence[bytes],
    checkpoint: bytes,
    log_id: bytes,
) -> bytes:
    """The answer for a logged entry, with its inclusion proof in the tree of `checkpoint`, a signed note.

    Not checked: that the proof leads to the root, and that this is the checkpoint's.

    Raises:
        MalformedError: the leaf is not an entry of a named kind, or the checkpoint no text.
    """
    fields = Fields(parse_canonical_json(leaf, what="entry", bytes_max=ENTRY_BYTES_MAX), path="")
    index = format_decimal(leaf_index)
    return _format(
        {
            "logIndex": index,
            "logId": {"keyId": format_base64(log_id)},
            "kindVersion": {"kind": fields.text("kind"), "version": fields.text("apiVersion")},
            "integratedTime": "0",
            "inclusionPromise": None,
            "inclusionProof": {
                "logIndex": index,
                "rootHash": format_base64(root),
                "treeSize": format_decimal(tree_size),
                "hashes": [format_base64(hash_) for hash_ in hashes],
                "checkpoint": {"envelope": parse_utf8(checkpoint, what="checkpoint", bytes_max=NOTE_BYTES_MAX)},
            },
            "canonicalizedBody": format_base64(leaf),
        }
    )


def format_error(code: int, message: str) -> bytes:
    """The answer for a request that failed; `code` is the number of a gRPC status (google.rpc.Status)."""
    return _format({"code": code, "message": message, "details": []})


def log_id(vkey: VerifierKey) -> bytes:
    """The 32 bytes by which Rekor v2 names a log: the whole hash of which the key id of its checkpoints is the start.

    Raises:
        UnsupportedError: the key is of another type than 0x01 (Ed25519), by which no log of ours signs.
    """
    if vkey.key_type is not NoteKeyType.ED25519:
        raise UnsupportedError(f"log id of {vkey.name}: a key of type 0x{vkey.key_type:02x} signs no checkpoints here")
    return vkey.key_hash


def _format(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
