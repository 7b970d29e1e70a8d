"""A stand-in witness for tests and benchmarks, strict, or misbehaving in one way: python -m tests.witness_server.

It speaks C2SP tlog-witness over its own few lines of HTTP/1.1, because half of its purpose is to break the rules of
either. Nothing else about it is fit for use: whoever wants a witness runs a monitor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import signal
import ssl
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from treehead import files
from treehead.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from treehead.cosignature import cosign
from treehead.errors import ConsistencyError, MalformedError, SignatureError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.merkle import EMPTY_ROOT, verify_consistency
from treehead.note import Note, NoteSignature, parse_note
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.witness import (
    ADD_CHECKPOINT_PATH,
    SIZE_CONTENT_TYPE,
    format_cosignatures,
    format_size_body,
    parse_add_checkpoint,
)

LISTENING = "listening on "
HEAD_BYTES_MAX = 16_384
CHUNK = b"x" * 4_096
DRIP_SECONDS = 0.01


def witness_key(seed: int) -> PrivateKey:
    """The key of the witness with this number."""
    return PrivateKey.from_seed(scheme=Scheme.ED25519, seed=sha256(f"stand-in witness {seed}".encode()).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; `drip` is what its body goes on with for ever, piece after piece, each after a pause."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: bytes = b""
    pause_s: float = 0.0


class StandInWitness:
    """Cosigns what goes on from the last checkpoint that it cosigned of a log, and nothing else.

    It remembers that in `state`, a file, if there is one. `now` is in POSIX seconds.
    """

    def __init__(
        self,
        *,
        key: PrivateKey,
        name: str,
        logs: Sequence[VerifierKey],
        state: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.name = name
        self.now = now
        self._logs = tuple(logs)
        self._state = state
        self._latest: dict[str, Checkpoint] = {}
        if state is not None and state.exists():
            texts = json.loads(state.read_text(encoding="utf-8"))
            self._latest = {origin: parse_checkpoint(text) for origin, text in texts.items()}

    @property
    def vkey(self) -> VerifierKey:
        """By what its cosignatures are verified."""
        return self.key.verifier_key(name=self.name, key_type=NoteKeyType.COSIGNATURE_ED25519)

    def latest(self, origin: str) -> Checkpoint:
        """The checkpoint of a log that it cosigned last; that of the empty tree if there is none."""
        return self._latest.get(origin, Checkpoint(origin=origin, size=0, root=EMPTY_ROOT))

    def cosign(self, note: Note, *, timestamp: int | None = None) -> NoteSignature:
        """Its cosignature, whatever the note says."""
        at = int(self.now()) if timestamp is None else timestamp
        return cosign(note.text, key=self.key, name=self.name, timestamp=at)

    def answer(self, body: bytes) -> Reply:
        """What the specification has a witness answer, in the order of its checks."""
        try:
            submission = parse_add_checkpoint(body)
            note = parse_note(submission.checkpoint)
            checkpoint = parse_checkpoint(note.text)
        except MalformedError as exc:
            return Reply(status=400, body=f"{exc}\n".encode())
        keys = [key for key in self._logs if key.name == checkpoint.origin]
        if not keys:
            return Reply(status=404, body=b"unknown log\n")
        try:
            signed = [verify_checkpoint(note, key=key) for key in keys if note.by(key) is not None]
        except SignatureError as exc:
            return Reply(status=403, body=f"{exc}\n".encode())
        if not signed:
            return Reply(status=403, body=b"not signed by a trusted key\n")
        if submission.old_size > checkpoint.size:
            return Reply(status=400, body=b"old size is larger than the checkpoint's\n")
        # From here to the end nothing is waited for, so that this is one step.
        latest = self.latest(checkpoint.origin)
        if submission.old_size != latest.size:
            return Reply(status=409, body=format_size_body(latest.size), content_type=SIZE_CONTENT_TYPE)
        try:
            verify_consistency(
                size1=latest.size,
                size2=checkpoint.size,
                root1=latest.root,
                root2=checkpoint.root,
                proof=submission.proof,
            )
        except ConsistencyError as exc:
            return Reply(status=422, body=f"{exc}\n".encode())
        self._persist(checkpoint, note)
        return Reply(status=200, body=format_cosignatures([self.cosign(note)]))

    def _persist(self, checkpoint: Checkpoint, note: Note) -> None:
        self._latest[checkpoint.origin] = checkpoint
        if self._state is not None:
            known = json.loads(self._state.read_text(encoding="utf-8")) if self._state.exists() else {}
            files.replace(self._state, json.dumps({**known, checkpoint.origin: note.text}).encode())


# --- misbehaviour ----------------------------------------------------------------------------------------------------

Misbehaviour = Callable[[StandInWitness, bytes], Awaitable[Reply | None]]
"""Answers the body of a request; None ends the connection without an answer."""


def _submitted(body: bytes) -> tuple[int, Note, int]:
    """The old size, the note and the size in a body."""
    submission = parse_add_checkpoint(body)
    note = parse_note(submission.checkpoint)
    return submission.old_size, note, parse_checkpoint(note.text).size


def _conflict(size: int) -> Reply:
    return Reply(status=409, body=format_size_body(size), content_type=SIZE_CONTENT_TYPE)


async def _honest(witness: StandInWitness, body: bytes) -> Reply | None:
    return witness.answer(body)


async def _hang(witness: StandInWitness, body: bytes) -> Reply | None:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def _drip(witness: StandInWitness, body: bytes) -> Reply | None:
    return replace(witness.answer(body), drip=b"x", pause_s=DRIP_SECONDS)


async def _huge(witness: StandInWitness, body: bytes) -> Reply | None:
    return replace(witness.answer(body), drip=CHUNK)


async def _huge_head(witness: StandInWitness, body: bytes) -> Reply | None:
    return replace(witness.answer(body), headers={"x-filler": "x" * 300_000})


async def _larger(witness: StandInWitness, body: bytes) -> Reply | None:
    return _conflict(_submitted(body)[2] + 1_000)


async def _same_size(witness: StandInWitness, body: bytes) -> Reply | None:
    return _conflict(_submitted(body)[0])


async def _other_size(witness: StandInWitness, body: bytes) -> Reply | None:
    old, _, size = _submitted(body)
    return _conflict((old + 1) % (size + 1))


async def _parameter(witness: StandInWitness, body: bytes) -> Reply | None:
    return replace(witness.answer(body), content_type=f"{SIZE_CONTENT_TYPE}; charset=utf-8")


async def _leading_zero(witness: StandInWitness, body: bytes) -> Reply | None:
    return replace(_conflict(0), body=b"00\n")


async def _garbage(witness: StandInWitness, body: bytes) -> Reply | None:
    return Reply(status=200, body=b"\xff\x00<html>\n\n\n" + "— ".encode() * 500)


async def _silent(witness: StandInWitness, body: bytes) -> Reply | None:
    return Reply(status=200)


async def _wrong_key(witness: StandInWitness, body: bytes) -> Reply | None:
    other = StandInWitness(key=witness_key(1_000_000), name=witness.name, logs=(), now=witness.now)
    return Reply(status=200, body=format_cosignatures([other.cosign(_submitted(body)[1])]))


async def _forged(witness: StandInWitness, body: bytes) -> Reply | None:
    line = witness.cosign(_submitted(body)[1])
    return Reply(status=200, body=format_cosignatures([replace(line, signature=line.signature[:-1] + b"\x00")]))


async def _future(witness: StandInWitness, body: bytes) -> Reply | None:
    line = witness.cosign(_submitted(body)[1], timestamp=int(witness.now()) + 2 * 86_400)
    return Reply(status=200, body=format_cosignatures([line]))


async def _undated(witness: StandInWitness, body: bytes) -> Reply | None:
    return Reply(status=200, body=format_cosignatures([witness.cosign(_submitted(body)[1], timestamp=0)]))


async def _compressed(witness: StandInWitness, body: bytes) -> Reply | None:
    reply = witness.answer(body)
    return replace(reply, body=gzip.compress(reply.body), headers={"content-encoding": "gzip"})


async def _redirect(witness: StandInWitness, body: bytes) -> Reply | None:
    return Reply(status=307, headers={"location": f"/elsewhere{ADD_CHECKPOINT_PATH}"})


async def _lost(witness: StandInWitness, body: bytes) -> Reply | None:
    """The first time that it cosigns a checkpoint, nobody hears of it."""
    origin = parse_checkpoint(_submitted(body)[1].text).origin
    before = witness.latest(origin).size
    reply = witness.answer(body)
    return None if witness.latest(origin).size > before else reply


def _refuse(status: str) -> Misbehaviour:
    async def misbehave(witness: StandInWitness, body: bytes) -> Reply | None:
        return Reply(status=int(status), body=b"for a reason\x1b[31m\n")

    return misbehave


def _slow(milliseconds: str) -> Misbehaviour:
    async def misbehave(witness: StandInWitness, body: bytes) -> Reply | None:
        await asyncio.sleep(int(milliseconds) / 1_000)
        return witness.answer(body)

    return misbehave


MISBEHAVIOURS: dict[str, Misbehaviour] = {
    "compressed": _compressed,
    "drip": _drip,
    "forged": _forged,
    "future": _future,
    "garbage": _garbage,
    "hang": _hang,
    "huge": _huge,
    "huge-head": _huge_head,
    "larger": _larger,
    "leading-zero": _leading_zero,
    "lost": _lost,
    "other-size": _other_size,
    "parameter": _parameter,
    "redirect": _redirect,
    "same-size": _same_size,
    "silent": _silent,
    "undated": _undated,
    "wrong-key": _wrong_key,
}
WITH_ARGUMENT: dict[str, Callable[[str], Misbehaviour]] = {"refuse": _refuse, "slow": _slow}
"""refuse:STATUS and slow:MILLISECONDS."""


def misbehaviour(spelled: str) -> Misbehaviour:
    """What `--misbehave` names; nothing names honesty."""
    name, _, argument = spelled.partition(":")
    if name in WITH_ARGUMENT:
        return WITH_ARGUMENT[name](argument)
    return MISBEHAVIOURS[name] if spelled else _honest


# --- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, as it came."""

    target: str
    headers: Mapping[str, str]
    body: bytes


