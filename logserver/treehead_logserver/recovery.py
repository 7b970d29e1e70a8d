"""What a log does before it serves: rebuild the right edge, and check it against what was signed.

The work does not grow with the log: of each level at most 255 hashes, each the root of one full tile below.
"""

from __future__ import annotations

from treehead.checkpoint import open_checkpoint
from treehead.errors import MalformedError, SignatureError, StorageError
from treehead.keys import VerifierKey
from treehead.merkle import hash_leaf
from treehead.tile import TILE_HEIGHT, TILE_WIDTH, RightEdge, TileId
from treehead_logserver.prover import expand_tile
from treehead_logserver.storage.base import Storage, TreeState

READ_BYTES_MAX = 1_048_576


async def recover_edge(storage: Storage, state: TreeState, *, vkey: VerifierKey) -> RightEdge:
    """The right edge of the tree that `state` describes.

    Checked: that the checkpoint is signed by `vkey`, and that size and root of the edge are what it says. Not checked:
    entries and tiles further left, and the look-up tables.

    Raises:
        StorageError: something is missing, or does not fit together; the log must not be served.
    """
    try:
        checkpoint = open_checkpoint(state.checkpoint, key=vkey)
    except (MalformedError, SignatureError) as exc:
        raise StorageError(f"the database's checkpoint is not by {vkey.name}: {exc}") from exc
    if checkpoint.size != state.size:
        raise StorageError(f"the database has {state.size} entries, and its checkpoint {checkpoint.size}")
    partial = [await _leaf_hashes(storage, state.size)]
    for level in range(1, -(-state.size.bit_length() // TILE_HEIGHT)):
        partial.append(await _tile_roots(storage, level, state.size))
    edge = RightEdge.resume(size=state.size, partial=partial)
    if edge.root() != checkpoint.root or edge.compact_range() != state.compact_range:
        raise StorageError(
            f"the database's newest entries and tiles do not make the tree of size {state.size} that its checkpoint "
            "signs: it is damaged, so restore a copy"
        )
    return edge


async def _leaf_hashes(storage: Storage, size: int) -> list[bytes]:
    begin = size - size % TILE_WIDTH
    hashes: list[bytes] = []
    while begin + len(hashes) < size:
        leaves = await storage.read_leaves(first_index=begin + len(hashes), end_index=size, bytes_max=READ_BYTES_MAX)
        if not leaves:
            raise StorageError(f"the database has lost entry {begin + len(hashes)}")
        hashes.extend(map(hash_leaf, leaves))
    return hashes


async def _tile_roots(storage: Storage, level: int, size: int) -> list[bytes]:
    """The hashes of the unfilled tile of a level above 0: the roots of the newest full tiles of the level below."""
    end = size >> (TILE_HEIGHT * level)
    tiles = [TileId(level - 1, number) for number in range(end - end % TILE_WIDTH, end)]
    found = await storage.read_tiles(tiles)
    roots = []
    for tile in tiles:
        if tile not in found:
            raise StorageError(f"the database has lost tile {tile.level}/{tile.number}")
        roots.append(expand_tile(tile, found[tile]).levels[-1][0])
    return roots
