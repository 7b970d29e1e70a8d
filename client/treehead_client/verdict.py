"""What a verification comes to: the one table from errors to verdicts and exit codes, and how a verdict is printed.

For people a verdict is one line that begins with `verified`, `refused`, `undecided` or `log misbehaved`; for programs
one JSON object, which always has the same keys, with null where there is nothing to say. In both, what comes from files
and peers is escaped and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from treehead.display import printable, printable_name
from treehead.encoding import JsonValue
from treehead.errors import (
    ArtifactError,
    ConsistencyError,
    InclusionError,
    MalformedError,
    MisbehaviourError,
    OperationalError,
    QuorumError,
    RefusedError,
    SignatureError,
    StaleError,
    StorageError,
    TooLargeError,
    TreeheadError,
    UnavailableError,
    UndecidedError,
    UnloggedError,
    UnsupportedError,
    UntrustedError,
    UsageError,
)
from treehead.policy import Policy
from treehead.verify import ArtifactFile, Verified

SCHEMA = "https://treehead.dev/verdict/v1"

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNDECIDED = 3
EXIT_MISBEHAVIOUR = 4

_SEVERITY = (EXIT_OK, EXIT_UNDECIDED, EXIT_USAGE, EXIT_REFUSED, EXIT_MISBEHAVIOUR)


class Outcome(NamedTuple):
    """What an error means: the verdict, a code that names the reason, and the exit code."""

    verdict: str
    code: str
    exit_code: int


VERIFIED = Outcome("verified", "OK", EXIT_OK)

# The first line that fits counts, so a class stands before the one that it refines.
_OUTCOMES: tuple[tuple[type[TreeheadError], Outcome], ...] = (
    (MisbehaviourError, Outcome("log-misbehaved", "E_LOG_MISBEHAVED", EXIT_MISBEHAVIOUR)),
    (SignatureError, Outcome("contradicted", "E_SIGNATURE", EXIT_REFUSED)),
    (InclusionError, Outcome("contradicted", "E_INCLUSION", EXIT_REFUSED)),
    (ConsistencyError, Outcome("contradicted", "E_CONSISTENCY", EXIT_REFUSED)),
    (QuorumError, Outcome("contradicted", "E_QUORUM", EXIT_REFUSED)),
    (ArtifactError, Outcome("contradicted", "E_ARTIFACT", EXIT_REFUSED)),
    (UntrustedError, Outcome("contradicted", "E_UNTRUSTED", EXIT_REFUSED)),
    (RefusedError, Outcome("contradicted", "E_REFUSED", EXIT_REFUSED)),
    (TooLargeError, Outcome("contradicted", "E_TOO_LARGE", EXIT_REFUSED)),
    (MalformedError, Outcome("contradicted", "E_MALFORMED", EXIT_REFUSED)),
    (StaleError, Outcome("unverifiable", "E_STALE", EXIT_UNDECIDED)),
    (UnloggedError, Outcome("unverifiable", "E_UNLOGGED", EXIT_UNDECIDED)),
    (UndecidedError, Outcome("unverifiable", "E_UNDECIDED", EXIT_UNDECIDED)),
    (UnsupportedError, Outcome("unverifiable", "E_UNSUPPORTED", EXIT_UNDECIDED)),
    (UnavailableError, Outcome("unverifiable", "E_UNAVAILABLE", EXIT_UNDECIDED)),
    (StorageError, Outcome("unverifiable", "E_STORAGE", EXIT_UNDECIDED)),
    (UsageError, Outcome("unverifiable", "E_USAGE", EXIT_USAGE)),
    (OperationalError, Outcome("unverifiable", "E_OPERATIONAL", EXIT_UNDECIDED)),
)

_WORDS = {
    EXIT_OK: "verified",
    EXIT_REFUSED: "refused",
    EXIT_UNDECIDED: "undecided",
    EXIT_MISBEHAVIOUR: "log misbehaved",
}


def outcome_of(error: TreeheadError) -> Outcome:
    """What an error means for the artifact at hand, and for the exit code of any command."""
    return next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))


def worst_exit_code(codes: list[int]) -> int:
    """The exit code for several files: a proven lie before a refusal, before what could not be decided."""
    return max(codes, key=_SEVERITY.index, default=EXIT_OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one file.

    Attributes:
        path: the file, as it was named.
        checked_at: POSIX seconds.
        artifact: what was read of it, or None if it was unreadable.
        verified: what was verified, or None if something was not; then `error` says what.
        monitors: the addresses of the monitors that were asked.
        evidence_path: where the evidence against the log is, if there is any and it could be kept.
    """

    path: str
    checked_at: int
    artifact: ArtifactFile | None = None
    verified: Verified | None = None
    error: TreeheadError | None = None
    monitors: Sequence[str] = ()
    evidence_path: str | None = None

    @property
    def outcome(self) -> Outcome:
        """What it comes to."""
        return VERIFIED if self.error is None else outcome_of(self.error)


