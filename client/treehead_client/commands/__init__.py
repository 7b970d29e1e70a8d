"""The subcommands, one module each: `check-evidence` is `commands/check_evidence.py`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import Protocol, cast

COMMANDS = {
    "keygen": "Make a key to sign artifacts with.",
    "sign": "Sign files, log the signatures, and write a proof beside each file.",
    "verify": "Check files against their proofs, a policy and trust rules; offline unless monitors are named.",
    "find": "List the entries of a log that speak of an artifact.",
    "check-evidence": "Check whether an evidence file proves that a log signed contradicting trees.",
    "demo": "Run the whole mission on this machine, with a log that turns dishonest in the end.",
}


class Command(Protocol):
    """One subcommand."""

    def configure(self, parser: ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, arguments: Namespace) -> int:
        """Do it; returns the exit code, or raises a `TreeheadError` that says what went wrong."""


def load_command(name: str) -> Command:
    """The module of a subcommand; the others are not imported."""
    return cast(Command, import_module(f"treehead_client.commands.{name.replace('-', '_')}"))
