"""What to do about a log that will not start: says what there is, what it means, and what can be done. Guesses nothing.

A database may be older than what its log has signed. To go on from it would sign a second tree over the same indices,
and everybody who holds a proof from the first could show that the log lied; so nothing here makes such a log go on. All
that is ever written is the high-water mark, and only once the operator has brought a checkpoint by the log. Where there
is none that can be read it is written anew. If the database's tree contains that checkpoint's, the log can be started.
If the checkpoint is of more than the database has, the mark becomes that checkpoint, whatever it was before: then the
log, too, knows better than to start. The same if it is the note that froze the log with the tree that the database has:
then the log, too, knows that it has ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from treehead.checkpoint import Checkpoint, verify_checkpoint
from treehead.datadir import locked
from treehead.display import printable
from treehead.encoding import format_base64
from treehead.errors import StorageError, TooLargeError, TreeheadError, UsageError
from treehead.files import read_limited, sync_data
from treehead.keys import VerifierKey
from treehead.note import Note, format_note, parse_note
from treehead.tile import RightEdge
from treehead.tlogproof import PROOF_BYTES_MAX, PROOF_SUFFIX, parse_proof
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import Freeze, is_freeze
from treehead_logserver.highwater import SLOT_BYTES, SLOTS, HighWaterMark, create_mark, read_mark
from treehead_logserver.recovery import RolledBackError, is_freeze_lost
from treehead_logserver.snapshot import Snapshot, UnreadableError, opened, wal_of

_PROOF_BEGIN = b"c2sp.org/tlog-proof@"
_FROZEN = ", where the log was frozen"
_THAWED = (
    "The log was frozen with the tree that the database has, but the database does not say so: it is a copy from "
    "before that. The next start takes the note that froze it from the high-water mark: the log is frozen as before."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What there is; what it means, and what can be done about it; and whether the log can be started as it is."""

    is_well: bool
    there_is: Sequence[str]
    advice: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A checkpoint that the log has signed, and what it stands in; `note` is it with the log's own signature only.

    The mark's needs no note.
    """

    where: str
    checkpoint: Checkpoint
    note: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A database in order: its tree, and what ended it, if anything did."""

    snapshot: Snapshot
    edge: RightEdge
    freeze: Freeze | None


def explain(directory: DataDirectory, *, vkey: VerifierKey, newest: Path | None) -> Explanation:
    """Look at a log that does not run; `newest` is a file with a checkpoint by it, or with a proof that has one.

    Raises:
        UsageError: `newest` cannot be read, or holds no checkpoint by this log.
        StorageError: the log runs, or its files cannot be opened, or the mark cannot be written.
    """
    brought = None if newest is None else _read_promise(newest, vkey)
    with locked(directory):
        mark, lack = _read_mark(directory, vkey)
        promises = [promise for promise in (mark, brought) if promise is not None]
        told = [f"log {vkey.name}"]
        told += [f"{promise.where}: {_told(promise.checkpoint)}" for promise in promises]
        if mark is None:
            told.append(f"high-water mark {directory.mark}: {lack}")
        try:
            with opened(directory.database, at_rest=True) as snapshot:
                try:
                    edge = snapshot.recover_edge(vkey=vkey)
                    freeze = snapshot.recover_freeze(edge=edge, vkey=vkey)
                except StorageError as exc:
                    told.insert(1, f"database {directory.database}: {exc}")
                    return Explanation(is_well=False, there_is=told, advice=_damaged(directory, promises))
                told.insert(
                    1,
                    f"database {directory.database}: {_entries(edge.size)}, root {format_base64(edge.root())}"
                    f"{_FROZEN if freeze is not None else ''}",
                )
                found = Found(snapshot=snapshot, edge=edge, freeze=freeze)
                is_well, advice = _judge(found, directory, vkey, mark=mark, brought=brought)
        except UnreadableError as exc:
            told.insert(1, f"database: {exc}")
            is_well, advice = False, _without_database(promises)
    return Explanation(is_well=is_well, there_is=told, advice=advice)


def format_explanation(explanation: Explanation) -> str:
    """The explanation for people."""
    lines = [*explanation.there_is, "", *explanation.advice]
    return "".join(f"{printable(line)}\n" for line in lines)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_promise(path: Path, vkey: VerifierKey) -> Promise:
    try:
        data = read_limited(path, bytes_max=PROOF_BYTES_MAX, what="checkpoint")
        # A note that was pasted, or came out of JSON, often has a newline too many.
        note = parse_note(parse_proof(data).checkpoint if data.startswith(_PROOF_BEGIN) else data.rstrip(b"\n") + b"\n")
        checkpoint = verify_checkpoint(note, key=vkey)
        signatures = tuple(signature for signature in note.signatures if signature == note.by(vkey))
        own = format_note(Note(text=note.text, signatures=signatures))
        return Promise(where=f"checkpoint {path}", checkpoint=checkpoint, note=own)
    except UsageError as exc:
        raise UsageError(f"--newest: {exc}") from exc
    except TreeheadError as exc:
        raise UsageError(f"--newest {path} is no checkpoint by {vkey.name}: {exc}") from exc


