"""Rates: who is charged for what, what that leaves, and that nobody is charged for what another sends."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from hashlib import sha256

import pytest
import throttled

from tests.unit.logserver.parts import candidate
from treehead.errors import MalformedError, TooLargeError
from treehead.merkle import hash_leaf
from treehead_logserver import quota
from treehead_logserver.backlog import BusyError, QuotaError
from treehead_logserver.quota import (
    HELD_MAX,
    HELD_MS_MAX,
    HELD_MS_MIN,
    Quotas,
    Rate,
    Rates,
    format_rate,
    parse_rate,
    parse_rates,
)
from treehead_logserver.storage.base import Candidate

HERE, THERE = "ipv4:192.0.2.7:5000", "ipv4:192.0.2.8:5000"
ALICE, BOB = sha256(b"alice").digest(), sha256(b"bob").digest()


class Clock:
    """The clock of throttled-py, which goes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_024.0
        monkeypatch.setattr(throttled.utils, "now_mono_f", lambda: self.now_s)

    def advance(self, ms: float) -> None:
        self.now_s += ms / 1_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Leaves:
    """A log, as far as it says which leaves it has."""

    def __init__(self, *leaves: bytes) -> None:
        self._index_of = {hash_leaf(leaf): index for index, leaf in enumerate(leaves)}

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        return self._index_of.get(leaf_hash)


EMPTY = Leaves()


def by_address(text: str) -> Quotas:
    return Quotas(Rates(address=parse_rate(text, what="rate")))


def by_signer(text: str) -> Quotas:
    return Quotas(Rates(signer=parse_rate(text, what="rate")))


def signed(*leaves: bytes, signer: bytes = ALICE) -> list[Candidate]:
    return [candidate(leaf)._replace(signer=signer) for leaf in leaves]


def use_up(quotas: Quotas) -> int:
    """Send from `HERE` one by one what may still come, and return how many they were."""
    for sent in itertools.count():
        try:
            quotas.charge_address(HERE, 1)
        except QuotaError:
            return sent
    raise AssertionError


def numbered(count: int, *, of: str = "leaf") -> list[bytes]:
    return [f"{of} {number}".encode() for number in range(count)]


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entries", "period_s"), [("20/s", 20, 1), ("600/m", 600, 60), ("1000000/h", 10**6, 3_600)]
)
def test_a_rate_has_one_spelling(text: str, entries: int, period_s: int) -> None:
    rate = parse_rate(text, what="rate")
    assert (rate.entries, rate.period_s) == (entries, period_s)
    assert format_rate(rate) == str(rate) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "20/",
        "/s",
        "20/d",
        "20 /s",
        "20/s ",
        "020/s",
        "0/s",
        "1000001/s",
        "-1/s",
        "1.5/s",
        "2_0/s",
        "٢/s",
        "9" * 99,
    ],
)
def test_any_other_rate_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^admission\.rates, key signer"):
        parse_rates({"signer": text}, where="admission.rates")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([], "admission.rates: not a table"),
        ({"signers": "1/s"}, "admission.rates: unknown key 'signers'; known are requests, address and signer"),
        ({"signer": 20}, 'admission.rates, key signer: expected a string, such as "20/s"'),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_its_place(table: object, sentence: str) -> None:
    with pytest.raises(MalformedError) as refusal:
        parse_rates(table, where="admission.rates")
    assert str(refusal.value) == sentence


def test_what_the_table_does_not_bound_is_without_bound() -> None:
    assert parse_rates({}, where="") == Rates()
    assert parse_rates({"address": "200/s"}, where="") == Rates(address=Rate(entries=200, unit="s"))
    unbounded = by_signer("1/h")
    for _ in range(100):
        unbounded.charge_address(HERE, 1_000_000)


# --- what an address may send ----------------------------------------------------------------------------------------


def test_as_many_as_the_rate_may_come_at_once_and_then_each_in_its_time(clock: Clock) -> None:
    quotas = by_address("8/s")
    for _ in range(8):
        quotas.charge_address(HERE, 1)
    for _ in range(3):  # what is refused costs nothing
        with pytest.raises(QuotaError):
            quotas.charge_address(HERE, 1)
    clock.advance(124)
    with pytest.raises(QuotaError):
        quotas.charge_address(HERE, 1)
    clock.advance(1)
    quotas.charge_address(HERE, 1)
    with pytest.raises(QuotaError):
        quotas.charge_address(HERE, 1)
    clock.advance(60_000)  # whoever is quiet gets no more than the burst back
    quotas.charge_address(HERE, 8)
    with pytest.raises(QuotaError):
        quotas.charge_address(HERE, 1)


