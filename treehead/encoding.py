"""Text to values and back: decimals, base64, hexadecimal, UTF-8 and JSON, each in one accepted spelling.

This is the only module that decodes text, because lenient decoders are how two programs come to disagree about one
signed file: Python's `int` takes `"1_0"` and `" 7"`, its base64 takes stray bits and line breaks, its JSON takes a key
twice. Every `parse_x` here is the exact inverse of its `format_x`: it accepts what that prints and nothing else.

`what` arguments name the thing being parsed for the error message, such as "tree size" or "field
spec.envelope.payload".
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import rfc8785

from treehead.errors import MalformedError, TooLargeError

INT63_MAX = 2**63 - 1
"""Largest tree size, leaf index and POSIX time that fits every format spoken here (C2SP tlog-cosignature)."""

DECIMAL_DIGITS_MAX = len(str(INT63_MAX))

JSON_DEPTH_MAX = 64
"""Levels of objects and arrays. Python's own limit depends on how deep the caller is, so two callers would disagree."""

JSON_DIGITS_MAX = 400
"""Digits of a JSON integer; more than any finite double has. Python's own limit can be set from outside."""

JSON_MARKS_MAX = 256
"""Commas and colons in a canonical document, in strings or not, which bounds its members: nesting has its own limit.

An entry has some 20. To print a document anew takes a hundred times as long as to read it, and this is what bounds it.
"""

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]


def parse_decimal(text: str, *, what: str, maximum: int = INT63_MAX) -> int:
    """Parse a non-negative ASCII decimal without sign, spaces or leading zeros.

    Raises:
        MalformedError: text is anything but what `format_decimal` prints for a number up to `maximum`.
    """
    if len(text) > DECIMAL_DIGITS_MAX or not (text.isascii() and text.isdigit()):
        raise MalformedError(f"{what} is not a short ASCII decimal")
    value = int(text)
    if text != str(value):
        raise MalformedError(f"{what} has leading zeros")
    if value > maximum:
        raise MalformedError(f"{what} is larger than {maximum}")
    return value


def format_decimal(value: int) -> str:
    """Print a non-negative integer, the exact inverse of `parse_decimal`."""
    if not 0 <= value <= INT63_MAX:
        raise ValueError(f"{value} is not in 0..2^63-1")
    return str(value)


def parse_base64(text: str, *, what: str, length: int | None = None) -> bytes:
    """Decode padded standard base64 (RFC 4648 section 4) in its canonical form.

    Raises:
        MalformedError: text holds another character, stray bits or wrong padding, or does not decode to `length` bytes.
    """
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedError(f"{what} is not canonical base64") from exc
    if base64.b64encode(value).decode("ascii") != text:
        raise MalformedError(f"{what} is not canonical base64")
    if length is not None and len(value) != length:
        raise MalformedError(f"{what} holds {len(value)} bytes, not {length}")
    return value


def parse_protobuf_base64(text: str, *, what: str) -> bytes:
    """Decode base64 in the spellings that the JSON form of protobuf has for bytes, for requests of other programs.

    Those are the standard and the URL-safe alphabet, each with padding or without; otherwise a value has one spelling
    here, too. Not for what is signed, logged or compared.

    Raises:
        MalformedError: text mixes the alphabets, or has another character, stray bits or half of its padding.
    """
    standard = text if "+" in text or "/" in text else text.translate(_URL_SAFE_TO_STANDARD)
    if "=" not in standard:
        standard += "=" * (-len(standard) % 4)
    try:
        return parse_base64(standard, what=what)
    except MalformedError as exc:
        raise MalformedError(f"{what} is not base64") from exc


_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")


def format_base64(value: bytes) -> str:
    """Encode as padded standard base64, the exact inverse of `parse_base64`."""
    return base64.b64encode(value).decode("ascii")


