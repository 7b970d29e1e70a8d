"""Trust rules: which one decides, and whom it lets speak."""

import random

import pytest

from tests.unit.library.specimens import (
    CONTENT,
    FILENAME,
    P256_PUBLISHER,
    PUBLISHER,
    STRANGER,
    TRUST,
    TRUST_FILE,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    trust,
)
from treehead.encoding import JsonValue, format_canonical_json
from treehead.entry import parse_entry
from treehead.errors import MalformedError, TooLargeError, UntrustedError
from treehead.statement import STATEMENT_TYPE
from treehead.trust import (
    MAX_AGE_S_MAX,
    TRUST_BYTES_MAX,
    Name,
    Rule,
    Trust,
    format_rule,
    name_of,
    parse_rule_tables,
    parse_trust,
)

KEY = str(PUBLISHER.public)


def rules(*matches: str) -> Trust:
    text = "".join(f'[[namespace]]\nmatch = "{match}"\nsigners = ["{KEY}"]\n' for match in matches)
    return parse_trust(text.encode())


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("acme", "pypi:acme"),
        ("acme-", "pypi:acme-*"),
        ("acme-tool", "pypi:acme-tool"),
        ("acme-tools", "pypi:acme-*"),
        ("acmetool", "pypi:acme*"),
        ("other", "pypi:*"),
        ("ACME", "pypi:*"),
        ("", "pypi:*"),
    ],
)
def test_the_longest_match_decides_and_an_exact_one_is_longest(name: str, decides: str) -> None:
    matches = ["pypi:*", "pypi:acme*", "pypi:acme", "pypi:acme-*", "pypi:acme-tool", "npm:*"]
    for ordered in (matches, matches[::-1]):
        assert str(rules(*ordered).rule_for(Name(ecosystem="pypi", name=name))) == decides


def test_the_deciding_rule_is_the_longest_of_all_that_match_among_any() -> None:
    rng = random.Random(20)

    def text() -> str:
        return "".join(rng.choices("ab", k=rng.randrange(5)))

    def is_match(rule: Rule, name: str) -> bool:
        return name.startswith(rule.name) if rule.prefix else name == rule.name

    for _ in range(200):
        matches = {f"npm:{text()}{rng.choice(['', '*'])}" for _ in range(rng.randrange(1, 12))} - {"npm:"} or {"npm:*"}
        table = rules(*matches)
        for name in {text() for _ in range(20)}:
            matching = [rule for rule in table.rules if is_match(rule, name)]
            expected = max(matching, key=lambda rule: (len(rule.name), not rule.prefix), default=None)
            assert table.find_rule(Name(ecosystem="npm", name=name)) == expected
            assert table.find_rule(Name(ecosystem="cargo", name=name)) is None


def test_what_the_deciding_rule_does_not_allow_is_refused_whatever_others_say() -> None:
    document = f"""
[[namespace]]
match = "pypi:*"
signers = ["{STRANGER.public}", "{PUBLISHER.public}"]
[[namespace]]
match = "pypi:acme-*"
signers = ["{PUBLISHER.public}"]
"""
    by = parse_trust(document.encode())
    assert by.check_signer(Name(ecosystem="pypi", name="other"), STRANGER.public).name == ""
    with pytest.raises(UntrustedError, match="not among the signers of 'pypi:acme-"):
        by.check_signer(Name(ecosystem="pypi", name="acme-tool"), STRANGER.public)


@pytest.mark.parametrize(("ecosystem", "name"), [("npm", "acme-tool"), ("PYPI", "acme-tool"), ("", "pypi:acme-tool")])
def test_a_name_that_no_rule_matches_is_untrusted(ecosystem: str, name: str) -> None:
    with pytest.raises(UntrustedError, match="no trust rule matches"):
        rules("pypi:*").rule_for(Name(ecosystem=ecosystem, name=name))


def test_any_listed_signer_may_speak() -> None:
    name = Name(ecosystem="pypi", name="acme-tool")
    for signer in (PUBLISHER, P256_PUBLISHER):
        assert TRUST.check_signer(name, signer.public).max_age_s == 14 * 86_400


def test_a_star_inside_a_match_is_no_wildcard() -> None:
    for match in ("pypi:a*b", "pypi:**", "*:x", "pypi:*x"):
        with pytest.raises(MalformedError, match=r"trust file, namespace 1, key match"):
            rules(match)


@pytest.mark.parametrize("match", ["pypi:Acme", "pypi:acme_*", "pypi:zope.interface", "pypi:acme--tool"])
def test_a_rule_in_a_spelling_that_no_name_on_pypi_has_is_refused(match: str) -> None:
    """It would match nothing, and leave its names to a wider rule."""
    with pytest.raises(MalformedError, match="namespace 1, key match: names on PyPI"):
        rules(match)
    assert len(rules(match.replace("pypi", "generic")).rules) == 1


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("1s", 1), ("90s", 90), ("5m", 300), ("2h", 7_200), ("14d", 1_209_600), ("36500d", MAX_AGE_S_MAX)],
)
def test_an_age_has_a_unit(age: str, seconds: int) -> None:
    assert trust("pypi:*", PUBLISHER, max_age=age).rules[0].max_age_s == seconds


