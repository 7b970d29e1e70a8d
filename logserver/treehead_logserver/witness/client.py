"""One witness, asked by the log to cosign its checkpoints (C2SP tlog-witness).

What is remembered of it only saves a request. After an answer that was lost the witness may hold more than we know: it
says so at the next request, and gets the proof from there.

A witness that does not cosign is asked again next time. An alarm stays until the log is started anew, and comes back
then if what caused it is still there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from treehead.checkpoint import parse_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.display import printable_name
from treehead.errors import StorageError, TreeheadError, UnavailableError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead.note import Note, NoteSignature, format_note
from treehead.policy import Witness
from treehead.witness import ADD_CHECKPOINT_PATH, AddCheckpoint, format_add_checkpoint
from treehead_logserver.witness.answer import NoCosignatureError, read_cosignature, read_size, refusal
from treehead_logserver.witness.exchange import Answer, parse_prefix, post

if TYPE_CHECKING:
    import httpx

_LOG = logging.getLogger(__name__)

TELL_EVERY_S = 10
"""The journal hears of a witness's ups and downs no more often than this, but of the newest of them in the end."""
_ATTEMPTS = 2

Prove = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""Makes the consistency proof between two sizes of the log's tree; raises `StorageError` if tiles cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessState:
    """What is known of a witness.

    Attributes:
        name: of the witness in the policy, fit to be shown.
        url: where it is asked; its submission prefix.
        cosigned_size: of the checkpoint that it cosigned last, as far as we know; 0 if of none.
        cosigned_at: when that was by its own clock, in POSIX seconds; 0 if never.
        problem: why it did not cosign when it was asked last, or nothing.
        alarm: why its memory contradicts this log, or nothing; the first reason, for good.
    """

    name: str
    vkey: VerifierKey
    url: str
    cosigned_size: int = 0
    cosigned_at: int = 0
    problem: str = ""
    alarm: str = ""


class WitnessClient:
    """Asks one witness, for one thing at a time. For one event loop.

    `published` is the checkpoint that was published last, from which is taken what the witness has cosigned; `log_size`
    is asked for the size of the log, which may be ahead of what is to be cosigned; `now` is in POSIX seconds.

    Raises:
        UsageError: the policy does not say where to ask the witness, or it has a key whose cosignatures cannot be
            verified here: its silence would be taken for a witness that is down, and a quorum for reachable.
    """

    def __init__(
        self,
        witness: Witness,
        *,
        transport: httpx.AsyncBaseTransport,
        timeout_ms: int,
        published: Note | None = None,
        log_size: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        name = printable_name(witness.name.decode("utf-8", "backslashreplace"))
        self._state = WitnessState(name=name, vkey=witness.key, url=_submission_prefix(witness, name))
        self._transport = transport
        self._timeout_ms = timeout_ms
        self._log_size = log_size
        self._now = now
        self._told_kind = ""
        self._told_at: float | None = None
        if published is not None:
            self._recall(published)

    @property
    def state(self) -> WitnessState:
        """What is known of the witness by now."""
        return self._state

    async def cosign(self, note: Note, *, size: int, prove: Prove) -> NoteSignature | None:
        """The witness's cosignature of the log's checkpoint `note`, verified; or None, and `state` says why.

        `size` is that of the checkpoint. The note carries the log's signatures and nothing else, for witnesses take
        short bodies only. All of it takes `timeout_ms` at most. The proofs are not verified before they are sent: that
        takes the root that the witness holds, which nobody has told us.
        """
        try:
            async with asyncio.timeout(self._timeout_ms / 1_000):
                line, timestamp = await self._ask(note, size, prove)
        except NoCosignatureError as exc:
            self._failed(exc)
        except TimeoutError:
            self._failed(NoCosignatureError(f"has not cosigned within {self._timeout_ms} ms", kind="timeout"))
        else:
            self._cosigned(size, timestamp)
            return line
        return None

    # --- asking ---

    async def _ask(self, note: Note, size: int, prove: Prove) -> tuple[NoteSignature, int]:
        old = min(self._state.cosigned_size, size)
        for _ in range(_ATTEMPTS):
            answer = await self._post(note, old, size, prove)
            if answer.status == 200:
                return read_cosignature(answer, note=note, key=self._state.vkey, now=self._now())
            if answer.status != 409:
                raise refusal(answer, old=old, size=size)
            old = read_size(answer, old=old, size=size, log_size=self._log_size())
        raise NoCosignatureError(
            "names another size each time that it is asked: others ask it for this log, too", kind="sizes"
        )

    async def _post(self, note: Note, old: int, size: int, prove: Prove) -> Answer:
        try:
            proof = await prove(old, size)
        except StorageError as exc:
            # What the problem says, everybody may come to read.
            _LOG.error("there is no proof for the witness %s: %s", self._state.name, exc)
            raise NoCosignatureError("was not asked: the log cannot read its database", kind="proof") from exc
        body = format_add_checkpoint(AddCheckpoint(old_size=old, proof=tuple(proof), checkpoint=format_note(note)))
        try:
            return await post(self._transport, self._state.url + ADD_CHECKPOINT_PATH, body)
        except UnavailableError as exc:
            raise NoCosignatureError(f"has not cosigned: {exc}", kind="exchange") from exc

    # --- remembering ---

    def _recall(self, published: Note) -> None:
        if published.by(self._state.vkey) is None:
            return
        try:
            timestamp = verify_cosignature(published, key=self._state.vkey)
            size = parse_checkpoint(published.text).size
        except TreeheadError:
            return  # only a request would have been saved
        self._state = replace(self._state, cosigned_size=size, cosigned_at=timestamp)

    def _cosigned(self, size: int, timestamp: int) -> None:
        self._state = replace(self._state, cosigned_size=size, cosigned_at=timestamp, problem="")
        self._tell("")

    def _failed(self, error: NoCosignatureError) -> None:
        problem = f"witness {self._state.name} {error}"
        self._state = replace(self._state, problem=problem)
        if error.is_alarm and not self._state.alarm:
            self._state = replace(self._state, alarm=problem)
            _LOG.error("%s", problem)
            self._told_kind, self._told_at = error.kind, self._now()
        self._tell(error.kind)

    def _tell(self, kind: str) -> None:
        """Have the journal hear how the witness is, if it last heard otherwise, and not a moment ago."""
        now = self._now()
        if kind == self._told_kind:
            return
        if self._told_at is not None and 0 <= now - self._told_at < TELL_EVERY_S:
            return
        self._told_kind, self._told_at = kind, now
        if kind:
            _LOG.warning("%s", self._state.problem)
        else:
            _LOG.info("witness %s cosigns again", self._state.name)


def _submission_prefix(witness: Witness, name: str) -> str:
    if witness.key.key_type is not NoteKeyType.COSIGNATURE_ED25519:
        raise UsageError(
            f"witness {name} of the policy has a key of signature type 0x{witness.key.key_type:02x}, whose "
            "cosignatures cannot be verified here: take it out of the log's policy, and out of its groups"
        )
    if witness.url is None:
        raise UsageError(f"witness {name} of the policy has no URL, so the log cannot ask it: put it after its key")
    try:
        return parse_prefix(witness.url)
    except UsageError as exc:
        raise UsageError(f"witness {name} of the policy: {exc}") from exc
