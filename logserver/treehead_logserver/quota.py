"""Rates: what an address may ask and send, and a signer have logged, by the table `[admission.rates]` of log.toml.

    [admission.rates]
    requests = "500/s"         # requests and calls of any kind from one address (of IPv6: from one /64)
    address  = "200/s"         # entries from one address
    signer   = "20/s"          # new entries of one signer; or "600/m", "1000/h"

As many as that may come at once, and after them each as soon as its share of the time has passed (the generic cell
rate algorithm, by throttled-py, on the monotonic clock). A call is charged for all of its entries or refused as a
whole; what is refused costs nothing.

Whoever is refused is told so a second late, give or take half of one. To refuse takes as long as to answer does, so who
asks again at once, with many requests at a time, would keep the log busy all the same; and who were refused together
would all come back together. A long body, or a long stream of entries, counts as so many requests as it is long.

An address is charged for whatever it sends, before anything is looked at. A signer is charged only once the signature
has verified, and only for what is not in the log yet: what is logged anyone can read and send again, and that must not
use up what its signer may send. For the same reason an entry is charged once, however often it is sent at a time, and
none is for which its twin was (`twin`); and an entry whose key comes in a certificate is charged to the certificate,
which anyone can make for a key that is not theirs.

Both remember the last `REMEMBERED_MAX` of those who sent anything, and forget the one that was quiet for longest. Who
has more addresses, or keys, than that may have some forgotten that are not due yet, and gains little: with so many, the
rate of each bounds nothing. Against many addresses the bounds of the queues stand, and against many keys the rule
`signers`.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from treehead.encoding import format_decimal, format_hex, parse_decimal
from treehead.errors import MalformedError, TooLargeError
from treehead.peer import address_of
from treehead_logserver.backlog import QuotaError
from treehead_logserver.storage.base import Candidate

if TYPE_CHECKING:
    from throttled import Throttled

RATE_ENTRIES_MAX = 1_000_000
HELD_MS_MIN, HELD_MS_MAX = 500, 1_500
HELD_MAX = 512
"""Refusals that are held at a time; those beyond are told at once, for each has a place among the calls under way."""
REMEMBERED_MAX = 32_768
"""Addresses, as many signers, and as many entries that signers were charged for; each takes some 500 bytes at most."""

_RATE = re.compile(r"([0-9]{1,7})/([smh])")
_RATE_CHARS_MAX = 9
_PERIOD_S = {"s": 1, "m": 60, "h": 3_600}
_KEYS = ("requests", "address", "signer")

_LOOK_UPS_A_TURN = 64
"""Look-ups take some 10 µs each, and the event loop is not kept for longer than these take."""

_Twins = tuple[bytes, ...]
"""The leaf hashes of an entry and of its twin, if it has one; the lesser first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many entries in a period, and as many at once; `unit` is "s", "m" or "h"."""

    entries: int
    unit: str

    @property
    def period_s(self) -> int:
        """The period in seconds."""
        return _PERIOD_S[self.unit]

    def __str__(self) -> str:
        return format_rate(self)


def parse_rate(text: str, *, what: str) -> Rate:
    """Parse a rate, the exact inverse of `format_rate`; `what` names it in messages.

    Raises:
        MalformedError: text is anything but what that prints, or more than `RATE_ENTRIES_MAX` a period, or none.
    """
    match = _RATE.fullmatch(text) if len(text) <= _RATE_CHARS_MAX else None
    if match is None:
        raise MalformedError(f"{what}: expected a number and /s, /m or /h, such as 20/s")
    entries = parse_decimal(match[1], what=what)
    if not 0 < entries <= RATE_ENTRIES_MAX:
        raise MalformedError(f"{what}: not between 1 and {RATE_ENTRIES_MAX} entries")
    return Rate(entries=entries, unit=match[2])


def format_rate(rate: Rate) -> str:
    """Print a rate, as in `20/s`."""
    return f"{format_decimal(rate.entries)}/{rate.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The table; None where there is no bound."""

    requests: Rate | None = None
    address: Rate | None = None
    signer: Rate | None = None


def parse_rates(table: object, *, where: str) -> Rates:
    """Read the table `[admission.rates]`, as TOML gives it; `where` names it in messages.

    Raises:
        MalformedError: a key is unknown, or a value is no rate; the message names the key.
    """
    if not isinstance(table, dict):
        raise MalformedError(f"{where}: not a table")
    rates: dict[str, Rate] = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise MalformedError(f"{where}: unknown key {key!r}; known are {', '.join(_KEYS[:-1])} and {_KEYS[-1]}")
        if not isinstance(value, str):
            raise MalformedError(f'{where}, key {key}: expected a string, such as "20/s"')
        rates[key] = parse_rate(value, what=f"{where}, key {key}")
    return Rates(**rates)


class LeafFinder(Protocol):
    """Of `storage.base.Reading`, what is asked here."""

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        """The index of the leaf with this hash, of which there is at most one."""


