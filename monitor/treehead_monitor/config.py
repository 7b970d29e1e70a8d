"""What the operator decides, and the limits of everything that grows; each limit's name ends in its unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, UnsupportedError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, parse_vkey
from treehead.server import check_listening_address
from treehead.tls import ClientTls
from treehead.wire import format_endpoint, parse_endpoint

LOGS_MAX = 64
PEERS_MAX = 64
INTERVAL_MS_MIN = 10
INTERVAL_MS_MAX = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one monitor process.

    Attributes:
        rpc_timeout_ms: how long a call to a log or peer may take.
        page_entries_max: entries asked for in one call, and hashed before progress is saved.
        look_pages_max: pages fetched before a log is asked for its newest checkpoint again.
        unverified_entries_max: entries fetched beyond the verified size; they take 33 bytes of disk each.
        parked_max: unresolved heads kept per log.
        peers_per_round: peers called each interval.
        outbox_messages_max: messages that wait for one peer.
        rounds_max: calls of one exchange with a peer.
        tiles_max: expanded tiles in memory, of 41 KB each, over all logs.
        cosign_every_s: how old a cosignature of an unchanged head becomes before it is renewed.
        calls_max: calls to this monitor under way at once.
        exchanges_max: of these, exchanges of gossip that are heard at once.
        exchanges_waiting_max: exchanges that wait for that; further ones are refused.
        drain_ms: how long they may take to end when it stops.
    """

    rpc_timeout_ms: int = 10_000
    page_entries_max: int = 8_192
    look_pages_max: int = 64
    unverified_entries_max: int = 268_435_456
    parked_max: int = 64
    peers_per_round: int = 2
    outbox_messages_max: int = 64
    rounds_max: int = 4
    tiles_max: int = 512
    cosign_every_s: int = 10
    calls_max: int = 64
    exchanges_max: int = 4
    exchanges_waiting_max: int = 16
    drain_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAddress:
    """A log to follow: who it is, and where it answers, as `treehead.wire.format_endpoint` prints it."""

    key: VerifierKey
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How to run one monitor: from the directory `data`, on the address `grpc` (HOST:PORT, port 0 for a free one).

    `insecure` permits an address that others can reach, although there is no TLS. `tls` says which logs and peers are
    trusted that answer at https:// addresses. `resolve_ms` is how long a signed head may stay unresolved before it is a
    suspicion.

    Raises:
        UsageError: an address is malformed or given twice, a log is given twice, a number is out of bounds, others can
            reach the address and `insecure` is not given, or `tls` says something in vain.
    """

    data: Path
    grpc: str
    logs: tuple[LogAddress, ...]
    peers: tuple[str, ...] = ()
    tls: ClientTls = field(default_factory=ClientTls)
    interval_ms: int = 1_000
    resolve_ms: int = 60_000
    insecure: bool = False
    passphrase: bytes | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_listening_address(self.grpc, insecure=self.insecure)
        if not 0 < len(self.logs) <= LOGS_MAX:
            raise UsageError(f"give 1 to {LOGS_MAX} logs to follow, each as --log VKEY=HOST:PORT")
        if len(self.peers) > PEERS_MAX:
            raise UsageError(f"at most {PEERS_MAX} peers fit")
        _refuse_repeated("--log", [log.key.name for log in self.logs], [log.key.public_key for log in self.logs])
        _refuse_repeated("--peer", self.peers, self.peers)
        addresses = [*(log.address for log in self.logs), *self.peers]
        if self.tls.flags and not any(parse_endpoint(address).tls for address in addresses):
            raise UsageError(
                f"{', '.join(self.tls.flags)}: no --log or --peer is at https://, so there is no TLS to use this for"
            )


def _refuse_repeated(flag: str, names: Sequence[str], values: Sequence[object]) -> None:
    for at, value in enumerate(values):
        if value in values[:at]:
            raise UsageError(f"{flag} names {names[at]} twice")


def parse_log(text: str) -> LogAddress:
    """Parse `VKEY=HOST:PORT`, or `VKEY=https://HOST:PORT`; a vkey may itself end in `=`, an address never holds one.

    Raises:
        UsageError: text is not that, or the key is not one that signs checkpoints with Ed25519.
    """
    vkey, equals, address = text.rpartition("=")
    if not equals:
        raise UsageError(f"--log {text!r} is not VKEY=HOST:PORT")
    try:
        key = parse_vkey(vkey)
        endpoint = parse_endpoint(address)
    except (MalformedError, UnsupportedError, UsageError) as exc:
        raise UsageError(f"--log {text!r} is not VKEY=HOST:PORT: {exc}") from exc
    if key.key_type is not NoteKeyType.ED25519:
        raise UsageError(f"--log {key.name}: a key of type 0x{key.key_type:02x} cannot be followed; Ed25519 (0x01) can")
    return LogAddress(key=key, address=format_endpoint(endpoint))


def parse_peer(text: str) -> str:
    """Parse `HOST:PORT` or `https://HOST:PORT`; returns it as `treehead.wire.format_endpoint` prints it.

    Raises:
        UsageError: text is not that.
    """
    try:
        return format_endpoint(parse_endpoint(text))
    except UsageError as exc:
        raise UsageError(f"--peer: {exc}") from exc


def parse_milliseconds(text: str, *, flag: str) -> int:
    """Parse a number of milliseconds, from 10 to a day.

    Raises:
        UsageError: text is not that; the message names the flag.
    """
    try:
        value = parse_decimal(text, what=flag, maximum=INTERVAL_MS_MAX)
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc
    if value < INTERVAL_MS_MIN:
        raise UsageError(f"{flag} is less than {INTERVAL_MS_MIN} ms")
    return value
