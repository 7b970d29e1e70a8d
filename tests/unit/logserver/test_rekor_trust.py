"""The files by which Sigstore's clients trust a log and write to it, and what they could not make use of."""

from __future__ import annotations

import json

import pytest

from tests.unit.library.specimens import LOG
from treehead.encoding import format_base64
from treehead.errors import UnsupportedError, UsageError
from treehead.keys import NoteKeyType, VerifierKey
from treehead_logserver.rekor.response import log_id
from treehead_logserver.rekor.trust import Services, format_signing_config, format_trusted_root

SINCE = "2026-01-31T12:00:00Z"


def key(origin: str) -> VerifierKey:
    """A key of that name, even where no key could be called so."""
    return VerifierKey(name=origin, key_type=NoteKeyType.ED25519, public_key=LOG.public.spki[-32:])


KEY = key("log.example")


def test_a_trusted_root_holds_the_log_and_nothing_else() -> None:
    text = format_trusted_root(KEY, url="https://log.example", since=SINCE)
    assert json.loads(text) == {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [
            {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": format_base64(LOG.public.spki),
                    "keyDetails": "PKIX_ED25519",
                    "validFor": {"start": SINCE},
                },
                "logId": {"keyId": format_base64(log_id(KEY))},
            }
        ],
        "certificateAuthorities": [],
        "ctlogs": [],
        "timestampAuthorities": [],
    }
    assert text.startswith('{\n  "mediaType"')
    assert text.endswith("}\n")


def test_a_signing_config_says_where_to_write() -> None:
    text = format_signing_config(
        key("localhost"), url="http://localhost:8080", since=SINCE, operator="example.org", services=Services()
    )
    assert json.loads(text) == {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": [],
        "oidcUrls": [],
        "tsaUrls": [],
        "rekorTlogUrls": [
            {
                "url": "http://localhost:8080",
                "majorApiVersion": 2,
                "validFor": {"start": SINCE},
                "operator": "example.org",
            }
        ],
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaConfig": {"selector": "ANY"},
    }
    assert text.startswith('{\n  "mediaType"')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("log.example", "https://log.example"),
        ("log.example", "https://log.example:8443"),
        ("localhost", "http://localhost:65535"),
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("::1", "http://[::1]:3000"),
        ("Log_1.example", "https://Log_1.example"),
    ],
)
def test_the_origin_is_the_host_of_the_url(origin: str, url: str) -> None:
    (log,) = json.loads(format_trusted_root(key(origin), url=url, since=SINCE))["tlogs"]
    assert log["baseUrl"] == url
    config = format_signing_config(key(origin), url=url, since=SINCE, operator="example.org", services=Services())
    assert json.loads(config)["rekorTlogUrls"][0]["url"] == url


@pytest.mark.parametrize(
    "origin",
    [
        "log.example/treehead",
        "log.example:8443",
        "LOG.example",
        "example",
        "other.example",
        "log.example - 1234",
        "https://log.example",
        "",
    ],
)
def test_a_log_that_is_not_called_after_its_host_is_refused(origin: str) -> None:
    url, words = (
        "https://log.example:8443",
        r"^--url https://log\.example:8443: its host is 'log\.example', but the origin",
    )
    with pytest.raises(UsageError, match=words):
        format_trusted_root(key(origin), url=url, since=SINCE)
    with pytest.raises(UsageError, match=words):
        format_signing_config(key(origin), url=url, since=SINCE, operator="example.org", services=Services())


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="empty"),
        pytest.param("log.example", id="no_scheme"),
        pytest.param("//log.example", id="no_scheme_but_slashes"),
        pytest.param("ftp://log.example", id="other_scheme"),
        pytest.param("HTTPS://log.example", id="scheme_in_capitals"),
        pytest.param("https:/log.example", id="one_slash"),
        pytest.param("https://", id="no_host"),
        pytest.param("https://:443", id="port_without_host"),
        pytest.param("https://log.example/", id="slash_at_the_end"),
        pytest.param("https://log.example/rekor", id="path"),
        pytest.param("https://log.example?x=1", id="query"),
        pytest.param("https://log.example#x", id="fragment"),
        pytest.param("https://user@log.example", id="user"),
        pytest.param("https://log.example:", id="empty_port"),
        pytest.param("https://log.example:0", id="port_zero"),
        pytest.param("https://log.example:080", id="port_with_leading_zero"),
        pytest.param("https://log.example:65536", id="port_too_large"),
        pytest.param("https://log.example:http", id="port_by_name"),
        pytest.param("https://log.example:1:2", id="two_ports"),
        pytest.param("https://log.example ", id="trailing_space"),
        pytest.param("https://log.example\n", id="trailing_newline"),
        pytest.param("https://log%2Eexample", id="escape"),
        pytest.param("https://lög.example", id="not_ascii"),
        pytest.param("https://[log.example]", id="name_in_brackets"),
        pytest.param("https://log.example - 1234", id="number_of_rekor_1"),
    ],
)
def test_a_url_that_is_more_than_a_host_is_refused(url: str) -> None:
    for host in ("log.example", url.removeprefix("https://")):
        with pytest.raises(UsageError, match=r"^--url "):
            format_trusted_root(key(host), url=url, since=SINCE)
        with pytest.raises(UsageError, match=r"^--url "):
            format_signing_config(key(host), url=url, since=SINCE, operator="example.org", services=Services())


