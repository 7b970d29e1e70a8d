"""The newest head of each log that was accepted here, so that a log cannot take back what it once showed us.

A state directory holds a file for each log, named by the SHA-256 of the log's verifier key: the signed note as it was
verified. Files are replaced whole, only by heads of larger trees, and only under the directory's lock; so readers need
no lock, and of two processes that remember at once the larger head wins. Evidence is kept in `evidence/` beside them.
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
    from treehead.evidence import Evidence

_DIRECTORY_MODE = 0o700


class Memory:
    """The heads remembered in one state directory, which need not exist yet."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def recall(self, log: VerifierKey) -> SignedHead | None:
        """The head remembered for a log, its signature verified again, or None. Cosignatures are left out.

        Raises:
            StorageError: what is there is not a head that this log signed.
        """
        path = self._path(log)
        if not os.access(path, os.F_OK):
            return None
        try:
            data = read_limited(path, bytes_max=NOTE_BYTES_MAX, what="remembered head")
            checkpoint = open_checkpoint(data, key=log)
        except TreeheadError as exc:
            raise StorageError(
                f"the head remembered for {log.name} is damaged ({exc}); remove {path} to forget it"
            ) from exc
        return SignedHead(checkpoint=checkpoint, note=parse_note(data), log=log, cosigned={})

    def remember(self, head: SignedHead) -> None:
        """The log's remembered head is now `head`, or else a larger one that was there before.

        Raises:
            MisbehaviourError: another head of this size is remembered.
            StorageError: the state cannot be read or written.
        """
        if self._is_known(head):
            return
        import fcntl
        from pathlib import Path

        from treehead.files import replace

        try:
            Path(self.directory).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            lock = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StorageError(f"cannot use the state directory {self.directory}: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_known(head):
                replace(Path(self._path(head.log)), format_note(head.note))
        finally:
            os.close(lock)

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

    def keep_evidence(self, evidence: Evidence) -> str:
        """The evidence is in the state directory; returns its path.

        Raises:
            StorageError: it cannot be written.
        """
        from pathlib import Path

        from treehead.evidence import EVIDENCE_SUFFIX, format_evidence
        from treehead.files import replace

        folder = Path(self.directory) / "evidence"
        try:
            folder.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"cannot use the state directory {self.directory}: {exc.strerror}") from exc
        path = folder / f"{evidence.id}{EVIDENCE_SUFFIX}"
        replace(path, format_evidence(evidence))
        return str(path)

    def _path(self, log: VerifierKey) -> str:
        return f"{self.directory}/{sha256(format_vkey(log).encode()).hexdigest()}"
