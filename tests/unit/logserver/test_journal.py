"""The journal: one JSON object a line whatever it is told; lines can be traced to requests, and not be forged."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from treehead_logserver.journal import (
    LINES_A_SECOND,
    REFUSALS,
    REQUEST,
    TRACEBACK_CHARS_MAX,
    RequestId,
    write_journal,
)

DEADLINE_SECONDS = 30
LOG = logging.getLogger("treehead_logserver.some_part")

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Has the journal written, and reads what was since it was read last."""
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("httpx", "httpcore", "asyncio", "uvicorn.error"))]
    before = [(logger, logger.level) for logger in loggers]
    handlers, root.handlers = root.handlers, []
    stderr = io.StringIO()

    def read() -> list[dict[str, Any]]:
        written = stderr.getvalue()
        stderr.seek(0)
        stderr.truncate()
        return [json.loads(line) for line in written.splitlines()]

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        write_journal()
    yield read
    root.handlers = handlers
    for logger, level in before:
        logger.setLevel(level)


@pytest.fixture
def request_of() -> Iterator[Callable[[str | None], RequestId]]:
    """Has a request be answered whose caller gave this id."""
    token = REQUEST.set(None)

    def answer(given: str | None) -> RequestId:
        request = RequestId(lambda: given)
        REQUEST.set(request)
        return request

    yield answer
    REQUEST.reset(token)


def fail(message: str) -> None:
    raise ValueError(message)


# --- lines -----------------------------------------------------------------------------------------------------------


def test_a_line_says_when_how_bad_who_and_what(read: Read) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    LOG.warning("%d entries were not logged: %s", 3, "the disk is full")
    (line,) = read()
    assert datetime.strptime(line.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) >= began
    assert line == {
        "level": "WARNING",
        "logger": "treehead_logserver.some_part",
        "message": "3 entries were not logged: the disk is full",
    }


def test_times_have_milliseconds_even_when_these_are_none(read: Read) -> None:
    record = LOG.makeRecord(LOG.name, logging.INFO, __file__, 1, "exactly then", (), None)
    record.created = 1_795_892_226.0
    LOG.handle(record)
    assert read()[0]["time"] == "2026-11-28T18:57:06.000Z"


@pytest.mark.parametrize(
    "said",
    [
        'first\n{"time": "2026-11-28T18:57:06.123Z", "level": "INFO", "logger": "x", "message": "forged"}',
        "\r\nforged",
        "\x1b[2K\x1b[1Aforged",
        "line separator\u2028forged",
        "override\u202eforged",
        "half a character \ud800",
        '", "level": "INFO',
        "nul\x00",
    ],
)
def test_what_strangers_say_forges_no_line_and_controls_no_terminal(read: Read, said: str) -> None:
    LOG.info("refused: %s", said)
    (line,) = read()  # each line is an object, and this is the only one
    assert set(line) == {"time", "level", "logger", "message"}
    assert line["level"] == "INFO"
    assert line["message"].isprintable()


def test_a_message_without_end_is_cut(read: Read) -> None:
    LOG.info("refused: %s", "x" * 1_000_000)
    (line,) = read()
    assert len(line["message"]) < 2_000
    assert line["message"].endswith("…")


def test_a_defect_is_one_line_with_its_traceback(read: Read) -> None:
    try:
        fail("what nobody thought of\nforged")
    except ValueError:
        LOG.exception("a call failed over a defect of Treehead")
    (line,) = read()
    assert (line["level"], line["message"]) == ("ERROR", "a call failed over a defect of Treehead")
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in line["traceback"]
    assert line["traceback"].endswith("ValueError: what nobody thought of\nforged")


def test_of_a_traceback_without_end_the_last_of_it_is_kept(read: Read) -> None:
    try:
        fail("x" * 1_000_000 + " the end")
    except ValueError:
        LOG.exception("a call failed over a defect of Treehead")
    (line,) = read()
    assert len(line["traceback"]) == TRACEBACK_CHARS_MAX
    assert line["traceback"].endswith(" the end")


