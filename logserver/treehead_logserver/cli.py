"""The command `treehead-log`: make a log, serve it, and look after it.

What a program may want to read goes to stdout, everything else to stderr. Exit codes: 0, 1 for a failure while running
or for damage that was found, 2 for a command line, directory or key that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from treehead.display import printable
from treehead.errors import TreeheadError, UsageError
from treehead_logserver.options import GRPC_DEFAULT, HTTP_DEFAULT, NO_SERVICE, make_parser

if TYPE_CHECKING:
    from treehead.keys import VerifierKey
    from treehead_logserver.config import ServeConfig
    from treehead_logserver.datadir import DataDirectory
    from treehead_logserver.fsck.report import Report
    from treehead_logserver.progress import Progress

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

EXTRA = (
    "aiosqlite",
    "google.rpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "httptools",
    "httpx",
    "prometheus_client",
    "rich",
    "starlette",
    "throttled",
    "uvicorn",
    "werkzeug",
)
"""What an installation without the extra `log` lacks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    if sys.stdout is None:  # whoever started us closed it, and wants no result but the exit code
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- until the program ends
    options = make_parser().parse_args(arguments)
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
        case "export":
            _export(options)
        case "stats":
            _stats(options)
        case "freeze":
            _freeze(options)
        case "trusted-root":
            _trusted_root(options)
        case "signing-config":
            _signing_config(options)
        case _:
            return _recover(options)
    return EXIT_OK


def _init(options: argparse.Namespace) -> None:
    from treehead.keyfile import read_passphrase
    from treehead.keys import format_vkey
    from treehead_logserver.datadir import DataDirectory, create_log

    passphrase = read_passphrase(options.passphrase_file, environment=os.environ)
    vkey = create_log(
        DataDirectory(path=options.data), origin=options.origin, passphrase=passphrase, key_uri=options.pkcs11
    )
    print(format_vkey(vkey))


def _vkey(options: argparse.Namespace) -> None:
    from treehead.datadir import read_vkey
    from treehead.keys import format_vkey
    from treehead_logserver.datadir import DataDirectory

    print(format_vkey(read_vkey(DataDirectory(path=options.data))))


def _serve(options: argparse.Namespace) -> None:
    # What gRPC's core would print when it cannot listen is said by us, in one sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from treehead.server import loop_factory
    from treehead_logserver import app
    from treehead_logserver.journal import write_journal

    def announce(log: app.RunningLog) -> None:
        print(f"listening on {log.grpc}\nlistening on {config.http_scheme}://{log.http}", flush=True)

    write_journal()
    config = _serve_config(options)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.serve(config, announce=announce))


def _serve_config(options: argparse.Namespace) -> ServeConfig:
    """What log.toml says, and before it the options."""
    from treehead.keyfile import read_passphrase
    from treehead.tls import server_tls
    from treehead_logserver.config import Limits, ServeConfig
    from treehead_logserver.configfile import ConfigFile, read_config_file
    from treehead_logserver.datadir import DataDirectory

    path = options.config
    if path is None and (default := DataDirectory(path=options.data).config).exists():
        path = default
    file = ConfigFile() if path is None else read_config_file(path)
    limits = Limits()
    return ServeConfig(
        data=options.data,
        grpc=options.grpc or file.grpc or GRPC_DEFAULT,
        http=options.http or file.http or HTTP_DEFAULT,
        tls=server_tls(
            certificate=options.tls_cert or (file.tls.certificate if file.tls else None),
            key=options.tls_key or (file.tls.key if file.tls else None),
            client_ca=options.tls_client_ca or (file.tls.client_ca if file.tls else None),
        ),
        rules=replace(file.rules, kinds=frozenset(options.kind)) if options.kind else file.rules,
        rates=file.rates,
        witnessing=file.witnessing,
        insecure=options.insecure,
        passphrase=read_passphrase(options.passphrase_file, environment=os.environ),
        limits=replace(
            limits,
            publish_ms=limits.publish_ms if file.interval_ms is None else file.interval_ms,
            refresh_s=limits.refresh_s if file.refresh_s is None else file.refresh_s,
        ),
    )


