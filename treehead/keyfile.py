"""Private keys on disk: PKCS#8 PEM files that only their owner can read, and where passphrases come from."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from treehead.errors import TooLargeError, UsageError
from treehead.files import open_regular, read_limited, write_new
from treehead.keys import (
    PASSPHRASE_BYTES_MAX,
    PRIVATE_KEY_BYTES_MAX,
    SEED_BYTES,
    PrivateKey,
    Scheme,
    format_private_key,
    parse_private_key,
)

PASSPHRASE_VARIABLE = "TREEHEAD_PASSPHRASE"  # noqa: S105 -- the name of a variable

_LINE_END_BYTES = 2
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create_private_key(path: Path, *, scheme: Scheme, passphrase: bytes | None) -> PrivateKey:
    """Make a key from fresh randomness and write it to a new file of mode 0600, encrypted if a passphrase is given.

    Raises:
        UsageError: the file exists or cannot be created.
    """
    key = PrivateKey.from_seed(scheme=scheme, seed=secrets.token_bytes(SEED_BYTES))
    write_new(path, format_private_key(key, passphrase=passphrase), mode=0o600)
    return key


def read_private_key(path: Path, *, passphrase: bytes | None) -> PrivateKey:
    """Read a key file.

    Raises:
        UsageError: the file cannot be read, others can read or write it, or it holds no key that this passphrase opens.
    """
    try:
        with open_regular(path, what="private key") as file:
            mode = os.fstat(file.fileno()).st_mode  # of the file that is read, whatever the path names a moment later
            pem = file.read(PRIVATE_KEY_BYTES_MAX + 1)
    except OSError as exc:
        raise UsageError(f"cannot read private key {path}: {exc.strerror}") from exc
    if mode & _OTHERS:
        raise UsageError(f"private key {path} is accessible to others (mode {mode & 0o777:04o}): run chmod 600 {path}")
    try:
        return parse_private_key(pem, passphrase=passphrase)
    except UsageError as exc:
        raise UsageError(f"{path}: {exc}") from exc


def read_passphrase(path: str | os.PathLike[str] | None, *, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase that was configured: the one line of the file, else $TREEHEAD_PASSPHRASE, else None.

    Raises:
        UsageError: the file cannot be read or is not one line, or the passphrase is empty.
    """
    if path is not None:
        where = f"--passphrase-file {path}"
        try:
            data = read_limited(path, bytes_max=PASSPHRASE_BYTES_MAX + _LINE_END_BYTES, what="passphrase file")
        except TooLargeError as exc:
            raise UsageError(f"--passphrase-file: {exc}") from exc
        passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" in passphrase:
            raise UsageError(f"{where} holds more than one line")
    elif PASSPHRASE_VARIABLE in environment:
        where, passphrase = PASSPHRASE_VARIABLE, environment[PASSPHRASE_VARIABLE].encode(errors="surrogateescape")
    else:
        return None
    if not passphrase:
        raise UsageError(f"{where} is empty: give a passphrase, or leave it out for a key file that is not encrypted")
    return passphrase
