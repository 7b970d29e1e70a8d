"""What may be shown to a person: names and reasons come from files and peers that nobody has vouched for.

A terminal obeys the control characters in what it shows, a forged line in a journal looks like any other, and a
bidirectional override makes one name look like another; so nothing foreign is shown as it came.
"""

from __future__ import annotations

NAME_CHARS_MAX = 256
REASON_CHARS_MAX = 1_000


def printable(text: str, *, chars_max: int = REASON_CHARS_MAX) -> str:
    """One line that a terminal shows as it is: other characters escaped as Python does, the rest cut off and marked."""
    if len(text) > chars_max:
        text = text[:chars_max] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_name(text: str) -> str:
    """The same for a name, which is shorter."""
    return printable(text, chars_max=NAME_CHARS_MAX)
