"""Talking to the person at the terminal, who sees stderr."""

from __future__ import annotations

import sys

from treehead.display import printable


def say(message: str) -> None:
    """Talk to the user, on stderr and in one line."""
    print(f"treehead: {printable(message)}", file=sys.stderr)


def is_watched() -> bool:
    """Whether a person sees stderr, so that progress is worth showing."""
    return sys.stderr.isatty()
