"""A log's directory without its process: made and grown as the log does it, and then damaged in every way."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.unit.library.specimens import LOG_KEY, attestation_leaf, hashedrekord_leaf
from tests.unit.logserver.parts import SIGNER, create, parts, random_leaves
from treehead.datadir import write_vkey
from treehead.tile import RightEdge
from treehead_logserver.datadir import DataDirectory
from treehead_logserver.highwater import HighWaterMark, create_mark
from treehead_logserver.kinds import ALL_KINDS
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules

ANYTHING = AdmissionRules(kinds=ALL_KINDS)


def make(path: Path) -> DataDirectory:
    """The directory of an empty log, whose key is not in it."""
    path.mkdir()
    directory = DataDirectory(path=path)
    create(path)
    create_mark(directory.mark, SIGNER.state_of(RightEdge()).checkpoint)
    write_vkey(directory, LOG_KEY)
    return directory


async def grow(directory: DataDirectory, *commits: Sequence[bytes], leave: Callable[[], object] | None = None) -> None:
    """Log some leaves, each group in a commit of its own; `leave` is called while the database is still open."""
    mark = HighWaterMark.open(directory.mark, vkey=LOG_KEY)
    with contextlib.closing(mark):
        async with parts(directory.database, settle=lambda state: mark.raise_to(state.size, state.checkpoint)) as log:
            for leaves in commits:
                await log.sequencer.submit([admit_leaf(leaf, rules=ANYTHING) for leaf in leaves])
            if leave is not None:
                leave()


async def made(path: Path, *commits: Sequence[bytes]) -> DataDirectory:
    """The directory of a log with some leaves."""
    directory = make(path)
    await grow(directory, *commits)
    return directory


def mixed_leaves(count: int, *, seed: int) -> list[bytes]:
    """Leaves of every kind, most of them opaque."""
    leaves = random_leaves(count, seed=seed)
    leaves[3::17] = [hashedrekord_leaf(b"%d of %d" % (number, seed)) for number in range(len(leaves[3::17]))]
    if count > 5:
        leaves[5] = attestation_leaf()
    if count > 8:
        leaves[8] = b'{"an": "opaque document"}'
    return leaves


def batches(leaves: Sequence[bytes], size: int) -> Iterable[Sequence[bytes]]:
    """The leaves in groups."""
    return [leaves[at : at + size] for at in range(0, len(leaves), size)]


def run_sql(database: Path, *statements: str) -> None:
    """Change a database behind its log's back."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        for statement in statements:
            connection.execute(statement)


def flip_in_row(database: Path, table: str, column: str, where: str, bit: int) -> None:
    """Flip one bit of a blob in a database."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        (value,) = connection.execute(f"select {column} from {table} where {where}").fetchone()  # noqa: S608
        connection.execute(f"update {table} set {column} = ? where {where}", (flipped(value, bit),))  # noqa: S608


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit the other way round."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
