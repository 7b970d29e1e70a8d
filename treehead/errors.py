"""Every error that Treehead raises on purpose, in one tree.

    TreeheadError
    ├── MalformedError         bytes that are not the one spelling we accept
    │   └── TooLargeError      ... because a limit was passed
    ├── UnsupportedError       well formed, but of a kind, algorithm or version not known here
    ├── RefusedError           a check was carried out and failed
    │   ├── SignatureError     a signature does not verify, or no trusted key signed
    │   ├── InclusionError     the entry is not in the tree that the checkpoint commits to
    │   ├── ConsistencyError   one tree is not a prefix of the other
    │   ├── QuorumError        too few witnesses of the policy cosigned
    │   ├── ArtifactError      the entry speaks of other bytes, or of another name
    │   └── UntrustedError     the trust rules do not let this signer speak for this name
    ├── UndecidedError         something needed for a decision is missing
    │   ├── UnloggedError      ... because there is no proof that it was ever logged
    │   └── StaleError         ... because the newest proof of life is too old, or there is none
    ├── MisbehaviourError      a log signed two things that cannot both be true; the proof is attached
    └── OperationalError       nothing was learned about any log
        ├── UnavailableError   a peer or the network did not answer in time
        ├── StorageError       a disk or database failed, or holds what it should not
        └── UsageError         the caller's arguments, configuration or key file cannot be used

`MisbehaviourError` is the only branch that says "the log lies", and `OperationalError` the only one that says
"something around us is broken"; no code may turn one into the other. Messages are one sentence, name what was wrong and
where, and say what to do where that is not obvious. Callers match on the type, never on the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treehead.evidence import Evidence


class TreeheadError(Exception):
    """The root of the tree; catch this to catch everything that is not a defect of Treehead itself."""


class MalformedError(TreeheadError):
    """The bytes are not what the matching `format_x` function prints."""


class TooLargeError(MalformedError):
    """A limit on size or count was passed; the message names the limit."""


class UnsupportedError(TreeheadError):
    """The input is well formed, but this version does not know its kind, algorithm or version."""


class RefusedError(TreeheadError):
    """A check was carried out on well-formed input and failed."""


class SignatureError(RefusedError):
    """A signature does not verify, or none of the keys that count has signed."""


class InclusionError(RefusedError):
    """An inclusion proof does not lead from the entry to the root."""


class ConsistencyError(RefusedError):
    """A consistency proof does not lead from the older root to the newer one."""


class QuorumError(RefusedError):
    """The cosignatures that verify do not satisfy the policy's quorum."""


class ArtifactError(RefusedError):
    """The signed entry names other bytes, or another file or package, than the artifact at hand."""


class UntrustedError(RefusedError):
    """No trust rule lets this signer speak for this name."""


class UndecidedError(TreeheadError):
    """Something that the decision needs is missing; neither acceptance nor refusal can be justified."""


class UnloggedError(UndecidedError):
    """There is no proof beside the artifact, so nothing says that it was ever logged."""


class StaleError(UndecidedError):
    """No cosignature is recent enough to show that the head is not an old one served again."""


class MisbehaviourError(TreeheadError):
    """A log has signed statements that contradict each other.

    Attributes:
        evidence: the self-contained proof, checkable by anyone who holds the log's verifier key.
    """

    def __init__(self, message: str, *, evidence: Evidence) -> None:
        super().__init__(message)
        self.evidence = evidence


class OperationalError(TreeheadError):
    """A fault around us: says nothing about the honesty of any log."""


class UnavailableError(OperationalError):
    """A peer did not answer, or not within its deadline; trying again may help."""


class StorageError(OperationalError):
    """A disk or database failed, is in use by another process, or holds data that it should not."""


class UsageError(OperationalError):
    """Arguments, configuration or a key file cannot be used as given."""
