"""Tiles: paths, bundles, and a growing right edge against plain lists of hashes."""

import pytest

from treehead.errors import MalformedError, StorageError
from treehead.merkle import (
    CompactRange,
    NodeId,
    assemble,
    cover,
    hash_children,
    hash_leaf,
    plan_consistency,
    plan_inclusion,
    plan_root,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from treehead.tile import (
    ENTRY_BYTES_MAX,
    EXPANDED_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    ExpandedTile,
    MissingTileError,
    RightEdge,
    TileId,
    TilePath,
    TileReader,
    format_entry_bundle,
    format_expanded_tile,
    format_tile_path,
    parse_entry_bundle,
    parse_expanded_tile_unverified,
    parse_tile_path,
    tile_of,
    tile_width,
    tiles_of,
)

SIZE = 66_000
SMALL = 1_300


class Reference:
    """Every complete subtree's hash, in one list a level."""

    def __init__(self, size: int) -> None:
        row = [hash_leaf(b"%d" % index) for index in range(size)]
        self.rows = [row]
        while len(row) > 1:
            row = list(map(hash_children, row[0:-1:2], row[1::2]))
            self.rows.append(row)

    def read(self, node: NodeId) -> bytes:
        return self.rows[node.level][node.number]

    def root(self, size: int) -> bytes:
        *left, root = (self.read(node) for node in cover(0, size))
        for hash_ in reversed(left):
            root = hash_children(hash_, root)
        return root


REFERENCE = Reference(SIZE)
LEAVES = REFERENCE.rows[0]


class Store:
    """Full tiles as a log stores them, with the edge that it keeps in memory."""

    def __init__(self) -> None:
        self.edge = RightEdge()
        self.full: dict[TileId, ExpandedTile] = {}

    def append(self, leaf_hashes: list[bytes]) -> None:
        for tile, expanded in self.edge.append(leaf_hashes).items():
            assert tile not in self.full, "a full tile never changes"
            assert expanded == ExpandedTile.of(expanded.hashes)
            assert len(expanded.hashes) == TILE_BYTES
            self.full[tile] = expanded

    def reader(self) -> TileReader:
        return TileReader(self.edge.tiles(), self.full)

    def partial(self) -> list[list[bytes]]:
        """The unfilled tiles as a log reads them back after a restart: one for each level that has a hash."""
        tiles = {tile.level: split(expanded.hashes) for tile, expanded in self.edge.tiles().items()}
        levels = 0
        while self.edge.size >> (8 * levels):
            levels += 1
        return [tiles.get(level, []) for level in range(levels)]


def split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + 32] for at in range(0, len(hashes), 32)]