class Quotas:
    """What everyone may still send. For one event loop.

    Nothing of it is written down: with the process, all is forgotten.
    """

    def __init__(self, rates: Rates) -> None:
        self._held = 0
        self._requests = None if rates.requests is None else _Meter("requests", rates.requests)
        self._addresses = None if rates.address is None else _Meter("address", rates.address)
        self._signers = None if rates.signer is None else _Meter("signer", rates.signer)
        self._charged: dict[_Twins, None] = {}

    def charge_request(self, peer: Callable[[], str]) -> None:
        """Count one request or call of a peer, who is asked for only if that matters.

        Raises:
            QuotaError: there is no room for it; it was not counted.
        """
        if self._requests is not None:
            self._requests.charge(address_of(peer()), 1)

    async def hold(self) -> None:
        """Wait before a refusal is told, as the module says."""
        if self._held >= HELD_MAX:
            return
        self._held += 1
        try:
            await asyncio.sleep(random.uniform(HELD_MS_MIN, HELD_MS_MAX) / 1_000)  # noqa: S311 -- nothing secret
        finally:
            self._held -= 1

    def charge_address(self, peer: str, entries: int) -> None:
        """Count entries as sent by a peer, as `address_of` takes it.

        Raises:
            QuotaError: there is no room for all of them; none was counted.
            TooLargeError: there never is for so many.
        """
        if self._addresses is not None and entries:
            self._addresses.charge(address_of(peer), entries)

    async def charge_signers(self, candidates: Sequence[Candidate], storage: LeafFinder) -> None:
        """Count those of the candidates that are not in the log yet as their signers'.

        Not counted: what nobody signed, a leaf that is there again, and one that was counted and is not there yet, or
        whose twin was or is. What is not logged after all may be sent again, and is not counted then.

        Raises:
            QuotaError: there is no room for all that one of the signers has among them; none was counted.
            TooLargeError: there never is for so many.
            StorageError: it cannot be found out what the log has.
        """
        if self._signers is None:
            return
        signer_of = {_twins(candidate): candidate.signer for candidate in candidates if candidate.signer is not None}
        fresh: list[_Twins] = []
        for number, twins in enumerate(signer_of, 1):
            if [await storage.find_leaf(leaf_hash) for leaf_hash in twins] == [None] * len(twins):
                fresh.append(twins)
            if number % _LOOK_UPS_A_TURN == 0:
                await asyncio.sleep(0)
        # From here on nobody else has a turn: what two callers send at once is counted for the first of them.
        fresh = [twins for twins in fresh if twins not in self._charged]
        counts = Counter(f"signer sha256:{format_hex(signer_of[twins])}" for twins in fresh)
        for name, entries in counts.items():
            self._signers.check(name, entries)
        for name, entries in counts.items():
            self._signers.charge(name, entries)
        self._charged.update(dict.fromkeys(fresh))
        while len(self._charged) > REMEMBERED_MAX:
            del self._charged[next(iter(self._charged))]


def _twins(candidate: Candidate) -> _Twins:
    """What an entry and its twin have in common."""
    if candidate.twin_hash is None:
        return (candidate.leaf_hash,)
    return tuple(sorted((candidate.leaf_hash, candidate.twin_hash)))


class _Meter:
    """Counts entries by name, against one rate."""

    def __init__(self, key: str, rate: Rate) -> None:
        import throttled

        self._key = key
        self._rate = rate
        self._limiter: Throttled = throttled.Throttled(
            using=throttled.RateLimiterType.GCRA.value,
            quota=throttled.per_duration(timedelta(seconds=rate.period_s), rate.entries),
            store=throttled.MemoryStore(options={"MAX_SIZE": REMEMBERED_MAX}),
        )

    def charge(self, name: str, entries: int) -> None:
        """Count entries, or raise as `Quotas` says."""
        self._refuse_too_many(name, entries)
        result = self._limiter.limit(name, cost=entries)
        if result.limited:
            raise self._refusal(name, result.state.retry_after)

    def check(self, name: str, entries: int) -> None:
        """Raise what `charge` would, and count nothing."""
        self._refuse_too_many(name, entries)
        # What has been counted is paid off after so long; there is room when only the rest of the burst is left of it.
        wait_s = self._limiter.peek(name).reset_after - self._rate.period_s * (1 - entries / self._rate.entries)
        if wait_s > 0:
            raise self._refusal(name, wait_s)

    def _refuse_too_many(self, name: str, entries: int) -> None:
        if entries > self._rate.entries:
            raise TooLargeError(
                f"rule admission.rates.{self._key}: {entries} entries at once from {name} can never pass, for at "
                f"{self._rate} no more than {self._rate.entries} do; send smaller batches"
            )

    def _refusal(self, name: str, wait_s: float) -> QuotaError:
        retry_ms = math.ceil(wait_s * 1_000) + 1  # so that what rounding has lost keeps nobody out who comes on time
        return QuotaError(
            f"rule admission.rates.{self._key}: more than {self._rate} from {name}; "
            f"try again in {math.ceil(retry_ms / 100) / 10} s",
            retry_ms=retry_ms,
        )