def test_what_libraries_chat_about_is_not_written(read: Read) -> None:
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).info("HTTP Request: POST https://witness.example/add-checkpoint")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    LOG.debug("nobody asked for this")
    assert read() == []
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert [line["logger"] for line in read()] == ["asyncio"]


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc-1", "A.b_c:d/e", "0" * 64, "7"])
def test_a_line_has_the_id_that_the_caller_gave(
    read: Read, request_of: Callable[[str | None], RequestId], given: str
) -> None:
    request = request_of(given)
    LOG.info("refused")
    assert read()[0]["request_id"] == str(request) == given


@pytest.mark.parametrize(
    "given", [None, "", " ", "a b", "0" * 65, "a\nb", "a\n", 'a", "level": "ERROR', "é", "a\x00", "{}", "\u0660"]
)
def test_an_id_that_is_none_or_none_was_given_is_made(
    read: Read, request_of: Callable[[str | None], RequestId], given: str | None
) -> None:
    request = request_of(given)
    LOG.info("refused")
    LOG.info("refused again")
    made = [line["request_id"] for line in read()]
    assert made == [str(request)] * 2
    assert len(bytes.fromhex(made[0])) == 8


def test_ids_that_are_made_differ(request_of: Callable[[str | None], RequestId]) -> None:
    assert len({str(request_of(None)) for _ in range(100)}) == 100


def test_nobody_is_asked_for_an_id_that_is_not_needed(read: Read) -> None:
    answers = iter(["abc-1", "abc-2"])
    request = RequestId(lambda: next(answers))
    token = REQUEST.set(request)
    LOG.info("refused")
    LOG.info("refused again")
    REQUEST.reset(token)
    assert [line["request_id"] for line in read()] == ["abc-1", "abc-1"]
    assert next(answers) == "abc-2"


async def test_each_task_writes_the_id_of_its_own_request(read: Read) -> None:
    async def answer(given: str) -> None:
        REQUEST.set(RequestId(lambda: given))
        await asyncio.sleep(0)
        LOG.info("answer to %s", given)

    await asyncio.gather(*(answer(f"request-{number}") for number in range(10)))
    LOG.info("about no request")
    *lines, last = read()
    assert len(lines) == 10
    assert all(line["message"] == f"answer to {line['request_id']}" for line in lines)
    assert "request_id" not in last


# --- bounds ----------------------------------------------------------------------------------------------------------


def flood(logger: logging.Logger, *, level: int = logging.INFO, lines: int = 10 * LINES_A_SECOND) -> float:
    """Have much written; returns how long that took."""
    began = time.monotonic()
    for number in range(lines):
        logger.log(level, "refused %d", number)
    return time.monotonic() - began


@pytest.mark.parametrize("name", [REFUSALS, "grpc._cython.cygrpc", "treehead_logserver.service"])
def test_of_a_flood_so_many_lines_a_second_are_written(read: Read, name: str) -> None:
    took_s = flood(logging.getLogger(name))
    lines = read()
    assert [line["message"] for line in lines[:LINES_A_SECOND]] == [f"refused {n}" for n in range(LINES_A_SECOND)]
    assert len(lines) <= LINES_A_SECOND * (1 + took_s) + 1


def test_the_next_line_after_a_flood_says_how_many_were_left_out(read: Read) -> None:
    refusals = logging.getLogger(REFUSALS)
    flood(refusals)
    lines, sent = read(), 10 * LINES_A_SECOND
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any("left_out" in line for line in lines):
        assert time.monotonic() < deadline
        refusals.info("refused %d", sent)
        sent += 1
        lines += read()
    assert len(lines) + sum(line.get("left_out", 0) for line in lines) == sent
    assert "left_out" not in lines[0]


def test_a_flood_of_refusals_hides_nothing_else(read: Read) -> None:
    flood(logging.getLogger(REFUSALS))
    read()
    LOG.error("no checkpoint is published")
    logging.getLogger(REFUSALS).error("worse than a refusal")
    assert [line["message"] for line in read()] == ["no checkpoint is published", "worse than a refusal"]