def check_store(store: Store) -> None:
    """The edge, its tiles and every width are what the reference says at this size."""
    size = store.edge.size
    if size:
        assert store.edge.root() == REFERENCE.root(size)
    for tile, expanded in store.edge.tiles().items():
        width = tile_width(tile, size=size)
        for height, row in enumerate(expanded.rows):
            begin = tile.number * TILE_WIDTH >> height
            assert split(row) == REFERENCE.rows[8 * tile.level + height][begin : begin + (width >> height)]
    for level in range(4):
        count = size >> (8 * level)
        assert tile_width(TileId(level, count // TILE_WIDTH), size=size) == count % TILE_WIDTH
        assert tile_width(TileId(level, count // TILE_WIDTH + 1), size=size) == 0
        if count >= TILE_WIDTH:
            assert tile_width(TileId(level, count // TILE_WIDTH - 1), size=size) == TILE_WIDTH
            assert TileId(level, count // TILE_WIDTH - 1) in store.full


def check_resume(store: Store) -> None:
    """An edge rebuilt from its unfilled tiles is the same, and goes on the same."""
    size = store.edge.size
    resumed = RightEdge.resume(size=size, partial=store.partial())
    longer = RightEdge.resume(size=size, partial=[*store.partial(), (), ()])
    for edge in (resumed, longer):
        assert edge.root() == store.edge.root()
        assert edge.tiles() == store.edge.tiles()
        assert edge.compact_range() == store.edge.compact_range()
    copy = store.edge.copy()
    more = LEAVES[size : size + 3]
    assert resumed.append(more) == longer.append(more) == copy.append(more)
    assert resumed.root() == copy.root()
    assert (store.edge.size, copy.size) == (size, size + len(more))


def check_proofs(store: Store) -> None:
    """Proofs read from tiles verify, at this size and at earlier ones."""
    size = store.edge.size
    reader = store.reader()
    root = REFERENCE.root(size)
    for earlier in {1, size // 3, size // 2, size - 1, size} - {0}:
        assert root_at(size=earlier, reader=reader) == REFERENCE.root(earlier)
        made = assemble(plan_consistency(size1=earlier, size2=size), reader)
        verify_consistency(size1=earlier, size2=size, root1=REFERENCE.root(earlier), root2=root, proof=made)
        for index in {0, earlier // 2, earlier - 1}:
            plan = plan_inclusion(index=index, size=earlier)
            assert tiles_of(plan) <= store.full.keys() | store.edge.tiles().keys()
            verify_inclusion(
                index=index,
                size=earlier,
                leaf_hash=LEAVES[index],
                proof=assemble(plan, reader),
                root=REFERENCE.root(earlier),
            )


def test_a_tree_of_66000_leaves_grows_tile_by_tile_as_the_reference_says() -> None:
    store = Store()
    compact = CompactRange()
    around = {255, 256, 257, 511, 512, 65_279, 65_280, 65_281, *range(65_530, 65_545), 65_792, SIZE}
    for size in range(SIZE + 1):
        if size <= SMALL or size in around:
            check_store(store)
            assert store.edge.compact_range() == compact.hashes
            check_resume(store)
            if size and (size % 97 == 0 or size in around):
                check_proofs(store)
        if size < SIZE:
            store.append(LEAVES[size : size + 1])
            compact.append(LEAVES[size])
    reader = store.reader()
    for level, row in enumerate(REFERENCE.rows):
        step = max(1, len(row) // 500)
        nodes = [NodeId(level, number) for number in range(0, len(row), step)] + [NodeId(level, len(row) - 1)]
        assert reader.read_hashes(nodes) == [REFERENCE.read(node) for node in nodes]
        with pytest.raises(StorageError, match=r"lacks node|is not there"):
            reader.read_hashes([NodeId(level, len(row))])


def test_many_leaves_at_once_are_the_same_as_one_by_one() -> None:
    at_once, one_by_one = Store(), Store()
    at_once.append(LEAVES[:SMALL])
    for leaf_hash in LEAVES[:SMALL]:
        one_by_one.append([leaf_hash])
    assert at_once.full == one_by_one.full
    assert at_once.edge.tiles() == one_by_one.edge.tiles()


@pytest.mark.parametrize(
    ("size", "widths"),
    [
        (0, [1]),
        (1, []),
        (1, [0]),
        (1, [2]),
        (255, [254]),
        (256, [0]),
        (256, [255, 1]),
        (256, [0, 0]),
        (257, [1]),
        (257, [0, 1]),
        (257, [1, 1, 1]),
        (65_536, [0, 0]),
        (65_536, [0, 255]),
        (-1, [255]),
    ],
)
def test_unfilled_tiles_that_do_not_fit_the_size_are_refused(size: int, widths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        RightEdge.resume(size=size, partial=[[bytes(32)] * width for width in widths])


def test_a_reader_says_which_tile_lacks_a_node() -> None:
    reader = TileReader({}, {TileId(0, 1): ExpandedTile.of(b"".join(LEAVES[:3]))})
    assert reader.read_hashes([NodeId(0, 258)]) == [LEAVES[2]]
    assert reader.read_hashes([NodeId(1, 128)]) == [hash_children(*LEAVES[:2])]
    for node in (NodeId(0, 259), NodeId(1, 129), NodeId(2, 64), NodeId(7, 2)):
        with pytest.raises(StorageError, match=f"tile 0/1 lacks node {node.level}/{node.number}"):
            reader.read_hashes([node])
    for node, tile in ((NodeId(0, 0), "0/0"), (NodeId(7, 4), "0/2"), (NodeId(8, 0), "1/0")):
        with pytest.raises(MissingTileError, match=f"tile {tile} is not there"):
            reader.read_hashes([node])


@pytest.mark.parametrize(
    ("node", "tile"),
    [
        (NodeId(0, 0), TileId(0, 0)),
        (NodeId(0, 255), TileId(0, 0)),
        (NodeId(0, 256), TileId(0, 1)),
        (NodeId(7, 1), TileId(0, 0)),
        (NodeId(7, 2), TileId(0, 1)),
        (NodeId(8, 0), TileId(1, 0)),
        (NodeId(8, 256), TileId(1, 1)),
        (NodeId(62, 1), TileId(7, 0)),
    ],
)
def test_a_node_is_in_one_tile(node: NodeId, tile: TileId) -> None:
    assert tile_of(node) == tile


def test_a_root_needs_the_right_edge_only() -> None:
    assert tiles_of(plan_root(66_000)) == {TileId(0, 257), TileId(1, 1), TileId(2, 0)}


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tile/0/000", TilePath(0, 0, 256)),
        ("tile/63/999", TilePath(63, 999, 256)),
        ("tile/0/x001/000", TilePath(0, 1000, 256)),
        ("tile/0/x001/x234/067", TilePath(0, 1_234_067, 256)),
        ("tile/0/x001/x234/067.p/89", TilePath(0, 1_234_067, 89)),
        ("tile/entries/x001/x234/067", TilePath(None, 1_234_067, 256)),
        ("tile/entries/000.p/1", TilePath(None, 0, 1)),
        ("tile/3/999.p/255", TilePath(3, 999, 255)),
        ("tile/0/x009/x223/x372/x036/x854/x775/807", TilePath(0, 2**63 - 1, 256)),
    ],
)
def test_a_tile_has_one_path(text: str, path: TilePath) -> None:
    assert format_tile_path(path) == text
    assert parse_tile_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile//000",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/64/000",
        "tile/00/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/Entries/000",
        "tile/0/x000/000",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/X001/000",
        "tile/0/x001",
        "tile/0/x001/x000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/1/",
        "tile/0/000.P/1",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/000?",
        "tile/0/../000",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/" + "x999/" * 10_000 + "999",
        "tile/0/000\0",
        "\ud800",
    ],
)
def test_any_other_spelling_of_a_path_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_tile_path(text)


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256])
def test_an_expanded_tile_holds_every_complete_node_above_its_hashes(count: int) -> None:
    rows = ExpandedTile.of(b"".join(LEAVES[:count])).rows
    assert [split(row) for row in rows] == [
        REFERENCE.rows[height][: count >> height] for height in range(count.bit_length())
    ]


def test_an_expanded_tile_is_read_back_as_it_was_printed() -> None:
    tile = ExpandedTile.of(b"".join(LEAVES[:256]))
    printed = format_expanded_tile(tile)
    assert parse_expanded_tile_unverified(printed) == tile
    assert (len(printed), printed[:TILE_BYTES], printed[-32:]) == (EXPANDED_BYTES, tile.hashes, REFERENCE.rows[8][0])


@pytest.mark.parametrize("length", [0, 32, TILE_BYTES, EXPANDED_BYTES - 32, EXPANDED_BYTES + 1, EXPANDED_BYTES + 32])
def test_an_expanded_tile_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match=f"not {length}"):
        parse_expanded_tile_unverified(bytes(length))


@pytest.mark.parametrize("length", [0, 1, 31, 33, 8191, 8193, 8224])
def test_a_tile_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match=f"not {length} bytes"):
        ExpandedTile.of(bytes(length))


@pytest.mark.parametrize("entries", [(b"",), (b"a", b"", b"b" * ENTRY_BYTES_MAX), (b"x",) * 256])
def test_an_entry_bundle_is_read_back_as_it_was_printed(entries: tuple[bytes, ...]) -> None:
    assert parse_entry_bundle(format_entry_bundle(entries)) == entries


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\1", b"\0\2a", b"\0\1ab", b"\0\1a\0", b"\xff\xff", b"\0\0" * 257, b"\0\1a\0\2b"]
)
def test_a_malformed_entry_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="entry bundle"):
        parse_entry_bundle(data)


@pytest.mark.parametrize("entries", [(), (b"",) * 257, (bytes(ENTRY_BYTES_MAX + 1),)], ids=["none", "many", "large"])
def test_what_fits_no_bundle_is_not_printed(entries: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="bundle"):
        format_entry_bundle(entries)
