"""A log server whose second publication has an outcome that nobody knows."""

from __future__ import annotations

import itertools
import sys

from treehead_logserver import cli
from treehead_logserver.storage.base import UnknownOutcomeError
from treehead_logserver.storage.sqlite import SqliteStorage

if __name__ == "__main__":
    publish = SqliteStorage.publish
    attempts = itertools.count()

    async def fail(self: SqliteStorage, note: bytes, *, size: int) -> None:
        if next(attempts):
            raise UnknownOutcomeError("the commit failed (as it was told to), and its outcome is unknown")
        await publish(self, note, size=size)

    SqliteStorage.publish = fail  # type: ignore[method-assign]
    sys.exit(cli.main())
