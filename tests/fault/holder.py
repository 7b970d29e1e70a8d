"""Another process that holds a lock of a database until its stdin ends: `holder.py PATH read|write|exclusive`."""

from __future__ import annotations

import sqlite3
import sys


def main() -> None:
    path, mode = sys.argv[1:]
    connection = sqlite3.connect(path, isolation_level=None, timeout=20)
    if mode == "exclusive":
        connection.execute("pragma locking_mode = exclusive")
    connection.execute("begin" if mode == "read" else "begin immediate")
    connection.execute("select count(*) from sqlite_schema").fetchall()
    print("held", flush=True)
    sys.stdin.read()
    connection.execute("rollback")
    connection.close()


if __name__ == "__main__":
    main()
