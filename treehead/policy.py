"""Trust policies for checkpoints: which logs count, and how many witnesses must have cosigned (C2SP tlog-policy).

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>...
    quorum <name>|none

A checkpoint is valid when any one of the logs signed it and the quorum is met. The file is a file of octets: fields are
split at spaces and tabs only, a line is a comment only when `#` is its first other octet, names are compared octet by
octet. Deviating readers are known to cut comments anywhere, to accept thresholds of 0, or to demand that all logs sign;
each of those turns a typo into a policy that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from treehead.checkpoint import Checkpoint, parse_checkpoint, verify_checkpoint
from treehead.cosignature import verify_cosignature
from treehead.encoding import format_decimal, parse_decimal, parse_utf8
from treehead.errors import MalformedError, QuorumError, SignatureError, TooLargeError, UnsupportedError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, parse_vkey
from treehead.note import Note

POLICY_BYTES_MAX = 262_144
POLICY_ITEMS_MAX = 256
"""Logs, witnesses and groups, each; the specification asks for at least 32."""

_LOG_TYPES = {NoteKeyType.ED25519, NoteKeyType.ECDSA, NoteKeyType.RFC6962, NoteKeyType.COSIGNATURE_MLDSA44}
_WITNESS_TYPES = {NoteKeyType.COSIGNATURE_ED25519, NoteKeyType.COSIGNATURE_MLDSA44}
_NONE = b"none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLog:
    """A log whose checkpoints count. The key's name is the log's origin."""

    key: VerifierKey
    url: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A witness; `name` is its name within the policy, not the key's."""

    name: bytes
    key: VerifierKey
    url: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group of witnesses and groups, which has cosigned when at least `threshold` of its members have."""

    name: bytes
    threshold: int
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed policy. `groups` are in an order in which members come first; `quorum` is None for `quorum none`."""

    logs: tuple[PolicyLog, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: bytes | None = None

    def log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """The keys that may sign checkpoints of the log `origin`."""
        return tuple(log.key for log in self.logs if log.key.name == origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """A checkpoint that a log of the policy signed, and who cosigned it when (POSIX seconds, by policy name)."""

    checkpoint: Checkpoint
    note: Note
    log: VerifierKey
    cosigned: Mapping[bytes, int]


# --- the file --------------------------------------------------------------------------------------------------------


def parse_policy(data: bytes) -> Policy:
    """Parse a policy file.

    Raises:
        MalformedError: a line breaks the specification; the message names it by number.
        UnsupportedError: a key has a signature type that is not known here.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise TooLargeError(f"policy is larger than {POLICY_BYTES_MAX} bytes")
    if data and not data.endswith(b"\n"):
        raise MalformedError("policy lacks its final newline")
    builder = _Builder()
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        if any((octet < 0x20 and octet != 0x09) or octet == 0x7F for octet in line):
            raise MalformedError(f"policy line {number}: control character")
        fields = line.replace(b"\t", b" ").split(b" ")
        fields = [octets for octets in fields if octets]
        if not fields or fields[0].startswith(b"#"):
            continue
        try:
            builder.add(fields[0], fields[1:])
        except (MalformedError, UnsupportedError) as exc:
            raise type(exc)(f"policy line {number}: {exc}") from exc
    return builder.finish()


@dataclass(slots=True)
class _Builder:
    """The policy read so far."""

    logs: list[PolicyLog] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    names: set[bytes] = field(default_factory=set)
    members: set[bytes] = field(default_factory=set)
    quorum: bytes | None = None

    def add(self, keyword: bytes, fields: list[bytes]) -> None:
        match keyword, fields:
            case b"log", [vkey, *url] if len(url) <= 1:
                key = _parse_key(vkey, _LOG_TYPES, "log")
                if any(log.key.public_key == key.public_key for log in self.logs):
                    raise MalformedError("this log's public key is listed twice")
                self.logs.append(PolicyLog(key=key, url=url[0] if url else None))
            case b"witness", [name, vkey, *url] if len(url) <= 1:
                key = _parse_key(vkey, _WITNESS_TYPES, "witness")
                if any(witness.key.public_key == key.public_key for witness in self.witnesses):
                    raise MalformedError("this witness's public key is listed twice")
                self._define(name)
                self.witnesses.append(Witness(name=name, key=key, url=url[0] if url else None))
            case b"group", [name, threshold, *members] if members:
                group = Group(name=name, threshold=_parse_threshold(threshold, len(members)), members=tuple(members))
                for member in members:
                    self._use(member)
                self._define(name)
                self.groups.append(group)
            case b"quorum", [name]:
                if self.quorum is not None:
                    raise MalformedError("second quorum line")
                if name != _NONE and name not in self.names:
                    raise MalformedError(f"quorum {_show(name)} is not defined above")
                self.quorum = name
            case ((b"log" | b"witness" | b"group" | b"quorum"), _):
                raise MalformedError(f"wrong number of fields for {_show(keyword)}")
            case _:
                raise MalformedError(f"unknown keyword {_show(keyword)}")
        if max(len(self.logs), len(self.witnesses), len(self.groups)) > POLICY_ITEMS_MAX:
            raise TooLargeError(f"more than {POLICY_ITEMS_MAX} lines of one keyword")

    def _define(self, name: bytes) -> None:
        if name == _NONE or name in self.names:
            raise MalformedError(f"name {_show(name)} is reserved or already defined")
        self.names.add(name)

    def _use(self, member: bytes) -> None:
        if member not in self.names:
            raise MalformedError(f"member {_show(member)} is not defined above")
        if member in self.members:
            raise MalformedError(f"{_show(member)} is already a member of a group")
        self.members.add(member)

    def finish(self) -> Policy:
        if self.quorum is None:
            raise MalformedError("policy has no quorum line")
        return Policy(
            logs=tuple(self.logs),
            witnesses=tuple(self.witnesses),
            groups=tuple(self.groups),
            quorum=None if self.quorum == _NONE else self.quorum,
        )


def _parse_key(octets: bytes, types: Collection[NoteKeyType], role: str) -> VerifierKey:
    key = parse_vkey(parse_utf8(octets, what="verifier key", bytes_max=POLICY_BYTES_MAX))
    if key.key_type not in types:
        raise MalformedError(f"a key of signature type 0x{key.key_type:02x} cannot be a {role}'s")
    return key


def _parse_threshold(octets: bytes, members: int) -> int:
    if octets in (b"any", b"all"):
        return 1 if octets == b"any" else members
    threshold = parse_decimal(octets.decode("latin-1"), what="group threshold")
    if not 1 <= threshold <= members:
        raise MalformedError(f"group threshold {threshold} is not between 1 and its {members} members")
    return threshold


def _show(octets: bytes) -> str:
    return repr(octets[:64].decode("utf-8", "backslashreplace"))


def format_policy(policy: Policy) -> bytes:
    """Print a policy with single spaces, no comments and numeric thresholds; `parse_policy` reads it back unchanged."""
    lines: list[list[bytes]] = []
    for log in policy.logs:
        lines.append([b"log", format_vkey(log.key).encode(), *([log.url] if log.url else [])])
    for witness in policy.witnesses:
        url = [witness.url] if witness.url else []
        lines.append([b"witness", witness.name, format_vkey(witness.key).encode(), *url])
    for group in policy.groups:
        lines.append([b"group", group.name, format_decimal(group.threshold).encode(), *group.members])
    lines.append([b"quorum", _NONE if policy.quorum is None else policy.quorum])
    return b"".join(b" ".join(line) + b"\n" for line in lines)


# --- its meaning -----------------------------------------------------------------------------------------------------


def verify_head(policy: Policy, note: Note) -> SignedHead:
    """The checkpoint of a note that a log of the policy signed, with all cosignatures of the policy's witnesses.

    Keys of a type that cannot be verified here count as absent. Not checked: the quorum; see `check_quorum`.

    Raises:
        MalformedError: the note's text is not a checkpoint, or a known witness's line is not a cosignature.
        SignatureError: no log of the policy signed it, or a line by a key of the policy does not verify.
        UnsupportedError: only keys of a type that cannot be verified here could have signed it.
    """
    origin = parse_checkpoint(note.text).origin
    keys = policy.log_keys(origin)
    if not keys:
        raise SignatureError(f"checkpoint is of the log {origin!r}, which the policy does not list")
    readable = [key for key in keys if key.key_type is NoteKeyType.ED25519]
    signed = [key for key in readable if note.by(key) is not None] or readable[:1] or list(keys[:1])
    checkpoints = [verify_checkpoint(note, key=key) for key in signed]
    cosigned = {}
    for witness in policy.witnesses:
        if witness.key.key_type is NoteKeyType.COSIGNATURE_ED25519 and note.by(witness.key) is not None:
            cosigned[witness.name] = verify_cosignature(note, key=witness.key)
    return SignedHead(checkpoint=checkpoints[0], note=note, log=signed[0], cosigned=cosigned)


def check_quorum(policy: Policy, witnesses: Collection[bytes]) -> None:
    """Returns only if cosignatures of these witnesses, by policy name, meet the quorum.

    Raises:
        QuorumError: they do not.
    """
    if policy.quorum is None:
        return
    met = set(witnesses)
    for group in policy.groups:
        if sum(member in met for member in group.members) >= group.threshold:
            met.add(group.name)
    if policy.quorum not in met:
        names = ", ".join(sorted(_show(name) for name in witnesses)) or "nobody"
        raise QuorumError(f"quorum {_show(policy.quorum)} is not met: cosigned by {names}")
