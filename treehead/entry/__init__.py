"""Log entries: canonical JSON with `apiVersion`, `kind` and `spec`, one module a kind.

A leaf is the entry's bytes; they are RFC 8785 canonical, so that one entry has one leaf hash. This module is the
registry: a new kind is one module beside this one and one line in `KINDS`.
"""

from __future__ import annotations

from treehead.encoding import Fields, parse_canonical_json
from treehead.entry import attestation, hashedrekord
from treehead.entry.base import Artifact, Entry, Kind
from treehead.errors import TooLargeError, UnsupportedError
from treehead.tile import ENTRY_BYTES_MAX

__all__ = ["KINDS", "Artifact", "Entry", "parse_entry", "verify_entry"]

KINDS: dict[tuple[str, str], Kind] = {
    (attestation.KIND, attestation.API_VERSION): attestation,
    (hashedrekord.KIND, hashedrekord.API_VERSION): hashedrekord,
}


def parse_entry(leaf: bytes) -> Entry:
    """Read a leaf. Its signature is not checked; see `verify_entry`.

    Raises:
        TooLargeError: the leaf is larger than 65,535 bytes.
        MalformedError: the leaf is not an entry in canonical form; the message names the field.
        UnsupportedError: its kind, version or signature algorithm is not known here; the message names it.
    """
    if len(leaf) > ENTRY_BYTES_MAX:
        raise TooLargeError(f"entry is larger than {ENTRY_BYTES_MAX} bytes")
    fields = Fields(parse_canonical_json(leaf, what="entry", bytes_max=ENTRY_BYTES_MAX), path="")
    api_version, kind = fields.text("apiVersion"), fields.text("kind")
    spec = fields.object("spec")
    fields.finish()
    known = KINDS.get((kind, api_version))
    if known is None:
        kinds = ", ".join(f"{name} {version}" for name, version in KINDS)
        raise UnsupportedError(f"field kind: {kind[:64]!r} {api_version[:16]!r} is not known here (known are {kinds})")
    return known.parse_spec(spec)


def verify_entry(entry: Entry) -> None:
    """Returns only if the entry's signature verifies under the key it names.

    Not checked: whether that key may speak for the names in the entry; see `treehead.trust`.

    Raises:
        SignatureError: it does not; the message names the field.
    """
    kind, _, api_version = entry.kind.partition("/")
    KINDS[kind, api_version].verify(entry)
