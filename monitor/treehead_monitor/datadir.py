"""The data directory of one monitor, and the right to use it.

    DIR/key.pem                  the cosigner key (PKCS#8, mode 0600)
    DIR/monitor.sqlite           the database, with what SQLite puts beside it
    DIR/evidence/<id>.evidence   proof of misbehaviour, one file each, named by its SHA-256
    DIR/vkey                     the vkey of cosignatures on one line, which names the monitor: what init writes last
    DIR/lock                     locked by the one process that runs the monitor

A directory without `vkey` holds no monitor: an init that did not come to its end leaves nothing that could be taken for
one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from treehead.encoding import format_hex, parse_utf8
from treehead.errors import StorageError, TreeheadError, UsageError
from treehead.evidence import EVIDENCE_BYTES_MAX, EVIDENCE_SUFFIX, Evidence, parse_evidence
from treehead.files import read_limited, replace
from treehead.keyfile import create_private_key, read_private_key
from treehead.keys import (
    VKEY_CHARS_MAX,
    NoteKeyType,
    PrivateKey,
    Scheme,
    VerifierKey,
    format_vkey,
    is_key_name,
    parse_vkey,
)
from treehead_monitor.database import create_database
from treehead_monitor.message import EvidenceId, evidence_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """The paths of one monitor."""

    path: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.path / "key.pem"

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "monitor.sqlite"

    @property
    def evidence(self) -> Path:
        """Where evidence is kept."""
        return self.path / "evidence"

    @property
    def vkey(self) -> Path:
        """The verifier key; there is a monitor exactly when there is this file."""
        return self.path / "vkey"

    @property
    def lock(self) -> Path:
        """What is locked."""
        return self.path / "lock"

    def evidence_file(self, id_: EvidenceId) -> Path:
        """The file of one piece of evidence."""
        return self.evidence / f"{format_hex(id_)}{EVIDENCE_SUFFIX}"


# --- evidence --------------------------------------------------------------------------------------------------------


def write_evidence(directory: DataDirectory, data: bytes) -> Path:
    """Write an evidence file, whole and durably; writing it again changes nothing.

    Raises:
        StorageError: it cannot be written.
    """
    path = directory.evidence_file(evidence_id(data))
    replace(path, data)
    return path


def read_evidence(directory: DataDirectory) -> dict[EvidenceId, tuple[bytes, Evidence]]:
    """The evidence files in a directory, in the order of their names; what is none, or has another name, is left out.

    Not checked: whether they prove anything, which takes the log's key.
    """
    found = {}
    for path in sorted(directory.evidence.glob(f"*{EVIDENCE_SUFFIX}")):
        with contextlib.suppress(TreeheadError):
            data = read_limited(path, bytes_max=EVIDENCE_BYTES_MAX, what="evidence")
            if directory.evidence_file(id_ := evidence_id(data)) == path:
                found[id_] = (data, parse_evidence(data))
    return found


# --- key and lock ----------------------------------------------------------------------------------------------------


def read_vkey(directory: DataDirectory) -> VerifierKey:
    """The verifier key of the monitor in a directory.

    Raises:
        UsageError: there is no monitor, or its vkey file is damaged.
    """
    if not directory.vkey.exists():
        raise UsageError(f"{directory.path} holds no monitor: make one with treehead-monitor init")
    try:
        data = read_limited(directory.vkey, bytes_max=VKEY_CHARS_MAX, what="verifier key")
        return parse_vkey(parse_utf8(data, what="verifier key", bytes_max=VKEY_CHARS_MAX).removesuffix("\n"))
    except TreeheadError as exc:
        raise UsageError(f"{directory.vkey}: {exc}") from exc


def read_key(directory: DataDirectory, *, vkey: VerifierKey, passphrase: bytes | None) -> PrivateKey:
    """The private key of the monitor, which is the one that `vkey` names.

    Raises:
        UsageError: it cannot be read, or is another.
    """
    key = read_private_key(directory.key, passphrase=passphrase)
    if key.verifier_key(name=vkey.name, key_type=NoteKeyType.COSIGNATURE_ED25519) != vkey:
        raise UsageError(f"{directory.key} is not the key that {directory.vkey} names")
    return key


@contextlib.contextmanager
def locked(directory: DataDirectory) -> Iterator[None]:
    """Hold the directory for this process; the operating system lets go of it when the process ends, however it does.

    Raises:
        StorageError: another process holds it.
    """
    try:
        descriptor = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(f"cannot open {directory.lock}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StorageError(f"{directory.path} is in use by another process: stop that monitor first") from exc
        yield
    finally:
        os.close(descriptor)


# --- making one ------------------------------------------------------------------------------------------------------


def create_monitor(directory: DataDirectory, *, name: str, passphrase: bytes | None) -> VerifierKey:
    """Make a monitor that follows nothing yet, in a directory of mode 0700. Returns the vkey of its cosignatures.

    Raises:
        UsageError: the name cannot name a key, or the directory holds something already; nothing was changed.
        StorageError: something cannot be written; what was made is removed again.
    """
    if not is_key_name(name):
        raise UsageError(
            f"--name {name!r} cannot name a monitor: it must have no spaces, plus signs or control characters"
        )
    with contextlib.ExitStack() as undo:
        _make_directory(directory.path, undo)
        key = create_private_key(directory.key, scheme=Scheme.ED25519, passphrase=passphrase)
        undo.callback(directory.key.unlink)
        create_database(directory.database)
        undo.callback(directory.database.unlink)
        directory.evidence.mkdir(mode=0o700)
        undo.callback(directory.evidence.rmdir)
        vkey = key.verifier_key(name=name, key_type=NoteKeyType.COSIGNATURE_ED25519)
        # Last, and whole or not at all: with this file the directory holds a monitor.
        replace(directory.vkey, f"{format_vkey(vkey)}\n".encode())
        undo.pop_all()
    return vkey


def _make_directory(path: Path, undo: contextlib.ExitStack) -> None:
    """Make the directory, or take an empty one over."""
    try:
        if path.is_dir():
            if DataDirectory(path=path).vkey.exists():
                raise UsageError(f"{path} holds a monitor already; it was not touched")
            if any(path.iterdir()):
                raise UsageError(f"--data {path} is not empty, and was not touched: give a new or empty directory")
            path.chmod(0o700)
        else:
            path.mkdir(mode=0o700, parents=True)
            undo.callback(path.rmdir)
    except OSError as exc:
        raise UsageError(f"--data {path}: cannot make this directory: {exc.strerror}") from exc
