"""The contract suite on storages that break it, and on one that is only wrapped: for `test_broken` to run."""

from __future__ import annotations

from pathlib import Path

from tests.contracts.storage_suite import StorageSuite
from tests.fault import broken
from treehead_logserver.storage.base import Storage, TreeState
from treehead_logserver.storage.sqlite import SqliteStorage, create_database

NAME = "log.sqlite"


class TestWhole(StorageSuite):
    kind: type[broken.Whole] = broken.Whole

    async def create(self, folder: Path, state: TreeState) -> None:
        create_database(folder / NAME, state)

    async def open(self, folder: Path) -> Storage:
        return broken.broken(self.kind)(await SqliteStorage.open(folder / NAME))


class TestDropsTheLastWrite(TestWhole):
    kind = broken.DropsTheLastWrite


class TestAnswersBeforeTheCommit(TestWhole):
    kind = broken.AnswersBeforeTheCommit


class TestSwapsTwoEntries(TestWhole):
    kind = broken.SwapsTwoEntries
