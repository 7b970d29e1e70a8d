"""Private keys on disk: PKCS#8 PEM files that only their owner can read, and where passphrases come from.

With a file that holds a secret others may do nothing. The one exception is a passphrase in a file of root's that its
group may read: so (mode 0440) looks what systemd hands to a service as a credential, where it is an access list that
lets the service's user in.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from treehead.errors import UsageError
from treehead.files import open_regular, write_new
from treehead.privatekey import (
    PASSPHRASE_BYTES_MAX,
    PRIVATE_KEY_BYTES_MAX,
    SEED_BYTES,
    PrivateKey,
    format_private_key,
    parse_private_key,
)
from treehead.publickey import Scheme

PASSPHRASE_VARIABLE = "TREEHEAD_PASSPHRASE"  # noqa: S105 -- the name of a variable

_LINE_END_BYTES = 2
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""What is denied to others of a file that is no secret, but leads to one."""


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
    pem = read_guarded(path, bytes_max=PRIVATE_KEY_BYTES_MAX, what="private key")
    try:
        return parse_private_key(pem, passphrase=passphrase)
    except UsageError as exc:
        raise UsageError(f"{path}: {exc}") from exc


def read_guarded(
    path: str | os.PathLike[str], *, bytes_max: int, what: str, denied: int = _OTHERS, granted_by_root: int = 0
) -> bytes:
    """The contents of a regular file to which others have none of the permissions `denied` (bits of its mode).

    `granted_by_root` are those of them that do not matter if the file is root's, and we are not.

    Raises:
        UsageError: it cannot be read, is larger than `bytes_max`, or others have such a permission.
    """
    try:
        with open_regular(path, what=what) as file:
            status = os.fstat(file.fileno())  # of the file that is read, whatever the path names a moment later
            data = file.read(bytes_max + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {what} {path}: {exc.strerror}") from exc
    if status.st_uid == 0 and os.geteuid() != 0:
        denied &= ~granted_by_root
    if status.st_mode & denied:
        raise UsageError(
            f"{what} {path} is accessible to others (mode {stat.S_IMODE(status.st_mode):04o}): run chmod 600 {path}"
        )
    if len(data) > bytes_max:
        raise UsageError(f"{what} {path} is larger than {bytes_max} bytes")
    return data


def read_passphrase(path: str | os.PathLike[str] | None, *, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase that was configured: the one line of the file, else $TREEHEAD_PASSPHRASE, else None.

    For a key in a token it is the token's PIN.

    Raises:
        UsageError: the file cannot be read, others can, or it is not one line; or the passphrase is empty.
    """
    if path is not None:
        where = f"--passphrase-file {path}"
        data = read_guarded(
            path,
            bytes_max=PASSPHRASE_BYTES_MAX + _LINE_END_BYTES,
            what="passphrase file",
            granted_by_root=stat.S_IRGRP,
        )
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
