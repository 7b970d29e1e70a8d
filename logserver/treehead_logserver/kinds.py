"""The kinds of entries that an operator may switch on: those of the registry, and any bytes."""

from __future__ import annotations

from treehead.entry import KINDS, hashedrekord

HASHEDREKORD = hashedrekord.KIND
OPAQUE = "opaque"
SIGNED_KINDS = frozenset(name for name, _ in KINDS)
ALL_KINDS = SIGNED_KINDS | {OPAQUE}