class WitnessServer:
    """A stand-in witness that listens, in this process. `misbehave` may be changed at any time, also to one's own."""

    def __init__(self, witness: StandInWitness, *, misbehave: str | Misbehaviour = "") -> None:
        self.witness = witness
        self.misbehave = misbehave
        self.address = ""
        self.url = ""
        self.requests: list[Request] = []
        self.connections = 0
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[WitnessServer]:
        """Listen on a loopback port, and on leaving end every connection."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.url = f"{'http' if tls is None else 'https'}://{self.address}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._connections.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                if not await self._reply(request, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        except asyncio.CancelledError:
            pass  # and so do we
        finally:
            self._connections.discard(task)
            writer.close()

    async def _reply(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if request.target == f"/elsewhere{ADD_CHECKPOINT_PATH}":
            reply: Reply | None = self.witness.answer(request.body)
        elif request.target == ADD_CHECKPOINT_PATH:
            behave = misbehaviour(self.misbehave) if isinstance(self.misbehave, str) else self.misbehave
            reply = await behave(self.witness, request.body)
        else:
            reply = Reply(status=404, body=b"no such path\n")
        if reply is None:
            return False
        head = [f"HTTP/1.1 {reply.status} Witnessed", f"content-type: {reply.content_type}"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        if not reply.drip:
            head.append(f"content-length: {len(reply.body)}")
        writer.write("".join(f"{line}\r\n" for line in (*head, "")).encode() + reply.body)
        await writer.drain()
        while reply.drip:
            await asyncio.sleep(reply.pause_s)
            writer.write(reply.drip)
            await writer.drain()
        return True


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request; None when there is none any more. Only what a log sends is understood."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(target=first.split(" ")[1], headers=headers, body=body)


# --- the program -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.witness_server", description="A stand-in witness, only for tests.")
    parser.add_argument("--key-seed", type=int, default=0, metavar="N", help="the number that its key is made from")
    parser.add_argument("--name", required=True, help="the name that it signs with")
    parser.add_argument("--log", action="append", required=True, metavar="VKEY", help="a log that it knows")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state", type=Path, metavar="FILE", help="where it remembers what it has cosigned")
    parser.add_argument(
        "--misbehave", default="", metavar="HOW", help=f"{', '.join(MISBEHAVIOURS)}, refuse:STATUS or slow:MS"
    )
    return parser


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        # Whoever started us by a pipe may be gone without a word.
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4_096) else stop.set())
    witness = StandInWitness(
        key=witness_key(options.key_seed),
        name=options.name,
        logs=[parse_vkey(vkey) for vkey in options.log],
        state=options.state,
    )
    async with WitnessServer(witness, misbehave=options.misbehave).listening(port=options.port) as server:
        print(f"{LISTENING}{server.address}\nvkey {format_vkey(witness.vkey)}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_run(_parser().parse_args()))
