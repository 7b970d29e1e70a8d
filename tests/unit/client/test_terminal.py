"""What reaches a terminal is one bounded line without control over it."""

from hypothesis import given
from hypothesis import strategies as st

from treehead.display import NAME_CHARS_MAX, REASON_CHARS_MAX, printable, printable_name


def test_printable_text_is_shown_as_it_is() -> None:
    assert printable("pypi:acme-tool 1.0, møller, 鍵") == "pypi:acme-tool 1.0, møller, 鍵"


def test_what_commands_a_terminal_is_escaped() -> None:
    assert printable("\x1b[2J\r\n\x9b\u202e\udcff") == r"\x1b[2J\r\n\x9b\u202e\udcff"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert printable_name("n" * NAME_CHARS_MAX) == "n" * NAME_CHARS_MAX
    assert printable_name("n" * (NAME_CHARS_MAX + 1)) == "n" * NAME_CHARS_MAX + "…"


@given(st.text(st.characters(), max_size=REASON_CHARS_MAX))
def test_any_text_becomes_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= len("\\U00010000") * len(text)
