"""The command line of `treehead-log`: commands, options and what --help says."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from treehead.certfile import CERTIFICATE_FLAG, KEY_FLAG
from treehead.tls import AUTHORITIES_FLAG, CLIENT_AUTHORITIES_FLAG
from treehead_logserver.kinds import ALL_KINDS

_EXIT_CODES = """\
exit codes:
  0  all is well
  1  the database, directory or address is in use, damaged or failed; fsck found damage; recover says: do not start
  2  the command line, directory or key cannot be used
"""

_FSCK_EXIT_CODES = """\
exit codes:
  0  everything is as it has to be
  1  something is not, or cannot be read, or the log runs; with --url: or the server or network has failed
  2  the command line or directory cannot be used
"""

_RECOVER_EXIT_CODES = """\
exit codes:
  0  the log can be started
  1  it must not be started as it is, or it runs
  2  the command line, directory or the file of --newest cannot be used
"""

_EXPORT_EXIT_CODES = """\
exit codes:
  0  it was exported; without --once: until it was told to stop
  1  the database is damaged, or something cannot be read or written; the folder shows what it has shown before
  2  the command line or directory cannot be used, or the folder has something else in it, or another tree
"""

_RESTORING = """\
to restore:
  stop the log, move DIR/log.sqlite, DIR/log.sqlite-wal and DIR/log.sqlite-shm away together, put the copy in the place
  of the first, and start the log. If it has signed a larger tree since the copy was made, it refuses to start, because
  it would contradict itself; treehead-log recover says what to do then, and may need what was moved away.
"""

GRPC_DEFAULT = "127.0.0.1:8461"
HTTP_DEFAULT = "127.0.0.1:8460"
SINCE_DEFAULT = "1970-01-01T00:00:00Z"
FULCIO_DEFAULT = "https://fulcio.sigstore.dev"
OIDC_DEFAULT = "https://oauth2.sigstore.dev/auth"
"""Sigstore's public services, which are what its clients use; `NO_SERVICE` for keys without certificates."""
NO_SERVICE = "none"


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="treehead-log",
        description="A transparency log for artifact signatures.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # so that a secret given to an option that there is not is no other option's value
    )
    parser.add_argument("--version", action="version", version=f"treehead-log {version('treehead')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    data = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data.add_argument("--data", type=Path, required=True, metavar="DIR", help="the log's directory")
    secret = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    secret.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="the key's passphrase, or its token's PIN, is the first line of the file (mode 0600); else it is "
        "$TREEHEAD_PASSPHRASE, else the key is not encrypted",
    )

    init = commands.add_parser(
        "init", parents=[data, secret], help="make a log and print its verifier key", allow_abbrev=False
    )
    init.add_argument("--origin", required=True, help="the log's name, such as log.example.org/2026; never an address")
    init.add_argument(
        "--pkcs11",
        metavar="URI",
        help="make no key: use the one in a token that this PKCS#11 URI names; the passphrase is then the token's PIN",
    )
    commands.add_parser("vkey", parents=[data], help="print the verifier key", allow_abbrev=False)
    _add_serve(
        commands.add_parser(
            "serve", parents=[data, secret], help="serve the log until told to stop", allow_abbrev=False
        )
    )
    _add_care(commands, data)
    _add_sigstore(commands, data)
    _add_end(
        commands.add_parser(
            "freeze",
            parents=[data, secret],
            help="end the log for good, and name its successor",
            description="Signs the last checkpoint once more, with a line that says that there will be no other and "
            "one that names the successor, and prints it. The log must not run meanwhile; start it again to have it "
            "read. There is no way back.",
            allow_abbrev=False,
        )
    )
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="what the operator decides: listeners, TLS, admission, rates, witnesses, publication (default: log.toml "
        "in the directory, if it is there)",
    )
    serve.add_argument(
        "--grpc", metavar="HOST:PORT", help=f"where to listen for gRPC (default {GRPC_DEFAULT}; port 0: a free one)"
    )
    serve.add_argument(
        "--http", metavar="HOST:PORT", help=f"where to listen for HTTP (default {HTTP_DEFAULT}; port 0: a free one)"
    )
    serve.add_argument(
        "--kind",
        action="append",
        choices=sorted(ALL_KINDS),
        metavar="KIND",
        help="take entries of this kind, and with it repeated of others: attestation and hashedrekord, which are taken "
        "without it, or opaque, which is any bytes",
    )
    serve.add_argument(CERTIFICATE_FLAG, type=Path, metavar="FILE", help="speak TLS, with this certificate chain (PEM)")
    serve.add_argument(KEY_FLAG, type=Path, metavar="FILE", help="its private key (PKCS#8 in PEM, mode 0600)")
    serve.add_argument(
        CLIENT_AUTHORITIES_FLAG,
        type=Path,
        metavar="FILE",
        help="answer only clients with a certificate by one of these authorities (PEM)",
    )
    serve.add_argument(
        "--insecure", action="store_true", help="listen even where other machines can reach the log, without TLS"
    )