def test_a_batch_is_charged_for_each_of_its_entries_or_refused_as_a_whole(clock: Clock) -> None:
    quotas = by_address("8/s")
    quotas.charge_address(HERE, 5)
    with pytest.raises(QuotaError):
        quotas.charge_address(HERE, 4)
    quotas.charge_address(HERE, 3)
    with pytest.raises(QuotaError):
        quotas.charge_address(HERE, 1)
    quotas.charge_address(HERE, 0)


def test_the_refusal_says_rule_rate_address_and_when_to_come_again(clock: Clock) -> None:
    quotas = by_address("8/s")
    quotas.charge_address(HERE, 8)
    clock.advance(150)
    with pytest.raises(BusyError) as refusal:
        quotas.charge_address(HERE, 4)
    assert str(refusal.value) == "rule admission.rates.address: more than 8/s from 192.0.2.7; try again in 0.4 s"
    assert isinstance(refusal.value, QuotaError)
    clock.advance(refusal.value.retry_ms)
    quotas.charge_address(HERE, 4)


@pytest.mark.parametrize("text", ["1/s", "3/s", "7/s", "20/s", "200/s", "1/m", "600/m", "999/h", "1000000/s"])
def test_whoever_comes_again_when_told_to_is_let_in_and_hardly_sooner(clock: Clock, text: str) -> None:
    quotas, rate = by_address(text), parse_rate(text, what="rate")
    quotas.charge_address(HERE, rate.entries)
    began_s, sent = clock.now_s, 0
    rng = random.Random(text)
    for _ in range(50):
        entries = rng.choice([1, 1, rng.randint(1, rate.entries), rate.entries])
        sent += use_up(quotas)
        with pytest.raises(QuotaError) as refusal:
            quotas.charge_address(HERE, entries)
        early_ms = min(3, refusal.value.retry_ms)
        clock.advance(refusal.value.retry_ms - early_ms)
        with pytest.raises(QuotaError):
            quotas.charge_address(HERE, entries)
        clock.advance(early_ms)
        quotas.charge_address(HERE, entries)
        sent += entries
        assert sent <= (clock.now_s - began_s) * rate.entries / rate.period_s + 1e-3


def test_a_batch_that_can_never_pass_is_told_so(clock: Clock) -> None:
    quotas = by_address("8/m")
    with pytest.raises(TooLargeError) as refusal:
        quotas.charge_address(HERE, 9)
    assert str(refusal.value) == (
        "rule admission.rates.address: 9 entries at once from 192.0.2.7 can never pass, "
        "for at 8/m no more than 8 do; send smaller batches"
    )
    quotas.charge_address(HERE, 8)


def test_one_address_does_not_use_up_what_another_may_send(clock: Clock) -> None:
    quotas = by_address("8/s")
    quotas.charge_address(HERE, 8)
    quotas.charge_address(THERE, 8)
    with pytest.raises(QuotaError):
        quotas.charge_address("192.0.2.7", 1)
    with pytest.raises(QuotaError):
        quotas.charge_address("ipv6:%5B::ffff:192.0.2.7%5D:1", 1)


def test_two_hosts_of_one_ipv6_network_share_its_quota(clock: Clock) -> None:
    quotas = by_address("8/s")
    quotas.charge_address("2001:db8::1", 8)
    with pytest.raises(QuotaError, match="from 2001:db8::/64;"):
        quotas.charge_address("2001:db8::2", 1)
    quotas.charge_address("2001:db8:0:1::1", 8)


def test_what_is_remembered_has_a_bound_and_the_quietest_is_forgotten_first(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "REMEMBERED_MAX", 4)
    quotas = by_address("8/h")
    for number in (1, 2, 3, 4, 1, 5):  # the fifth address takes the place of the second
        quotas.charge_address(f"192.0.2.{number}", 4)
    for number in (1, 3, 4, 5):
        with pytest.raises(QuotaError):
            quotas.charge_address(f"192.0.2.{number}", 8)
    quotas.charge_address("192.0.2.2", 8)