def format_line(verdict: Verdict) -> str:
    """The verdict in one line, unless the file was unusable: that is no verdict."""
    head = f"{_WORDS[verdict.outcome.exit_code]} {printable(verdict.path)}"
    found = verdict.verified
    if found is None:
        kept = f"; evidence: {printable(verdict.evidence_path)}" if verdict.evidence_path else ""
        return f"{head}: {printable(str(verdict.error))}{kept}"
    release = found.entry.release
    version = f" {release.version}" if release is not None and release.version else ""
    monitors = f", monitors {' '.join(map(printable_name, verdict.monitors))}" if verdict.monitors else ""
    return (
        f"{head} ({printable_name(f'{found.name}{version}')}, signer {found.entry.signer}, "
        f"log {printable_name(found.head.checkpoint.origin)} index {found.index} "
        f"of size {found.head.checkpoint.size}{monitors})"
    )


def format_json(verdict: Verdict, *, policy: Policy) -> str:
    """The verdict as one line of JSON, in ASCII."""
    import json

    document: dict[str, JsonValue] = {
        "schema": SCHEMA,
        "verdict": verdict.outcome.verdict,
        "code": verdict.outcome.code,
        "reason": None if verdict.error is None else printable(str(verdict.error)),
        "file": verdict.path,
        "artifact": None if verdict.artifact is None else _artifact(verdict.artifact, verdict.verified),
        **dict.fromkeys(("namespace_rule", "signer", "log", "witnesses", "freshness", "monitors")),
        "evidence": verdict.evidence_path,
        "checked_at": verdict.checked_at,
    }
    if verdict.verified is not None:
        document.update(_findings(verdict, verdict.verified, policy=policy))
    return json.dumps(document)


def _artifact(artifact: ArtifactFile, found: Verified | None) -> JsonValue:
    return {
        "purl": printable(found.entry.release.purl) if found is not None and found.entry.release is not None else None,
        "filename": printable_name(artifact.filename),
        "size": artifact.size,
        "digests": {algorithm: digest.hex() for algorithm, digest in artifact.digests.items()},
    }


def _findings(verdict: Verdict, found: Verified, *, policy: Policy) -> dict[str, JsonValue]:
    """What was verified, member by member."""
    checkpoint = found.head.checkpoint
    heads = (found.head, *found.views)
    return {
        "namespace_rule": printable_name(str(found.rule)),
        "signer": str(found.entry.signer),
        "log": {
            "origin": printable_name(checkpoint.origin),
            "index": found.index,
            "tree_size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "linked": found.linked,
        },
        "witnesses": {
            "quorum": None if policy.quorum is None else printable_name(policy.quorum.decode(errors="replace")),
            "valid": sorted(
                {printable_name(name.decode(errors="replace")) for head in heads for name in head.cosigned}
            ),
        },
        "freshness": {
            "age_s": None if found.witnessed_at is None else max(0, verdict.checked_at - found.witnessed_at),
            "max_age_s": found.rule.max_age_s,
        },
        "monitors": [
            {"name": name, "tree_size": head.checkpoint.size}
            for name, head in zip(verdict.monitors, found.views, strict=True)
        ],
    }
