"""The command `treehead`: which subcommands there are, and how every one of them ends.

Only the subcommand that was asked for is imported, and only its arguments are built, because an offline verification is
over in less time than all the others take to load. Exit codes: 0 done or verified, 1 refused, 2 usage, 3 cannot be
decided or a peer failed, 4 a log's misbehaviour is proven.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import Action, ArgumentError, ArgumentParser, HelpFormatter, Namespace
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, NoReturn

from treehead import __version__
from treehead.display import printable
from treehead.errors import TreeheadError
from treehead_client.commands import COMMANDS, load_command
from treehead_client.terminal import say
from treehead_client.verdict import EXIT_OK, EXIT_UNDECIDED, EXIT_USAGE, outcome_of

_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_HELP_COLUMNS = 100
"""Fixed, because asking for the terminal's width imports modules that cost more than the verification."""


class _StoreOnce(Action):
    """Takes an option with a value once.

    A second one may be the name of a file: in a folder with a file `--trust=evil.toml`, a shell's `*` is an option.
    """

    _is_given = False

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        if option_string is not None and self._is_given:
            raise ArgumentError(self, "given twice; a file that is called so is named ./FILE")
        self._is_given = True
        setattr(namespace, self.dest, values)


class Parser(ArgumentParser):
    """Refuses arguments in one line, and options that are given twice where once is all they can count."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_formatter)
        self.register("action", None, _StoreOnce)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end the program."""
        self.exit(EXIT_USAGE, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def _formatter(prog: str) -> HelpFormatter:
    return HelpFormatter(prog, width=_HELP_COLUMNS)


def main() -> NoReturn:
    """The program: run the command line, and end the process with its exit code."""
    gc.disable()
    # What gRPC's core would print when nobody answers is said by us, in one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = run(sys.argv[1:])
    # Everything is flushed and closed; taking the interpreter apart would take as long as a verification.
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Whatever failed was said in one line on stderr."""
    if sys.stderr is None:  # closed: nobody listens, which is no reason to fail
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 -- until the process ends
    if sys.stdout is None:
        say("cannot write the result: stdout is closed")
        return EXIT_UNDECIDED
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
    except TreeheadError as exc:
        say(str(exc))
        code = outcome_of(exc).exit_code
    except SystemExit as exc:  # argparse has said why, or has printed the help
        code = EXIT_USAGE if exc.code else EXIT_OK
    except KeyboardInterrupt:
        code = _EXIT_INTERRUPTED
    except BrokenPipeError:
        code = _EXIT_BROKEN_PIPE
    except OSError as exc:
        # Files and peers have errors of their own: what is left is stdout, and an answer that nobody got is none.
        say(f"cannot write the result: {exc.strerror}")
        code = EXIT_UNDECIDED
    return code


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        return _top_level(argv)
    command = load_command(argv[0])
    parser = Parser(f"treehead {argv[0]}", COMMANDS[argv[0]])
    command.configure(parser)
    # What is imported by now stays; the collector need not look at it again.
    gc.freeze()
    gc.enable()
    return command.run(parser.parse_args(argv[1:]))


def _top_level(argv: Sequence[str]) -> NoReturn:
    """Answer `--help` and `--version`, and refuse the rest."""
    parser = Parser("treehead", "Sign artifacts, log the signatures, and accept nothing without proof.")
    parser.add_argument("--version", action="version", version=f"treehead {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="treehead")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, prog=f"treehead {name}", description=summary, help=summary)
    parser.parse_args(argv)
    raise AssertionError("a known command is dispatched before")
