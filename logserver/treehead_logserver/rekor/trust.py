"""What cosign, sigstore-go, sigstore-python and sigstore-js are told, to verify by this log and to write to it.

A trusted root holds the log's key, for verifying; a signing config holds addresses, for signing. Both are Sigstore's
files (dev.sigstore.trustroot.v1). The trusted root has the log and nothing else: whoever verifies certificates or time
stamps adds the authorities that these are from, as with cosign's `trusted-root create`. The signing config names a
certificate authority as well, without which sigstore-python takes none.

The clients find a checkpoint's signature by the log's address: sigstore-go wants its key to be named exactly as the
host of `baseUrl`, without port and path, and takes a name that ends in ` - ` and a number for one of Rekor v1, which no
host is. A log whose origin is not its host's name would be refused by them with every entry, so it is refused here, for
either file: what is written by the one is verified by the other.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime

from treehead.encoding import JsonValue, format_base64, parse_decimal
from treehead.errors import MalformedError, UsageError
from treehead.keys import VerifierKey
from treehead.publickey import public_key_from_ed25519
from treehead_logserver.rekor.response import log_id

TRUSTED_ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
SIGNING_CONFIG_TYPE = "application/vnd.dev.sigstore.signingconfig.v0.2+json"

_SCHEMES = ("http://", "https://")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?")
_PORT_MAX = 65_535
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")


def format_trusted_root(vkey: VerifierKey, *, url: str, since: str) -> str:
    """The trusted root (JSON) by which Sigstore's clients verify entries of the log at `url`, valid from `since` on.

    `since` is a time in UTC (RFC 3339). Not checked: that the log is there.

    Raises:
        UsageError: the URL is not one of a host and perhaps a port, or not of the host that the log is named after; or
            `since` is no such time. The message names the flag.
        UnsupportedError: the log's key is not Ed25519.
    """
    _check_host(url, vkey)
    key_id = log_id(vkey)
    log: JsonValue = {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": format_base64(public_key_from_ed25519(vkey.public_key).spki),
            "keyDetails": "PKIX_ED25519",
            "validFor": {"start": _check_time(since)},
        },
        "logId": {"keyId": format_base64(key_id)},
    }
    return _format(
        {
            "mediaType": TRUSTED_ROOT_TYPE,
            "tlogs": [log],
            "certificateAuthorities": [],
            "ctlogs": [],
            "timestampAuthorities": [],
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where Sigstore's clients get what a log does not give them: the URLs of three services, each None for none.

    Attributes:
        fulcio: the authority that certifies identities.
        oidc: the provider that identities are proven to.
        tsa: the authority that stamps the time.
    """

    fulcio: str | None = None
    oidc: str | None = None
    tsa: str | None = None


def format_signing_config(vkey: VerifierKey, *, url: str, since: str, operator: str, services: Services) -> str:
    """The signing config (JSON) by which Sigstore's clients write to the log at `url`, from `since` on.

    Of several logs of one operator clients choose one. Not checked: that the log and the services are there.

    Raises:
        UsageError: the URL is not one of a host and perhaps a port, or not of the host that the log is named after; or
            that of a service is none, `since` is no time in UTC (RFC 3339), or the operator is not printable text. The
            message names the flag.
    """
    _check_host(url, vkey)
    if not operator or not operator.isprintable():
        raise UsageError(f"--operator {operator!r} is not a name: expected printable text, such as a domain")
    log: JsonValue = {
        "url": url,
        "majorApiVersion": 2,
        "validFor": {"start": _check_time(since)},
        "operator": operator,
    }
    return _format(
        {
            "mediaType": SIGNING_CONFIG_TYPE,
            "caUrls": _service(services.fulcio, since=since, flag="--fulcio"),
            "oidcUrls": _service(services.oidc, since=since, flag="--oidc"),
            "rekorTlogUrls": [log],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": _service(services.tsa, since=since, flag="--tsa"),
            # Needed without such a service, too: sigstore-go ends with a panic where it looks for this in vain.
            "tsaConfig": {"selector": "ANY"},
        }
    )


def _service(url: str | None, *, since: str, flag: str) -> JsonValue:
    if url is None:
        return []
    host = url.partition("://")[2].partition("/")[0]
    if not url.startswith(_SCHEMES) or not host or not url.isprintable() or " " in url:
        raise UsageError(f"{flag} {url!r} is not the URL of a service; give none for a configuration without one")
    return [{"url": url, "majorApiVersion": 1, "validFor": {"start": since}, "operator": host}]


def _check_host(url: str, vkey: VerifierKey) -> None:
    host = _host_of(url)
    if host != vkey.name:
        raise UsageError(
            f"--url {url}: its host is {host!r}, but the origin of the log is {vkey.name!r}; Sigstore's clients take "
            "only logs whose origin is the host of their URL: give that host's URL, or init a log with such an origin"
        )


def _host_of(url: str) -> str:
    scheme = next((scheme for scheme in _SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise UsageError(f"--url {url!r} does not begin with http:// or https://")
    match = _HOST.fullmatch(url.removeprefix(scheme))
    if match is None:
        raise UsageError(
            f"--url {url!r}: after {scheme} there may be a host and a port only; clients add /api/v2/log/entries to it"
        )
    if match["port"] is not None:
        try:
            parse_decimal(match["port"], what="its port", maximum=_PORT_MAX)
        except MalformedError as exc:
            raise UsageError(f"--url {url!r}: {exc}") from exc
    return match["host"].strip("[]")


def _check_time(since: str) -> str:
    try:
        if _TIME.fullmatch(since) is not None:
            datetime.fromisoformat(since)
            return since
    except ValueError:
        pass
    raise UsageError(f"--since {since!r} is not a time in UTC such as 2026-01-31T12:00:00Z")


def _format(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=True, indent=2) + "\n"  # a terminal may know no other characters
