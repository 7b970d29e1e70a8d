"""Trust rules: which signers may speak for which names (`trust.toml`).

    [[namespace]]
    match   = "pypi:acme-*"                      # ECOSYSTEM:NAME, or ECOSYSTEM:PREFIX*
    signers = ["ed25519:…", "p256:…"]            # any one of them
    max_age = "14d"                              # optional: how old the newest witness's cosignature may be

The rule with the longest match decides alone; what it does not allow is refused, and so is a name that no rule matches.
There are no regular expressions and no code. Names are compared as they are signed, case and all; names on PyPI are
signed in their normalised form only (`acme-tool`), so a rule in another spelling is refused. Two ecosystems are ours:
`generic` for files without a package, and `unnamed` for entries whose signature covers a digest only (their name is
the algorithm, a colon and the digest, such as `sha256:9f86…`).

A log's owner rules (`[[admission.owner]]` of log.toml) are such rules too, about the same names and about those of the
packages that an entry is found by.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from treehead.encoding import parse_decimal, parse_utf8
from treehead.errors import MalformedError, UntrustedError
from treehead.publickey import PublicKey, parse_public_key
from treehead.statement import PYPI, UNNAMED_ECOSYSTEM, normalise_project

if TYPE_CHECKING:
    from treehead.entry import Artifact, Entry

GENERIC_ECOSYSTEM = "generic"
"""Where trust rules find statements that name a file and no package."""

TRUST_BYTES_MAX = 1_048_576
MAX_AGE_S_MAX = 36_500 * 86_400

_MATCH = re.compile(r"(?P<ecosystem>[a-z0-9.+-]+):(?P<name>[^*\s]*)(?P<star>\*?)")
_AGE = re.compile(r"([0-9]+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_RULE_KEYS = ("match", "signers")
_NAMESPACE_KEYS = (*_RULE_KEYS, "max_age")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name that artifacts are published under, such as ("pypi", "requests")."""

    ecosystem: str
    name: str

    def __str__(self) -> str:
        return f"{self.ecosystem}:{self.name}"


