"""What a leaf has to be before it may wait for its place in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from hashlib import sha256, sha512

import pytest

from tests.unit.library.specimens import CONTENT, STRANGER, attestation_leaf, hashedrekord_leaf, statement
from treehead.dsse import Envelope
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import attestation, parse_entry
from treehead.entry.base import Entry
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.merkle import hash_leaf
from treehead.statement import PAYLOAD_TYPE, STATEMENT_TYPE
from treehead_logserver import admission
from treehead_logserver.admission import Admission, admit_leaf
from treehead_logserver.backlog import BusyError
from treehead_logserver.config import Limits
from treehead_logserver.kinds import ALL_KINDS, OPAQUE, SIGNED_KINDS
from treehead_logserver.storage.base import Candidate, Term

DIGESTS = {Term("sha256", sha256(CONTENT).digest()), Term("sha512", sha512(CONTENT).digest())}


def admit(leaf: bytes) -> Candidate:
    return admit_leaf(leaf, kinds=SIGNED_KINDS)


def hashedrekord_leaves(count: int) -> list[bytes]:
    return [hashedrekord_leaf(b"content %d" % number) for number in range(count)]


def opened(limits: Limits) -> Iterator[Admission]:
    desk = Admission(limits)
    yield desk
    desk.close()


@pytest.fixture
def desk() -> Iterator[Admission]:
    yield from opened(Limits(admission_entries_max=4))


def test_a_signed_release_is_admitted_with_all_its_digests() -> None:
    leaf = attestation_leaf()
    assert admit(leaf) == Candidate(leaf, hash_leaf(leaf), frozenset(DIGESTS))


def test_a_hashedrekord_is_admitted_with_its_digest() -> None:
    leaf = hashedrekord_leaf()
    assert admit(leaf).terms == {Term("sha256", sha256(CONTENT).digest())}


def test_a_digest_that_an_entry_names_twice_is_one_look_up_row() -> None:
    subjects: list[JsonValue] = [{"digest": {"sha256": sha256(CONTENT).hexdigest()}, "name": name} for name in "ab"]
    payload = format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": subjects})
    assert admit(attestation_leaf(payload)).terms == {Term("sha256", sha256(CONTENT).digest())}


@pytest.mark.parametrize(
    ("leaf", "error", "names"),
    [
        pytest.param(b"", MalformedError, "entry", id="empty"),
        pytest.param(b"{}", MalformedError, "field apiVersion", id="no_fields"),
        pytest.param(b"x" * 65_536, TooLargeError, "65535 bytes", id="too_large"),
        pytest.param(b'{"apiVersion":"0.0.1","kind":"x","spec":{}}', UnsupportedError, "field kind", id="unknown_kind"),
        pytest.param(attestation_leaf() + b"\n", MalformedError, "canonical", id="not_canonical"),
        pytest.param(
            attestation.format_leaf(
                Envelope(payload_type=PAYLOAD_TYPE, payload=statement(), signature=STRANGER.sign(b"something else")),
                signer=STRANGER.public,
            ),
            SignatureError,
            r"field spec\.envelope\.signatures\[0\]\.sig",
            id="signature_of_something_else",
        ),
    ],
)
def test_what_is_no_signed_entry_is_refused_by_the_name_of_its_field(
    leaf: bytes, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        admit(leaf)


def test_a_kind_that_is_not_switched_on_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"does not take hashedrekord \(it takes attestation\)"):
        admit_leaf(hashedrekord_leaf(), kinds={"attestation"})
    assert admit_leaf(attestation_leaf(), kinds={"attestation"}).terms == DIGESTS


@pytest.mark.parametrize("kinds", [{OPAQUE}, ALL_KINDS])
@pytest.mark.parametrize(
    "leaf", [b"", b"any bytes", b"{}", b'{"apiVersion":1}', attestation_leaf() + b"\n", bytes(65_535)]
)
def test_an_opaque_log_takes_any_bytes_and_finds_them_by_their_hash_only(leaf: bytes, kinds: set[str]) -> None:
    assert admit_leaf(leaf, kinds=kinds) == Candidate(leaf, hash_leaf(leaf))


def test_an_opaque_log_has_the_limit_of_every_log() -> None:
    with pytest.raises(TooLargeError, match="65535 bytes"):
        admit_leaf(bytes(65_536), kinds={OPAQUE})


def test_an_entry_in_good_order_is_found_by_its_terms_in_an_opaque_log_too() -> None:
    assert admit_leaf(attestation_leaf(), kinds={OPAQUE}) == admit(attestation_leaf())


async def test_each_leaf_has_its_own_outcome_in_the_order_of_the_call(desk: Admission) -> None:
    good = hashedrekord_leaves(9)
    leaves = [good[0], b"bad", *good[1:], b"{}"]
    outcomes = await desk.admit(leaves)
    assert [isinstance(outcome, Candidate) for outcome in outcomes] == [True, False, *[True] * 8, False]
    assert [outcome.leaf for outcome in outcomes if isinstance(outcome, Candidate)] == good


async def test_no_leaves_have_no_outcomes(desk: Admission) -> None:
    assert await desk.admit([]) == []


async def test_callers_at_once_each_get_their_own(desk: Admission) -> None:
    leaves = hashedrekord_leaves(30)
    calls = [leaves[at : at + 3] for at in range(0, 30, 3)]
    outcomes = await asyncio.gather(*map(desk.admit, calls))
    assert [[outcome.leaf for outcome in call if isinstance(outcome, Candidate)] for call in outcomes] == calls


async def test_a_defect_met_by_one_leaf_fails_no_other(desk: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    poison, leaf = attestation_leaf(), hashedrekord_leaf()

    def parse(data: bytes) -> Entry:
        return parse_entry(data) if data != poison else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(admission, "parse_entry", parse)
    ((first,), (second,)) = await asyncio.gather(desk.admit([poison]), desk.admit([leaf]))
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, Candidate)


async def test_too_many_at_once_are_refused_and_there_is_room_later() -> None:
    for desk in opened(Limits(queue_entries_max=4)):
        first = asyncio.create_task(desk.admit(hashedrekord_leaves(3)))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="3 entries"):
            await desk.admit(hashedrekord_leaves(2))
        assert len(await first) == 3
        assert len(await desk.admit(hashedrekord_leaves(4))) == 4


async def test_a_caller_who_went_away_still_takes_its_room() -> None:
    for desk in opened(Limits(queue_entries_max=2)):
        gone = asyncio.create_task(desk.admit(hashedrekord_leaves(2)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(BusyError):
            await desk.admit(hashedrekord_leaves(1))


async def test_a_long_batch_does_not_hold_up_who_comes_after_it(desk: Admission) -> None:
    done: list[str] = []

    async def admit(name: str, leaves: list[bytes]) -> None:
        await desk.admit(leaves)
        done.append(name)

    leaves = hashedrekord_leaves(200)
    await asyncio.gather(admit("batch", leaves), admit("single", leaves[:1]))
    assert done == ["single", "batch"]