def _read_mark(directory: DataDirectory, vkey: VerifierKey) -> tuple[Promise | None, str]:
    """The mark, or why there is none."""
    if not directory.mark.exists():
        return None, "there is none"
    try:
        read_limited(directory.mark, bytes_max=SLOT_BYTES * SLOTS, what="high-water mark")
    except TooLargeError:
        return None, f"it is damaged: it has more than {SLOT_BYTES * SLOTS} bytes"
    except UsageError as exc:
        raise StorageError(str(exc)) from exc  # it may be in order, for all that is known
    try:
        checkpoint = read_mark(directory.mark, vkey=vkey)
    except StorageError:
        return None, f"it is damaged: it holds no checkpoint by {vkey.name}"
    return Promise(where=f"high-water mark {directory.mark}", checkpoint=checkpoint), ""


def _told(checkpoint: Checkpoint) -> str:
    end = _FROZEN if is_freeze(checkpoint) else ""
    return f"{_entries(checkpoint.size)}, root {format_base64(checkpoint.root)}{end}"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


# --- judging ---------------------------------------------------------------------------------------------------------


def _judge(
    found: Found, directory: DataDirectory, vkey: VerifierKey, *, mark: Promise | None, brought: Promise | None
) -> tuple[bool, list[str]]:
    """Whether the log can be started, and the advice; writes or raises the mark, where that is proven to be right."""
    promises = [promise for promise in (mark, brought) if promise is not None]
    missing: list[Promise] = []
    lost: list[Promise] = []
    for promise in promises:
        try:
            found.snapshot.check_mark(found.edge, promise.checkpoint)
        except RolledBackError:
            missing.append(promise)
        except StorageError as exc:
            return False, _other_tree(exc, directory, promise)
    if (advice := _continued(found, promises)) is not None:
        return False, advice
    for promise in promises:
        try:
            if is_freeze_lost(found.freeze, promise.checkpoint, edge=found.edge):
                lost.append(promise)
        except StorageError as exc:
            return False, _other_tree(exc, directory, promise)
    if missing:
        advice = _rolled_back(found.edge.size, max(missing, key=lambda promise: promise.checkpoint.size))
        if brought in missing and (mark is None or mark.checkpoint.size < brought.checkpoint.size):
            kept = ""
            if mark is None:
                kept = _write_mark(directory, brought.note)
            else:
                _raise_mark(directory, vkey, brought)
            advice.append(
                f"The high-water mark knew nothing of that checkpoint, and is of it now{kept}: the log refuses to "
                "start until the database has what is missing."
            )
        return False, advice
    if mark is not None:
        if brought in lost and mark not in lost:
            _raise_mark(directory, vkey, brought)
            return True, ["The high-water mark knew nothing of the end of the log, and is of it now.", _THAWED]
        return True, [
            "All is well: the database holds everything that the log is known to have signed, and it can be started.",
            *([_THAWED] if lost else []),
        ]
    if brought is None:
        return False, _without_mark(directory)
    _sync(directory)
    kept = _write_mark(directory, brought.note if lost else found.snapshot.read_state().checkpoint)
    return True, [
        f"The database's tree contains that checkpoint's, so the high-water mark was written anew, with "
        f"{_entries(found.edge.size)}{kept}. The log can be started.",
        *([_THAWED] if lost else []),
    ]


def _raise_mark(directory: DataDirectory, vkey: VerifierKey, brought: Promise) -> None:
    with contextlib.closing(HighWaterMark.open(directory.mark, vkey=vkey)) as mark:
        note = mark.freeze if is_freeze(brought.checkpoint) else mark.raise_to
        note(brought.checkpoint.size, brought.note)


