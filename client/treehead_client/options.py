"""The options that several subcommands share, and the files they name."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from treehead.encoding import parse_decimal
from treehead.errors import MalformedError, UnsupportedError, UsageError
from treehead.files import read_limited
from treehead.policy import POLICY_BYTES_MAX, Policy, parse_policy
from treehead.trust import TRUST_BYTES_MAX, Trust, parse_trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from treehead.tls import ClientTls

_TIMEOUT_S_MAX = 86_400


def add_policy(parser: ArgumentParser, *, required: bool = True) -> None:
    """Add `--policy`."""
    parser.add_argument(
        "--policy", required=required, metavar="POLICY", help="which logs and witnesses count (C2SP tlog-policy)"
    )


def add_log(parser: ArgumentParser) -> None:
    """Add `--log`."""
    parser.add_argument(
        "--log",
        required=True,
        metavar="HOST:PORT",
        help="where the log answers gRPC calls; https://HOST:PORT if it speaks TLS",
    )
    add_tls(parser)


def add_tls(parser: ArgumentParser) -> None:
    """Add `--tls-ca`, `--tls-cert` and `--tls-key`, which `read_tls` reads."""
    parser.add_argument(
        "--tls-ca",
        metavar="FILE",
        help="the CAs that https:// addresses need a certificate of, in PEM (default: those of the operating system)",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="our certificate for servers that want one, in PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key, in PKCS#8 PEM and of mode 0600")


def add_timeout(parser: ArgumentParser, *, default_s: int, help: str) -> None:
    """Add `--timeout-s`."""
    parser.add_argument(
        "--timeout-s", type=_seconds, default=default_s, metavar="N", help=f"{help} (default {default_s})"
    )


def add_passphrase_file(parser: ArgumentParser) -> None:
    """Add `--passphrase-file`."""
    parser.add_argument(
        "--passphrase-file",
        metavar="F",
        help="the key's passphrase is the file's first line (else $TREEHEAD_PASSPHRASE, else asked for on a terminal)",
    )


def add_state(parser: ArgumentParser) -> None:
    """Add `--state`."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="where the newest head of each log is remembered and evidence is kept"
        " (default $TREEHEAD_STATE, else treehead in $XDG_STATE_HOME or ~/.local/state)",
    )


def _seconds(text: str) -> int:
    try:
        seconds = parse_decimal(text, what="it", maximum=_TIMEOUT_S_MAX)
    except MalformedError as exc:
        raise ArgumentTypeError(f"{text!r} is no number of seconds: {exc}") from exc
    if seconds == 0:
        raise ArgumentTypeError("no time at all is not enough")
    return seconds


def state_directory(option: str | None) -> str:
    """Where the state is kept: `--state`, or else what the environment says.

    Raises:
        UsageError: neither says anything.
    """
    if option is not None:
        return option
    if configured := os.environ.get("TREEHEAD_STATE"):
        return configured
    if base := os.environ.get("XDG_STATE_HOME"):
        return f"{base}/treehead"
    if home := os.environ.get("HOME"):
        return f"{home}/.local/state/treehead"
    raise UsageError("there is no place for the state: give --state DIR")


def read_tls(arguments: Namespace, *, addresses: Sequence[str]) -> ClientTls | None:
    """Whom to trust at addresses that begin with https://; None if there is no such address.

    Raises:
        UsageError: an option says so in vain, or needs another one.
    """
    files = {"--tls-ca": arguments.tls_ca, "--tls-cert": arguments.tls_cert, "--tls-key": arguments.tls_key}
    given = {flag: path for flag, path in files.items() if path is not None}
    if not any(address.startswith("https://") for address in addresses):
        if given:
            raise UsageError(f"{', '.join(given)}: no address begins with https://, so there is no TLS to use this for")
        return None
    from pathlib import Path

    from treehead.tls import ClientTls

    ca, certificate, key = (None if path is None else Path(path) for path in files.values())
    return ClientTls(ca=ca, certificate=certificate, key=key)


def read_policy(path: str) -> Policy:
    """Read the policy file.

    Raises:
        UsageError: it cannot be read or is no policy.
    """
    try:
        return parse_policy(read_limited(path, bytes_max=POLICY_BYTES_MAX, what="policy"))
    except (MalformedError, UnsupportedError) as exc:
        raise UsageError(f"{path}: {exc}") from exc


def read_trust(path: str) -> Trust:
    """Read the trust file.

    Raises:
        UsageError: it cannot be read or is no trust file.
    """
    try:
        return parse_trust(read_limited(path, bytes_max=TRUST_BYTES_MAX, what="trust file"))
    except (MalformedError, UnsupportedError) as exc:
        raise UsageError(f"{path}: {exc}") from exc
