"""The command `treehead-monitor`: make a monitor, run it, ask how its logs stand, take its evidence elsewhere.

What a program may want to read goes to stdout, everything else to stderr.
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
from typing import TYPE_CHECKING

from treehead.display import printable
from treehead.errors import TreeheadError, UsageError

if TYPE_CHECKING:
    from treehead_monitor.datadir import DataDirectory
    from treehead_monitor.status import EvidenceRecord

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_UNDECIDED = 3
EXIT_MISBEHAVIOUR = 4

EXTRA = ("aiosqlite", "grpc_health", "grpc_reflection")
"""What an installation without the extra `monitor` lacks."""

GRPC_DEFAULT = "127.0.0.1:8471"
INTERVAL_MS_DEFAULT = "1000"
RESOLVE_MS_DEFAULT = "60000"

_EXIT_CODES = """\
exit codes:
  0  all is well
  2  the command line, directory or key cannot be used
  3  it cannot be told: a failure, a suspicion, a followed log without a verified head, or no peer that answers
  4  misbehaviour of a log is proven; this does not go away
"""

_RUN_EXIT_CODES = """\
exit codes, once it has stopped:
  0  it was told to stop, and misbehaviour of no followed log is proven
  2  the command line, directory or key cannot be used
  3  it failed: it cannot listen, or its directory is in use, damaged or cannot be written
  4  it was told to stop, and misbehaviour of a log is proven; this does not go away
"""


class _Journal(logging.Formatter):
    """One printable line a message, whatever logs and peers sent."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


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
        print(f"treehead-monitor: {printable(str(exc))}", file=sys.stderr)
        return EXIT_USAGE
    except TreeheadError as exc:
        print(f"treehead-monitor: {printable(str(exc))}", file=sys.stderr)
        return EXIT_UNDECIDED
    except ModuleNotFoundError as exc:
        if exc.name not in EXTRA:
            raise
        print(
            f"treehead-monitor: {exc.name} is not installed: install treehead[monitor], which brings it",
            file=sys.stderr,
        )
        return EXIT_USAGE
    except OSError as exc:
        _give_up_stdout(exc)  # files and peers have errors of their own
        return EXIT_UNDECIDED


def _dispatch(options: argparse.Namespace) -> int:
    match options.command, getattr(options, "action", None):
        case "init", _:
            return _init(options)
        case "run", _:
            return _run(options)
        case "status", _:
            return _status(options)
        case _, "list":
            return _list_evidence(options)
        case _:
            return _export_evidence(options)