def _sync(directory: DataDirectory) -> None:
    """What a log that was killed had written and not yet synced is on the disk, so that no mark can be ahead of it."""
    for path in (directory.database, wal_of(directory.database)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        try:
            sync_data(descriptor)
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
        finally:
            os.close(descriptor)


def _write_mark(directory: DataDirectory, checkpoint: bytes) -> str:
    """Write the mark; one that was damaged is kept under another name, which is returned in words."""
    kept = directory.mark.with_name(f"{directory.mark.name}.damaged")
    if kept.exists() and directory.mark.exists():
        raise StorageError(f"{kept} is there from an earlier time: move it away, and run this again")
    try:
        directory.mark.rename(kept)
    except FileNotFoundError:
        create_mark(directory.mark, checkpoint)
        return ""
    except OSError as exc:
        raise StorageError(f"cannot rename {directory.mark}: {exc.strerror}") from exc
    create_mark(directory.mark, checkpoint)  # if this fails there is none, which is as bad as it was
    return f" (what was there is now {kept})"


# --- advice ----------------------------------------------------------------------------------------------------------


def _rolled_back(size: int, promise: Promise) -> list[str]:
    end = promise.checkpoint.size
    missing = f"Entry {size} is" if end - size == 1 else f"Entries {size} to {end - 1} are"
    return [
        "The database is older than what this log has signed: an older copy was put back, or its newest entries were "
        "lost.",
        f"{missing} missing, and others hold the log's promise that it has them.",
        "",
        "What can be done:",
        *_put_back(end),
        f"3. If there is no copy with {_entries(end)}, this log must not be continued. What it would sign from here on "
        "would contradict what it has signed, and whoever has seen both could prove it. Keep the directory to read it, "
        "make a new log with another origin (treehead-log init), and tell whoever monitors this one.",
    ]


def _continued(found: Found, promises: Sequence[Promise]) -> list[str] | None:
    """What to say of a log that has grown after its end; None if it has not."""
    ends = [promise.checkpoint.size for promise in promises if is_freeze(promise.checkpoint)]
    ends += [] if found.freeze is None else [found.freeze.size]
    end, size = min(ends, default=None), max(found.edge.size, _largest(promises))
    if end is None or end == size:
        return None
    return [
        f"This log was frozen at {_entries(end)}, and has signed a tree of {size} after that: a copy from before its "
        "end was continued. Whoever went on to its successor knows nothing of what came then.",
        "",
        "What can be done:",
        "1. Do not start this log again, with whichever copy of its database.",
        "2. Keep the directory to read it, and tell whoever monitors this log, and whoever logged in it since, that "
        f"its entries from {end} on do not count.",
    ]


def _put_back(size: int) -> list[str]:
    enough = f", with {_entries(size)} or more" if size else ""
    return [
        f"1. Look for the newest copy of log.sqlite{enough}: where treehead-log backup wrote it; where this one was "
        "moved from (a file log.sqlite-wal beside it belongs to it, and holds its newest entries); in an image of the "
        "disk.",
        "2. Move log.sqlite, log.sqlite-wal and log.sqlite-shm away together, and keep them. Put the copy in their "
        "place, with what belongs to it. Then run this command again.",
    ]


def _other_tree(error: StorageError, directory: DataDirectory, promise: Promise) -> list[str]:
    return [f"The database does not go with the {promise.where}: {error}.", *_to_repair(directory, [promise])]


def _damaged(directory: DataDirectory, promises: Iterable[Promise]) -> list[str]:
    return ["The database is not in order.", *_to_repair(directory, promises)]


def _to_repair(directory: DataDirectory, promises: Iterable[Promise]) -> list[str]:
    return [
        "It is damaged, or another log's, and must not be continued.",
        "",
        "What can be done:",
        f"0. See what treehead-log fsck --data {directory.path} finds.",
        *_put_back(_largest(promises)),
    ]


def _without_database(promises: Iterable[Promise]) -> list[str]:
    return ["There is no database that can be read.", "", "What can be done:", *_put_back(_largest(promises))]


def _largest(promises: Iterable[Promise]) -> int:
    return max((promise.checkpoint.size for promise in promises), default=0)


def _without_mark(directory: DataDirectory) -> list[str]:
    return [
        "Nothing here says whether this database is the newest, which is what the high-water mark is for.",
        "",
        "What can be done:",
        f"1. If the directory was moved and the file {directory.mark.name} has stayed behind, put it back.",
        "2. If it is lost, others have to say how far the log has come. Ask every monitor that follows it for the "
        "newest checkpoint that it holds (checkpoint in what treehead-monitor status --json prints), and those who "
        f"publish in it for their newest FILE{PROOF_SUFFIX}, which has one in it.",
        f"3. Run treehead-log recover --data {directory.path} --newest FILE with the largest of them. If the database "
        "has that tree, or has grown out of it, the mark is written anew. It will be no better than that checkpoint: "
        "what the log has signed after it, nobody here can know.",
    ]
