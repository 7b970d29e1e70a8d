"""The panel: all witnesses of the log's policy, asked at once for each checkpoint that is to be published.

Publishing waits for as many as the policy asks for, and for the others just a moment. A slow witness delays nobody: it
is left to finish, and what it brings late is handed on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from treehead.errors import QuorumError
from treehead.keys import VerifierKey
from treehead.note import Note, NoteSignature, parse_note
from treehead.policy import Policy, check_quorum
from treehead.witness import strip_cosignatures
from treehead_logserver.witness.client import Prove, WitnessClient, WitnessState

_LOG = logging.getLogger(__name__)

PROBLEMS_TOLD_MAX = 3
"""Of witnesses, in one sentence about all of them."""


@dataclass(slots=True, kw_only=True)
class _Round:
    """One checkpoint under way to the witnesses, and who has cosigned it while somebody waits for that."""

    note: Note
    size: int
    prove: Prove
    lines: dict[WitnessClient, NoteSignature] = field(default_factory=dict)
    is_open: bool = True


class Panel:
    """Asks the witnesses of a policy about one log's checkpoints. For one event loop.

    `clients` are for all witnesses of the policy, in its order, and `log` is the key whose signature they are shown.
    They have a deadline for each answer, and so has a round. Set `on_late` to what is called with each cosignature that
    came after its round, and with the size of the checkpoint that it is for.
    """

    def __init__(self, clients: Sequence[WitnessClient], *, policy: Policy, log: VerifierKey, grace_ms: int) -> None:
        self._clients = tuple(clients)
        self._policy = policy
        self._log = log
        self._grace_ms = grace_ms
        self._asked: dict[WitnessClient, asyncio.Task[None]] = {}
        self.on_late: Callable[[NoteSignature, int], None] = lambda _line, _size: None

    @property
    def states(self) -> tuple[WitnessState, ...]:
        """What is known of each witness, in the order of the policy."""
        return tuple(client.state for client in self._clients)

    @property
    def problem(self) -> str:
        """Why witnesses did not cosign when they were asked last, in one line; empty if all did."""
        problems = [state.problem for state in self.states if state.problem]
        more = len(problems) - PROBLEMS_TOLD_MAX
        return "; ".join(problems[:PROBLEMS_TOLD_MAX]) + (f"; and {more} more have not cosigned" if more > 0 else "")

    def check(self, note: Note) -> None:
        """Returns only if the note has cosignatures that meet the policy's quorum.

        Not checked: that they verify. Those that `collect` returned do.

        Raises:
            QuorumError: it has not.
        """
        self._check(note.signatures)

    def _check(self, lines: Sequence[NoteSignature]) -> None:
        pairs = {(line.name, line.key_id) for line in lines}
        present = (witness for witness in self._policy.witnesses if (witness.key.name, witness.key.key_id) in pairs)
        check_quorum(self._policy, [witness.name for witness in present])

    async def collect(self, checkpoint: bytes, *, size: int, prove: Prove) -> tuple[NoteSignature, ...]:
        """Cosignatures of a signed checkpoint of this size of the log, verified, in the order of the policy.

        Returns when all who were asked have answered or failed to, or when the quorum is met and `grace_ms` have passed
        since. Who has not answered by then goes on in the background, and is not asked anew before that has ended.

        Raises:
            MalformedError: the checkpoint is not a signed note.
            SignatureError: it is not signed by the log.
        """
        asking = _Round(note=strip_cosignatures(parse_note(checkpoint), keys=(self._log,)), size=size, prove=prove)
        try:
            await self._wait(asking, self._start(asking))
        finally:
            asking.is_open = False
        return tuple(asking.lines[client] for client in self._clients if client in asking.lines)

    async def close(self) -> None:
        """Leave off with every witness; nothing is handed on after this."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, asking: _Round) -> set[asyncio.Task[None]]:
        free = [client for client in self._clients if client not in self._asked]
        for client in free:
            self._asked[client] = asyncio.create_task(self._ask(client, asking))
        return {self._asked[client] for client in free}

    async def _wait(self, asking: _Round, waiting: set[asyncio.Task[None]]) -> None:
        now = asyncio.get_running_loop().time
        deadline: float | None = None
        while waiting:
            if deadline is None and self._is_met(asking):
                deadline = now() + self._grace_ms / 1_000
            left = None if deadline is None else deadline - now()
            if left is not None and left <= 0:
                return
            _, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _is_met(self, asking: _Round) -> bool:
        try:
            self._check(tuple(asking.lines.values()))
        except QuorumError:
            return False
        return True

    async def _ask(self, client: WitnessClient, asking: _Round) -> None:
        try:
            line = await client.cosign(asking.note, size=asking.size, prove=asking.prove)
            if line is None:
                return
            if asking.is_open:
                asking.lines[client] = line
            else:
                self.on_late(line, asking.size)
        except Exception:  # noqa: BLE001 -- it is logged, and the other witnesses are asked all the same
            _LOG.exception("witness %s failed over a defect of Treehead", client.state.name)
        finally:
            del self._asked[client]
