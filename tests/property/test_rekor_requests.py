"""Whatever is done to a CreateEntryRequest, it makes a leaf that is an entry, or is refused by the name of a field."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.library.signers import DIGEST_SCHEMES
from tests.unit.logserver.rekor_requests import Request, body, dsse_request, hashedrekord_request
from treehead.entry import parse_entry
from treehead.errors import MalformedError, TreeheadError, UnsupportedError
from treehead_logserver.rekor.request import parse_create_entry


def snake_case(name: str) -> str:
    """The name of a member as in the .proto files."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


REQUESTS = [
    make(scheme, certified=certified)
    for make in (hashedrekord_request, dsse_request)
    for scheme in DIGEST_SCHEMES
    for certified in (False, True)
]
NAMES = sorted(set(re.findall(r'"(\w+)":', json.dumps(REQUESTS))))
SPELLINGS = NAMES + [snake_case(name) for name in NAMES]

NAMED_FIELD = re.compile(
    r"^fields? (hashedRekordRequestV002|dsseRequestV002|['\"].*['\"] is not known here)", re.DOTALL
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(["", "AA==", "AA", "-_8=", "+/8=", "AAA=A", "\n", "PKIX_ED25519", "PKIX_ED25519_PH"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(SPELLINGS), st.text()), inner, max_size=3),
    ),
    max_leaves=8,
)


def containers(value: Any) -> Iterator[Any]:
    """Every object and array in a request, itself included."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request with a few things taken out, put in, renamed, or exchanged for those of another request."""
    request: Request = json.loads(body(draw(st.sampled_from(REQUESTS))))
    donor = json.loads(body(draw(st.sampled_from(REQUESTS))))
    grafts = st.one_of(VALUES, st.sampled_from(list(containers(donor))), st.sampled_from(strings(donor))).map(copied)
    for _ in range(draw(st.integers(1, 3))):
        container = draw(st.sampled_from(list(containers(request))))
        if isinstance(container, list):
            container.insert(0, draw(grafts))
            del container[draw(st.integers(1, 3)) :]
            continue
        name = draw(st.sampled_from(sorted(container) or SPELLINGS))
        match draw(st.sampled_from(["respell", "exchange", "take out", "rename", "put in"])):
            case "respell" if name in container:
                container[snake_case(name)] = container.pop(name)
            case "exchange" if name in container:
                others = [part[name] for part in containers(donor) if isinstance(part, dict) and name in part]
                container[name] = copied(draw(st.sampled_from(others or [None])))
            case "take out":
                container.pop(name, None)
            case "rename":
                container[draw(st.sampled_from(SPELLINGS))] = container.pop(name, None)
            case _:
                container[draw(st.one_of(st.sampled_from(SPELLINGS), st.text(max_size=5)))] = draw(grafts)
    return json.dumps(request, ensure_ascii=draw(st.booleans())).encode("utf-8", "backslashreplace")


def copied(value: Any) -> Any:
    """The same anew, so that it can be changed alone."""
    return json.loads(json.dumps(value))


def strings(value: Any) -> list[str]:
    """Every string in a request."""
    return [
        part
        for container in containers(value)
        for part in (container.values() if isinstance(container, dict) else container)
        if isinstance(part, str)
    ]


@settings(max_examples=1_500)
@given(mutated())
@example(b"{}")
@example(b'{"dsseRequestV002":{}}')
@example(b'{"dsseRequestV002":[],"dsse_request_v002":null}')
def test_a_mutated_request_makes_an_entry_or_names_a_field(data: bytes) -> None:
    outcome = outcome_of(data)
    if isinstance(outcome, bytes):
        assert parse_entry(outcome).kind == "hashedrekord/0.0.2"
    else:
        assert NAMED_FIELD.match(outcome)
        assert len(outcome) < 1_000


def outcome_of(data: bytes) -> bytes | str:
    """The leaf, or the message by which the request is refused."""
    try:
        return parse_create_entry(data).leaf
    except (MalformedError, UnsupportedError) as exc:
        return str(exc)


@pytest.mark.parametrize("request_", [hashedrekord_request(), dsse_request()], ids=["hashedrekord", "dsse"])
def test_a_changed_byte_leads_to_no_foreign_exception(request_: Request) -> None:
    data = body(request_)
    accepted = 0
    for at, byte in enumerate(data):
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0x00, 0x22, 0x2C, 0x5C, 0x7B} - {byte}:
            with contextlib.suppress(TreeheadError):
                parse_entry(parse_create_entry(data[:at] + bytes([other]) + data[at + 1 :]).leaf)
                accepted += 1
    assert accepted  # a changed signature is still one; that it verifies is seen to later


@given(st.binary(max_size=200))
def test_no_bytes_lead_to_a_foreign_exception(data: bytes) -> None:
    with contextlib.suppress(TreeheadError):
        parse_create_entry(data)
