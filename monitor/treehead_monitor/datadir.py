"""The data directory of one monitor: key, vkey and lock as `treehead.datadir` lays them out, and what it keeps.

    DIR/monitor.sqlite           the database, with what SQLite puts beside it
    DIR/evidence/<id>.evidence   proof of misbehaviour, one file each, named by its SHA-256

The key makes cosignatures; the name in the vkey is the monitor's.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from treehead.datadir import KeyDirectory, write_vkey
from treehead.encoding import format_hex
from treehead.errors import TreeheadError, UsageError
from treehead.evidence import EVIDENCE_BYTES_MAX, EVIDENCE_SUFFIX, Evidence, parse_evidence
from treehead.files import read_limited, replace
from treehead.keyfile import create_private_key
from treehead.keys import NoteKeyType, VerifierKey, is_key_name
from treehead.publickey import Scheme
from treehead_monitor.database import create_database
from treehead_monitor.message import EvidenceId, evidence_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory(KeyDirectory):
    """The paths of one monitor."""

    holds = "monitor"
    program = "treehead-monitor"
    key_type = NoteKeyType.COSIGNATURE_ED25519

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "monitor.sqlite"

    @property
    def evidence(self) -> Path:
        """Where evidence is kept."""
        return self.path / "evidence"

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
        write_vkey(directory, vkey)
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
