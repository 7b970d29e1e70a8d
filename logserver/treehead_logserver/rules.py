"""Admission rules: who may have what logged, as the operator says in the table `[admission]` of log.toml.

    [admission]
    kinds           = ["attestation", "hashedrekord"]
    entry_bytes_max = 65535                           # no more than the format's own limit
    signers         = ["ed25519:…", "p256:…"]         # only their entries are taken; without it, anyone's
    unowned         = "refuse"                        # or "accept": names that no owner rule matches

    [[admission.owner]]                               # names that belong to somebody
    match           = "pypi:acme-*"                   # as in trust.toml: the longest match decides alone
    signers         = ["ed25519:…"]

An entry goes by the names that a client's trust rules know it by (`treehead.trust.name_of`), and by the packages that
it is found by (`treehead.lookup`): its release's, and those of package URLs that its subjects are called by, in the
canonical spelling of their types. Its signer has to be an owner of each that is owned. So nothing gets in that a client
could take for a release of that name by a stranger, or that is listed among the owner's when it looks for the package.
Other names for the same bytes are other names, here as there: a statement about `acme_tool-1.0.whl` that is no release
is `generic:acme_tool-1.0.whl`, which no rule for `pypi:` matches.

A key that is listed is taken bare and in no certificate. Anyone can make a certificate for a key that is not theirs,
have it beside a signature that is public already, and so make ever more entries of one, with whatever they like in it.

What nobody signed has no signer and no name. With any of `signers`, `owner` and `unowned = "refuse"` a log takes no
such bytes, even with the kind `opaque`.

Rules say who is let in, and no more: what is in the log proves that it was logged, never that it was right to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from treehead.entry import Entry
from treehead.errors import MalformedError, TooLargeError, UnsupportedError, UntrustedError
from treehead.publickey import PublicKey, format_public_key
from treehead.purl import PURL_START, PackageUrl, parse_purl
from treehead.tile import ENTRY_BYTES_MAX
from treehead.trust import Name, Trust, format_rule, name_of, parse_rule_tables, parse_signers
from treehead_logserver.kinds import ALL_KINDS, OPAQUE, SIGNED_KINDS

_KEYS = ("kinds", "entry_bytes_max", "signers", "unowned", "owner")
_ACCEPT = "accept"
_REFUSE = "refuse"
_NO_OWNERS = Trust(rules=())

PlainValue = str | int | Sequence["PlainValue"] | Mapping[str, "PlainValue"]
"""What a table of rules is made of, and what `marshal` and TOML can both say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRules:
    """The rules of one log; without arguments, those of a log that takes all signed entries.

    Attributes:
        kinds: the kinds of entries that it takes, of `ALL_KINDS`.
        entry_bytes_max: how large they may be; at most what the format allows.
        signers: the only ones whose entries it takes; None for anyone's.
        owners: whose names are whose; the ages in these rules are of no account.
        refuse_unowned: whether it refuses names that no owner rule matches.
    """

    kinds: frozenset[str] = SIGNED_KINDS
    entry_bytes_max: int = ENTRY_BYTES_MAX
    signers: frozenset[PublicKey] | None = None
    owners: Trust = _NO_OWNERS
    refuse_unowned: bool = False

    def check_size(self, entry_bytes: int) -> None:
        """Returns only if an entry of so many bytes may be logged.

        Raises:
            TooLargeError: it is larger than the format or the rule allows; the message says which.
        """
        if entry_bytes <= self.entry_bytes_max:
            return
        if entry_bytes > ENTRY_BYTES_MAX:
            raise TooLargeError(f"entry is larger than {ENTRY_BYTES_MAX} bytes")
        raise TooLargeError(f"rule admission.entry_bytes_max: entry is larger than {self.entry_bytes_max} bytes")

    def check(self, entry: Entry) -> None:
        """Returns only if the signer that an entry names may have it logged.

        Not checked: its size, and its signature; so the signer is only claimed.

        Raises:
            UnsupportedError: the log does not take entries of this kind.
            UntrustedError: a rule refuses it; the message says which.
        """
        kind = entry.kind.partition("/")[0]
        if kind not in self.kinds and not self.takes_unsigned:
            raise UnsupportedError(
                f"rule admission.kinds: this log does not take {kind} (it takes {', '.join(sorted(self.kinds))})"
            )
        if self.signers is not None:
            _check_signer(
                entry,
                self.signers,
                rule="rule admission.signers",
                otherwise="is not among those whose entries this log takes",
            )
        if self.owners.rules or self.refuse_unowned:
            self._check_names(entry)

    def _check_names(self, entry: Entry) -> None:
        # All of an entry's names count: a client believes it about each of its artifacts.
        names = dict.fromkeys(name_of(entry, artifact) for artifact in entry.artifacts)
        for name in {**names, **dict.fromkeys(_packages_of(entry))}:
            rule = self.owners.find_rule(name)
            if rule is not None:
                _check_signer(
                    entry,
                    rule.signers,
                    rule=f'rule admission.owner "{rule}"',
                    otherwise=f"is not among the owners of {str(name)!r}",
                )
            elif self.refuse_unowned and name in names:
                raise UntrustedError(f"rule admission.unowned: no owner rule matches {str(name)!r}")

    @property
    def takes_unsigned(self) -> bool:
        """Whether the log takes any bytes."""
        return OPAQUE in self.kinds and not (self.signers is not None or self.owners.rules or self.refuse_unowned)

    def check_unsigned(self, problem: str) -> None:
        """Returns only if bytes that are no signed entry may be logged; `problem` is why they are none.

        Raises:
            UntrustedError: a rule refuses them; the message says which.
        """
        if self.takes_unsigned:
            return
        if self.signers is not None:
            rule = "signers"
        elif self.owners.rules:
            rule = "owner"
        else:
            rule = "unowned" if self.refuse_unowned else "kinds"
        raise UntrustedError(f"rule admission.{rule}: what nobody signed is not taken, and this is no entry: {problem}")


