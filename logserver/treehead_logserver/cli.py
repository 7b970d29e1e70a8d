"""The command `treehead-log`: make a log, show its key, serve it.

What a program may want to read goes to stdout, everything else to stderr. Exit codes: 0, 1 for a failure while running,
2 for a command line, directory or key that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from treehead.errors import TreeheadError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

EXTRA = ("aiosqlite", "grpc_health", "grpc_reflection")
"""What an installation without the extra `log` lacks."""

_EXIT_CODES = """\
exit codes:
  0  all is well
  1  a failure while running: the database, the directory or the address is in use or damaged
  2  the command line, directory or key cannot be used
"""

GRPC_DEFAULT = "127.0.0.1:8461"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if sys.stdout is None:  # whoever started us closed it, and wants no result but the exit code
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- until the program ends
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "init":
                _init(options)
            case "vkey":
                _vkey(options)
            case _:
                _serve(options)
        sys.stdout.flush()
    except UsageError as exc:
        print(f"treehead-log: {exc}", file=sys.stderr)
        return EXIT_USAGE
    except TreeheadError as exc:
        print(f"treehead-log: {exc}", file=sys.stderr)
        return EXIT_FAILED
    except ModuleNotFoundError as exc:
        if exc.name not in EXTRA:
            raise
        print(f"treehead-log: {exc.name} is not installed: install treehead[log], which brings it", file=sys.stderr)
        return EXIT_USAGE
    except OSError as exc:
        # Files and peers have errors of their own: what is left is stdout, where the rest of the result goes no more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"treehead-log: cannot write the result: {exc.strerror}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="treehead-log",
        description="A transparency log for artifact signatures.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"treehead-log {version('treehead')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", type=Path, required=True, metavar="DIR", help="the log's directory")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="the key's passphrase is the file's first line (else $TREEHEAD_PASSPHRASE, else the key is not encrypted)",
    )

    init = commands.add_parser("init", parents=[data, secret], help="make a log and print its verifier key")
    init.add_argument("--origin", required=True, help="the log's name, such as log.example.org/2026; never an address")
    commands.add_parser("vkey", parents=[data], help="print the verifier key")
    serve = commands.add_parser("serve", parents=[data, secret], help="serve the log until told to stop")
    serve.add_argument(
        "--grpc",
        default=GRPC_DEFAULT,
        metavar="HOST:PORT",
        help="where to listen (default %(default)s; port 0: a free one)",
    )
    serve.add_argument(
        "--kind",
        action="append",
        metavar="KIND",
        help="take entries of this kind, and with it repeated of others: attestation and hashedrekord, which are taken "
        "without it, or opaque, which is any bytes",
    )
    serve.add_argument(
        "--insecure", action="store_true", help="listen even where other machines can reach the log, without TLS"
    )
    return parser


def _init(options: argparse.Namespace) -> None:
    from treehead.keyfile import read_passphrase
    from treehead.keys import format_vkey
    from treehead_logserver.datadir import DataDirectory, create_log

    passphrase = read_passphrase(options.passphrase_file, environment=os.environ)
    vkey = create_log(DataDirectory(path=options.data), origin=options.origin, passphrase=passphrase)
    print(format_vkey(vkey))


def _vkey(options: argparse.Namespace) -> None:
    from treehead.datadir import read_vkey
    from treehead.keys import format_vkey
    from treehead_logserver.datadir import DataDirectory

    print(format_vkey(read_vkey(DataDirectory(path=options.data))))


def _serve(options: argparse.Namespace) -> None:
    # What gRPC's core would print when it cannot listen is said by us, in one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from treehead.keyfile import read_passphrase
    from treehead.server import loop_factory
    from treehead_logserver import app
    from treehead_logserver.config import ServeConfig
    from treehead_logserver.kinds import SIGNED_KINDS

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = ServeConfig(
        data=options.data,
        grpc=options.grpc,
        kinds=SIGNED_KINDS if options.kind is None else frozenset(options.kind),
        insecure=options.insecure,
        passphrase=read_passphrase(options.passphrase_file, environment=os.environ),
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.serve(config, announce=lambda address: print(f"listening on {address}", flush=True)))


if __name__ == "__main__":
    sys.exit(main())