def parse_hex(text: str, *, what: str, length: int | None = None) -> bytes:
    """Decode lower-case hexadecimal without separators.

    Raises:
        MalformedError: text holds another character, an odd number of them, or does not decode to `length` bytes.
    """
    try:
        value = bytes.fromhex(text)
    except ValueError as exc:
        raise MalformedError(f"{what} is not hexadecimal") from exc
    if value.hex() != text:
        raise MalformedError(f"{what} is not lower-case hexadecimal")
    if length is not None and len(value) != length:
        raise MalformedError(f"{what} holds {len(value)} bytes, not {length}")
    return value


def format_hex(value: bytes) -> str:
    """Encode as lower-case hexadecimal, the exact inverse of `parse_hex`."""
    return value.hex()


def parse_utf8(data: bytes, *, what: str, bytes_max: int) -> str:
    """Decode strict UTF-8 of at most `bytes_max` bytes.

    Raises:
        TooLargeError: the limit is passed.
        MalformedError: data is not UTF-8.
    """
    if len(data) > bytes_max:
        raise TooLargeError(f"{what} is larger than {bytes_max} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{what} is not UTF-8 (byte {exc.start})") from exc


def parse_json_object(data: bytes, *, what: str, bytes_max: int, marks_max: int | None = None) -> dict[str, JsonValue]:
    """Parse one JSON object, refusing repeated keys, lone surrogates, NaN, and numbers and nesting without bound.

    Key order and white space are free; use `parse_canonical_json` where they are not. `marks_max` bounds the members of
    a document that may be large: to read each of them takes a microsecond, which a long string does not.

    Raises:
        TooLargeError: data is larger than `bytes_max`.
        MalformedError: data is not such an object, or has more than `marks_max` commas and colons.
    """
    text = parse_utf8(data, what=what, bytes_max=bytes_max)
    if marks_max is not None:
        _check_marks(data, what=what, marks_max=marks_max)
    plain = _plain_canonical_object(text)
    if plain is not None:
        return plain
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_repeated_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_int,
        )
        _check_nesting_and_strings(value)
    except RecursionError as exc:
        raise MalformedError(f"{what} is nested too deeply") from exc
    except ValueError as exc:
        raise MalformedError(f"{what} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def _plain_canonical_object(text: str) -> dict[str, JsonValue] | None:
    """The object that text prints, where it is easily seen to be the canonical print of one; else None.

    That is what nearly all entries and statements are, and it is found out in a quarter of the time. In ASCII without
    fractions, exponents and long numbers, what the standard library prints is what RFC 8785 prints: keys have one
    order, and strings one spelling. What has a repeated key, or half of a surrogate pair, does not print as itself.
    """
    if not text.isascii() or text.count("{") + text.count("[") > JSON_DEPTH_MAX:
        return None
    try:
        value = _PLAIN_DECODER.decode(text)
        if isinstance(value, dict) and _PLAIN_ENCODER.encode(value) == text:
            return value
    except (ValueError, RecursionError):
        pass
    return None


def _short_plain_int(text: str) -> int:
    if len(text) > _PLAIN_DIGITS_MAX:
        raise ValueError("this number has to be looked at more closely")
    return int(text)


def _no_plain_number(text: str) -> NoReturn:
    raise ValueError(f"{text} has to be looked at more closely")


_PLAIN_DIGITS_MAX = 15
"""Of a number that every reader of JSON reads alike."""
_PLAIN_DECODER = json.JSONDecoder(
    parse_float=_no_plain_number, parse_int=_short_plain_int, parse_constant=_no_plain_number
)
_PLAIN_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _object_without_repeated_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object repeats a key")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _short_int(text: str) -> int:
    if len(text) > JSON_DIGITS_MAX:
        raise ValueError(f"a number has more than {JSON_DIGITS_MAX} digits")
    return int(text)


def _check_nesting_and_strings(document: JsonValue) -> None:
    """Refuse nesting beyond `JSON_DEPTH_MAX`, and strings that no UTF-8 spells: an escape can name half a character."""
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > JSON_DEPTH_MAX:
            raise ValueError(f"more than {JSON_DEPTH_MAX} objects and arrays inside one another")
        members: list[JsonValue] = []
        for container in level:
            if isinstance(container, dict):
                members.extend(container)
                members.extend(container.values())
            elif isinstance(container, list):
                members.extend(container)
        for member in members:
            if isinstance(member, str):
                _check_surrogates(member)
        level = [member for member in members if isinstance(member, dict | list)]


def _check_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError("a string holds half of a surrogate pair") from exc


def _check_marks(data: bytes, *, what: str, marks_max: int) -> None:
    if data.count(b",") + data.count(b":") > marks_max:
        raise MalformedError(f"{what} has more than {marks_max} commas and colons")


def parse_canonical_json(data: bytes, *, what: str, bytes_max: int) -> dict[str, JsonValue]:
    """Parse one JSON object that is in RFC 8785 canonical form, the exact inverse of `format_canonical_json`.

    Raises:
        TooLargeError: data is larger than `bytes_max`.
        MalformedError: data is no object, not canonical, or has more than `JSON_MARKS_MAX` commas and colons.
    """
    if len(data) <= bytes_max:
        _check_marks(data, what=what, marks_max=JSON_MARKS_MAX)
    plain = _plain_canonical_object(parse_utf8(data, what=what, bytes_max=bytes_max))
    if plain is not None:
        return plain
    value = parse_json_object(data, what=what, bytes_max=bytes_max)
    try:
        canonical = format_canonical_json(value)
    except ValueError as exc:
        raise MalformedError(f"{what} has no canonical form (RFC 8785): {exc}") from exc
    if canonical != data:
        raise MalformedError(f"{what} is not canonical JSON (RFC 8785)")
    return value


def format_canonical_json(value: Mapping[str, JsonValue]) -> bytes:
    """Print a JSON object in RFC 8785 canonical form.

    Raises:
        ValueError: a number or string has no canonical form, or the value is nested too deeply.
    """
    try:
        return rfc8785.dumps(value)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


class Fields:
    """The members of one JSON object, taken one by one, each checked for its type.

    `path` is the object's place in the document and prefixes every error. Call `finish` after the last member: what was
    not taken then is an error, so that nothing signed can hide in a member that no one reads.
    """

    def __init__(self, value: JsonValue, *, path: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{path or 'document'} is not a JSON object")
        self._left: dict[str, JsonValue] = dict(value)
        self._path = path

    def path(self, name: str) -> str:
        """The full name of a member, for error messages."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Whether the member is there and was not taken yet."""
        return name in self._left

    def _take(self, name: str) -> JsonValue:
        if name not in self._left:
            raise MalformedError(f"field {self.path(name)} is missing")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        """Take a string member."""
        value = self._take(name)
        if not isinstance(value, str):
            raise MalformedError(f"field {self.path(name)} is not a string")
        return value

    def base64(self, name: str, *, length: int | None = None) -> bytes:
        """Take a string member and decode it as base64."""
        return parse_base64(self.text(name), what=f"field {self.path(name)}", length=length)

    def size(self, name: str) -> int:
        """Take a member that is a non-negative JSON integer."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INT63_MAX:
            raise MalformedError(f"field {self.path(name)} is not a non-negative integer")
        return value

    def array(self, name: str) -> Sequence[JsonValue]:
        """Take an array member."""
        value = self._take(name)
        if not isinstance(value, list):
            raise MalformedError(f"field {self.path(name)} is not an array")
        return value

    def object(self, name: str) -> Fields:
        """Take an object member."""
        return Fields(self._take(name), path=self.path(name))

    def value(self, name: str) -> JsonValue:
        """Take a member of any type."""
        return self._take(name)

    def finish(self) -> None:
        """Check that every member was taken.

        Raises:
            MalformedError: a member is left; the message names it.
        """
        for name in self._left:
            raise MalformedError(f"field {self.path(name[:64])!r} is not known here")