def _check_signer(entry: Entry, listed: Collection[PublicKey], *, rule: str, otherwise: str) -> None:
    if entry.signer not in listed:
        raise UntrustedError(f"{rule}: signer {entry.signer} {otherwise}")
    if entry.certificate is not None:
        raise UntrustedError(
            f"{rule}: signer {entry.signer} comes in a certificate, which anyone can make for a key that is listed; "
            "send the bare key"
        )


def _packages_of(entry: Entry) -> Iterator[Name]:
    """The packages that an entry is found by, in the spelling that they are looked up in."""
    if entry.release is not None:
        yield _package(PackageUrl(type=entry.release.ecosystem, name=entry.release.name))
    for artifact in entry.artifacts:
        if artifact.name is not None and artifact.name.startswith(PURL_START):
            with suppress(MalformedError):  # then it is found as the name that it is, and no package's
                yield _package(parse_purl(artifact.name))


def _package(purl: PackageUrl) -> Name:
    return Name(ecosystem=purl.type, name=purl.canonical().name)


def parse_rules(table: object, *, where: str) -> AdmissionRules:
    """Read the table `[admission]`, as TOML gives it; `where` names it in messages.

    Its sub-table `rates` is not among its keys here: whoever reads the file takes it out first (`quota.parse_rates`).

    Raises:
        MalformedError: a key is unknown, a value is not of its form, or two owner rules have one match; the message
        names the key.
    """
    if not isinstance(table, dict):
        raise MalformedError(f"{where}: not a table")
    for key in table:
        if key not in _KEYS:
            raise MalformedError(f"{where}: unknown key {key!r}; known are {', '.join(_KEYS[:-1])} and {_KEYS[-1]}")
    signers = table.get("signers")
    owners = table.get("owner", [])
    if not isinstance(owners, list):
        raise MalformedError(f"{where}, key owner: expected [[owner]] tables")
    return AdmissionRules(
        kinds=_parse_kinds(table["kinds"], where=f"{where}, key kinds") if "kinds" in table else SIGNED_KINDS,
        entry_bytes_max=_parse_size(
            table.get("entry_bytes_max", ENTRY_BYTES_MAX), where=f"{where}, key entry_bytes_max"
        ),
        signers=None if signers is None else frozenset(parse_signers(signers, where=f"{where}, key signers")),
        owners=Trust(rules=parse_rule_tables(owners, where=f"{where}.owner")),
        refuse_unowned=_parse_unowned(table.get("unowned", _ACCEPT), where=f"{where}, key unowned"),
    )


def format_rules(rules: AdmissionRules) -> dict[str, PlainValue]:
    """The table from which `parse_rules` makes these rules."""
    table: dict[str, PlainValue] = {
        "kinds": sorted(rules.kinds),
        "entry_bytes_max": rules.entry_bytes_max,
        "unowned": _REFUSE if rules.refuse_unowned else _ACCEPT,
        "owner": [format_rule(rule) for rule in rules.owners.rules],
    }
    if rules.signers is not None:
        table["signers"] = sorted(map(format_public_key, rules.signers))
    return table


def _parse_kinds(value: object, *, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not value or not all(isinstance(kind, str) for kind in value):
        raise MalformedError(f"{where}: expected a list of at least one of {', '.join(sorted(ALL_KINDS))}")
    kinds = frozenset(value)
    for kind in value:
        if kind not in ALL_KINDS:
            raise MalformedError(f"{where}: {kind!r} is not one of {', '.join(sorted(ALL_KINDS))}")
    if len(kinds) != len(value):
        raise MalformedError(f"{where}: a kind is listed twice")
    return kinds


def _parse_size(value: object, *, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= ENTRY_BYTES_MAX:
        raise MalformedError(f"{where}: expected a number from 1 to {ENTRY_BYTES_MAX}")
    return value


def _parse_unowned(value: object, *, where: str) -> bool:
    if value not in (_ACCEPT, _REFUSE):
        raise MalformedError(f'{where}: expected "{_ACCEPT}" or "{_REFUSE}"')
    return value == _REFUSE
