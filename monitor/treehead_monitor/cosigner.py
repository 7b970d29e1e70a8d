"""The monitor's cosignatures: when it last saw that a log's newest head is the largest, and consistent with all before.

The time in a cosignature is that of a successful look at the log, not of the question: of a monitor that is cut off
from the log, clients see an ageing head, which is what they have to know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from treehead.cosignature import cosign
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import Note
from treehead.privatekey import PrivateKey
from treehead_monitor.head import LogHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A head with the log's line and our cosignature, nothing else; `timestamp` is in POSIX seconds."""

    size: int
    timestamp: int
    note: Note


class Cosigner:
    """The key of one monitor under its name."""

    def __init__(self, *, key: PrivateKey, name: str) -> None:
        self._key = key
        self._name = name

    @property
    def vkey(self) -> VerifierKey:
        """By what our cosignatures are verified."""
        return self._key.verifier_key(name=self._name, key_type=NoteKeyType.COSIGNATURE_ED25519)

    def cosign(self, head: LogHead, *, last: Cosigned | None, now_s: int) -> Cosigned:
        """The cosigned head; the caller makes it durable before anyone sees it.

        Time never goes back from one cosignature to the next, even if the clock does.

        Raises:
            ValueError: the head is smaller than the last one cosigned.
        """
        if last is not None and head.size < last.size:
            raise ValueError(f"a head of size {head.size} must not be cosigned after one of size {last.size}")
        timestamp = max(now_s, 0 if last is None else last.timestamp)
        line = cosign(head.note.text, key=self._key, name=self._name, timestamp=timestamp)
        note = replace(head.note, signatures=(*head.note.signatures, line))
        return Cosigned(size=head.size, timestamp=timestamp, note=note)
