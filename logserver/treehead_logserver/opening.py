"""A log taken into this process's hands, from where whatever adds to its tree goes on.

Its directory is locked, its key at hand, and its tree recovered and held against what it has signed. If the high-water
mark says that the log was frozen and its database does not, because a copy from before that was put back, the note is
taken from the mark: it is signed, of this very tree, and was promised to be for good.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from treehead.checkpoint import open_checkpoint
from treehead.datadir import locked, read_vkey, signing_key
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.privatekey import SigningKey
from treehead.tile import RightEdge
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.freeze import Freeze, open_freeze
from treehead_logserver.highwater import HighWaterMark, create_mark
from treehead_logserver.recovery import check_mark, is_freeze_lost, recover_edge, recover_freeze
from treehead_logserver.storage.base import TreeState
from treehead_logserver.storage.schema import read_unmarked_checkpoint
from treehead_logserver.storage.sqlite import SqliteStorage

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLog:
    """What there is of a log before anything is served; `freeze` is its last word, and None if it goes on."""

    vkey: VerifierKey
    key: SigningKey
    mark: HighWaterMark
    storage: SqliteStorage
    state: TreeState
    edge: RightEdge
    freeze: Freeze | None


@contextlib.asynccontextmanager
async def opened_log(directory: DataDirectory, *, passphrase: bytes | None) -> AsyncIterator[OpenedLog]:
    """Open the log in a directory, and on leaving close it.

    Raises:
        UsageError: the directory holds no log, or its key cannot be opened.
        StorageError: the directory is in use, or the database is damaged, or older than what the log has signed, or
            has more than the log was frozen with.
    """
    async with contextlib.AsyncExitStack() as stack:
        vkey = read_vkey(directory)
        stack.enter_context(locked(directory))
        key = stack.enter_context(signing_key(directory, vkey=vkey, passphrase=passphrase))
        mark = _open_mark(directory, vkey)
        stack.callback(mark.close)  # after the storage, whose last commit may still note what it settled
        storage = await SqliteStorage.open(directory.database)
        stack.push_async_callback(storage.close)
        state = await storage.read_state()
        edge = await recover_edge(storage, state, vkey=vkey)
        with _advising(directory):
            await check_mark(storage, edge, mark.newest)
            freeze = await _recover_freeze(storage, mark, edge, vkey)
        # What an earlier process committed and did not come to show is shown from now on. It is noted even if it was
        # noted before: that may have reached the cache only.
        if freeze is None:
            mark.raise_to(state.size, state.checkpoint)
        else:
            mark.freeze(freeze.size, freeze.note)
        yield OpenedLog(vkey=vkey, key=key, mark=mark, storage=storage, state=state, edge=edge, freeze=freeze)


async def _recover_freeze(
    storage: SqliteStorage, mark: HighWaterMark, edge: RightEdge, vkey: VerifierKey
) -> Freeze | None:
    """The note that ended the log, which the database has from here on if only the mark had it."""
    freeze = recover_freeze(await storage.read_freeze(), edge=edge, vkey=vkey)
    if is_freeze_lost(freeze, mark.newest, edge=edge):
        freeze = open_freeze(mark.note, vkey=vkey)
        await storage.freeze(freeze.note)
        _LOG.warning("%s; the database, a copy from before that, has the note again", freeze.describe())
    return freeze


def _open_mark(directory: DataDirectory, vkey: VerifierKey) -> HighWaterMark:
    """The high-water mark; a log of the first version, which had none, is given one."""
    if not directory.mark.exists() and (checkpoint := read_unmarked_checkpoint(directory.database)) is not None:
        try:
            open_checkpoint(checkpoint, key=vkey)
        except (MalformedError, SignatureError) as exc:
            raise StorageError(f"the database's checkpoint is not by {vkey.name}: {exc}") from exc
        create_mark(directory.mark, checkpoint)
    with _advising(directory):
        return HighWaterMark.open(directory.mark, vkey=vkey)


@contextlib.contextmanager
def _advising(directory: DataDirectory) -> Iterator[None]:
    """What is wrong with the mark, or with the database by what it says, ends with where to read on."""
    try:
        yield
    except StorageError as exc:
        raise type(exc)(f"{exc}; treehead-log recover --data {directory.path} says what to do") from exc
