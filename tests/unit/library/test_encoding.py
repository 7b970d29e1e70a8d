"""Text to values and back: one accepted spelling, and nothing but our own errors."""

from typing import Any

import pytest

from treehead.encoding import (
    INT63_MAX,
    JSON_DEPTH_MAX,
    JSON_DIGITS_MAX,
    Fields,
    JsonValue,
    format_base64,
    format_canonical_json,
    format_decimal,
    parse_base64,
    parse_canonical_json,
    parse_decimal,
    parse_hex,
    parse_json_object,
    parse_protobuf_base64,
    parse_utf8,
)
from treehead.errors import MalformedError, TooLargeError


def read_json(data: bytes) -> dict[str, JsonValue]:
    return parse_json_object(data, what="document", bytes_max=1_000_000)


def read_canonical(data: bytes) -> dict[str, JsonValue]:
    return parse_canonical_json(data, what="document", bytes_max=1_000_000)


@pytest.mark.parametrize("text", ["0", "1", "10", "9223372036854775807"])
def test_a_plain_decimal_is_read(text: str) -> None:
    assert format_decimal(parse_decimal(text, what="size")) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "00",
        "01",
        "+1",
        "-0",
        "-1",
        " 1",
        "1 ",
        "1\n",
        "1_0",
        "0x1",
        "1e3",
        "1.0",
        "\u0661",
        "²",
        "\ud800",
        "1\0",
        "9223372036854775808",
        "9" * 19,
        "1" * 20,
        "1" * 100_000,
    ],
)
def test_any_other_spelling_of_a_decimal_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^tree size "):
        parse_decimal(text, what="tree size")


def test_a_decimal_above_its_own_maximum_is_refused() -> None:
    assert parse_decimal("63", what="level", maximum=63) == 63
    with pytest.raises(MalformedError, match="larger than 63"):
        parse_decimal("64", what="level", maximum=63)


@pytest.mark.parametrize("value", [-1, INT63_MAX + 1])
def test_a_number_without_a_spelling_is_not_printed(value: int) -> None:
    with pytest.raises(ValueError, match="not in"):
        format_decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA",
        "AAA",
        "AA=",
        "AB==",
        "AAB=",
        "AA==\n",
        "\nAA==",
        "AA==AA==",
        "AA-_",
        "A A=",
        "AA==\0",
        "ÄÄ==",
        "\ud800",
        "=",
        "====",
        "AAA=A",
    ],
)
def test_any_other_spelling_of_base64_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^the key is not"):
        parse_base64(text, what="the key")


@pytest.mark.parametrize("value", [b"", b"\0", b"\xfb", b"\xfb\xff", b"\xff\xef\xbe", bytes(range(256))])
def test_base64_in_protobufs_json_has_two_alphabets_and_padding_or_none(value: bytes) -> None:
    standard = format_base64(value)
    url_safe = standard.replace("+", "-").replace("/", "_")
    for text in (standard, standard.rstrip("="), url_safe, url_safe.rstrip("=")):
        assert parse_protobuf_base64(text, what="the key") == value


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA=",
        "AAAAA",
        "AB",
        "AB==",
        "AAB",
        "-_+/",
        "+_8=",
        "AA==\n",
        "A A=",
        "AA==AA==",
        "AA=A",
        "=",
        "====",
        "\ud800",
    ],
)
def test_anything_else_is_no_base64_in_protobufs_json_either(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^the key is not base64$"):
        parse_protobuf_base64(text, what="the key")


def test_base64_of_another_length_is_refused() -> None:
    assert parse_base64(format_base64(bytes(32)), what="root", length=32) == bytes(32)
    with pytest.raises(MalformedError, match="root holds 31 bytes, not 32"):
        parse_base64(format_base64(bytes(31)), what="root", length=32)


@pytest.mark.parametrize(
    "text", ["0", "0G", "AA", "aA", "00 00", " 00", "00\n", "0x00", "\ud800\ud800", "\u0660\u0660"]
)
def test_any_other_spelling_of_hexadecimal_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"^digest is not"):
        parse_hex(text, what="digest")


def test_hexadecimal_of_another_length_is_refused() -> None:
    with pytest.raises(MalformedError, match="digest holds 1 bytes, not 32"):
        parse_hex("00", what="digest", length=32)


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"abc\xe2\x82"])
def test_what_is_not_strict_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match="note is not UTF-8"):
        parse_utf8(data, what="note", bytes_max=100)


