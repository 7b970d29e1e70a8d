"""A log server on a broken storage, which the environment names: what a fault run has to notice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fault.broken import BROKEN, broken
from treehead_logserver import cli, opening
from treehead_logserver.storage.base import Storage
from treehead_logserver.storage.sqlite import SqliteStorage

VARIABLE = "TREEHEAD_BROKEN_STORE"


class BrokenSqliteStorage:
    """Opens what the environment names, in the place of `SqliteStorage`."""

    @staticmethod
    async def open(path: Path) -> Storage:
        return broken(BROKEN[os.environ[VARIABLE]])(await SqliteStorage.open(path))


if __name__ == "__main__":
    assert vars(opening)["SqliteStorage"] is SqliteStorage
    vars(opening)["SqliteStorage"] = BrokenSqliteStorage
    sys.exit(cli.main())
