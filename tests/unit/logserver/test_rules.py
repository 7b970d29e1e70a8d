"""Who may have what logged: each rule refuses what it is about, says its name, and lets everything else pass."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.unit.library.signers import certificate, key_of, public_of, sign
from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    P256_PUBLISHER,
    PUBLISHER,
    STRANGER,
    TRUST,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    statement,
)
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import Entry, hashedrekord, parse_entry
from treehead.errors import MalformedError, TooLargeError, UnsupportedError, UntrustedError
from treehead.lookup import PURL, terms_of
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.purl import parse_purl
from treehead.statement import STATEMENT_TYPE
from treehead.tile import ENTRY_BYTES_MAX
from treehead.trust import Name, Trust, name_of, parse_rule_tables
from treehead_logserver.kinds import ALL_KINDS, OPAQUE, SIGNED_KINDS
from treehead_logserver.rules import AdmissionRules, format_rules, parse_rules

ACME, OTHER = str(PUBLISHER.public), str(STRANGER.public)
BARE = str(P256_PUBLISHER.public)
DIGEST = digests(CONTENT)["sha256"].hex()


def rules(text: str) -> AdmissionRules:
    """The rules of a log.toml."""
    return parse_rules(tomllib.loads(text)["admission"], where="admission")


def owner(match: str, *signers: str) -> str:
    listed = ", ".join(f'"{signer}"' for signer in signers)
    return f'[[admission.owner]]\nmatch = "{match}"\nsigners = [{listed}]\n'


def release(*, signer: PrivateKey = PUBLISHER, **changes: str) -> Entry:
    return parse_entry(attestation_leaf(statement(**changes), signer=signer))


def foreign(*names: str, signer: PrivateKey = STRANGER) -> Entry:
    """A statement that is no release, about files of these names."""
    subjects: list[JsonValue] = [{"name": name, "digest": {"sha256": DIGEST}} for name in names]
    payload = format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": subjects})
    return parse_entry(attestation_leaf(payload, signer=signer))


def rekord(der: bytes | None = None, *, scheme: Scheme = Scheme.P256) -> bytes:
    """The leaf of a bare signature by the key of a scheme, which comes in a certificate if one is given."""
    digest = hashlib.new(scheme.digest or "", CONTENT).digest()
    signature = sign(scheme, CONTENT)
    return hashedrekord.format_leaf(digest=digest, signature=signature, signer=public_of(scheme), certificate=der)


# --- kinds and sizes -------------------------------------------------------------------------------------------------


def test_without_rules_a_log_takes_whatever_is_signed() -> None:
    assert rules("[admission]") == AdmissionRules()
    for entry in (release(), release(signer=STRANGER), foreign("a", "b"), parse_entry(hashedrekord_leaf())):
        AdmissionRules().check(entry)
    AdmissionRules().check_size(ENTRY_BYTES_MAX)
    assert not AdmissionRules().takes_unsigned


def test_a_kind_that_is_not_listed_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"^rule admission\.kinds: .* hashedrekord \(it takes attestation\)$"):
        rules('[admission]\nkinds = ["attestation"]').check(parse_entry(hashedrekord_leaf()))


def test_a_size_is_refused_by_the_format_or_by_the_log() -> None:
    small = rules("[admission]\nentry_bytes_max = 4096")
    small.check_size(4_096)
    for size in (4_097, ENTRY_BYTES_MAX):
        with pytest.raises(TooLargeError, match=r"^rule admission\.entry_bytes_max: entry is larger than 4096 bytes$"):
            small.check_size(size)
    for any_rules in (small, AdmissionRules()):
        with pytest.raises(TooLargeError, match=r"^entry is larger than 65535 bytes$"):
            any_rules.check_size(ENTRY_BYTES_MAX + 1)


# --- signers ---------------------------------------------------------------------------------------------------------


def test_only_a_listed_signer_is_let_in() -> None:
    closed = rules(f'[admission]\nsigners = ["{ACME}", "{BARE}"]')
    closed.check(release())
    closed.check(foreign("any file", signer=PUBLISHER))
    closed.check(parse_entry(hashedrekord_leaf()))
    with pytest.raises(UntrustedError) as refusal:
        closed.check(release(signer=STRANGER))
    assert str(refusal.value) == (
        f"rule admission.signers: signer {OTHER} is not among those whose entries this log takes"
    )


def test_an_owner_who_is_not_a_listed_signer_is_not_let_in() -> None:
    closed = rules(f'[admission]\nsigners = ["{OTHER}"]\n' + owner("pypi:acme-*", ACME))
    with pytest.raises(UntrustedError, match=r"^rule admission\.signers: "):
        closed.check(release())


def test_a_listed_key_in_a_certificate_is_refused_since_anyone_can_make_one() -> None:
    listed = str(public_of(Scheme.P256))
    closed = rules(f'[admission]\nsigners = ["{listed}", "{ACME}"]')
    closed.check(parse_entry(rekord()))
    for serial in (1, 2):
        with pytest.raises(UntrustedError) as refusal:
            closed.check(parse_entry(rekord(certificate(key_of(Scheme.P256), serial=serial))))
        assert str(refusal.value) == (
            f"rule admission.signers: signer {listed} comes in a certificate, which anyone can make for a key that is "
            "listed; send the bare key"
        )
    with pytest.raises(UntrustedError, match=r"is not among those whose entries this log takes$"):
        closed.check(parse_entry(rekord(certificate(key_of(Scheme.P384)), scheme=Scheme.P384)))


# --- owners ----------------------------------------------------------------------------------------------------------


def test_an_owned_name_is_its_owners_alone() -> None:
    owned = rules("[admission]\n" + owner("pypi:acme-*", ACME))
    owned.check(release())
    with pytest.raises(UntrustedError) as refusal:
        owned.check(release(signer=STRANGER))
    assert str(refusal.value) == (
        f"rule admission.owner \"pypi:acme-*\": signer {OTHER} is not among the owners of 'pypi:acme-tool'"
    )


def test_the_longest_match_decides_alone() -> None:
    owned = rules("[admission]\n" + owner("pypi:acme-*", ACME) + owner("pypi:acme-tool", OTHER) + owner("pypi:*", BARE))
    owned.check(release(signer=STRANGER))
    owned.check(release(name="acme-core"))
    owned.check(release(name="flask", signer=P256_PUBLISHER))
    for entry, decides in (
        (release(), '"pypi:acme-tool"'),
        (release(name="acme-core", signer=STRANGER), r'"pypi:acme-\*"'),
        (release(name="flask"), r'"pypi:\*"'),
    ):
        with pytest.raises(UntrustedError, match=rf"^rule admission\.owner {decides}: "):
            owned.check(entry)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(release(signer=STRANGER, ecosystem="npm"), id="other_ecosystem"),
        pytest.param(release(signer=STRANGER, name="acme"), id="shorter_name"),
        pytest.param(release(signer=STRANGER, name="not-acme-tool"), id="longer_name"),
        pytest.param(release(signer=STRANGER, name="other"), id="file_of_the_owned_package_in_a_release_of_another"),
        pytest.param(foreign(FILENAME), id="file_of_the_owned_package_without_a_release"),
        pytest.param(foreign("pypi:acme-tool"), id="file_that_is_called_as_the_name"),
        pytest.param(foreign("pkg:pypi/acme-tool@1.0 "), id="file_that_is_called_as_no_package_url"),
        pytest.param(parse_entry(hashedrekord_leaf()), id="the_same_bytes_by_digest"),
    ],
)
def test_an_owner_rule_is_about_no_more_than_a_clients_rule_for_that_name(entry: Entry) -> None:
    """Whatever a client would not take for `pypi:acme-*`, a stranger may have logged."""
    match = "pypi:acme-*"
    rules("[admission]\n" + owner(match, ACME)).check(entry)
    client = Trust(rules=tuple(rule for rule in TRUST.rules if str(rule) == match))
    assert [client.find_rule(name_of(entry, artifact)) for artifact in entry.artifacts] == [None]


@pytest.mark.parametrize(
    ("match", "entry"),
    [
        pytest.param("pypi:acme-*", foreign("pkg:pypi/acme-tool@1.0"), id="version"),
        pytest.param("pypi:acme-*", foreign("pkg:pypi/acme-tool"), id="package"),
        pytest.param("pypi:acme-*", foreign("other", "pkg:pypi/acme-tool@1.0?a=b#c"), id="second_subject"),
        pytest.param("pypi:acme-tool", foreign("pkg:pypi/Acme_Tool@1.0"), id="another_spelling"),
        pytest.param("npm:@acme/*", foreign("pkg:npm/%40acme/x@1.0"), id="namespace"),
        pytest.param("npm:acme-*", release(signer=STRANGER, ecosystem="npm", name="Acme-X"), id="release_in_capitals"),
    ],
)
def test_what_is_found_among_the_releases_of_an_owned_package_is_its_owners_alone(match: str, entry: Entry) -> None:
    """Whoever looks for `pkg:pypi/acme-tool` is shown what its owner signed and nothing else."""
    rule = rules("[admission]\n" + owner(match, ACME))
    with pytest.raises(UntrustedError, match=rf'^rule admission\.owner "{re.escape(match)}": signer .* the owners of '):
        rule.check(entry)
    rule.check(replace(entry, signer=PUBLISHER.public))
    found = {parse_purl(term.value.decode()) for term in terms_of(entry) if term.kind == PURL}
    assert any(rule.owners.find_rule(Name(ecosystem=purl.type, name=purl.name)) for purl in found)


def test_the_package_of_a_package_url_needs_no_owner_besides_its_name() -> None:
    """As clients know it, a subject that is called by a package URL is a file of that name."""
    closed = rules('[admission]\nunowned = "refuse"\n' + owner("generic:pkg:*", ACME))
    closed.check(foreign("pkg:pypi/acme-tool@1.0", signer=PUBLISHER))
    closed = rules('[admission]\nunowned = "refuse"\n' + owner("pypi:acme-*", ACME))
    with pytest.raises(UntrustedError, match=r"no owner rule matches 'generic:pkg:pypi/acme-tool@1\.0'"):
        closed.check(foreign("pkg:pypi/acme-tool@1.0", signer=PUBLISHER))


def test_an_owners_key_in_a_certificate_is_refused_where_the_rule_matches_and_only_there() -> None:
    certified = parse_entry(rekord(certificate(key_of(Scheme.P256))))
    matching = rules("[admission]\n" + owner("unnamed:*", str(public_of(Scheme.P256))))
    matching.check(parse_entry(rekord()))
    with pytest.raises(UntrustedError, match=r'^rule admission\.owner "unnamed:\*": signer .* comes in a certificate'):
        matching.check(certified)
    rules("[admission]\n" + owner("pypi:acme-*", str(public_of(Scheme.P256)))).check(certified)


@pytest.mark.parametrize("names", [("acme.tar.gz",), ("other", "acme.tar.gz"), ("acme.tar.gz", "other")])
def test_an_entry_has_to_be_its_owners_by_each_of_its_names(names: Sequence[str]) -> None:
    owned = rules("[admission]\n" + owner("generic:acme*", ACME))
    with pytest.raises(UntrustedError, match=r"of 'generic:acme\.tar\.gz'$"):
        owned.check(foreign(*names))
    owned.check(foreign(*names, signer=PUBLISHER))


def test_bare_signatures_have_owners_by_the_name_that_clients_know_them_by() -> None:
    with pytest.raises(UntrustedError, match=rf"of 'unnamed:sha256:{DIGEST}'$"):
        rules("[admission]\n" + owner("unnamed:*", ACME)).check(parse_entry(hashedrekord_leaf()))
    rules("[admission]\n" + owner("unnamed:*", BARE)).check(parse_entry(hashedrekord_leaf()))


def test_a_name_that_nobody_owns_is_anyones_or_nobodys() -> None:
    text = f'[admission]\nunowned = "%s"\n{owner("pypi:acme-*", ACME)}'
    strangers = [release(name="other", signer=STRANGER), foreign("a"), parse_entry(hashedrekord_leaf())]
    for entry in strangers:
        rules(text % "accept").check(entry)
        with pytest.raises(UntrustedError, match=r"^rule admission\.unowned: no owner rule matches '"):
            rules(text % "refuse").check(entry)
    rules(text % "refuse").check(release())
    with pytest.raises(UntrustedError, match=r"^rule admission\.unowned: "):
        rules('[admission]\nunowned = "refuse"').check(release())


def test_one_unowned_name_is_enough_to_refuse_an_entry() -> None:
    closed = rules('[admission]\nunowned = "refuse"\n' + owner("generic:acme*", ACME))
    closed.check(foreign("acme", "acme.txt", signer=PUBLISHER))
    with pytest.raises(UntrustedError, match="'generic:other'"):
        closed.check(foreign("acme", "other", signer=PUBLISHER))


# --- what nobody signed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (f'signers = ["{ACME}"]', "signers"),
        (owner("pypi:acme-*", ACME), "owner"),
        ('unowned = "refuse"', "unowned"),
    ],
)
def test_a_rule_about_who_keeps_out_what_nobody_signed(more: str, rule: str) -> None:
    closed = rules(f'[admission]\nkinds = ["opaque"]\n{more}')
    assert not closed.takes_unsigned
    with pytest.raises(UntrustedError, match=rf"^rule admission\.{rule}: .*: not JSON$"):
        closed.check_unsigned("not JSON")


def test_a_log_of_any_bytes_that_asks_who_takes_no_kinds_but_those_it_names() -> None:
    closed = rules(f'[admission]\nkinds = ["attestation", "opaque"]\nsigners = ["{ACME}"]')
    with pytest.raises(UnsupportedError, match=r"^rule admission\.kinds: this log does not take hashedrekord"):
        closed.check(parse_entry(hashedrekord_leaf()))


def test_an_open_log_of_any_bytes_takes_them_and_all_signed_kinds() -> None:
    opaque = rules('[admission]\nkinds = ["opaque"]\nunowned = "accept"')
    assert opaque.takes_unsigned
    opaque.check_unsigned("not JSON")
    opaque.check(parse_entry(hashedrekord_leaf()))


def test_without_the_kind_opaque_nothing_unsigned_is_taken() -> None:
    with pytest.raises(UntrustedError, match=r"^rule admission\.kinds: "):
        AdmissionRules().check_unsigned("not JSON")


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        AdmissionRules(),
        AdmissionRules(kinds=ALL_KINDS, entry_bytes_max=1),
        AdmissionRules(kinds=frozenset({OPAQUE}), signers=frozenset({PUBLISHER.public, P256_PUBLISHER.public})),
        rules('[admission]\nunowned = "refuse"\n' + owner("pypi:b*", ACME, BARE) + owner("pypi:a", OTHER)),
    ],
)
def test_the_table_of_rules_makes_them_again(value: AdmissionRules) -> None:
    assert parse_rules(format_rules(value), where="admission") == value


def test_the_whole_table_is_read() -> None:
    text = f"""
