"""One verification: reads the files, remembers the head, asks the monitors; `treehead.verify` decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from treehead.errors import MisbehaviourError, StaleError, StorageError, TreeheadError, UnloggedError, UsageError
from treehead.files import read_limited
from treehead.note import parse_note
from treehead.policy import Policy, SignedHead, verify_head
from treehead.tlogproof import PROOF_BYTES_MAX, PROOF_SUFFIX, parse_proof
from treehead.trust import Trust
from treehead.verify import ArtifactFile, Verified, verify_artifact
from treehead_client.artifact import read_artifact
from treehead_client.memory import Memory
from treehead_client.terminal import say
from treehead_client.verdict import Verdict

if TYPE_CHECKING:
    from treehead.keys import VerifierKey
    from treehead.view import View
    from treehead_client.monitor import Monitors

_NANOSECONDS = 1_000_000_000


class Verifier:
    """Verifies files under one policy and one set of trust rules.

    With `monitors`, each of them has to confirm each head.
    """

    def __init__(
        self, *, policy: Policy, trust: Trust, memory: Memory, purl: str | None = None, monitors: Monitors | None = None
    ) -> None:
        self._policy = policy
        self._trust = trust
        self._memory = memory
        self._purl = purl
        self._monitors = monitors

    def verify(self, path: str, *, proof_path: str | None = None) -> Verdict:
        """The verdict on a file, by the proof beside it if no other is named. What was accepted is remembered."""
        now = time.time_ns() // _NANOSECONDS
        artifact = head = None
        try:
            artifact = read_artifact(path)
            proof = _read_proof(proof_path or path + PROOF_SUFFIX)
            head = self._head_unverified(proof)
            verified = self._decide(artifact, proof, head=head, now=now)
            self._remember(verified)
        except MisbehaviourError as exc:
            kept = None if head is None else self._keep_evidence(exc, log=head.log)
            return Verdict(path=path, checked_at=now, artifact=artifact, error=exc, evidence_path=kept)
        except TreeheadError as exc:
            return Verdict(path=path, checked_at=now, artifact=artifact, error=exc)
        names = () if self._monitors is None else self._monitors.addresses
        return Verdict(path=path, checked_at=now, artifact=artifact, verified=verified, monitors=names)

    def _decide(self, artifact: ArtifactFile, proof: bytes, *, head: SignedHead | None, now: int) -> Verified:
        remembered = None if head is None else self._memory.recall(head.log)

        def decide(views: Sequence[View] = ()) -> Verified:
            return verify_artifact(
                artifact,
                proof=proof,
                policy=self._policy,
                trust=self._trust,
                now=now,
                purl=self._purl,
                remembered=remembered,
                views=views,
            )

        if head is None or self._monitors is None:
            return decide()
        with suppress(StaleError):  # a monitor's newer head may yet show that this one is not old
            decide()
        heads = [head] if remembered is None else [head, remembered]
        answers = self._monitors.ask(head.log, sizes=[head.checkpoint.size for head in heads])
        verified = decide(answers.views)
        if answers.failures:
            raise answers.failures[0]
        return verified

    def _head_unverified(self, proof: bytes) -> SignedHead | None:
        """The head that a proof leads to, or None where the verification is about to say what is wrong."""
        try:
            return verify_head(self._policy, parse_note(parse_proof(proof).checkpoint))
        except TreeheadError:
            return None

    def _remember(self, verified: Verified) -> None:
        newest = max((verified.head, *verified.views), key=lambda head: head.checkpoint.size)
        try:
            self._memory.remember(newest)
        except StorageError as exc:
            say(f"warning: this head will not be remembered: {exc}")

    def _keep_evidence(self, error: MisbehaviourError, *, log: VerifierKey) -> str | None:
        try:
            return self._memory.keep_evidence(error.evidence, log=log)
        except StorageError as exc:
            say(f"warning: the evidence could not be kept: {exc}")
            return None


def _read_proof(path: str) -> bytes:
    """The bytes of a proof file.

    Raises:
        UnloggedError: there is none.
        TooLargeError: it is larger than any proof.
        UsageError: it cannot be read.
    """
    try:
        return read_limited(path, bytes_max=PROOF_BYTES_MAX, what="proof")
    except UsageError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise UnloggedError(f"there is no proof {path}, so nothing says that it was ever logged") from exc
        raise