def _freeze(options: argparse.Namespace) -> None:
    from treehead.datadir import read_vkey
    from treehead.keyfile import read_passphrase
    from treehead_logserver.datadir import DataDirectory
    from treehead_logserver.freeze import freeze_log, parse_successor
    from treehead_logserver.opening import opened_log

    directory = DataDirectory(path=options.data)
    successor = parse_successor(options.successor, vkey=read_vkey(directory))
    passphrase = read_passphrase(options.passphrase_file, environment=os.environ)

    async def freeze() -> bytes:
        async with opened_log(directory, passphrase=passphrase) as log:
            return (await freeze_log(log, successor=successor)).note

    print(asyncio.run(freeze()).decode(), end="")


def _trusted_root(options: argparse.Namespace) -> None:
    from treehead_logserver.rekor.trust import format_trusted_root

    print(format_trusted_root(_log(options)[1], url=options.url, since=options.since), end="")


def _signing_config(options: argparse.Namespace) -> None:
    from treehead_logserver.rekor.trust import Services, format_signing_config

    fulcio, oidc, tsa = (None if url == NO_SERVICE else url for url in (options.fulcio, options.oidc, options.tsa))
    config = format_signing_config(
        _log(options)[1],
        url=options.url,
        since=options.since,
        operator=options.operator,
        services=Services(fulcio=fulcio, oidc=oidc, tsa=tsa),
    )
    print(config, end="")


def _fsck(options: argparse.Namespace) -> int:
    from treehead_logserver.fsck.report import format_report, format_report_json
    from treehead_logserver.progress import progress_shown

    _end_when_told()
    with progress_shown() as progress:
        report = (_check_stored if options.url is None else _check_served)(options, progress)
    if options.json:
        print(format_report_json(report))
    else:
        print(format_report(report), end="")
    return EXIT_OK if report.is_clean else EXIT_FAILED


def _check_stored(options: argparse.Namespace, progress: Progress) -> Report:
    """The check of the log's own database, or of a copy of it."""
    from treehead_logserver.fsck.subject import check_copy, check_directory

    if options.data is None:
        raise UsageError("fsck needs --data DIR, or --url URL and --vkey VKEY")
    if options.vkey is not None or options.tls_ca is not None:
        raise UsageError("--vkey and --tls-ca are for a tree that is served: give --url, too")
    directory, vkey = _log(options)
    if options.file is None:
        return check_directory(directory, vkey=vkey, progress=progress)
    return check_copy(directory, options.file, vkey=vkey, progress=progress)


def _check_served(options: argparse.Namespace, progress: Progress) -> Report:
    """The check of a tree that is served over HTTP, by whomever."""
    from treehead.keys import parse_vkey
    from treehead.tls import ClientTls
    from treehead_logserver.fsck.remote.check import check_url

    if options.file is not None:
        raise UsageError("--file is a copy of a database, and --url a tree that is served: give one of them")
    if (options.vkey is None) == (options.data is None):
        raise UsageError("--url needs the log's key: give --vkey VKEY, or else --data DIR if the log is here")
    if options.vkey is None:
        vkey = _log(options)[1]
    else:
        try:
            vkey = parse_vkey(options.vkey)
        except TreeheadError as exc:
            raise UsageError(f"--vkey: {exc}") from exc
    return asyncio.run(check_url(options.url, vkey=vkey, tls=ClientTls(ca=options.tls_ca), progress=progress))


def _backup(options: argparse.Namespace) -> None:
    from treehead_logserver.backup import back_up, format_backup
    from treehead_logserver.progress import progress_shown

    _end_when_told()
    directory, vkey = _log(options)
    with progress_shown() as progress:
        backup = back_up(directory.database, options.to, vkey=vkey, progress=progress)
    print(format_backup(backup))


def _export(options: argparse.Namespace) -> None:
    from treehead_logserver.export.exporter import Export, StoppedError, format_export, run_export
    from treehead_logserver.progress import progress_shown

    def announce(export: Export) -> None:
        print(format_export(export), flush=True)

    directory, vkey = _log(options)
    run = run_export(
        directory, options.to, vkey=vkey, is_once=options.once, show_progress=progress_shown, announce=announce
    )
    try:
        asyncio.run(run)
    except StoppedError as exc:
        raise KeyboardInterrupt from exc


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
