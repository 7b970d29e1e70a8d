"""The quick way to see that a document is canonical decides as the strict way does, and reads the same value."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treehead import encoding
from treehead.encoding import JsonValue, format_canonical_json, parse_canonical_json, parse_json_object
from treehead.errors import MalformedError

BYTES_MAX = 65_535
TEXT = st.text(st.sampled_from('ab{}[]",:\\\n\x00\x1f\x7f é\u2028\ud83d\U0001f600'), max_size=6)
NUMBERS = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([10**14, 10**15 - 1, 10**15, -(10**15), 2**53 - 1, 2**53, 2**63, 0.5, 1e21, -0.0]),
)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Prints of objects: canonical or nearly, and some with a byte changed."""
    value = draw(OBJECTS)
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        sort_keys=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )
    text = draw(st.sampled_from([text, text.replace("1", "01"), text.replace("1", "-0"), text * 2, text + " "]))
    if draw(st.booleans()):
        text = text.replace('"a"', '"\\u0061"')
    if draw(st.integers(0, 3)) == 0 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # each key twice
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if draw(st.integers(0, 3)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def outcome(parse: Callable[..., dict[str, JsonValue]], data: bytes) -> object:
    try:
        return repr(parse(data, what="document", bytes_max=BYTES_MAX))  # tells 1 from 1.0 and from True
    except MalformedError as exc:
        return type(exc)


@pytest.mark.parametrize("parse", [parse_json_object, parse_canonical_json])
@given(data=documents())
def test_the_quick_way_and_the_strict_way_agree(parse: Callable[..., dict[str, JsonValue]], data: bytes) -> None:
    quick = outcome(parse, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_plain_canonical_object", lambda text: None)
        assert outcome(parse, data) == quick


@given(value=st.dictionaries(st.text("ab", max_size=3), st.one_of(st.integers(-9, 9), st.text("ab{"), st.none())))
def test_the_quick_way_is_taken_for_ordinary_documents(value: dict[str, JsonValue]) -> None:
    assert encoding._plain_canonical_object(format_canonical_json(value).decode()) == value
