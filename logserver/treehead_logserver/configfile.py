"""The file log.toml: what an operator decides about a log, beyond the few things that have an option.

    grpc = "127.0.0.1:8461"              # as --grpc
    http = "127.0.0.1:8460"              # as --http

    [tls]                                # for both listeners
    certificate = "tls/fullchain.pem"
    key = "tls/key.pem"                  # mode 0600
    client_ca = "tls/clients.pem"        # optional: only clients with a certificate by these

    [admission]                          # see `rules`
    [admission.rates]                    # see `quota`

    [witnesses]
    policy = "witnesses.policy"          # C2SP tlog-policy: witnesses with their URLs, groups, quorum
    fail = "closed"                      # or "open": publish even without the quorum

    [publication]
    interval_ms = 1000                   # 100 to 3600000
    refresh_s = 600                      # 10 to 86400: how often the witnesses of an idle log are asked

Paths are relative to the file's own folder. A key that is not known is refused: one that was meant to protect the log
and is misspelt would otherwise protect nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from treehead.encoding import parse_utf8
from treehead.errors import MalformedError, TreeheadError, UsageError
from treehead.files import read_limited
from treehead.policy import POLICY_BYTES_MAX, Policy, parse_policy
from treehead.tls import ServerTls
from treehead_logserver.quota import Rates, parse_rates
from treehead_logserver.rules import AdmissionRules, parse_rules

CONFIG_BYTES_MAX = 1_048_576
INTERVAL_MS_MIN = 100
INTERVAL_MS_MAX = 3_600_000
REFRESH_S_MIN = 10
REFRESH_S_MAX = 86_400

_FAIL = {"closed": False, "open": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessing:
    """Who cosigns the log's checkpoints, and whether they are published without a quorum, too."""

    policy: Policy
    fail_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What log.toml says; what it does not say is None, or as it is for a log without the file."""

    grpc: str | None = None
    http: str | None = None
    tls: ServerTls | None = None
    rules: AdmissionRules = field(default_factory=AdmissionRules)
    rates: Rates = field(default_factory=Rates)
    witnessing: Witnessing | None = None
    interval_ms: int | None = None
    refresh_s: int | None = None


def read_config_file(path: Path) -> ConfigFile:
    """Read log.toml, and the policy that it names.

    Raises:
        UsageError: it cannot be read, or says something that is not understood; the message names file, table and key.
    """
    try:
        data = read_limited(path, bytes_max=CONFIG_BYTES_MAX, what="configuration")
        document = tomllib.loads(parse_utf8(data, what="the file", bytes_max=CONFIG_BYTES_MAX))
        return _parse(_Table(document, where=""), folder=path.parent)
    except UsageError:
        raise
    except (ValueError, RecursionError) as exc:  # ValueError: no TOML, or a number too long for Python to read
        raise UsageError(f"{path} is not TOML: {exc}") from exc
    except TreeheadError as exc:
        raise UsageError(f"{path}: {exc}") from exc


class _Table:
    """One table, whose keys are taken one by one; what is left in the end is not known."""

    def __init__(self, values: Mapping[str, object], *, where: str) -> None:
        self._left = dict(values)
        self._where = where

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def table(self, key: str) -> _Table | None:
        value = self._left.pop(key, None)
        if value is not None and not isinstance(value, dict):
            raise MalformedError(f"{self._path(key)} is not a table")
        return None if value is None else _Table(value, where=self._path(key))

    def take(self, key: str) -> object:
        return self._left.pop(key, None)

    def rest(self) -> Mapping[str, object]:
        left, self._left = self._left, {}
        return left

    def text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if value is not None and (not isinstance(value, str) or not value):
            raise MalformedError(f"{self._path(key)} is not a string, or empty")
        return value

    def needed_text(self, key: str) -> str:
        if (value := self.text(key)) is None:
            raise MalformedError(f"{self._path(key)} is missing")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self.needed_text(key)
        if value not in choices:
            raise MalformedError(f"{self._path(key)} is {value!r}, not one of {', '.join(choices)}")
        return value

    def number(self, key: str, *, minimum: int, maximum: int) -> int | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise MalformedError(f"{self._path(key)} is not a number from {minimum} to {maximum}")
        return value

    def finish(self) -> None:
        for key in self._left:
            raise MalformedError(f"{self._path(key)!r} is not known here")


def _parse(document: _Table, *, folder: Path) -> ConfigFile:
    grpc, http = document.text("grpc"), document.text("http")
    tls = document.table("tls")
    admission = document.table("admission")
    witnesses = document.table("witnesses")
    publication = document.table("publication") or _Table({}, where="publication")
    document.finish()
    interval_ms = publication.number("interval_ms", minimum=INTERVAL_MS_MIN, maximum=INTERVAL_MS_MAX)
    refresh_s = publication.number("refresh_s", minimum=REFRESH_S_MIN, maximum=REFRESH_S_MAX)
    publication.finish()
    rates, rules = Rates(), AdmissionRules()
    if admission is not None:
        if (table := admission.take("rates")) is not None:
            rates = parse_rates(table, where="admission.rates")
        rules = parse_rules(admission.rest(), where="admission")
    return ConfigFile(
        grpc=grpc,
        http=http,
        tls=None if tls is None else _parse_tls(tls, folder=folder),
        rules=rules,
        rates=rates,
        witnessing=None if witnesses is None else _parse_witnesses(witnesses, folder=folder),
        interval_ms=interval_ms,
        refresh_s=refresh_s,
    )


def _parse_tls(table: _Table, *, folder: Path) -> ServerTls:
    certificate, key, client_ca = table.needed_text("certificate"), table.needed_text("key"), table.text("client_ca")
    table.finish()
    return ServerTls(
        certificate=folder / certificate, key=folder / key, client_ca=None if client_ca is None else folder / client_ca
    )


def _parse_witnesses(table: _Table, *, folder: Path) -> Witnessing:
    path, fail = folder / table.needed_text("policy"), table.choice("fail", tuple(_FAIL))
    table.finish()
    try:
        policy = parse_policy(read_limited(path, bytes_max=POLICY_BYTES_MAX, what="policy"))
    except TreeheadError as exc:
        raise UsageError(str(exc) if isinstance(exc, UsageError) else f"{path}: {exc}") from exc
    if policy.quorum is None:
        raise UsageError(f"{path}: quorum none asks for no witness: name a group, or leave [witnesses] out")
    return Witnessing(policy=policy, fail_open=_FAIL[fail])