@pytest.mark.parametrize("age", ["", "14", "d", "14 d", "1.5d", "-1d", "014d", "0d", "36501d", "1w", "9" * 30 + "s"])
def test_any_other_age_is_refused(age: str) -> None:
    with pytest.raises(MalformedError, match=r"^trust file, namespace 1, key max_age"):
        trust("pypi:*", PUBLISHER, max_age=age)


def test_a_message_names_the_rule_that_is_wrong() -> None:
    with pytest.raises(MalformedError, match=r"^trust file, namespace 4, key match"):
        parse_trust(TRUST_FILE + f'\n[[namespace]]\nmatch = "pypi"\nsigners = ["{KEY}"]\n'.encode())


def test_two_rules_for_one_match_are_refused() -> None:
    with pytest.raises(MalformedError, match="two rules match 'pypi:acme'"):
        rules("pypi:acme", "npm:acme", "pypi:acme")
    assert len(rules("pypi:acme", "pypi:acme*").rules) == 2


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x = " + b"1" * 5_000, id="number_without_bound"),
        pytest.param(b"x = 1e99999", id="infinite_number"),
        pytest.param(b"x = " + b"[" * 100_000, id="nested_without_bound"),
        pytest.param(b"x = 2026-02-30", id="no_such_day"),
        pytest.param(b'x = "\\ud800"', id="surrogate"),
        pytest.param(b"\xef\xbb\xbf" + TRUST_FILE, id="byte_order_mark"),
        pytest.param(b"\xff", id="not_utf8"),
        pytest.param(b"namespace = 1", id="namespace_is_a_number"),
        pytest.param(b"namespace = [1]", id="namespace_is_an_array_of_numbers"),
        pytest.param(b"namespace = [[]]", id="namespace_is_an_array_of_arrays"),
        pytest.param(b"[namespace]", id="one_table"),
        pytest.param(b"[namespace.a]", id="table_of_tables"),
    ],
)
def test_toml_that_is_no_trust_file_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^trust file"):
        parse_trust(data)


# --- names -----------------------------------------------------------------------------------------------------------


def names_of(leaf: bytes) -> list[str]:
    entry = parse_entry(leaf)
    return [str(name_of(entry, artifact)) for artifact in entry.artifacts]


def test_a_release_has_the_name_of_its_package() -> None:
    assert names_of(attestation_leaf()) == ["pypi:acme-tool"]


def test_a_statement_that_is_no_release_has_the_names_of_its_files() -> None:
    digest: JsonValue = {"sha256": digests(CONTENT)["sha256"].hex()}
    subjects: list[JsonValue] = [{"name": name, "digest": digest} for name in (FILENAME, "pkg:pypi/acme-tool@1.0")]
    payload = format_canonical_json({"_type": STATEMENT_TYPE, "predicateType": "about:blank", "subject": subjects})
    assert names_of(attestation_leaf(payload)) == [f"generic:{FILENAME}", "generic:pkg:pypi/acme-tool@1.0"]


def test_a_bare_signature_has_the_digest_for_a_name() -> None:
    assert names_of(hashedrekord_leaf()) == [f"unnamed:sha256:{digests(CONTENT)['sha256'].hex()}"]


# --- rules in other files --------------------------------------------------------------------------------------------


def test_rules_of_another_file_are_the_same_without_an_age() -> None:
    tables = [
        {"match": "pypi:acme-*", "signers": [KEY]},
        {"match": "generic:acme.txt", "signers": [KEY, str(P256_PUBLISHER.public)]},
    ]
    parsed = parse_rule_tables(tables, where="admission.owner")
    assert parsed[:1] == rules("pypi:acme-*").rules
    assert [format_rule(rule) for rule in parsed] == tables


def test_rules_of_another_file_have_no_age_and_one_match_each() -> None:
    table = {"match": "pypi:acme", "signers": [KEY]}
    with pytest.raises(MalformedError, match=r"^admission\.owner 2, key signers: expected a string$"):
        parse_rule_tables([table, {"match": "pypi:acme", "signers": [1]}], where="admission.owner")
    with pytest.raises(
        MalformedError, match=r"^admission\.owner 1: unknown key 'max_age'; known are match and signers$"
    ):
        parse_rule_tables([{**table, "max_age": "14d"}], where="admission.owner")
    with pytest.raises(MalformedError, match=r"^admission\.owner: two rules match 'pypi:acme'$"):
        parse_rule_tables([table, table], where="admission.owner")


def test_a_trust_file_without_bound_is_refused() -> None:
    with pytest.raises(TooLargeError):
        parse_trust(b"#" * (TRUST_BYTES_MAX + 1))
