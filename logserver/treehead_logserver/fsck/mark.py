"""The high-water mark, as a check sees it: every slot of the file counts, not only the newest."""

from __future__ import annotations

from pathlib import Path

from treehead.checkpoint import Checkpoint, open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError, TreeheadError
from treehead.files import read_limited
from treehead.keys import VerifierKey
from treehead_logserver.fsck.findings import MARK, Findings
from treehead_logserver.highwater import SLOT_BYTES, SLOTS, read_mark


def read_slots(path: Path, *, vkey: VerifierKey, findings: Findings) -> list[Checkpoint]:
    """The checkpoints in the file beside a database; whatever else is in it is a finding."""
    if not path.exists():
        findings.add(MARK, "is missing: treehead-log recover says what to do")
        return []
    try:
        data = read_limited(path, bytes_max=SLOT_BYTES * SLOTS, what=MARK)
    except TreeheadError as exc:
        findings.add(MARK, str(exc))
        return []
    if len(data) != SLOT_BYTES * SLOTS:
        findings.add(MARK, f"has {len(data)} bytes, not {SLOT_BYTES * SLOTS}")
    found = []
    for slot in range(SLOTS):
        note = data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES].rstrip(b"\0")
        if not note:
            continue
        try:
            found.append(open_checkpoint(note, key=vkey))
        except (MalformedError, SignatureError) as exc:
            # A torn write is what the slots are for, but a checkpoint hardly ever spans more than one sector.
            findings.add(
                MARK,
                f"slot {slot} is not a checkpoint by {vkey.name} ({exc}): it is damaged, or was being written when the "
                "power failed; the log's next commit overwrites it",
            )
    if not found:
        findings.add(MARK, "holds no checkpoint: treehead-log recover says what to do")
    return found


def read_newest(path: Path, *, vkey: VerifierKey) -> Checkpoint | None:
    """The newest checkpoint in the file, if there is one; for the check of a copy it is a hint and nothing more."""
    try:
        return read_mark(path, vkey=vkey)
    except StorageError:
        return None
