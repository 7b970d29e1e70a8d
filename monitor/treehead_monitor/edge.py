"""The right edge of a log's tree as bytes: what a restart needs so that nothing is downloaded twice.

the hashes of the unfilled tile of each level, lowest level first, without separators; the size says how many each has
"""

from __future__ import annotations

from treehead.errors import StorageError
from treehead.merkle import HASH_BYTES
from treehead.tile import TILE_HEIGHT, TILE_WIDTH, RightEdge


def format_edge(edge: RightEdge) -> bytes:
    """Print an edge; `parse_edge` needs its size, too."""
    return b"".join(tile.hashes for _, tile in sorted(edge.tiles().items(), key=lambda item: item[0]))


def parse_edge(data: bytes, *, size: int) -> RightEdge:
    """Read an edge, the exact inverse of `format_edge`.

    Raises:
        StorageError: data is not the edge of a tree of that size.
    """
    partial: list[list[bytes]] = []
    at = 0
    while size >> (TILE_HEIGHT * len(partial)):
        width = (size >> (TILE_HEIGHT * len(partial))) % TILE_WIDTH
        end = at + width * HASH_BYTES
        partial.append([data[begin : begin + HASH_BYTES] for begin in range(at, end, HASH_BYTES)])
        at = end
    if at != len(data):
        raise StorageError(f"the stored edge of a tree of size {size} has {len(data)} bytes, not {at}")
    return RightEdge.resume(size=size, partial=partial)
