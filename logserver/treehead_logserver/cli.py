"""The command `treehead-log`: make a log, serve it, and look after it.

What a program may want to read goes to stdout, everything else to stderr. Exit codes: 0, 1 for a failure while running
or for damage that was found, 2 for a command line, directory or key that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from treehead.display import printable
from treehead.errors import TreeheadError, UsageError

if TYPE_CHECKING:
    from treehead.keys import VerifierKey
    from treehead_logserver.datadir import DataDirectory

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

EXTRA = ("aiosqlite", "google.rpc", "grpc_health", "grpc_reflection", "grpc_status", "rich")
"""What an installation without the extra `log` lacks."""

_EXIT_CODES = """\
exit codes:
  0  all is well
  1  the database, directory or address is in use, damaged or failed; fsck found damage; recover says: do not start
  2  the command line, directory or key cannot be used
"""

_FSCK_EXIT_CODES = """\
exit codes:
  0  everything is as it has to be
  1  something is not, or cannot be read, or the log runs
  2  the command line or directory cannot be used
"""

_RECOVER_EXIT_CODES = """\
exit codes:
  0  the log can be started
  1  it must not be started as it is, or it runs
  2  the command line, directory or the file of --newest cannot be used
"""

_RESTORING = """\
to restore:
  stop the log, move DIR/log.sqlite, DIR/log.sqlite-wal and DIR/log.sqlite-shm away together, put the copy in the place
  of the first, and start the log. If it has signed a larger tree since the copy was made, it refuses to start, because
  it would contradict itself; treehead-log recover says what to do then, and may need what was moved away.
"""

GRPC_DEFAULT = "127.0.0.1:8461"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if sys.stdout is None:  # whoever started us closed it, and wants no result but the exit code
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- until the program ends
    options = _parser().parse_args(arguments)
    try:
        code = _dispatch(options)
        sys.stdout.flush()
        return code
    except UsageError as exc:
        print(f"treehead-log: {printable(str(exc))}", file=sys.stderr)
        return EXIT_USAGE
    except TreeheadError as exc:
        print(f"treehead-log: {printable(str(exc))}", file=sys.stderr)
        return EXIT_FAILED
    except ModuleNotFoundError as exc:
        if exc.name not in EXTRA:
            raise
        print(f"treehead-log: {exc.name} is not installed: install treehead[log], which brings it", file=sys.stderr)
        return EXIT_USAGE
    except OSError as exc:
        if exc.filename is not None:  # a folder above it cannot be searched, or the like
            print(f"treehead-log: cannot look at {printable(str(exc.filename))}: {exc.strerror}", file=sys.stderr)
            return EXIT_FAILED
        # Files and peers have errors of their own: what is left is stdout, where the rest of the result goes no more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"treehead-log: cannot write the result: {exc.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("treehead-log: interrupted", file=sys.stderr)
        return EXIT_FAILED


def _dispatch(options: argparse.Namespace) -> int:
    match options.command:
        case "init":
            _init(options)
        case "vkey":
            _vkey(options)
        case "serve":
            _serve(options)
        case "fsck":
            return _fsck(options)
        case "backup":
            _backup(options)
        case "stats":
            _stats(options)
        case _:
            return _recover(options)
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
    _add_serve(commands.add_parser("serve", parents=[data, secret], help="serve the log until told to stop"))
    _add_care(commands, data)
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
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


def _add_care(commands: argparse._SubParsersAction[argparse.ArgumentParser], data: argparse.ArgumentParser) -> None:
    """The commands that look after a log."""
    fsck = commands.add_parser(
        "fsck",
        parents=[data],
        help="derive everything from the entries again, and say what is not as it has to be",
        description="Hashes every entry, derives anew by what it is found, and holds tiles, look-up rows, tree state, "
        "checkpoint and high-water mark against the result. Changes nothing. Which kinds of entries the log took is "
        "not known here, so an entry that nobody signed is none of its findings. The log must not run meanwhile; a "
        "backup of it can be checked at any time.",
        epilog=_FSCK_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fsck.add_argument(
        "--file", type=Path, metavar="FILE", help="check this copy of the log's database, as backup makes it"
    )
    fsck.add_argument("--json", action="store_true", help="print one JSON object")
    backup = commands.add_parser(
        "backup",
        parents=[data],
        help="copy the database to a new file, while the log serves or not",
        description="The copy is of one moment, and checked as a start of the log would check it.",
        epilog=_RESTORING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backup.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
    stats = commands.add_parser("stats", parents=[data], help="say how large the log is and where its bytes are")
    stats.add_argument("--json", action="store_true", help="print one JSON object")
    stats.add_argument("--quick", action="store_true", help="do not read every entry to sum up their bytes")
    recover = commands.add_parser(
        "recover",
        parents=[data],
        help="say why a log must not be started, and what can be done",
        description="Explains, and never guesses. Writes nothing but the high-water mark, and that only with "
        "--newest: anew where there is none and the database has grown out of that checkpoint; and with that "
        "checkpoint, if the database lacks its entries, so that the log cannot be started by mistake.",
        epilog=_RECOVER_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recover.add_argument(
        "--newest",
        type=Path,
        metavar="FILE",
        help="the newest checkpoint of this log that anybody holds: a signed note, or a .tlog-proof with one in it",
    )


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


def _fsck(options: argparse.Namespace) -> int:
    from treehead_logserver.fsck.report import format_report, format_report_json
    from treehead_logserver.fsck.subject import check_copy, check_directory
    from treehead_logserver.progress import progress_shown

    _end_when_told()
    directory, vkey = _log(options)
    with progress_shown() as progress:
        if options.file is None:
            report = check_directory(directory, vkey=vkey, progress=progress)
        else:
            report = check_copy(directory, options.file, vkey=vkey, progress=progress)
    if options.json:
        print(format_report_json(report))
    else:
        print(format_report(report), end="")
    return EXIT_OK if report.is_clean else EXIT_FAILED


def _backup(options: argparse.Namespace) -> None:
    from treehead_logserver.backup import back_up, format_backup
    from treehead_logserver.progress import progress_shown

    _end_when_told()
    directory, vkey = _log(options)
    with progress_shown() as progress:
        backup = back_up(directory.database, options.to, vkey=vkey, progress=progress)
    print(format_backup(backup))


def _stats(options: argparse.Namespace) -> None:
    from treehead_logserver.progress import progress_shown
    from treehead_logserver.stats import format_stats, format_stats_json, read_stats

    _end_when_told()
    directory, vkey = _log(options)
    with progress_shown() as progress:
        stats = read_stats(directory, vkey=vkey, quick=options.quick, progress=progress)
    if options.json:
        print(format_stats_json(stats))
    else:
        print(format_stats(stats), end="")


def _recover(options: argparse.Namespace) -> int:
    from treehead_logserver.recover import explain, format_explanation

    _end_when_told()
    directory, vkey = _log(options)
    explanation = explain(directory, vkey=vkey, newest=options.newest)
    print(format_explanation(explanation), end="")
    return EXIT_OK if explanation.is_well else EXIT_FAILED


def _log(options: argparse.Namespace) -> tuple[DataDirectory, VerifierKey]:
    """The directory, which holds a log, and the log's verifier key."""
    from treehead.datadir import read_vkey
    from treehead_logserver.datadir import DataDirectory

    directory = DataDirectory(path=options.data)
    return directory, read_vkey(directory)


def _end_when_told() -> None:
    """Have SIGTERM and SIGHUP end a long command as Ctrl-C does: in order, and with a sentence."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
