"""The data directory of a program with a named key: what the log's and the monitor's have in common.

    DIR/key.pem   the private key (PKCS#8, mode 0600)
    DIR/vkey      its verifier key on one line, which names the log or monitor: what init writes last
    DIR/lock      locked by the one process that uses the directory

A directory without `vkey` holds nothing yet: an init that did not come to its end leaves nothing that could be taken
for a log or monitor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from treehead.encoding import parse_utf8
from treehead.errors import StorageError, TreeheadError, UsageError
from treehead.files import read_limited, replace
from treehead.keyfile import read_private_key
from treehead.keys import VKEY_CHARS_MAX, NoteKeyType, PrivateKey, VerifierKey, format_vkey, parse_vkey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDirectory:
    """The paths that every such directory has.

    Attributes:
        holds: what the directory is for, for messages: "log" or "monitor".
        program: the command that makes one.
        key_type: what kind of signature the key makes.
    """

    path: Path
    holds: ClassVar[str]
    program: ClassVar[str]
    key_type: ClassVar[NoteKeyType]

    @property
    def key(self) -> Path:
        """The private key."""
        return self.path / "key.pem"

    @property
    def vkey(self) -> Path:
        """The verifier key; there is a log or monitor exactly when there is this file."""
        return self.path / "vkey"

    @property
    def lock(self) -> Path:
        """What is locked."""
        return self.path / "lock"


def write_vkey(directory: KeyDirectory, vkey: VerifierKey) -> None:
    """Make the directory hold its log or monitor, at once and durably; everything else is there already.

    Raises:
        StorageError: it cannot be written.
    """
    replace(directory.vkey, f"{format_vkey(vkey)}\n".encode())


def read_vkey(directory: KeyDirectory) -> VerifierKey:
    """The verifier key of the log or monitor in a directory.

    Raises:
        UsageError: there is none, or its vkey file is damaged.
    """
    if not directory.vkey.exists():
        raise UsageError(f"{directory.path} holds no {directory.holds}: make one with {directory.program} init")
    try:
        data = read_limited(directory.vkey, bytes_max=VKEY_CHARS_MAX, what="verifier key")
        return parse_vkey(parse_utf8(data, what="verifier key", bytes_max=VKEY_CHARS_MAX).removesuffix("\n"))
    except TreeheadError as exc:
        raise UsageError(f"{directory.vkey}: {exc}") from exc


def read_key(directory: KeyDirectory, *, vkey: VerifierKey, passphrase: bytes | None) -> PrivateKey:
    """The private key in a directory, which is the one that `vkey` names.

    Raises:
        UsageError: it cannot be read, or is another.
    """
    key = read_private_key(directory.key, passphrase=passphrase)
    if key.verifier_key(name=vkey.name, key_type=directory.key_type) != vkey:
        raise UsageError(f"{directory.key} is not the key that {directory.vkey} names")
    return key


class InUseError(StorageError):
    """Another process holds the directory."""


@contextlib.contextmanager
def locked(directory: KeyDirectory) -> Iterator[None]:
    """Hold the directory for this process; the operating system lets go of it when the process ends, however it does.

    Raises:
        InUseError: another process holds it.
        StorageError: it cannot be held.
    """
    try:
        descriptor = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(f"cannot open {directory.lock}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise InUseError(
                f"{directory.path} is in use by another process, and a {directory.holds} has one: stop that first"
            ) from exc
        yield
    finally:
        os.close(descriptor)
