"""What a leaf has to be before it may wait for its place in the log, and by what it is found then.

It is parsed strictly, and its signature verifies. Who may sign what is not decided here.

A log takes the kinds of entries that its operator switched on. With `opaque` among them it takes any bytes, which then
have no signer and are found by their hash only, unless they are an entry in good order.
"""

from __future__ import annotations

from collections.abc import Collection

from treehead.entry import Entry, parse_entry, verify_entry
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.merkle import hash_leaf
from treehead.tile import ENTRY_BYTES_MAX
from treehead_logserver.kinds import OPAQUE
from treehead_logserver.storage.base import Candidate, Term


def admit_leaf(leaf: bytes, *, kinds: Collection[str]) -> Candidate:
    """The candidate that a leaf makes in a log that takes these kinds.

    Raises:
        TooLargeError: it is larger than 65,535 bytes.
        MalformedError, UnsupportedError: it is not an entry of such a kind; the message names the field.
        SignatureError: its signature does not verify.
    """
    if len(leaf) > ENTRY_BYTES_MAX:
        raise TooLargeError(f"entry is larger than {ENTRY_BYTES_MAX} bytes")
    terms: frozenset[Term] = frozenset()
    if OPAQUE not in kinds or leaf.startswith(b"{"):
        try:
            terms = terms_of(_verified_entry(leaf, kinds))
        except (MalformedError, UnsupportedError, SignatureError):
            if OPAQUE not in kinds:
                raise
    return Candidate(leaf, hash_leaf(leaf), terms)


def _verified_entry(leaf: bytes, kinds: Collection[str]) -> Entry:
    entry = parse_entry(leaf)
    name = entry.kind.partition("/")[0]
    if name not in kinds and OPAQUE not in kinds:
        raise UnsupportedError(f"field kind: this log does not take {name} (it takes {', '.join(sorted(kinds))})")
    verify_entry(entry)
    return entry


def terms_of(entry: Entry) -> frozenset[Term]:
    """What an entry is found by: the digests of the artifacts that it speaks of."""
    return frozenset(Term(*item) for artifact in entry.artifacts for item in artifact.digests.items())
