"""The data directory of a program with a named key: what the log's and the monitor's have in common.

    DIR/key.pem   the private key (PKCS#8, mode 0600)
    DIR/key.uri   in its place, if the key is in a PKCS#11 token: where it is, on one line; it holds no secret
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
from treehead.files import read_limited, replace, write_new
from treehead.keyfile import OTHERS_WRITE, read_guarded, read_private_key
from treehead.keys import VKEY_CHARS_MAX, NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.pkcs11 import PKCS11_URI_CHARS_MAX, Pkcs11Uri, format_pkcs11_uri, open_pkcs11_key, parse_pkcs11_uri
from treehead.privatekey import PrivateKey, SigningKey


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
        """The private key, if it is in a file."""
        return self.path / "key.pem"

    @property
    def key_uri(self) -> Path:
        """Where the private key is, if it is in a token."""
        return self.path / "key.uri"

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
    """The private key in a directory's key file, which is the one that `vkey` names.

    Raises:
        UsageError: it cannot be read, or is another; or the directory says that the key is in a token.
    """
    if directory.key_uri.exists():
        raise UsageError(f"{directory.key_uri} says that the key is in a token, and it is needed in {directory.key}")
    key = read_private_key(directory.key, passphrase=passphrase)
    _check_key(key, directory, vkey, where=directory.key)
    return key


def write_key_uri(directory: KeyDirectory, uri: Pkcs11Uri) -> None:
    """Note, durably, that the key is in a token.

    Raises:
        UsageError: the file exists or cannot be created.
    """
    write_new(directory.key_uri, f"{format_pkcs11_uri(uri)}\n".encode(), mode=0o600)


def read_key_uri(directory: KeyDirectory) -> Pkcs11Uri:
    """In which token the key is.

    Raises:
        UsageError: that cannot be read, or could have been written by others: it names a library that we shall run.
    """
    data = read_guarded(directory.key_uri, bytes_max=PKCS11_URI_CHARS_MAX + 1, what="key's URI", denied=OTHERS_WRITE)
    try:
        text = parse_utf8(data, what="key's URI", bytes_max=PKCS11_URI_CHARS_MAX + 1)
        return parse_pkcs11_uri(text.removesuffix("\n"))
    except TreeheadError as exc:
        raise UsageError(f"{directory.key_uri}: {exc}") from exc


@contextlib.contextmanager
def signing_key(directory: KeyDirectory, *, vkey: VerifierKey, passphrase: bytes | None) -> Iterator[SigningKey]:
    """The private key that `vkey` names, from the directory's key file or out of its token, which is let go of after.

    `passphrase` is that of the file, or the PIN of the token.

    Raises:
        UsageError: the key cannot be read or opened, or is another; or the directory names none, or two.
    """
    in_file, in_token = directory.key.exists(), directory.key_uri.exists()
    if in_file == in_token:
        found = "both" if in_file else "neither"
        raise UsageError(
            f"of {directory.key} and {directory.key_uri} there has to be one, which is the key or says where it is, "
            f"and there are {found}"
        )
    if in_file:
        yield read_key(directory, vkey=vkey, passphrase=passphrase)
        return
    with open_pkcs11_key(read_key_uri(directory), pin=passphrase) as key:
        _check_key(key, directory, vkey, where=directory.key_uri)
        yield key


def _check_key(key: SigningKey, directory: KeyDirectory, vkey: VerifierKey, *, where: Path) -> None:
    if key.verifier_key(name=vkey.name, key_type=directory.key_type) != vkey:
        raise UsageError(f"{where} is not the key that {directory.vkey} names")


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
