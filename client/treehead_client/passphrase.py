"""Where a key file's passphrase comes from: a file, the environment, or a person at a terminal."""

from __future__ import annotations

import getpass
import os
import sys

from treehead.display import printable
from treehead.errors import TooLargeError, UsageError
from treehead.files import read_limited
from treehead.keyfile import read_passphrase
from treehead.privatekey import PRIVATE_KEY_BYTES_MAX

_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def new_passphrase(path: str | None) -> bytes | None:
    """The passphrase for a new key, or None for a key file that is not encrypted; a person is asked twice.

    Raises:
        UsageError: as `read_passphrase`, or the person typed two different ones.
    """
    passphrase = read_passphrase(path, environment=os.environ)
    if passphrase is not None or not _is_attended():
        return passphrase
    typed = _ask("Passphrase for the new key (empty for none): ")
    if typed and _ask("The same again: ") != typed:
        raise UsageError("the two passphrases differ; nothing was written")
    return typed or None


def passphrase_of(key_path: str, *, path: str | None) -> bytes | None:
    """The passphrase of an existing key file; a person is asked for it if the file says that it is encrypted.

    Raises:
        UsageError: as `read_passphrase`.
    """
    passphrase = read_passphrase(path, environment=os.environ)
    if passphrase is not None or not _is_attended():
        return passphrase
    try:
        pem = read_limited(key_path, bytes_max=PRIVATE_KEY_BYTES_MAX, what="private key")
    except TooLargeError as exc:
        raise UsageError(str(exc)) from exc
    if not pem.startswith(_ENCRYPTED):
        return None
    return _ask(f"Passphrase of {printable(key_path)}: ")


def _is_attended() -> bool:
    """Whether there is a person to ask; stdin may be closed altogether."""
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str) -> bytes:
    try:
        return getpass.getpass(prompt).encode(errors="surrogateescape")
    except EOFError as exc:
        raise UsageError("no passphrase was typed") from exc