def _give_up_stdout(error: OSError) -> None:
    """Say that the result cannot be written; what is left of it goes nowhere, not even when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"treehead-monitor: cannot write the result: {error.strerror}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="treehead-monitor",
        description="Follows transparency logs, compares what it sees with other monitors, and keeps proof of lies.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"treehead-monitor {version('treehead')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", type=Path, required=True, metavar="DIR", help="the monitor's directory")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="the key's passphrase is the file's first line (else $TREEHEAD_PASSPHRASE, else the key is not encrypted)",
    )

    init = commands.add_parser("init", parents=[data, secret], help="make a monitor and print the vkey it cosigns with")
    init.add_argument("--name", required=True, help="the monitor's name, such as monitor.example.net; never an address")
    _add_run(commands.add_parser("run", parents=[data, secret], help="follow, gossip and answer until told to stop"))
    status = commands.add_parser(
        "status",
        parents=[data],
        help="say how logs and peers stand",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")

    evidence = commands.add_parser("evidence", help="show or copy proof of misbehaviour")
    actions = evidence.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[data], help="print a line for each file: id, origin, kind, sizes")
    export = actions.add_parser("export", parents=[data], help="copy an evidence file")
    export.add_argument("id", nargs="?", metavar="ID", help="which; may be left out if there is but one")
    export.add_argument("--to", required=True, metavar="FILE", help="a new file, or - for stdout")
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.epilog = _RUN_EXIT_CODES
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    run.add_argument(
        "--log",
        action="append",
        default=[],
        required=True,
        metavar="VKEY=HOST:PORT",
        help="a log to follow: its verifier key, and where it answers; VKEY=https://HOST:PORT if over TLS (may be "
        "repeated)",
    )
    run.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a monitor to gossip with; https://HOST:PORT if over TLS (may be repeated)",
    )
    run.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="the CAs that https:// addresses need a certificate of, in PEM (default: those of the operating system)",
    )
    run.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="our certificate for logs and peers that want one, in PEM"
    )
    run.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="the certificate's key, in PKCS#8 PEM and of mode 0600"
    )
    run.add_argument(
        "--grpc",
        default=GRPC_DEFAULT,
        metavar="HOST:PORT",
        help="where to listen (default %(default)s; port 0: a free one)",
    )
    run.add_argument(
        "--interval-ms",
        default=INTERVAL_MS_DEFAULT,
        metavar="N",
        help="how often to look at each log, and to gossip (default %(default)s)",
    )
    run.add_argument(
        "--resolve-ms",
        default=RESOLVE_MS_DEFAULT,
        metavar="N",
        help="how long a signed head may stay out of reach before that is a suspicion (default %(default)s)",
    )
    run.add_argument(
        "--insecure", action="store_true", help="listen even where other machines can reach the monitor, without TLS"
    )


def _init(options: argparse.Namespace) -> int:
    from treehead.keyfile import read_passphrase
    from treehead.keys import format_vkey
    from treehead_monitor.datadir import DataDirectory, create_monitor

    passphrase = read_passphrase(options.passphrase_file, environment=os.environ)
    vkey = create_monitor(DataDirectory(path=options.data), name=options.name, passphrase=passphrase)
    print(format_vkey(vkey))
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    # What gRPC's core would print when it cannot listen is said by us, in one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from treehead.keyfile import read_passphrase
    from treehead.server import loop_factory
    from treehead.tls import ClientTls
    from treehead_monitor import app
    from treehead_monitor.config import RunConfig, parse_log, parse_milliseconds, parse_peer
    from treehead_monitor.status import read_status

    config = RunConfig(
        data=options.data,
        grpc=options.grpc,
        logs=tuple(map(parse_log, options.log)),
        peers=tuple(map(parse_peer, options.peer)),
        interval_ms=parse_milliseconds(options.interval_ms, flag="--interval-ms"),
        resolve_ms=parse_milliseconds(options.resolve_ms, flag="--resolve-ms"),
        tls=ClientTls(ca=options.tls_ca, certificate=options.tls_cert, key=options.tls_key),
        insecure=options.insecure,
        passphrase=read_passphrase(options.passphrase_file, environment=os.environ),
    )
    journal = logging.StreamHandler(sys.stderr)
    journal.setFormatter(_Journal("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[journal])
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.run(config, announce=lambda address: print(f"listening on {address}", flush=True)))
    # Proven is proven, also of a log that is followed no longer.
    return EXIT_MISBEHAVIOUR if read_status(_directory(options)).is_misbehaviour_proven else EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from treehead_monitor.status import format_status, format_status_json, read_status

    status = read_status(_directory(options))
    try:
        print(format_status_json(status) if options.json else format_status(status), end="\n" if options.json else "")
        sys.stdout.flush()
    except OSError as exc:
        if not status.is_misbehaviour_proven:
            raise
        _give_up_stdout(exc)
    if status.is_misbehaviour_proven:
        return EXIT_MISBEHAVIOUR
    return EXIT_OK if status.is_assured else EXIT_UNDECIDED


def _list_evidence(options: argparse.Namespace) -> int:
    from treehead_monitor.status import format_evidence_line

    for record in _evidence(_directory(options)):
        print(format_evidence_line(record))
    return EXIT_OK


def _export_evidence(options: argparse.Namespace) -> int:
    from treehead.encoding import parse_hex
    from treehead.evidence import EVIDENCE_BYTES_MAX
    from treehead.files import read_limited, write_new
    from treehead_monitor.message import EvidenceId

    directory = _directory(options)
    ids = [record.id for record in _evidence(directory)]
    chosen = [id_ for id_ in ids if options.id in (None, id_)]
    if len(chosen) != 1:
        held = f"it holds {', '.join(ids)}" if ids else "it holds none"
        raise UsageError(f"{directory.path}: name one evidence file; {held}")
    file = directory.evidence_file(EvidenceId(parse_hex(chosen[0], what="id of the evidence")))
    data = read_limited(file, bytes_max=EVIDENCE_BYTES_MAX, what="evidence")
    if options.to == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        write_new(Path(options.to), data)
    return EXIT_OK


def _directory(options: argparse.Namespace) -> DataDirectory:
    """The directory, if it holds a monitor."""
    from treehead.datadir import read_vkey
    from treehead_monitor.datadir import DataDirectory

    directory = DataDirectory(path=options.data)
    read_vkey(directory)
    return directory


def _evidence(directory: DataDirectory) -> list[EvidenceRecord]:
    from treehead_monitor.status import read_status

    return [record for log in read_status(directory).logs for record in log.evidence]


if __name__ == "__main__":
    sys.exit(main())
