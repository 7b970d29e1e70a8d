"""The data directory of one log, and the right to use it.

    DIR/key.pem      the signing key (PKCS#8, mode 0600)
    DIR/log.sqlite   the database, with what SQLite puts beside it
    DIR/vkey         the verifier key on one line, which names the origin: what init writes last
    DIR/lock         locked by the one process that uses the directory

A directory without `vkey` holds no log: an init that did not come to its end leaves nothing that could be taken for
one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from treehead.checkpoint import ORIGIN_BYTES_MAX
from treehead.encoding import parse_utf8
from treehead.errors import StorageError, TreeheadError, UsageError
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
from treehead.tile import RightEdge
from treehead_logserver.signer import Signer
from treehead_logserver.storage.sqlite import create_database


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """The paths of one log."""

    path: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.path / "key.pem"

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "log.sqlite"

    @property
    def vkey(self) -> Path:
        """The verifier key; there is a log exactly when there is this file."""
        return self.path / "vkey"

    @property
    def lock(self) -> Path:
        """What is locked."""
        return self.path / "lock"


def read_vkey(directory: DataDirectory) -> VerifierKey:
    """The verifier key of the log in a directory.

    Raises:
        UsageError: there is no log, or its vkey file is damaged.
    """
    if not directory.vkey.exists():
        raise UsageError(f"{directory.path} holds no log: make one with treehead-log init")
    try:
        data = read_limited(directory.vkey, bytes_max=VKEY_CHARS_MAX, what="verifier key")
        return parse_vkey(parse_utf8(data, what="verifier key", bytes_max=VKEY_CHARS_MAX).removesuffix("\n"))
    except TreeheadError as exc:
        raise UsageError(f"{directory.vkey}: {exc}") from exc


def read_key(directory: DataDirectory, *, vkey: VerifierKey, passphrase: bytes | None) -> PrivateKey:
    """The private key of the log, which is the one that `vkey` names.

    Raises:
        UsageError: it cannot be read, or is another.
    """
    key = read_private_key(directory.key, passphrase=passphrase)
    if key.verifier_key(name=vkey.name, key_type=NoteKeyType.ED25519) != vkey:
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
            raise StorageError(f"{directory.path} is in use by another process: a log has one server") from exc
        yield
    finally:
        os.close(descriptor)


def create_log(directory: DataDirectory, *, origin: str, passphrase: bytes | None) -> VerifierKey:
    """Make a log without entries: key, database with a signed checkpoint of size 0, vkey. Returns the vkey.

    Raises:
        UsageError: the origin cannot name a log, or there is one here already (or what is left of one); nothing was
            changed.
        StorageError: something cannot be written; what was made is removed again.
    """
    if not is_key_name(origin) or len(origin.encode()) > ORIGIN_BYTES_MAX:
        raise UsageError(
            f"--origin {origin!r} cannot name a log: it must have 1 to {ORIGIN_BYTES_MAX} bytes, "
            "and no spaces, plus signs or control characters"
        )
    with contextlib.ExitStack() as undo:
        made = _make_directory(directory.path)
        if made:
            undo.callback(directory.path.rmdir)
        with locked(directory):
            if made:
                undo.callback(directory.lock.unlink)
            _refuse_leftovers(directory)
            vkey = _fill(directory, undo, origin=origin, passphrase=passphrase)
        undo.pop_all()
    return vkey


def _make_directory(path: Path) -> bool:
    """Whether the directory had to be made."""
    try:
        if path.is_dir():
            return False
        path.mkdir(mode=0o700, parents=True)
    except OSError as exc:
        raise UsageError(f"--data {path}: cannot make this directory: {exc.strerror}") from exc
    return True


def _refuse_leftovers(directory: DataDirectory) -> None:
    if directory.vkey.exists():
        raise UsageError(f"{directory.path} holds a log already; it was not touched")
    for path in (directory.key, directory.database):
        if path.exists():
            raise UsageError(
                f"{path} is there, but no log: it may be what an init that did not finish has left; "
                "it was not touched, so look at it, move it away, and try again"
            )


def _fill(
    directory: DataDirectory, undo: contextlib.ExitStack, *, origin: str, passphrase: bytes | None
) -> VerifierKey:
    key = create_private_key(directory.key, scheme=Scheme.ED25519, passphrase=passphrase)
    undo.callback(directory.key.unlink)
    create_database(directory.database, Signer(key=key, origin=origin).state_of(RightEdge()))
    undo.callback(directory.database.unlink)
    vkey = key.verifier_key(name=origin, key_type=NoteKeyType.ED25519)
    # Last, and whole or not at all: with this file the directory holds a log.
    replace(directory.vkey, f"{format_vkey(vkey)}\n".encode())
    return vkey
