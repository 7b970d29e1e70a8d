"""The data directory of one log: key, vkey and lock as `treehead.datadir` lays them out, and the database.

    DIR/log.sqlite   the database, with what SQLite puts beside it
    DIR/high-water   the newest checkpoint that may have been given out: see `highwater`
    DIR/log.toml     what the operator has decided, if anything: see `configfile`

The name in the vkey is the log's origin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from treehead.checkpoint import ORIGIN_BYTES_MAX
from treehead.datadir import KeyDirectory, locked, write_key_uri, write_vkey
from treehead.errors import MalformedError, UsageError
from treehead.files import sync_directory
from treehead.keyfile import create_private_key
from treehead.keys import NoteKeyType, VerifierKey, is_key_name
from treehead.pkcs11 import Pkcs11Uri, open_pkcs11_key, parse_pkcs11_uri
from treehead.privatekey import SigningKey
from treehead.publickey import Scheme
from treehead.tile import RightEdge
from treehead_logserver.highwater import create_mark
from treehead_logserver.signer import Signer
from treehead_logserver.storage.sqlite import create_database


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory(KeyDirectory):
    """The paths of one log."""

    holds = "log"
    program = "treehead-log"
    key_type = NoteKeyType.ED25519

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "log.sqlite"

    @property
    def config(self) -> Path:
        """What the operator has decided, if there is such a file: see `configfile`."""
        return self.path / "log.toml"

    @property
    def mark(self) -> Path:
        """The high-water mark."""
        return self.path / "high-water"


def create_log(
    directory: DataDirectory, *, origin: str, passphrase: bytes | None, key_uri: str | None = None
) -> VerifierKey:
    """Make a log without entries: key, database with a signed checkpoint of size 0, vkey. Returns the vkey.

    With `key_uri` no key is made: the log's is the one in a token that this PKCS#11 URI names, and `passphrase` is the
    token's PIN. Not checked: that the key serves no other log.

    Raises:
        UsageError: the origin cannot name a log, or there is one here already (or what is left of one), or the key in
            the token cannot be used; nothing was changed.
        StorageError: something cannot be written; what was made is removed again.
    """
    if not is_key_name(origin) or len(origin.encode()) > ORIGIN_BYTES_MAX:
        raise UsageError(
            f"--origin {origin!r} cannot name a log: it must have 1 to {ORIGIN_BYTES_MAX} bytes, "
            "and no spaces, plus signs or control characters"
        )
    uri = None if key_uri is None else _parse_key_uri(key_uri)
    with contextlib.ExitStack() as undo:
        made = _make_directory(directory.path)
        if made:
            undo.callback(directory.path.rmdir)
        with locked(directory):
            if made:
                undo.callback(directory.lock.unlink)
            _refuse_leftovers(directory)
            with _new_key(directory, undo, passphrase=passphrase, uri=uri) as key:
                vkey = _fill(directory, undo, origin=origin, key=key)
        undo.pop_all()
    return vkey


def _parse_key_uri(text: str) -> Pkcs11Uri:
    try:
        return parse_pkcs11_uri(text)
    except MalformedError as exc:
        raise UsageError(f"--pkcs11: {exc}") from exc


def _make_directory(path: Path) -> bool:
    """Whether the directory had to be made."""
    try:
        if path.is_dir():
            return False
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=0o700, parents=True)
        for folder in made:
            sync_directory(folder.parent)
    except OSError as exc:
        raise UsageError(f"--data {path}: cannot make this directory: {exc.strerror}") from exc
    return True


def _refuse_leftovers(directory: DataDirectory) -> None:
    if directory.vkey.exists():
        raise UsageError(f"{directory.path} holds a log already; it was not touched")
    for path in (directory.key, directory.key_uri, directory.database, directory.mark):
        if path.exists():
            raise UsageError(
                f"{path} is there, but no log: it may be what an init that did not finish has left; "
                "it was not touched, so look at it, move it away, and try again"
            )


@contextlib.contextmanager
def _new_key(
    directory: DataDirectory, undo: contextlib.ExitStack, *, passphrase: bytes | None, uri: Pkcs11Uri | None
) -> Iterator[SigningKey]:
    if uri is None:
        key = create_private_key(directory.key, scheme=Scheme.ED25519, passphrase=passphrase)
        undo.callback(directory.key.unlink)
        yield key
        return
    with open_pkcs11_key(uri, pin=passphrase) as token_key:
        write_key_uri(directory, uri)
        undo.callback(directory.key_uri.unlink)
        yield token_key


def _fill(directory: DataDirectory, undo: contextlib.ExitStack, *, origin: str, key: SigningKey) -> VerifierKey:
    empty = Signer(key=key, origin=origin).state_of(RightEdge())
    create_database(directory.database, empty)
    undo.callback(directory.database.unlink)
    create_mark(directory.mark, empty.checkpoint)
    undo.callback(directory.mark.unlink)
    vkey = key.verifier_key(name=origin, key_type=NoteKeyType.ED25519)
    # Last, and whole or not at all: with this file the directory holds a log.
    undo.callback(directory.vkey.unlink, missing_ok=True)
    write_vkey(directory, vkey)
    return vkey
