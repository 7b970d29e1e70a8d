"""Cosignatures: a witness's dated statement about a log's checkpoint (C2SP tlog-cosignature, type 0x04).

    signature line blob = key id[4] || timestamp[8, big-endian, POSIX seconds] || Ed25519 signature[64]
    signed message      = "cosignature/v1" LF "time <timestamp>" LF <whole note text>

It says: at this time, the largest consistent tree that I have observed for this origin has this root. The message does
not name the cosigner, so one key must never serve two names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treehead.encoding import INT63_MAX, format_decimal
from treehead.errors import MalformedError, SignatureError, UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey, verify_ed25519
from treehead.note import Note, NoteSignature

if TYPE_CHECKING:
    from treehead.privatekey import SigningKey

TIMESTAMP_BYTES = 8
_SIGNATURE_BYTES = 64


def _message(text: str, *, timestamp: int) -> bytes:
    return f"cosignature/v1\ntime {format_decimal(timestamp)}\n{text}".encode()


def cosign(text: str, *, key: SigningKey, name: str, timestamp: int) -> NoteSignature:
    """Cosign a checkpoint's text as `name` at `timestamp` (POSIX seconds).

    The caller has made sure, durably, that it never cosigned an inconsistent or, since, a smaller checkpoint of this
    log.

    Raises:
        UsageError: the key or name cannot sign notes.
        StorageError: the key is in a token that does not sign.
    """
    vkey = key.verifier_key(name=name, key_type=NoteKeyType.COSIGNATURE_ED25519)
    signature = timestamp.to_bytes(TIMESTAMP_BYTES, "big") + key.sign(_message(text, timestamp=timestamp))
    return NoteSignature(name=name, key_id=vkey.key_id, signature=signature)


def verify_cosignature(note: Note, *, key: VerifierKey) -> int:
    """The POSIX time at which the witness `key` cosigned the note.

    Raises:
        SignatureError: there is no line by this key, or it does not verify.
        MalformedError: the line is not a timestamp and an Ed25519 signature.
        UnsupportedError: the key is not of type 0x04.
    """
    if key.key_type is not NoteKeyType.COSIGNATURE_ED25519:
        raise UnsupportedError(f"cosignatures of type 0x{key.key_type:02x} ({key.name}) cannot be verified here")
    line = note.by(key)
    if line is None:
        raise SignatureError(f"note is not cosigned by {key.name} (key id {key.key_id.hex()})")
    if len(line.signature) != TIMESTAMP_BYTES + _SIGNATURE_BYTES:
        raise MalformedError(f"cosignature by {key.name} is not a timestamp and a signature")
    timestamp = int.from_bytes(line.signature[:TIMESTAMP_BYTES], "big")
    if timestamp > INT63_MAX:
        raise MalformedError(f"cosignature by {key.name} has a timestamp beyond 2^63-1")
    message = _message(note.text, timestamp=timestamp)
    try:
        verify_ed25519(public_key=key.public_key, signature=line.signature[TIMESTAMP_BYTES:], message=message)
    except SignatureError as exc:
        raise SignatureError(f"note has a cosignature by {key.name} that does not verify") from exc
    return timestamp