@pytest.mark.parametrize(
    "since",
    [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00+00:00",
        "2026-01-31t12:00:00z",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00Z",
        "2026-01-31T12:00:00.5Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T23:59:60Z",
        "0000-01-31T12:00:00Z",
        "20260131T120000Z",
        "2026-01-31T12:00:00Z\n",
        "٢026-01-31T12:00:00Z",
    ],
)
def test_a_time_in_another_spelling_is_refused(since: str) -> None:
    with pytest.raises(UsageError, match=r"^--since .*2026-01-31T12:00:00Z"):
        format_trusted_root(KEY, url="https://log.example", since=since)
    with pytest.raises(UsageError, match=r"^--since .*2026-01-31T12:00:00Z"):
        format_signing_config(KEY, url="https://log.example", since=since, operator="example.org", services=Services())


@pytest.mark.parametrize("operator", ["", "a\nb", "\x1b[2J", "\ud800"])
def test_an_operator_without_a_name_is_refused(operator: str) -> None:
    with pytest.raises(UsageError, match=r"^--operator "):
        format_signing_config(KEY, url="https://log.example", since=SINCE, operator=operator, services=Services())


def test_a_name_in_another_script_is_printed_in_ascii() -> None:
    text = format_signing_config(KEY, url="https://log.example", since=SINCE, operator="Bücher", services=Services())
    assert text.isascii()
    assert json.loads(text)["rekorTlogUrls"][0]["operator"] == "Bücher"


def test_a_key_that_signs_no_checkpoints_of_ours_is_refused() -> None:
    witness = LOG.verifier_key(name="log.example", key_type=NoteKeyType.COSIGNATURE_ED25519)
    with pytest.raises(UnsupportedError, match="type 0x04"):
        format_trusted_root(witness, url="https://log.example", since=SINCE)


def test_a_signing_config_names_the_services_that_a_log_is_not() -> None:
    services = Services(fulcio="https://ca.example", oidc="https://id.example/auth", tsa="https://tsa.example/stamp")
    text = format_signing_config(KEY, url="http://log.example", since=SINCE, operator="o", services=services)
    config = json.loads(text)
    assert {name: config[name] for name in ("caUrls", "oidcUrls", "tsaUrls")} == {
        name: [{"url": url, "majorApiVersion": 1, "validFor": {"start": SINCE}, "operator": host}]
        for name, url, host in (
            ("caUrls", "https://ca.example", "ca.example"),
            ("oidcUrls", "https://id.example/auth", "id.example"),
            ("tsaUrls", "https://tsa.example/stamp", "tsa.example"),
        )
    }


@pytest.mark.parametrize("url", ["", "ca.example", "ftp://ca.example", "https://", "https://ca example", "https://\n"])
def test_a_service_without_a_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--fulcio"):
        format_signing_config(KEY, url="http://log.example", since=SINCE, operator="o", services=Services(fulcio=url))