def _add_end(freeze: argparse.ArgumentParser) -> None:
    freeze.add_argument(
        "--successor", required=True, metavar="VKEY", help="the verifier key of the log that takes entries from then on"
    )


def _add_sigstore(commands: argparse._SubParsersAction[argparse.ArgumentParser], data: argparse.ArgumentParser) -> None:
    """What Sigstore's clients need to know of a log."""
    log = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    log.add_argument(
        "--url",
        required=True,
        metavar="URL",
        help="where clients reach the log's HTTP listener; its host has to be the log's origin",
    )
    log.add_argument(
        "--since",
        default=SINCE_DEFAULT,
        metavar="TIME",
        help="since when the log's key is valid, such as 2026-11-28T00:00:00Z (default %(default)s)",
    )
    commands.add_parser(
        "trusted-root",
        parents=[data, log],
        help="print the trusted root with which Sigstore's clients verify entries of this log",
        allow_abbrev=False,
    )
    signing = commands.add_parser(
        "signing-config",
        parents=[data, log],
        help="print the signing configuration with which Sigstore's clients write to this log",
        allow_abbrev=False,
    )
    signing.add_argument("--operator", required=True, metavar="NAME", help="who operates the log")
    for flag, what, default in (
        ("--fulcio", "the authority that certifies identities", FULCIO_DEFAULT),
        ("--oidc", "the provider that identities are proven to", OIDC_DEFAULT),
        ("--tsa", "the authority that stamps the time", NO_SERVICE),
    ):
        signing.add_argument(flag, default=default, metavar="URL", help=f"{what} (default %(default)s)")


def _add_care(commands: argparse._SubParsersAction[argparse.ArgumentParser], data: argparse.ArgumentParser) -> None:
    """The commands that look after a log."""
    fsck = commands.add_parser(
        "fsck",
        help="derive everything from the entries again, and say what is not as it has to be",
        description="Hashes every entry, derives anew by what it is found, and holds tiles, look-up rows, tree state, "
        "checkpoints and high-water mark against the result. Changes nothing. Which kinds of entries the log took is "
        "not known here, so an entry that nobody signed is none of its findings. The log must not run meanwhile; a "
        "backup of it can be checked at any time. With --url it is a tree that somebody serves as C2SP tlog-tiles has "
        "it that is checked: our HTTP listener, an export, or another program's log.",
        epilog=_FSCK_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    fsck.add_argument("--data", type=Path, metavar="DIR", help="the log's directory; with --url only its key is taken")
    fsck.add_argument(
        "--file", type=Path, metavar="FILE", help="check this copy of the log's database, as backup makes it"
    )
    fsck.add_argument(
        "--url",
        metavar="URL",
        help="check the tree that is served there: every entry and tile, against the log's signed checkpoint",
    )
    fsck.add_argument("--vkey", metavar="VKEY", help="the log's verifier key, in place of --data")
    fsck.add_argument(
        AUTHORITIES_FLAG,
        type=Path,
        metavar="FILE",
        help="the authorities that count for the server's certificate (PEM; default: those of this machine)",
    )
    fsck.add_argument("--json", action="store_true", help="print one JSON object")
    backup = commands.add_parser(
        "backup",
        parents=[data],
        help="copy the database to a new file, while the log serves or not",
        description="The copy is of one moment, and checked as a start of the log would check it.",
        epilog=_RESTORING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    backup.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
    export = commands.add_parser(
        "export",
        parents=[data],
        help="write the published tree to a folder for any web server, and keep it current",
        description="Writes checkpoint, tiles and entries as C2SP tlog-tiles lays them out, while the log serves or "
        "not, and goes on with what is published later until told to stop. What is written was held against the "
        "signed checkpoint before. A folder that has an export of this log is continued; what else is in it, is not "
        "touched. If it is to be served, have the web server leave out files whose names begin with a dot.",
        epilog=_EXPORT_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    export.add_argument(
        "--to", type=Path, required=True, metavar="FOLDER", help="the folder, which is made if it is not there"
    )
    export.add_argument("--once", action="store_true", help="end when what is published now is there")
    stats = commands.add_parser(
        "stats", parents=[data], help="say how large the log is and where its bytes are", allow_abbrev=False
    )
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
        allow_abbrev=False,
    )
    recover.add_argument(
        "--newest",
        type=Path,
        metavar="FILE",
        help="the newest checkpoint of this log that anybody holds: a signed note, or a .tlog-proof with one in it",
    )