def test_the_clock_of_the_library_is_monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back, a clock of the day would lock everyone out, and set forward let everyone in."""
    monkeypatch.setattr("time.time", lambda: 0.0)
    quotas = by_address("2/h")
    quotas.charge_address(HERE, 2)
    monkeypatch.setattr("time.time", lambda: 1e9)
    with pytest.raises(QuotaError) as refusal:
        quotas.charge_address(HERE, 2)
    assert 3_590_000 < refusal.value.retry_ms <= 3_600_001


# --- what a signer may have logged -----------------------------------------------------------------------------------


async def test_a_signer_is_charged_for_each_new_entry(clock: Clock) -> None:
    quotas = by_signer("8/s")
    await quotas.charge_signers(signed(*numbered(8)), EMPTY)
    with pytest.raises(QuotaError) as refusal:
        await quotas.charge_signers(signed(b"another"), EMPTY)
    assert str(refusal.value) == (
        f"rule admission.rates.signer: more than 8/s from signer sha256:{ALICE.hex()}; try again in 0.2 s"
    )
    clock.advance(refusal.value.retry_ms)
    await quotas.charge_signers(signed(b"another"), EMPTY)


async def test_nobody_is_charged_for_what_the_log_has_already(clock: Clock) -> None:
    """What is logged is public: sent again by a stranger, it must not keep its signer from logging more."""
    logged = numbered(1_000)
    quotas = by_signer("1/h")
    for _ in range(3):
        await quotas.charge_signers(signed(*logged), Leaves(*logged))
    await quotas.charge_signers(signed(*logged, b"new"), Leaves(*logged))
    with pytest.raises(QuotaError):
        await quotas.charge_signers(signed(*logged, b"newer"), Leaves(*logged))


class SlowLeaves(Leaves):
    """A log that says so only after others had a turn."""

    async def find_leaf(self, leaf_hash: bytes) -> int | None:
        await asyncio.sleep(0)
        return await super().find_leaf(leaf_hash)


async def test_an_entry_that_is_sent_many_times_at_once_is_charged_once(clock: Clock) -> None:
    quotas = by_signer("2/h")
    await asyncio.gather(*(quotas.charge_signers(signed(b"fresh"), SlowLeaves()) for _ in range(40)))
    await quotas.charge_signers(signed(b"another"), SlowLeaves(b"fresh"))
    with pytest.raises(QuotaError):
        await quotas.charge_signers(signed(b"a third"), SlowLeaves(b"fresh"))


async def test_what_was_charged_and_not_logged_is_sent_again_for_nothing(clock: Clock) -> None:
    """A log that is busy, or cannot write, tells whoever sent it to try again."""
    quotas = by_signer("2/h")
    for _ in range(3):
        await quotas.charge_signers(signed(b"a", b"b"), EMPTY)


async def test_what_was_refused_is_charged_when_it_comes_again(clock: Clock) -> None:
    quotas = by_signer("2/h")
    await quotas.charge_signers(signed(b"a"), EMPTY)
    for _ in range(2):
        with pytest.raises(QuotaError):
            await quotas.charge_signers(signed(b"b", b"c"), EMPTY)


async def test_of_what_was_charged_no_more_is_remembered_than_there_may_be(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "REMEMBERED_MAX", 4)
    quotas = by_signer("9/h")
    await quotas.charge_signers(signed(*numbered(6)), EMPTY)
    assert len(quotas._charged) == 4
    await quotas.charge_signers(signed(*numbered(6)[2:]), EMPTY)
    await quotas.charge_signers(signed(*numbered(5, of="other")[2:]), EMPTY)  # nine by now
    with pytest.raises(QuotaError):
        await quotas.charge_signers(signed(b"leaf 0"), EMPTY)


def twins(one: bytes, other: bytes) -> tuple[Candidate, Candidate]:
    first, second = signed(one, other)
    return first._replace(twin_hash=second.leaf_hash), second._replace(twin_hash=first.leaf_hash)


@pytest.mark.parametrize("order", [1, -1])
async def test_a_signer_is_not_charged_for_the_twin_that_anyone_can_make_of_an_entry(clock: Clock, order: int) -> None:
    first, second = twins(b"one", b"other")[::order]
    quotas = by_signer("1/h")
    await quotas.charge_signers([second], Leaves(first.leaf))
    await quotas.charge_signers([first, second], EMPTY)
    await quotas.charge_signers([second], EMPTY)
    with pytest.raises(QuotaError):
        await quotas.charge_signers(signed(b"new"), EMPTY)


async def test_a_leaf_that_is_in_a_batch_twice_is_one(clock: Clock) -> None:
    quotas = by_signer("2/h")
    await quotas.charge_signers(signed(b"a", b"a", b"b", b"a"), EMPTY)


async def test_what_nobody_signed_is_nobodys(clock: Clock) -> None:
    quotas = by_signer("1/h")
    await quotas.charge_signers([candidate(leaf) for leaf in numbered(100)], EMPTY)
    await quotas.charge_signers([], EMPTY)


async def test_one_signer_does_not_use_up_what_another_may_log(clock: Clock) -> None:
    quotas = by_signer("8/s")
    await quotas.charge_signers(signed(*numbered(8)), EMPTY)
    await quotas.charge_signers(signed(*numbered(8), signer=BOB), EMPTY)


@pytest.mark.parametrize("order", [(ALICE, BOB), (BOB, ALICE)])
async def test_a_batch_that_one_signer_has_no_room_for_is_charged_to_none(clock: Clock, order: Sequence[bytes]) -> None:
    quotas = by_signer("8/s")
    await quotas.charge_signers(signed(*numbered(6), signer=ALICE), EMPTY)
    mixed = [item for signer in order for item in signed(*numbered(3, of=signer.hex()), signer=signer)]
    with pytest.raises(QuotaError, match=ALICE.hex()):
        await quotas.charge_signers(mixed, EMPTY)
    await quotas.charge_signers(signed(*numbered(8, of="bob"), signer=BOB), EMPTY)
    await quotas.charge_signers(signed(b"a", b"b", signer=ALICE), EMPTY)


async def test_more_new_entries_of_one_signer_than_can_ever_pass_are_told_so(clock: Clock) -> None:
    quotas = by_signer("8/m")
    with pytest.raises(
        TooLargeError, match=r"^rule admission\.rates\.signer: 9 entries at once from signer .* never pass"
    ):
        await quotas.charge_signers(signed(*numbered(9)), EMPTY)
    await quotas.charge_signers(signed(*numbered(9)), Leaves(b"leaf 0"))


async def test_an_address_is_charged_for_what_the_log_has_already(clock: Clock) -> None:
    quotas = Quotas(Rates(address=Rate(entries=1, unit="h"), signer=Rate(entries=1, unit="h")))
    quotas.charge_address(HERE, 1)
    await quotas.charge_signers(signed(b"a"), Leaves(b"a"))
    with pytest.raises(QuotaError, match=r"rates\.address"):
        quotas.charge_address(HERE, 1)


# --- requests --------------------------------------------------------------------------------------------------------


def test_requests_are_counted_whatever_they_ask(clock: Clock) -> None:
    quotas = Quotas(Rates(requests=parse_rate("3/s", what="rate")))
    for _ in range(3):
        quotas.charge_request(lambda: HERE)
    with pytest.raises(QuotaError, match=r"rule admission\.rates\.requests: more than 3/s from 192\.0\.2\.7"):
        quotas.charge_request(lambda: HERE)
    quotas.charge_request(lambda: "ipv4:192.0.2.8:1")


def test_without_such_a_rate_nobody_is_asked_for() -> None:
    def peer() -> str:
        raise AssertionError

    Quotas(Rates()).charge_request(peer)


async def test_refusals_are_told_late_and_not_together() -> None:
    now = asyncio.get_running_loop().time
    quotas, began = Quotas(Rates()), now()

    async def held() -> float:
        await quotas.hold()
        return now() - began

    times = sorted(await asyncio.gather(*(held() for _ in range(64))))
    assert times[0] > HELD_MS_MIN / 1_000 - 0.01
    assert times[-1] - times[0] > (HELD_MS_MAX - HELD_MS_MIN) / 2_000


async def test_no_more_refusals_are_held_than_there_may_be() -> None:
    quotas = Quotas(Rates())
    held = [asyncio.create_task(quotas.hold()) for _ in range(HELD_MAX + 5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(task.done() for task in held) == 5
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    last = asyncio.create_task(quotas.hold())
    await asyncio.sleep(0)
    assert not last.done()
    last.cancel()