[admission]
kinds = ["attestation", "opaque"]
entry_bytes_max = 8192
signers = ["{BARE}"]
unowned = "refuse"
{owner("pypi:acme-*", ACME)}
"""
    read = rules(text)
    assert read == AdmissionRules(
        kinds=frozenset({"attestation", "opaque"}),
        entry_bytes_max=8_192,
        signers=frozenset({P256_PUBLISHER.public}),
        owners=Trust(rules=parse_rule_tables([{"match": "pypi:acme-*", "signers": [ACME]}], where="")),
        refuse_unowned=True,
    )


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("[]", "admission: not a table"),
        (
            "{colour = 1}",
            "admission: unknown key 'colour'; known are kinds, entry_bytes_max, signers, unowned and owner",
        ),
        ("{rates = {}}", "admission: unknown key 'rates'"),
        ('{kinds = "opaque"}', "admission, key kinds: expected a list of at least one of"),
        ("{kinds = []}", "admission, key kinds: expected a list of at least one of"),
        ("{kinds = [1]}", "admission, key kinds: expected a list of at least one of"),
        ('{kinds = ["opake"]}', "admission, key kinds: 'opake' is not one of attestation, hashedrekord, opaque"),
        ('{kinds = ["opaque", "opaque"]}', "admission, key kinds: a kind is listed twice"),
        ("{entry_bytes_max = 0}", "admission, key entry_bytes_max: expected a number from 1 to 65535"),
        ("{entry_bytes_max = 65536}", "admission, key entry_bytes_max: expected a number from 1 to 65535"),
        ("{entry_bytes_max = true}", "admission, key entry_bytes_max: expected a number from 1 to 65535"),
        ("{entry_bytes_max = 9.0}", "admission, key entry_bytes_max: expected a number from 1 to 65535"),
        ("{signers = []}", "admission, key signers: expected a list of at least one public key"),
        (f'{{signers = "{ACME}"}}', "admission, key signers: expected a list of at least one public key"),
        ("{signers = [1]}", "admission, key signers: expected a string"),
        ('{signers = ["ed25519:x"]}', "admission, key signers: ed25519 public key is not canonical base64"),
        (f'{{signers = ["{ACME}", "{ACME}"]}}', "admission, key signers: a public key is listed twice"),
        ('{unowned = "reject"}', 'admission, key unowned: expected "accept" or "refuse"'),
        ("{unowned = true}", 'admission, key unowned: expected "accept" or "refuse"'),
        ("{unowned = []}", 'admission, key unowned: expected "accept" or "refuse"'),
        ("{owner = {}}", "admission, key owner: expected [[owner]] tables"),
        ("{owner = [1]}", "admission.owner 1: not a table"),
        ("{owner = [{}]}", "admission.owner 1, key match: expected a string"),
        (
            '{owner = [{match = "pypi:a"}]}',
            "admission.owner 1, key signers: expected a list of at least one public key",
        ),
        (f'{{owner = [{{match = "pypi:A", signers = ["{ACME}"]}}]}}', "admission.owner 1, key match: names on PyPI"),
        (
            f'{{owner = [{{match = "a", signers = ["{ACME}"]}}]}}',
            "admission.owner 1, key match: expected ECOSYSTEM:NAME",
        ),
        (
            f'{{owner = [{{match = "pypi:a", signers = ["{ACME}"], max_age = "1d"}}]}}',
            "admission.owner 1: unknown key 'max_age'; known are match and signers",
        ),
        (
            f'{{owner = [{{match = "pypi:a", signers = ["{ACME}"]}}, {{match = "pypi:a", signers = ["{OTHER}"]}}]}}',
            "admission.owner: two rules match 'pypi:a'",
        ),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_its_place(table: str, sentence: str) -> None:
    with pytest.raises(MalformedError) as refusal:
        rules(f"admission = {table}")
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_the_kinds_that_are_taken_without_a_choice_are_all_that_are_signed() -> None:
    assert rules("[admission]").kinds == SIGNED_KINDS == ALL_KINDS - {OPAQUE}
