"""A log server that does under little load what others do after a hundred thousand entries, or when they are idle."""

from __future__ import annotations

import sys

from treehead_logserver import cli
from treehead_logserver.config import Limits
from treehead_logserver.storage import lookups, sqlite

SMALLER = (
    (lookups, "RUN_PAIRS_MAX", 64),
    (lookups, "_MOVED_WHEN_IDLE", 7),
    (lookups, "_DROPPED_AT_ONCE", 3),
    (sqlite, "WAL_PAGES_MAX", 150),
)
IDLE_MS = 2


def main() -> int:
    for module, name, value in SMALLER:
        assert getattr(module, name) > value
        setattr(module, name, value)
    defaults = Limits.__init__.__kwdefaults__
    assert defaults is not None
    assert defaults["idle_ms"] > IDLE_MS
    defaults["idle_ms"] = IDLE_MS
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