def name_of(entry: Entry, artifact: Artifact) -> Name:
    """The name by which an entry speaks of one of its artifacts: its package's, else the file's, else the digest.

    Not checked: that the file's own name belongs to the package; see `treehead.verify`.
    """
    if artifact.name is None:
        ((algorithm, digest),) = artifact.digests.items()  # a bare signature is over one
        return Name(ecosystem=UNNAMED_ECOSYSTEM, name=f"{algorithm}:{digest.hex()}")
    if entry.release is not None:
        return Name(ecosystem=entry.release.ecosystem, name=entry.release.name)
    return Name(ecosystem=GENERIC_ECOSYSTEM, name=artifact.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One namespace rule. `prefix` tells a trailing star; `max_age_s` is None when any age will do."""

    ecosystem: str
    name: str
    prefix: bool
    signers: tuple[PublicKey, ...]
    max_age_s: int | None = None

    def __str__(self) -> str:
        return f"{self.ecosystem}:{self.name}{'*' if self.prefix else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """All rules of a trust file, in its order. No two of them have one match."""

    rules: tuple[Rule, ...]
    _by_match: Mapping[tuple[str, str, bool], Rule] = field(init=False, repr=False, compare=False)
    _prefix_chars: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The lengths of the prefixes that there are, longest first: however many rules, a look-up tries only these."""

    def __post_init__(self) -> None:
        by_match = {(rule.ecosystem, rule.name, rule.prefix): rule for rule in self.rules}
        lengths = {len(rule.name) for rule in self.rules if rule.prefix}
        object.__setattr__(self, "_by_match", by_match)
        object.__setattr__(self, "_prefix_chars", tuple(sorted(lengths, reverse=True)))

    def find_rule(self, name: Name) -> Rule | None:
        """The one rule that decides about `name`: an exact match, else the longest prefix; None if no rule matches."""
        exact = self._by_match.get((name.ecosystem, name.name, False))
        if exact is not None:
            return exact
        for chars in self._prefix_chars:
            if chars <= len(name.name):
                rule = self._by_match.get((name.ecosystem, name.name[:chars], True))
                if rule is not None:
                    return rule
        return None

    def rule_for(self, name: Name) -> Rule:
        """The rule that decides about `name`; see `find_rule`.

        Raises:
            UntrustedError: no rule matches.
        """
        rule = self.find_rule(name)
        if rule is None:
            raise UntrustedError(f"no trust rule matches {str(name)!r}")
        return rule

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
    return Trust(rules=_parse_rules(tables, where="trust file", each="trust file, namespace", keys=_NAMESPACE_KEYS))


def parse_rule_tables(tables: Sequence[object], *, where: str) -> tuple[Rule, ...]:
    """Parse tables of `match` and `signers` alone, as another file has them; `where` names their array in messages.

    Raises:
        MalformedError: one is not of that form, or two have one match; the message names table and key.
    """
    return _parse_rules(tables, where=where, each=where, keys=_RULE_KEYS)


def format_rule(rule: Rule) -> dict[str, str | list[str]]:
    """The table of a rule without an age; `parse_rule_tables` reads it back."""
    return {"match": str(rule), "signers": [str(signer) for signer in rule.signers]}


def parse_signers(values: object, *, where: str) -> tuple[PublicKey, ...]:
    """Parse a list of at least one public key, none of them twice; `where` names it in messages.

    Raises:
        MalformedError: values is anything else.
    """
    if not isinstance(values, list) or not values:
        raise MalformedError(f"{where}: expected a list of at least one public key")
    texts = [_text(value, where=where) for value in values]
    try:
        signers = tuple(map(parse_public_key, texts))
    except MalformedError as exc:
        raise MalformedError(f"{where}: {exc}") from exc
    if len(set(signers)) != len(signers):
        raise MalformedError(f"{where}: a public key is listed twice")
    return signers


def _parse_rules(tables: Sequence[object], *, where: str, each: str, keys: Sequence[str]) -> tuple[Rule, ...]:
    rules = tuple(_parse_rule(table, where=f"{each} {number}", keys=keys) for number, table in enumerate(tables, 1))
    seen: set[str] = set()
    for rule in rules:
        if str(rule) in seen:
            raise MalformedError(f"{where}: two rules match {str(rule)!r}")
        seen.add(str(rule))
    return rules


def _parse_rule(table: object, *, where: str, keys: Sequence[str]) -> Rule:
    if not isinstance(table, dict):
        raise MalformedError(f"{where}: not a table")
    for key in table:
        if key not in keys:
            raise MalformedError(f"{where}: unknown key {key!r}; known are {', '.join(keys[:-1])} and {keys[-1]}")
    pattern = _MATCH.fullmatch(_text(table.get("match"), where=f"{where}, key match"))
    if pattern is None or not (pattern["name"] or pattern["star"]):
        raise MalformedError(f"{where}, key match: expected ECOSYSTEM:NAME or ECOSYSTEM:PREFIX*")
    if pattern["ecosystem"] == PYPI and normalise_project(pattern["name"]) != pattern["name"]:
        raise MalformedError(
            f"{where}, key match: names on PyPI are signed in their normalised form, lower-case and with single hyphens"
        )
    max_age = table.get("max_age")
    return Rule(
        ecosystem=pattern["ecosystem"],
        name=pattern["name"],
        prefix=bool(pattern["star"]),
        signers=parse_signers(table.get("signers"), where=f"{where}, key signers"),
        max_age_s=None if max_age is None else _parse_age(_text(max_age, where=f"{where}, key max_age"), where=where),
    )


def _text(value: object, *, where: str) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"{where}: expected a string")
    return value


def _parse_age(text: str, *, where: str) -> int:
    match = _AGE.fullmatch(text)
    if match is None:
        raise MalformedError(f"{where}, key max_age: expected a number and s, m, h or d, such as 14d")
    seconds = parse_decimal(match[1], what=f"{where}, key max_age") * _UNIT_S[match[2]]
    if not 0 < seconds <= MAX_AGE_S_MAX:
        raise MalformedError(f"{where}, key max_age: not between 1s and {MAX_AGE_S_MAX // 86_400}d")
    return seconds
