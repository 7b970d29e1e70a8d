"""The newest head of each log that was accepted here, so that a log cannot take back what it once showed us.

A state directory holds a file for each log, named by the SHA-256 of the log's verifier key: the signed note as it was
verified. Files are replaced whole, only by heads of larger trees, and only under the directory's lock; so readers need
no lock, and of two processes that remember at once the larger head wins. What proves that a log misbehaved is kept in
`evidence/` beside them under the same name, and outweighs everything that the log may show from then on.

Only a file that does not exist means that nothing is remembered: what cannot be read must not be taken for that.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from treehead.checkpoint import open_checkpoint
from treehead.errors import MisbehaviourError, StorageError, TreeheadError
from treehead.files import read_limited
from treehead.keys import VerifierKey, format_vkey
from treehead.note import NOTE_BYTES_MAX, format_note, parse_note
from treehead.policy import SignedHead

if TYPE_CHECKING:
    # Nearly always there is no evidence, and a verification need not pay for what could read it.
    from pathlib import Path

    from treehead.evidence import Evidence

_DIRECTORY_MODE = 0o700
_LOCK_TRIES = 200
_LOCK_PAUSE_S = 0.01


class Memory:
    """The heads remembered in one state directory, which need not exist yet."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def recall(self, log: VerifierKey) -> SignedHead | None:
        """The head remembered for a log, its signature verified again, or None. Cosignatures are left out.

        Raises:
            MisbehaviourError: evidence against the log is kept here; it was verified again.
            StorageError: what is there cannot be read, or is not a head that this log signed or evidence against it.
        """
        self._check_evidence(log)
        path = self._path(log)
        if not _exists(path):
            return None
        try:
            data = read_limited(path, bytes_max=NOTE_BYTES_MAX, what="remembered head")
            checkpoint = open_checkpoint(data, key=log)
        except TreeheadError as exc:
            raise StorageError(
                f"the head remembered for {log.name} is damaged ({exc}); remove {path} to forget it"
            ) from exc
        return SignedHead(checkpoint=checkpoint, note=parse_note(data), log=log, cosigned={})

    def _check_evidence(self, log: VerifierKey) -> None:
        path = self._evidence_path(log)
        if not _exists(path):
            return
        from treehead.evidence import EVIDENCE_BYTES_MAX, parse_evidence, verify_evidence

        try:
            evidence = parse_evidence(read_limited(path, bytes_max=EVIDENCE_BYTES_MAX, what="evidence"))
            verify_evidence(evidence, key=log)
        except TreeheadError as exc:
            raise StorageError(
                f"the evidence kept against {log.name} is damaged ({exc}); restore {path}, or remove it to believe the "
                "log again"
            ) from exc
        raise MisbehaviourError(
            f"log {log.name!r} signed contradicting trees, as was proven earlier", evidence=evidence
        )

    def remember(self, head: SignedHead) -> None:
        """The log's remembered head is now `head`, or else a larger one that was there before.

        Raises:
            MisbehaviourError: another head of this size is remembered, or evidence against the log was kept meanwhile.
            StorageError: the state cannot be read or written.
        """
        if self._is_known(head):
            return
        from pathlib import Path

        from treehead.files import replace

        lock = self._lock()
        try:
            if not self._is_known(head):
                replace(Path(self._path(head.log)), format_note(head.note))
        finally:
            os.close(lock)

    def _lock(self) -> int:
        """A descriptor that holds the directory's lock until it is closed.

        Raises:
            StorageError: there can be no lock, or others do not let go of it in time.
        """
        import fcntl
        import time
        from pathlib import Path

        _make_directory(Path(self.directory))
        path = f"{self.directory}/lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StorageError(f"cannot open {path}: {exc.strerror}") from exc
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
            except OSError as exc:
                os.close(descriptor)
                raise StorageError(f"cannot lock {path}: {exc.strerror}") from exc
            else:
                return descriptor
        os.close(descriptor)
        raise StorageError(f"another process has held {path} for {_LOCK_TRIES * _LOCK_PAUSE_S:.0f} s")

    def _is_known(self, head: SignedHead) -> bool:
        """Whether the remembered head is this one, or of a larger tree."""
        remembered = self.recall(head.log)
        if remembered is None or remembered.checkpoint.size < head.checkpoint.size:
            return False
        if remembered.checkpoint.size == head.checkpoint.size and remembered.checkpoint.root != head.checkpoint.root:
            from treehead.evidence import same_size_fork

            raise MisbehaviourError(
                f"log {head.checkpoint.origin!r} signed two trees of size {head.checkpoint.size}, both shown here",
                evidence=same_size_fork(head.note, remembered.note, key=head.log),
            )
        return True

    def keep_evidence(self, evidence: Evidence, *, log: VerifierKey) -> str:
        """Evidence against a log is in the state directory, this or what was there before; returns its path.

        Not checked: that it proves anything; see `verify_evidence`.

        Raises:
            StorageError: it cannot be written.
        """
        from pathlib import Path

        from treehead.evidence import format_evidence
        from treehead.files import replace

        path = Path(self._evidence_path(log))
        if not _exists(str(path)):
            _make_directory(path.parent)
            replace(path, format_evidence(evidence))
        return str(path)

    def _path(self, log: VerifierKey) -> str:
        return f"{self.directory}/{_name(log)}"

    def _evidence_path(self, log: VerifierKey) -> str:
        return f"{self.directory}/evidence/{_name(log)}.evidence"


def _name(log: VerifierKey) -> str:
    return sha256(format_vkey(log).encode()).hexdigest()


def _exists(path: str) -> bool:
    """Whether there is something; that it cannot be told is an error.

    Raises:
        StorageError: it cannot be told.
    """
    try:
        os.lstat(path)  # a link that leads nowhere is not nothing
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StorageError(f"cannot read what is remembered in {path}: {exc.strerror}") from exc
    return True


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot use the state directory {path}: {exc.strerror}") from exc
