"""A process that checks leaves, so that parsing and signatures use the machine's other cores.

In a thread they would not: half of the work is parsing, which holds the interpreter's lock, and the event loop waits.
The process reads requests from its stdin, one at a time, and writes an answer to each to its stdout; it ends when its
stdin does, and so never outlives the log, however that ends.

    frame    = uint32 big-endian length, body
    rules    = marshal of the table that `format_rules` makes, once, before the first request
    request  = marshal of [leaf, ...]
    answer   = marshal of [outcome, ...], one for each leaf
    outcome  = (leaf hash, (signer, twin hash or None, [(term kind, term value), ...]))     admitted
             | (leaf hash, None)                                                            ... and nobody signed it
             | (name of the error, message)                                                 refused
             | (None, traceback)                                                            a defect of ours

`marshal` is for two processes of one program, as these are, and cheaper than anything that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import signal
import sys
import traceback
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from treehead import errors
from treehead.errors import TreeheadError, UnavailableError
from treehead.keyfile import PASSPHRASE_VARIABLE
from treehead_logserver.leaf import admit_leaf
from treehead_logserver.rules import AdmissionRules, format_rules, parse_rules
from treehead_logserver.storage.base import Candidate, Term

_LOG = logging.getLogger(__name__)

Outcome = Candidate | Exception
"""A candidate, or why the leaf makes none: a `TreeheadError`, or else a defect of ours."""

_NO_TERMS: frozenset[Term] = frozenset()
_LENGTH_BYTES = 4
_READ_AHEAD_BYTES = 1_048_576


class CheckingDefectError(Exception):
    """Checking a leaf failed over a defect of Treehead; the message is the traceback."""


class Checker:
    """One such process, which is started anew when it should have ended. For one event loop, one request at a time."""

    def __init__(self, rules: AdmissionRules, *, answer_ms: int) -> None:
        self._rules = _frame(marshal.dumps(format_rules(rules)))
        self._answer_ms = answer_ms
        self._process: Process | None = None

    async def start(self) -> Process:
        """Have the process running.

        Raises:
            UnavailableError: it cannot be started.
        """
        if self._process is None or self._process.returncode is not None:
            # -P: nothing of ours is to be imported from the folder that the log happens to be started in.
            command = (sys.executable, "-P", "-m", __name__)
            # What strangers send is parsed there, so it is told no secret.
            environment = {name: value for name, value in os.environ.items() if name != PASSPHRASE_VARIABLE}
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=PIPE,
                    stdout=PIPE,
                    limit=_READ_AHEAD_BYTES,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as exc:
                raise UnavailableError(f"the log cannot start a process that checks entries: {exc.strerror}") from exc
            with contextlib.suppress(ConnectionError):  # should it have ended at once, whoever asks it first is told so
                _send(self._process, self._rules)
        return self._process

    async def check(self, leaves: Sequence[bytes]) -> list[Outcome]:
        """For each leaf, in order, the candidate that it makes, or the error that `admit_leaf` raised for it.

        Raises:
            UnavailableError: the process ended, or did not answer in time; the next call starts another.
        """
        process = await self.start()
        try:
            async with asyncio.timeout(self._answer_ms / 1_000):
                answer = await _ask(process, _frame(marshal.dumps(list(leaves))))
        except (TimeoutError, EOFError, ConnectionError) as exc:
            _LOG.error("a process that checks entries did not answer (%s); another one is started", type(exc).__name__)
            await self.close()
            raise UnavailableError("the log could not check the entry; try again, which is safe") from exc
        except BaseException:
            # Its answer may still come, and must not be taken for that to another request.
            self._process = None
            _kill(process)
            raise
        return [_outcome(leaf, item) for leaf, item in zip(leaves, answer, strict=True)]

    async def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            await process.wait()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _send(process: Process, frame: bytes) -> asyncio.StreamWriter:
    assert process.stdin is not None  # noqa: S101 -- as it was started
    try:
        process.stdin.write(frame)
    except RuntimeError as exc:  # what uvloop raises where asyncio raises a ConnectionError
        raise ConnectionResetError(str(exc)) from exc
    return process.stdin


async def _ask(process: Process, request: bytes) -> Sequence[Any]:
    assert process.stdout is not None  # noqa: S101
    stdin = _send(process, request)
    try:
        await stdin.drain()
    except RuntimeError as exc:
        raise ConnectionResetError(str(exc)) from exc
    length = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES), "big")
    answer: Sequence[Any] = marshal.loads(await process.stdout.readexactly(length))  # noqa: S302 -- of our own process
    return answer


def _outcome(leaf: bytes, item: tuple[Any, Any]) -> Outcome:
    what, detail = item
    if isinstance(what, bytes):
        if detail is None:
            return Candidate(leaf, what, _NO_TERMS)
        signer, twin_hash, terms = detail
        return Candidate(leaf, what, frozenset(map(Term._make, terms)), signer, twin_hash)
    if isinstance(what, str):
        error: TreeheadError = getattr(errors, what)(detail)
        return error
    return CheckingDefectError(detail)


# --- in the process --------------------------------------------------------------------------------------------------


def _check(leaf: bytes, rules: AdmissionRules) -> tuple[object, object]:
    try:
        candidate = admit_leaf(leaf, rules=rules)
    except TreeheadError as exc:
        return type(exc).__name__, str(exc)
    except Exception:  # noqa: BLE001 -- what one leaf does must not fail the others of its request
        return None, traceback.format_exc()
    if candidate.signer is None:
        return candidate.leaf_hash, None
    return candidate.leaf_hash, (candidate.signer, candidate.twin_hash, [tuple(term) for term in candidate.terms])


def _frames(stream: BinaryIO) -> Iterator[Any]:
    """What is in the frames that are there as a whole: a log that was killed may have left half of one."""
    while len(header := stream.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        length = int.from_bytes(header, "big")
        if len(body := stream.read(length)) < length:
            return
        yield marshal.loads(body)  # noqa: S302 -- by our own process


def run(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests by the rules that come before them, until there are no more."""
    frames = _frames(requests)
    if (table := next(frames, None)) is None:
        return
    rules = parse_rules(table, where="admission rules")
    for leaves in frames:
        answers.write(_frame(marshal.dumps([_check(leaf, rules) for leaf in leaves])))
        answers.flush()


def main() -> None:
    """Be such a process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the log decides when it has no more to ask
    try:
        run(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:  # the log is gone, and with it who would want to know
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