def test_the_limit_is_checked_before_the_bytes_are_looked_at() -> None:
    with pytest.raises(TooLargeError, match="note is larger than 3 bytes"):
        parse_utf8(b"\xff" * 4, what="note", bytes_max=3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a":1,"a":2}', id="key_twice"),
        pytest.param(b'{"a":{"b":1,"\\u0062":2}}', id="key_twice_in_another_spelling"),
        pytest.param(b'{"a":NaN}', id="nan"),
        pytest.param(b'{"a":-Infinity}', id="infinity_by_name"),
        pytest.param(b'{"a":1e400}', id="infinity_by_overflow"),
        pytest.param(b'{"a":"\\ud800"}', id="lone_high_surrogate"),
        pytest.param(b'{"a":["\\udc00"]}', id="lone_low_surrogate"),
        pytest.param(b'{"a":{"\\udc00\\ud800":1}}', id="surrogates_in_a_key"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate_in_bytes"),
        pytest.param(b'{"a":' + b"1" * (JSON_DIGITS_MAX + 1) + b"}", id="integer_too_long"),
        pytest.param(b'{"a":' + b"1" * 100_000 + b"}", id="integer_far_too_long"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested_beyond_the_stack"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"a"', id="string"),
        pytest.param(b"{}{}", id="two_documents"),
        pytest.param(b"{} x", id="trailing_garbage"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte_order_mark"),
        pytest.param(b"{}\0", id="nul"),
        pytest.param(b'{"a":"\n"}', id="bare_newline_in_a_string"),
        pytest.param(b"", id="empty"),
        pytest.param(b"{'a':1}", id="single_quotes"),
        pytest.param(b'{"a":1,}', id="trailing_comma"),
        pytest.param(b'{"a":01}', id="leading_zero"),
        pytest.param('{"a":1}'.encode("utf-16"), id="utf16"),
    ],
)
def test_json_that_readers_disagree_on_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^document "):
        read_json(data)


def test_nesting_has_one_limit_wherever_the_reader_is_called_from() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    def from_depth(frames: int, data: bytes) -> object:
        return from_depth(frames - 1, data) if frames else read_canonical(data)

    for frames in (0, 300):
        assert from_depth(frames, nested(JSON_DEPTH_MAX))
        for depth in (JSON_DEPTH_MAX + 1, 300, 600, 900, 5_000):
            with pytest.raises(MalformedError):
                from_depth(frames, nested(depth))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a": 1}', id="space"),
        pytest.param(b'{"a":1}\n', id="newline"),
        pytest.param(b'{"b":1,"a":2}', id="order"),
        pytest.param('{"\ufb33":1,"\U0001f600":2}'.encode(), id="order_by_code_point"),
        pytest.param(b'{"a":1.0}', id="fraction"),
        pytest.param(b'{"a":-0}', id="minus_zero"),
        pytest.param(b'{"a":1e2}', id="exponent"),
        pytest.param(b'{"a":"\\u0061"}', id="needless_escape"),
        pytest.param(b'{"a":"\\/"}', id="escaped_slash"),
        pytest.param(b'{"a":"\\u001F"}', id="upper_case_escape"),
        pytest.param(b'{"a":"\x7f\\u007f"}', id="escaped_delete"),
        pytest.param(b'{"a":9007199254740993}', id="not_a_double"),
    ],
)
def test_json_in_another_than_its_canonical_form_is_refused(data: bytes) -> None:
    read_json(data)
    with pytest.raises(MalformedError, match=r"^document .*RFC 8785"):
        read_canonical(data)


def test_object_keys_are_ordered_by_utf16_units() -> None:
    data = '{"\U0001f600":2,"\ufb33":1}'.encode()
    assert format_canonical_json(read_canonical(data)) == data


def test_what_cannot_be_canonical_is_not_printed() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (2**53 + 1, float("nan"), "\ud800", nested):
        with pytest.raises(ValueError, match=r"."):
            format_canonical_json({"a": value})


def test_fields_name_the_member_that_is_wrong() -> None:
    def fields(value: JsonValue) -> Fields:
        return Fields({"member": value}, path="spec")

    with pytest.raises(MalformedError, match=r"^field spec\.absent is missing"):
        fields(1).text("absent")
    with pytest.raises(MalformedError, match=r"^field spec\.member is not a string"):
        fields(1).text("member")
    with pytest.raises(MalformedError, match=r"^field spec\.member is not an array"):
        fields({}).array("member")
    with pytest.raises(MalformedError, match=r"^spec\.member is not a JSON object"):
        fields([]).object("member")
    with pytest.raises(MalformedError, match=r"^field spec\.member is not canonical base64"):
        fields("AB==").base64("member")
    with pytest.raises(MalformedError, match=r"spec\.member"):
        fields(1).finish()
    with pytest.raises(MalformedError, match=r"^document is not a JSON object"):
        Fields([], path="")


@pytest.mark.parametrize("value", [True, False, None, 1.0, "1", -1, INT63_MAX + 1, []])
def test_a_size_is_a_json_integer_and_nothing_like_one(value: JsonValue) -> None:
    with pytest.raises(MalformedError, match="is not a non-negative integer"):
        Fields({"size": value}, path="").size("size")


def test_a_member_is_taken_once() -> None:
    fields = Fields({"a": "x"}, path="")
    assert fields.has("a")
    assert fields.text("a") == "x"
    assert not fields.has("a")
    fields.finish()
    with pytest.raises(MalformedError, match="missing"):
        fields.text("a")


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202eevil", "\ud800", "x" * 100_000])
def test_a_message_never_repeats_raw_what_it_was_sent(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Fields({name: 1}, path="spec").finish()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_canonical_document_has_a_bound_on_its_values() -> None:
    fits = b'{"a":[' + b",".join([b"1"] * 256) + b"]}"
    assert len(read_canonical(fits)["a"]) == 256  # type: ignore[arg-type]
    for data in (fits.replace(b"[1", b"[1,1,1"), b"{" + b",".join(b'"%05d":1' % n for n in range(6_000)) + b"}"):
        with pytest.raises(MalformedError, match="more than 256 commas and colons"):
            read_canonical(data)


def test_the_members_of_a_large_document_can_be_bounded() -> None:
    data = b'{"a": [1, 2, 3]}'
    assert parse_json_object(data, what="document", bytes_max=100, marks_max=3) == {"a": [1, 2, 3]}
    with pytest.raises(MalformedError, match=r"^document has more than 2 commas and colons$"):
        parse_json_object(data, what="document", bytes_max=100, marks_max=2)
