"""fsck of a tree that is served: what is wrong is found and named, and a network that fails is never taken for it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import re
import ssl
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.unit.library.specimens import LOG_KEY, ORIGIN, OTHER_LOG, WITNESS_KEYS, private_key
from tests.unit.logserver.directory import flipped
from tests.unit.logserver.parts import random_leaves
from tests.unit.logserver.published import MANY, Answer, FileServer, Steps, answer, files_of, in_turn
from treehead.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from treehead.encoding import format_base64
from treehead.errors import UnavailableError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import parse_note
from treehead.publickey import Scheme
from treehead.tile import parse_entry_bundle
from treehead.tls import ClientTls
from treehead_logserver.fsck.remote import server as server_module
from treehead_logserver.fsck.remote.check import check_url
from treehead_logserver.fsck.remote.server import Bounds
from treehead_logserver.fsck.report import Report, format_report, format_report_json
from treehead_logserver.progress import Progress

SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 700)
SIZE = 700
FILES = files_of(random_leaves(SIZE, seed=1))
"""Two full tiles and a part, and above them a part."""
RESOURCES = sorted(FILES)
IMPATIENT = Bounds(silence_s=0.2, request_s=0.4, attempts=2, pause_s=0.01)
PATIENT = Bounds(pause_s=0.01)

Files = dict[str, bytes]
Damage = Callable[[Files], None]


@pytest.fixture(scope="module")
def many() -> Files:
    """A full tile of level 1 as well."""
    return files_of(random_leaves(MANY, seed=1))


async def fsck(url: str, *, vkey: VerifierKey = LOG_KEY, bounds: Bounds = PATIENT, ca: Path | None = None) -> Report:
    return await check_url(url, vkey=vkey, tls=ClientTls(ca=ca), progress=Progress(), bounds=bounds)


async def checked(files: Mapping[str, bytes]) -> Report:
    async with FileServer(files).serving() as server:
        return await fsck(server.url)


async def answered(answers: Mapping[str, Answer], *, bounds: Bounds = PATIENT) -> Report:
    """The check of a server with the files of 700 entries, which gives these answers for some of them."""
    async with FileServer(FILES, answers).serving() as server:
        return await fsck(server.url, bounds=bounds)


def told(report: Report) -> list[str]:
    return [f"{finding.where}: {finding.what}" for finding in report.findings]


def places(report: Report) -> list[str]:
    return [finding.where for finding in report.findings]


# --- in order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_every_shape_of_tree_is_clean(size: int) -> None:
    files = files_of(random_leaves(size, seed=1))
    report = await checked(files)
    assert (told(report), report.unchecked, report.is_clean) == ([], None, True)
    tiles = [path for path in files if path != "checkpoint" and "entries" not in path]
    assert (report.size, report.entries, report.tiles) == (size, size, len(tiles))
    assert report.root == parse_checkpoint(parse_note(files["checkpoint"]).text).root


async def test_a_tree_with_several_levels_is_clean_and_each_resource_is_asked_for_once(many: Files) -> None:
    async with FileServer(many).serving() as server:
        report = await fsck(server.url)
    assert (told(report), report.entries, report.tiles) == ([], MANY, 261)
    assert sorted(server.asked) == sorted(many)
    assert 1 < server.at_once_max <= PATIENT.in_flight


async def test_a_prefix_may_have_a_path_and_a_final_slash() -> None:
    async with FileServer({f"logs/2026/{path}": data for path, data in FILES.items()}).serving() as server:
        for prefix in ("/logs/2026", "/logs/2026/"):
            assert (await fsck(server.url + prefix)).is_clean


async def test_partial_tiles_that_are_gone_are_read_from_full_ones() -> None:
    """The log has grown since the checkpoint was read, and may remove them then."""
    grown = files_of(random_leaves(1_024, seed=1))
    del grown["tile/1/000.p/4"]
    grown["tile/1/000"] = FILES["tile/1/000.p/2"] + bytes(254 * 32)
    report = await checked({**grown, "checkpoint": FILES["checkpoint"]})
    assert (told(report), report.entries, report.tiles) == ([], SIZE, 4)


@pytest.mark.parametrize("path", ["tile/0/002", "tile/entries/002"])
async def test_a_full_tile_that_is_damaged_is_none_to_fall_back_to(path: str) -> None:
    grown = files_of(random_leaves(1_024, seed=1))
    missing = f"{path}.p/188"
    files = {name: data for name, data in FILES.items() if name != missing}
    report = await checked({**files, path: grown[path][:-1]})
    (line,) = told(report)
    assert line.startswith(f"{missing}: is missing (HTTP 404), and the full one ")


async def test_bundles_may_be_compressed() -> None:
    compressed = {
        path: answer(200, gzip.compress(data), content_encoding="gzip")
        for path, data in FILES.items()
        if "entries" in path
    }
    report = await answered(compressed)
    assert (told(report), report.is_clean) == ([], True)


async def test_answers_without_a_length_or_in_chunks_will_do() -> None:
    def chunked(data: bytes) -> Answer:
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:5], data[5:])) + b"0\r\n\r\n"
        return answer(200, body, content_length=None, transfer_encoding="chunked")

    report = await answered(
        {
            **{path: chunked(data) for path, data in FILES.items() if "entries" in path},
            **{
                path: answer(200, data, content_length=None, connection="close")
                for path, data in FILES.items()
                if "entries" not in path
            },
        }
    )
    assert (told(report), report.unchecked) == ([], None)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RESOURCES)
async def test_one_flipped_bit_is_found_in_its_place_and_nowhere_else(path: str) -> None:
    rng = random.Random(path)
    for number in (0, 8 * len(FILES[path]) - 1, *(rng.randrange(8 * len(FILES[path])) for _ in range(6))):
        report = await checked({**FILES, path: flipped(FILES[path], number)})
        assert places(report) == [path], (number, told(report))
        assert (report.root, report.is_clean, report.unchecked) == (None, False, None)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("tile/0/100", "does not hash to what tile/1/000 has for it"),
        ("tile/0/256", "does not hash to what tile/1/001.p/1 has for it"),
        ("tile/0/257.p/208", "is not what its entries hash to"),
        ("tile/1/000", "does not hash to what tile/2/000.p/1 has for it"),
        ("tile/1/001.p/1", "is not what the tiles below it hash to"),
        ("tile/2/000.p/1", "is not what the tiles below it hash to"),
        ("tile/entries/100", "entry 25600 does not hash to what tile/0/100 has"),
        ("tile/entries/257.p/208", "entry 65792 does not hash to what tile/0/257.p/208 has"),
    ],
)
async def test_it_is_named_on_every_level(many: Files, path: str, what: str) -> None:
    number = 8 * 2 if "entries" in path else 5
    assert told(await checked({**many, path: flipped(many[path], number)})) == [f"{path}: {what}"]


@pytest.mark.parametrize("path", RESOURCES)
async def test_what_is_missing_is_named(path: str) -> None:
    report = await checked({name: data for name, data in FILES.items() if name != path})
    more = ", and the full one is missing (HTTP 404)" if ".p/" in path else ""
    assert told(report) == [f"{path}: is missing (HTTP 404){more}"]
    assert report.unchecked is None


async def test_a_resource_that_is_gone_is_missing() -> None:
    assert told(await answered({"tile/0/001": answer(410)})) == ["tile/0/001: is missing (HTTP 410)"]


@pytest.mark.parametrize("path", RESOURCES)
async def test_what_is_cut_is_named(path: str) -> None:
    for size in (0, 1, len(FILES[path]) // 2, len(FILES[path]) - 1):
        report = await checked({**FILES, path: FILES[path][:size]})
        assert places(report) == [path], (size, told(report))


@pytest.mark.parametrize("path", RESOURCES)
async def test_what_is_too_long_is_named(path: str) -> None:
    for more in (b"\0", bytes(32), bytes(100_000)):
        report = await checked({**FILES, path: FILES[path] + more})
        assert places(report) == [path], (len(more), told(report))


@pytest.mark.parametrize(
    ("path", "data", "what"),
    [
        ("tile/0/000", bytes(8_191), "has 8191 bytes, and must have 8192"),
        ("tile/0/000", bytes(8_193), "has more than 8192 bytes"),
        ("tile/1/000.p/2", bytes(32), "has 32 bytes, and must have 64"),
        ("tile/entries/000", bytes(2 * 255), "has 255 entries, and must have 256"),
        ("tile/entries/000", bytes(2 * 257), "is no bundle of entries: entry bundle is truncated or has more than 256"),
        ("tile/entries/000", b"\xff\xff", "is no bundle of entries: entry bundle is truncated"),
        ("tile/entries/000", b"", "is no bundle of entries: entry bundle is empty"),
        ("tile/entries/002.p/188", bytes(2 * 189), "has 189 entries, and must have 188"),
        ("tile/entries/002.p/188", bytes(188 * 65_537 + 1), f"has more than {188 * 65_537} bytes"),
        ("tile/entries/000", bytes(2 * 256), "entries 0 and 255 more of it do not hash to what tile/0/000 has"),
        ("checkpoint", bytes(524_289), "has more than 524288 bytes"),
        ("checkpoint", b"no note", f"is not by {ORIGIN}: signed note has no text"),
    ],
)
async def test_it_is_said_what_is_wrong(path: str, data: bytes, what: str) -> None:
    (line,) = told(await checked({**FILES, path: data}))
    assert line.startswith(f"{path}: {what}")


def both(first: str, second: str) -> Damage:
    def damage(files: Files) -> None:
        files[first], files[second] = files[second], files[first]

    return damage


def forged(files: Files) -> None:
    """An entry, and its tile along with it."""
    other = files_of([b"forged", *random_leaves(len(parse_all(files)), seed=1)[1:]])
    files |= {path: other[path] for path in ("tile/0/000", "tile/entries/000")}


def parse_all(files: Files) -> list[bytes]:
    return [leaf for path, data in sorted(files.items()) if "entries" in path for leaf in parse_entry_bundle(data)]


def without(*paths: str) -> Damage:
    def damage(files: Files) -> None:
        for path in paths:
            del files[path]

    return damage


def bits(*paths: str) -> Damage:
    def damage(files: Files) -> None:
        for path in paths:
            files[path] = flipped(files[path], 8 * 2)

    return damage


def all_but_the_top(files: Files) -> None:
    bits("tile/1/000")(files)
    forged(files)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(both("tile/0/000", "tile/0/001"), ["tile/0/000", "tile/0/001"], id="swapped_tiles"),
        pytest.param(
            both("tile/entries/000", "tile/entries/001"), ["tile/entries/000", "tile/entries/001"], id="swapped_bundles"
        ),
        pytest.param(forged, ["tile/0/000", "tile/entries/000"], id="entry_with_its_tile"),
        pytest.param(without("tile/0/000", "tile/entries/000"), ["tile/0/000", "tile/entries/000"], id="both_missing"),
        pytest.param(bits("tile/0/001", "tile/entries/000"), ["tile/entries/000", "tile/0/001"], id="two"),
        pytest.param(bits("tile/1/000", "tile/entries/007"), ["tile/1/000", "tile/0/007"], id="tile_above_too"),
        pytest.param(bits("tile/1/000", "tile/0/007"), ["tile/1/000", "tile/0/007"], id="two_tiles"),
        pytest.param(all_but_the_top, ["tile/1/000", "tile/1/000"], id="all_but_the_top"),
        pytest.param(
            without("tile/1/000", "tile/0/007", "tile/entries/007"),
            ["tile/1/000", "tile/0/007", "tile/entries/007"],
            id="nothing_left",
        ),
        pytest.param(
            bits("tile/2/000.p/1", "tile/entries/007"), ["tile/0/007", "tile/1/000", "tile/2/000.p/1"], id="at_the_top"
        ),
        pytest.param(bits("tile/2/000.p/1", "tile/1/000"), ["tile/1/000", "tile/2/000.p/1"], id="the_two_uppermost"),
    ],
)
async def test_several_damages_are_all_found(many: Files, damage: Damage, found: list[str]) -> None:
    files = dict(many)
    damage(files)
    report = await checked(files)
    assert places(report) == found, told(report)


async def test_where_nothing_signed_is_left_it_is_said_that_nobody_can_tell(many: Files) -> None:
    files = dict(many)
    bits("tile/1/000", "tile/entries/007")(files)
    undecided = "is not what its entries hash to, and nothing above says which of them is wrong"
    assert f"tile/0/007: {undecided}" in told(await checked(files))


async def test_damage_anywhere_is_never_taken_for_clean() -> None:
    """One to three resources, each damaged in one of the ways that there are."""
    rng = random.Random(33)
    ways: list[Callable[[bytes], bytes | None]] = [
        lambda data: None,
        lambda data: flipped(data, rng.randrange(8 * len(data))),
        lambda data: data[: rng.randrange(len(data))],
        lambda data: data + rng.randbytes(rng.randrange(1, 40)),
        lambda data: rng.randbytes(len(data)),
        lambda data: FILES[rng.choice(paths)],
    ]
    paths = sorted(FILES)
    for _ in range(150):
        files = dict(FILES)
        for path in rng.sample(paths, rng.randrange(1, 4)):
            data = rng.choice(ways)(files[path])
            files.pop(path) if data is None else files.update({path: data})
        if files == FILES:
            continue
        report = await checked(files)
        assert report.findings, {path: files.get(path) for path in paths if files.get(path) != FILES[path]}
        assert report.root is None


# --- checkpoints -----------------------------------------------------------------------------------------------------


async def test_another_logs_checkpoint_is_found_and_nothing_else_is_asked_for() -> None:
    checkpoint = parse_checkpoint(parse_note(FILES["checkpoint"]).text)
    other = Checkpoint(origin="other.example", size=checkpoint.size, root=checkpoint.root)
    for note in (sign_checkpoint(checkpoint, key=OTHER_LOG), sign_checkpoint(other, key=OTHER_LOG)):
        async with FileServer({**FILES, "checkpoint": note}).serving() as server:
            report = await fsck(server.url)
        (line,) = told(report)
        assert line.startswith(f"checkpoint: is not by {ORIGIN}: ")
        assert (report.size, report.entries, server.asked) == (None, 0, ["checkpoint"])


async def test_a_signed_checkpoint_of_another_tree_is_found() -> None:
    for size in (1, 256, SIZE):
        files = files_of(random_leaves(size, seed=1))
        other = files_of(random_leaves(size, seed=2))
        report = await checked({**files, "checkpoint": other["checkpoint"]})
        assert told(report) == [f"checkpoint: signs another tree of size {size} than the entries make"]


@pytest.mark.parametrize(
    "key",
    [
        VerifierKey(name=ORIGIN, key_type=NoteKeyType.ECDSA, public_key=b"some SubjectPublicKeyInfo"),
        WITNESS_KEYS["w1"],
        private_key("x", Scheme.ED25519).verifier_key(name=ORIGIN, key_type=NoteKeyType.RFC6962),
    ],
)
async def test_a_key_whose_signatures_cannot_be_verified_is_refused_before_anything_is_asked(key: VerifierKey) -> None:
    async with FileServer(FILES).serving() as server:
        with pytest.raises(UsageError, match=rf"type 0x0{key.key_type}, and signatures of type 0x01 \(Ed25519\) only"):
            await fsck(server.url, vkey=key)
        assert server.asked == []


# --- servers that lie about what they send ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (gzip.compress(bytes(256 * 65_537 + 1)), f"has more than {256 * 65_537} bytes"),
        (gzip.compress(bytes(100_000_000)), f"has more than {256 * 65_537} bytes"),
        (gzip.compress(FILES["tile/entries/000"])[:-9], "ends in the middle of its gzip stream"),
        (b"", "ends in the middle of its gzip stream"),
        (gzip.compress(FILES["tile/entries/000"]) + b"more", "has bytes after its gzip stream"),
        (gzip.compress(b"") * 2, "has bytes after its gzip stream"),
        (FILES["tile/entries/000"], "is not gzip, which it says it is"),
        (zlib.compress(FILES["tile/entries/000"]), "is not gzip, which it says it is"),
        (gzip.compress(FILES["tile/entries/000"])[:-5] + b"12345", "is not gzip, which it says it is"),
        (gzip.compress(FILES["tile/entries/001"]), "entries 0 and 255 more of it do not hash to"),
    ],
)
async def test_bundles_that_are_not_what_was_compressed_are_named(body: bytes, what: str) -> None:
    report = await answered({"tile/entries/000": answer(200, body, content_encoding="gzip")})
    (line,) = told(report)
    assert line.startswith(f"tile/entries/000: {what}")


async def test_no_more_than_a_bundle_is_ever_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        def __init__(self, wbits: int) -> None:
            self._real = zlib.decompressobj(wbits)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def decompress(self, data: bytes, size_max: int) -> bytes:
            made = self._real.decompress(data, size_max)
            sizes.append(len(made))
            return made

    sizes: list[int] = []
    monkeypatch.setattr(server_module, "zlib", type("Zlib", (), {"decompressobj": Counting, "error": zlib.error}))
    bomb = answer(200, gzip.compress(bytes(300_000_000), 1), content_encoding="gzip")
    assert places(await answered({"tile/entries/000": bomb})) == ["tile/entries/000"]
    assert 256 * 65_537 < sum(sizes) <= 2 * (256 * 65_537 + 1) + len(FILES["tile/entries/001"]) * 2


async def test_what_is_encoded_without_having_been_asked_for_is_named() -> None:
    for path, encoding in (("tile/0/000", "gzip"), ("checkpoint", "gzip"), ("tile/entries/000", "br")):
        report = await answered({path: answer(200, gzip.compress(FILES[path]), content_encoding=encoding)})
        assert told(report) == [f"{path}: is encoded ({encoding}), which was not asked for"]


@pytest.mark.parametrize(
    ("path", "body", "encoding"),
    [
        ("tile/0/000", FILES["tile/0/000"][:-1], None),
        ("tile/entries/000", gzip.compress(FILES["tile/entries/000"])[:-9], "gzip"),
    ],
)
async def test_an_answer_that_may_have_been_cut_off_is_no_finding(path: str, body: bytes, encoding: str | None) -> None:
    cut = answer(200, body, content_length=None, connection="close", content_encoding=encoding)
    report = await answered({path: in_turn(cut, answer(200, FILES[path]))})
    assert (report.findings, report.unchecked) == ((), None)
    report = await answered({path: cut}, bounds=IMPATIENT)
    assert report.findings == ()
    assert str(report.unchecked).startswith(f"{path} could not be checked: the connection may have ended early")


DEADLINE_SECONDS = 20
LONGEST = [("tile/0/000", 8_192), ("tile/entries/000", 256 * 65_537), ("checkpoint", 524_288)]


@pytest.mark.parametrize("field", [b"content-length: 99999999999", b"connection: close"])
@pytest.mark.parametrize(("path", "bytes_max"), LONGEST)
async def test_what_is_longer_than_it_may_be_is_read_no_further(path: str, bytes_max: int, field: bytes) -> None:
    async def never_ends(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 So\r\n" + field + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65_536))
                await writer.drain()

    assert told(await answered({path: never_ends})) == [f"{path}: has more than {bytes_max} bytes"]


@pytest.mark.parametrize(("path", "bytes_max"), LONGEST)
async def test_a_length_that_cannot_be_is_named_before_anything_is_read(path: str, bytes_max: int) -> None:
    async def says_no_more(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 So\r\ncontent-length: 99999999999\r\n\r\n")
        await asyncio.Event().wait()

    async with asyncio.timeout(DEADLINE_SECONDS):
        assert told(await answered({path: says_no_more})) == [f"{path}: has more than {bytes_max} bytes"]


@pytest.mark.parametrize("declared", ["10", "8191"])
async def test_a_length_that_is_too_short_is_named(declared: str) -> None:
    data = FILES["tile/0/000"]
    report = await answered({"tile/0/000": answer(200, data, content_length=declared, connection="close")})
    assert told(report) == [f"tile/0/000: has {declared} bytes, and must have 8192"]


# --- servers and networks that fail ----------------------------------------------------------------------------------


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 So\r\ncontent-length: 8192\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)


async def babbles(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def broken_off(data: bytes) -> Answer:
    return answer(200, data[:100], content_length=str(len(data)), connection="close")


FAILURES = [
    pytest.param(hangs, "the server has sent nothing for 0.2 s", id="hangs"),
    pytest.param(drips, "the server has not answered within 0.4 s", id="drips"),
    pytest.param(hangs_up, "there is no answer: Server disconnected", id="hangs_up"),
    pytest.param(babbles, "there is no answer: ", id="babbles"),
    pytest.param(broken_off(FILES["tile/0/001"]), "there is no answer: peer closed connection", id="broken_off"),
    pytest.param(answer(500), "the server answers HTTP 500", id="500"),
    pytest.param(answer(503), "the server answers HTTP 503", id="503"),
    pytest.param(answer(429), "the server answers HTTP 429", id="429"),
    pytest.param(answer(403), "the server answers HTTP 403", id="403"),
    pytest.param(answer(204), "the server answers HTTP 204", id="204"),
    pytest.param(answer(200, FILES["tile/0/001"], content_length="many"), "there is no answer: ", id="no_number"),
    pytest.param(
        answer(301, location="http://127.0.0.1:1/"),
        r"the server redirects \(HTTP 301\) to http://127.0.0.1:1/",
        id="301",
    ),
]


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
async def test_a_failure_ends_the_check_and_is_no_finding(failure: Answer, reason: str) -> None:
    report = await answered({"tile/0/001": failure}, bounds=IMPATIENT)
    assert told(report) == []
    assert report.unchecked is not None
    assert report.unchecked.startswith("tile/0/001 could not be checked: ")
    assert re.search(reason, report.unchecked), report.unchecked
    assert (report.is_clean, report.root, report.size) == (False, None, SIZE)


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
async def test_a_failure_of_the_first_request_is_all_there_is_to_say(failure: Answer, reason: str) -> None:
    with pytest.raises(UnavailableError, match=f"checkpoint could not be checked: {reason}"):
        await answered({"checkpoint": failure}, bounds=IMPATIENT)


async def test_where_nobody_listens_there_is_no_finding() -> None:
    async with FileServer(FILES).serving() as server:
        pass
    with pytest.raises(UnavailableError, match="checkpoint could not be checked: there is no answer: "):
        await fsck(server.url, bounds=IMPATIENT)


async def test_a_server_cannot_have_findings_forgotten_by_failing_afterwards() -> None:
    files = {**FILES, "tile/entries/000": flipped(FILES["tile/entries/000"], 16)}
    async with FileServer(files, {"tile/0/001": hangs_up}).serving() as server:
        report = await fsck(server.url, bounds=IMPATIENT)
    assert places(report) == ["tile/entries/000"]
    assert report.unchecked is not None
    *_, unchecked, last = format_report(report).splitlines()
    assert unchecked.startswith("tile/0/001 could not be checked")
    assert last.endswith(": 1 finding, and not checked to its end")


@pytest.mark.parametrize(
    "failure",
    [answer(500), answer(429), hangs_up, broken_off(FILES["tile/0/001"])],
    ids=["500", "429", "hangs_up", "broken_off"],
)
async def test_a_failure_that_passes_is_none(failure: Answer) -> None:
    answers = {path: in_turn(failure, failure, answer(200, FILES[path])) for path in ("tile/0/001", "checkpoint")}
    report = await answered(answers)
    assert (told(report), report.unchecked) == ([], None)


async def test_a_redirect_is_not_followed() -> None:
    async with FileServer(FILES).serving() as other:
        redirect = answer(302, location=f"{other.url}/tile/0/001")
        report = await answered({"tile/0/001": redirect})
        assert other.asked == []
    assert report.unchecked is not None
    assert "give the URL under which the log is served" in report.unchecked


async def test_a_refusal_is_not_asked_for_again() -> None:
    async with FileServer(FILES, {"tile/0/001": answer(403)}).serving() as server:
        await fsck(server.url)
    assert server.asked.count("tile/0/001") == 1


# --- TLS and addresses -----------------------------------------------------------------------------------------------


async def test_a_certificate_by_an_authority_that_counts_is_needed(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.server(tmp_path / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with FileServer(FILES).serving(tls=context) as server:
        assert server.url.startswith("https://")
        report = await fsck(server.url, ca=authority.file(tmp_path / "ca.pem"))
        assert (told(report), report.entries) == ([], SIZE)
        stranger = Authority("stranger").file(tmp_path / "stranger.pem")
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            await fsck(server.url, ca=stranger, bounds=IMPATIENT)


async def test_an_authority_is_of_no_use_without_tls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--tls-ca is of use with an https:// URL only"):
        await fsck("http://127.0.0.1:1", ca=Authority().file(tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8460", "ftp://log.example", "http://", "http://u:p@log.example", "http://log.example/?a", "\xff"],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a log"):
        await fsck(url)


# --- the report ------------------------------------------------------------------------------------------------------


async def test_the_report_names_log_and_address() -> None:
    async with FileServer(FILES).serving() as server:
        report = await fsck(server.url)
    assert format_report(report) == f"{ORIGIN} at {server.url}: {SIZE} entries, 4 tiles: clean\n"
    value = json.loads(format_report_json(report))
    assert value.pop("seconds") > 0
    assert report.root is not None
    assert value == {
        "origin": ORIGIN,
        "url": server.url,
        "size": SIZE,
        "root": format_base64(report.root),
        "entries": SIZE,
        "tiles": 4,
        "lookups": None,
        "mark_size": None,
        "findings": [],
        "findings_more": 0,
        "unchecked": None,
        "clean": True,
    }


async def test_no_more_findings_are_told_than_people_read(many: Files) -> None:
    report = await checked({path: data for path, data in many.items() if not path.startswith("tile/entries/")})
    assert (len(report.findings), report.findings_more) == (100, 158)


async def test_progress_reaches_what_there_is_to_do() -> None:
    steps = Steps()
    async with FileServer(FILES).serving() as server:
        await check_url(server.url, vkey=LOG_KEY, tls=ClientTls(), progress=steps)
    assert (steps.total, steps.steps) == (SIZE, [256, 512, SIZE])
