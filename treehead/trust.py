"""Trust rules: which signers may speak for which names (`trust.toml`).

    [[namespace]]
    match   = "pypi:acme-*"                      # ECOSYSTEM:NAME, or ECOSYSTEM:PREFIX*
    signers = ["ed25519:…", "p256:…"]            # any one of them
    max_age = "14d"                              # optional: how old the newest witness's cosignature may be

The rule with the longest match decides alone; what it does not allow is refused, and so is a name that no rule matches.
There are no regular expressions and no code. Names are compared as they are signed, case and all; names on PyPI are
signed in their normalised form only (`acme-tool`), so a rule in another spelling is refused. Two ecosystems are ours:
`generic` for files without a package, and `unnamed` for entries whose signature covers a digest only (their name is
`sha256:` and the digest).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from treehead.encoding import parse_decimal, parse_utf8
from treehead.errors import MalformedError, UntrustedError
from treehead.keys import PublicKey, parse_public_key
from treehead.statement import PYPI, normalise_project

TRUST_BYTES_MAX = 1_048_576
MAX_AGE_S_MAX = 36_500 * 86_400

_MATCH = re.compile(r"(?P<ecosystem>[a-z0-9.+-]+):(?P<name>[^*\s]*)(?P<star>\*?)")
_AGE = re.compile(r"([0-9]+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name that artifacts are published under, such as ("pypi", "requests")."""

    ecosystem: str
    name: str

    def __str__(self) -> str:
        return f"{self.ecosystem}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One namespace rule. `prefix` tells a trailing star; `max_age_s` is None when any age will do."""

    ecosystem: str
    name: str
    prefix: bool
    signers: tuple[PublicKey, ...]
    max_age_s: int | None = None

    def is_match(self, name: Name) -> bool:
        """Whether the rule is about this name."""
        if name.ecosystem != self.ecosystem:
            return False
        return name.name.startswith(self.name) if self.prefix else name.name == self.name

    def __str__(self) -> str:
        return f"{self.ecosystem}:{self.name}{'*' if self.prefix else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """All rules of a trust file, in its order."""

    rules: tuple[Rule, ...]

    def rule_for(self, name: Name) -> Rule:
        """The one rule that decides about `name`: an exact match, else the longest prefix.

        Raises:
            UntrustedError: no rule matches.
        """
        matching = [rule for rule in self.rules if rule.is_match(name)]
        if not matching:
            raise UntrustedError(f"no trust rule matches {str(name)!r}")
        return max(matching, key=lambda rule: (len(rule.name), not rule.prefix))

    def check_signer(self, name: Name, signer: PublicKey) -> Rule:
        """The rule by which `signer` may speak for `name`.

        Raises:
            UntrustedError: no rule matches, or the deciding one does not list the signer.
        """
        rule = self.rule_for(name)
        if signer not in rule.signers:
            raise UntrustedError(f"{signer} is not among the signers of {str(rule)!r}, the rule for {str(name)!r}")
        return rule


def parse_trust(data: bytes) -> Trust:
    """Parse a trust file.

    Raises:
        MalformedError: data is not TOML, or not of the form above; the message names the rule and key.
    """
    try:
        document = tomllib.loads(parse_utf8(data, what="trust file", bytes_max=TRUST_BYTES_MAX))
    except (ValueError, RecursionError) as exc:  # ValueError: a number too long for Python to read
        raise MalformedError(f"trust file is not TOML: {exc}") from exc
    tables = document.pop("namespace", [])
    if document:
        raise MalformedError(f"trust file: unknown key {next(iter(document))!r}; it holds [[namespace]] tables only")
    if not isinstance(tables, list) or not tables:
        raise MalformedError("trust file has no [[namespace]] table")
    rules = tuple(_parse_rule(table, where=f"trust file, namespace {number}") for number, table in enumerate(tables, 1))
    seen: set[str] = set()
    for rule in rules:
        if str(rule) in seen:
            raise MalformedError(f"trust file: two rules match {str(rule)!r}")
        seen.add(str(rule))
    return Trust(rules=rules)


def _parse_rule(table: object, *, where: str) -> Rule:
    if not isinstance(table, dict):
        raise MalformedError(f"{where}: not a table")
    for key in table:
        if key not in ("match", "signers", "max_age"):
            raise MalformedError(f"{where}: unknown key {key!r}; known are match, signers and max_age")
    pattern = _MATCH.fullmatch(_text(table.get("match"), where=f"{where}, key match"))
    if pattern is None or not (pattern["name"] or pattern["star"]):
        raise MalformedError(f"{where}, key match: expected ECOSYSTEM:NAME or ECOSYSTEM:PREFIX*")
    if pattern["ecosystem"] == PYPI and normalise_project(pattern["name"]) != pattern["name"]:
        raise MalformedError(
            f"{where}, key match: names on PyPI are signed in their normalised form, lower-case and with single hyphens"
        )
    signers = table.get("signers")
    if not isinstance(signers, list) or not signers:
        raise MalformedError(f"{where}, key signers: expected a list of at least one public key")
    max_age = table.get("max_age")
    return Rule(
        ecosystem=pattern["ecosystem"],
        name=pattern["name"],
        prefix=bool(pattern["star"]),
        signers=_parse_signers(signers, where=f"{where}, key signers"),
        max_age_s=None if max_age is None else _parse_age(_text(max_age, where=f"{where}, key max_age"), where=where),
    )


def _text(value: object, *, where: str) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"{where}: expected a string")
    return value


def _parse_signers(values: Sequence[object], *, where: str) -> tuple[PublicKey, ...]:
    try:
        signers = tuple(parse_public_key(_text(value, where=where)) for value in values)
    except MalformedError as exc:
        raise MalformedError(f"{where}: {exc}") from exc
    if len(set(signers)) != len(signers):
        raise MalformedError(f"{where}: a public key is listed twice")
    return signers


def _parse_age(text: str, *, where: str) -> int:
    match = _AGE.fullmatch(text)
    if match is None:
        raise MalformedError(f"{where}, key max_age: expected a number and s, m, h or d, such as 14d")
    seconds = parse_decimal(match[1], what=f"{where}, key max_age") * _UNIT_S[match[2]]
    if not 0 < seconds <= MAX_AGE_S_MAX:
        raise MalformedError(f"{where}, key max_age: not between 1s and {MAX_AGE_S_MAX // 86_400}d")
    return seconds
