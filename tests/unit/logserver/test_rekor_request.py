"""A CreateEntryRequest becomes Rekor's leaf, in whatever spelling it is sent, or is refused by the field at fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.unit.library.signers import DIGEST_SCHEMES, certificate, key_of, public_of, sign
from tests.unit.logserver.rekor_requests import (
    MESSAGE,
    PAE,
    PAYLOAD,
    Damage,
    Request,
    at,
    body,
    damaged,
    dsse_request,
    hash_of,
    hashedrekord_request,
    leaf_of,
    renamed,
    verifier,
    without,
)
from treehead.dsse import pre_authentication_encoding
from treehead.encoding import JSON_MARKS_MAX, format_base64
from treehead.entry import parse_entry, verify_entry
from treehead.errors import MalformedError, TooLargeError, TreeheadError, UnsupportedError
from treehead.lookup import Term, terms_of
from treehead.publickey import Scheme
from treehead_logserver.rekor.request import BODY_BYTES_MAX, parse_create_entry

RECORD = "hashedRekordRequestV002"
SIGNATURE = f"{RECORD}.signature"
VERIFIER = f"{SIGNATURE}.verifier"
DSSE = "dsseRequestV002"
ENVELOPE = f"{DSSE}.envelope"

NUMBERS = {
    Scheme.P256: 5,
    Scheme.RSA2048: 9,
    Scheme.RSA3072: 10,
    Scheme.RSA4096: 11,
    Scheme.P384: 12,
    Scheme.P521: 13,
}
"""Those of PublicKeyDetails, as sigstore_common.proto has them."""


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certified", [False, True], ids=["key", "certificate"])
@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_a_hashedrekord_becomes_the_leaf_of_its_signature(scheme: Scheme, certified: bool) -> None:
    leaf = parse_create_entry(body(hashedrekord_request(scheme, certified=certified))).leaf
    assert leaf == leaf_of(scheme, MESSAGE, certified=certified)
    entry = parse_entry(leaf)
    verify_entry(entry)
    assert entry.signer == public_of(scheme)
    assert Term(scheme.digest or "", hash_of(scheme, MESSAGE)) in terms_of(entry)


@pytest.mark.parametrize("certified", [False, True], ids=["key", "certificate"])
@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_an_envelope_becomes_the_leaf_of_what_its_signature_covers(scheme: Scheme, certified: bool) -> None:
    leaf = parse_create_entry(body(dsse_request(scheme, certified=certified))).leaf
    assert leaf == leaf_of(scheme, PAE, certified=certified)
    verify_entry(parse_entry(leaf))


def test_the_leaf_is_printed_as_rekor_prints_it() -> None:
    request = hashedrekord_request()
    sent = request[RECORD]
    leaf = parse_create_entry(body(request)).leaf.decode()
    assert leaf == (
        '{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{'
        f'"data":{{"algorithm":"SHA2_256","digest":"{sent["digest"]}"}},'
        f'"signature":{{"content":"{sent["signature"]["content"]}",'
        '"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",'
        f'"publicKey":{{"rawBytes":"{sent["signature"]["verifier"]["publicKey"]["rawBytes"]}"}}}}}}}}}}}}'
    )


def snake_case(value: object) -> object:
    """The same with every member named as in the .proto files."""
    if isinstance(value, dict):
        return {re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name): snake_case(part) for name, part in value.items()}
    return [snake_case(part) for part in value] if isinstance(value, list) else value


def with_bytes(value: object, spell: Spelling) -> object:
    """The same with bytes spelled otherwise."""
    if isinstance(value, dict):
        return {
            name: spell(part)
            if name in ("digest", "content", "rawBytes", "payload", "sig")
            else with_bytes(part, spell)
            for name, part in value.items()
        }
    return [with_bytes(part, spell) for part in value] if isinstance(value, list) else value


class Spelling:
    """One of the four spellings of base64."""

    def __init__(self, *, url_safe: bool, padded: bool) -> None:
        self.url_safe = url_safe
        self.padded = padded

    def __call__(self, text: str) -> str:
        if self.url_safe:
            text = text.replace("+", "-").replace("/", "_")
        return text if self.padded else text.rstrip("=")


REQUESTS = [
    pytest.param(hashedrekord_request(certified=True), id="hashedrekord"),
    pytest.param(dsse_request(certified=True), id="dsse"),
]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("url_safe", [True, False])
def test_bytes_may_be_spelled_in_four_ways(request_: Request, url_safe: bool, padded: bool) -> None:
    spelled = with_bytes(request_, Spelling(url_safe=url_safe, padded=padded))
    assert isinstance(spelled, dict)
    assert parse_create_entry(body(spelled)) == parse_create_entry(body(request_))


@pytest.mark.parametrize("request_", REQUESTS)
def test_members_may_be_named_as_in_the_proto_files(request_: Request) -> None:
    spelled = snake_case(request_)
    assert isinstance(spelled, dict)
    assert spelled.keys().isdisjoint(request_)
    assert parse_create_entry(body(spelled)) == parse_create_entry(body(request_))


def test_null_is_as_good_as_absent() -> None:
    plain, enveloped = hashedrekord_request(), dsse_request()
    nulls = (at(DSSE, None), at(f"{VERIFIER}.x509_certificate", None))
    assert parse_create_entry(damaged(plain, *nulls)) == parse_create_entry(body(plain))
    assert parse_create_entry(damaged(enveloped, at(f"{ENVELOPE}.signatures.0.keyid", None))) == parse_create_entry(
        body(enveloped)
    )


@pytest.mark.parametrize("keyid", ["", "SHA256:abc", "größe"])
def test_a_key_hint_changes_nothing(keyid: str) -> None:
    hinted = damaged(dsse_request(), at(f"{ENVELOPE}.signatures.0.keyid", keyid))
    unhinted = damaged(dsse_request(), without(f"{ENVELOPE}.signatures.0.keyid"))
    for request in (hinted, unhinted):
        assert parse_create_entry(request).leaf == leaf_of(Scheme.P256, PAE)


@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_an_enum_may_be_sent_as_its_number(scheme: Scheme) -> None:
    plain, enveloped = hashedrekord_request(scheme), dsse_request(scheme)
    number = NUMBERS[scheme]
    assert parse_create_entry(damaged(plain, at(f"{VERIFIER}.keyDetails", number))) == parse_create_entry(body(plain))
    assert parse_create_entry(damaged(enveloped, at(f"{DSSE}.verifiers.0.keyDetails", number))) == parse_create_entry(
        body(enveloped)
    )


def test_the_field_of_the_signature_is_that_of_the_request() -> None:
    assert parse_create_entry(body(hashedrekord_request())).signature_field == f"{SIGNATURE}.content"
    assert parse_create_entry(body(dsse_request())).signature_field == f"{ENVELOPE}.signatures[0].sig"


def test_white_space_and_the_order_of_members_do_not_matter() -> None:
    request = hashedrekord_request()
    backwards = {RECORD: dict(reversed(request[RECORD].items()))}
    assert parse_create_entry(json.dumps(backwards, indent=4).encode() + b"\n") == parse_create_entry(body(request))


def test_an_envelope_may_be_larger_than_any_entry_for_only_its_hash_is_logged() -> None:
    payload = bytes(3_000_000)
    signed = pre_authentication_encoding("text/plain", payload)
    request = damaged(
        dsse_request(),
        at(f"{ENVELOPE}.payload", format_base64(payload)),
        at(f"{ENVELOPE}.payloadType", "text/plain"),
        at(f"{ENVELOPE}.signatures.0.sig", format_base64(sign(Scheme.P256, signed))),
    )
    assert len(request) < BODY_BYTES_MAX
    leaf = parse_create_entry(request).leaf
    assert leaf == leaf_of(Scheme.P256, signed)
    verify_entry(parse_entry(leaf))


# --- what is refused -------------------------------------------------------------------------------------------------


def members(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every member of a request with its dotted path."""
    items: Iterator[tuple[object, object]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for name, part in items:
        below = f"{path}.{name}" if path else f"{name}"
        yield below, part
        yield from members(part, below)


def field_of(path: str) -> str:
    """A dotted path as messages have it."""
    return re.sub(r"\.([0-9]+)", r"[\1]", path)


def refusal(request: bytes) -> TreeheadError:
    with pytest.raises((MalformedError, UnsupportedError)) as caught:
        parse_create_entry(request)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("request_", REQUESTS)
def test_every_member_but_the_hint_is_needed(request_: Request) -> None:
    for path, _ in members(request_):
        if path.endswith((".keyid", ".0")):
            continue
        for damage in (without(path), at(path, None)):
            message = str(refusal(damaged(request_, damage)))
            assert "missing" in message
            assert field_of(path) in message


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("value", [0, 1, True, [], ["x"], {}, {"x": 1}, ""], ids=repr)
def test_a_member_of_another_type_is_refused_by_its_name(request_: Request, value: object) -> None:
    for path, part in members(request_):
        if type(part) is not type(value):
            assert field_of(path) in str(refusal(damaged(request_, at(path, value))))


@pytest.mark.parametrize("request_", REQUESTS)
def test_an_unknown_member_is_refused_by_its_name(request_: Request) -> None:
    objects = [path for path, part in members(request_) if isinstance(part, dict)]
    for path in ("", *(f"{path}." for path in objects)):
        for name in ("note", "hash_algorithm", "Digest"):
            message = str(refusal(damaged(request_, at(f"{path}{name}", None))))
            assert f"field '{field_of(path)}{name}' is not known here" in message


@pytest.mark.parametrize("request_", REQUESTS)
def test_two_spellings_of_one_member_are_refused(request_: Request) -> None:
    twice = 0
    for path, part in members(request_):
        parent, _, name = path.rpartition(".")
        snake = re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name)
        if snake == name:
            continue
        other = f"{parent}.{snake}" if parent else snake
        for value in (part, None):
            message = str(refusal(damaged(request_, at(other, value))))
            assert message == f"field {field_of(path)} is there in two spellings"
        twice += 1
    assert twice == (4 if RECORD in request_ else 5)


@pytest.mark.parametrize(
    ("request_", "damage", "message"),
    [
        pytest.param({}, [], f"field {RECORD} is missing", id="nothing"),
        pytest.param(
            {**hashedrekord_request(), **dsse_request()}, [], f"fields {RECORD} and {DSSE} exclude", id="both_requests"
        ),
        pytest.param(
            {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {}},
            [],
            "field 'apiVersion' is not known here",
            id="request_of_rekor_1",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.x509Certificate", {"rawBytes": "AAAA"})],
            f"fields {VERIFIER}.publicKey and {VERIFIER}.x509Certificate exclude",
            id="key_and_certificate",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.keyDetails", 12)],
            f"field {VERIFIER}.keyDetails says PKIX_ECDSA_P384_SHA_384, the key is p256",
            id="number_of_another_key",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.keyDetails", "5")],
            f"field {VERIFIER}.keyDetails is '5', not one of",
            id="number_as_a_string",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.keyDetails", 5.5)],
            f"field {VERIFIER}.keyDetails is neither a string nor an integer",
            id="number_with_a_fraction",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.keyDetails", "PKIX_ECDSA_P384_SHA_384")],
            f"field {VERIFIER}.keyDetails says PKIX_ECDSA_P384_SHA_384, the key is p256",
            id="details_of_another_key",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{RECORD}.digest", format_base64(bytes(64)))],
            f"field {RECORD}.digest holds 64 bytes, not 32",
            id="digest_too_long",
        ),
        pytest.param(
            hashedrekord_request(Scheme.P384),
            [at(f"{RECORD}.digest", format_base64(bytes(32)))],
            f"field {RECORD}.digest holds 32 bytes, not 48",
            id="digest_of_another_algorithm",
        ),
        pytest.param(
            hashedrekord_request(), [at(f"{RECORD}.digest", "AAA=A")], f"field {RECORD}.digest is not", id="no_base64"
        ),
        pytest.param(
            hashedrekord_request(), [at(f"{RECORD}.digest", "+-AA")], f"field {RECORD}.digest is not", id="mixed_base64"
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{SIGNATURE}.content", "AB==")],
            f"field {SIGNATURE}.content is not",
            id="stray_bits",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{SIGNATURE}.content", "")],
            f"field {SIGNATURE}.content is empty",
            id="no_signature",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.publicKey.rawBytes", format_base64(public_of(Scheme.P256).spki[:-1]))],
            f"field {VERIFIER}.publicKey.rawBytes: ",
            id="key_cut_short",
        ),
        pytest.param(
            hashedrekord_request(),
            [at(f"{VERIFIER}.publicKey.rawBytes", format_base64(public_of(Scheme.P256).spki[:-1] + b"\0"))],
            f"field {VERIFIER}.publicKey.rawBytes: public key is not a point",
            id="key_off_the_curve",
        ),
        pytest.param(
            hashedrekord_request(certified=True),
            [at(f"{VERIFIER}.x509Certificate.rawBytes", format_base64(certificate(key_of(Scheme.P256)) + b"\0"))],
            f"field {VERIFIER}.x509Certificate.rawBytes is not an X.509 certificate",
            id="certificate_with_a_byte_more",
        ),
        pytest.param(
            dsse_request(), [at(f"{ENVELOPE}.signatures", [])], f"field {ENVELOPE}.signatures has 0", id="unsigned"
        ),
        pytest.param(
            dsse_request(),
            [at(f"{ENVELOPE}.signatures", [{"sig": "AAAA"}] * 2)],
            f"field {ENVELOPE}.signatures has 2",
            id="two_signatures",
        ),
        pytest.param(
            dsse_request(),
            [at(f"{DSSE}.verifiers", [verifier(Scheme.P256), verifier(Scheme.P384)])],
            f"field {DSSE}.verifiers has 2",
            id="two_verifiers",
        ),
        pytest.param(
            dsse_request(),
            [at(f"{DSSE}.verifiers", [None])],
            f"field {DSSE}.verifiers[0] is not a JSON object",
            id="verifier_is_null",
        ),
        pytest.param(
            dsse_request(),
            [renamed(f"{DSSE}.verifiers.0.keyDetails", "keydetails")],
            f"field {DSSE}.verifiers[0].keyDetails is missing",
            id="misspelled_member",
        ),
    ],
)
def test_a_request_that_makes_no_entry_is_refused(request_: Request, damage: list[Damage], message: str) -> None:
    assert message in str(refusal(damaged(request_, *damage)))


@pytest.mark.parametrize(
    "details",
    [
        *("PKIX_ED25519_PH", "PKIX_RSA_PSS_4096_SHA256", "PKIX_ECDSA_P384_SHA_256", "ML_DSA_65", "x" * 100_000),
        *(0, 6, 8, 23, -1, 2**70),
    ],
)
def test_a_scheme_that_is_not_verified_here_is_refused_by_name_or_number(details: str | int) -> None:
    for request, where in ((hashedrekord_request(), VERIFIER), (dsse_request(), f"{DSSE}.verifiers.0")):
        error = refusal(damaged(request, at(f"{where}.keyDetails", details)))
        assert isinstance(error, UnsupportedError)
        assert str(error).startswith(
            f"field {field_of(where)}.keyDetails is '{str(details)[:64]}', not one of PKIX_ECDSA_P256_SHA_256, "
        )


def test_ed25519_signs_no_digest() -> None:
    for request in (hashedrekord_request(Scheme.ED25519), dsse_request(Scheme.ED25519)):
        error = refusal(body(request))
        assert isinstance(error, UnsupportedError)
        assert "keyDetails is PKIX_ED25519; this kind takes PKIX_ECDSA_P256_SHA_256, " in str(error)


def test_a_body_above_the_limit_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="request is larger than 4194304 bytes"):
        parse_create_entry(bytes(BODY_BYTES_MAX + 1))


def test_a_body_of_many_members_is_refused_unread() -> None:
    with pytest.raises(MalformedError, match=f"request has more than {JSON_MARKS_MAX} commas and colons"):
        parse_create_entry(b'{"dsseRequestV002":[' + b"{}," * 1_000_000 + b"{}]}")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", body(hashedrekord_request())[:-1]])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^request is not "):
        parse_create_entry(data)


def large_certificate(size: int) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    plain = x509.load_der_x509_certificate(certificate(key_of(Scheme.P256)))
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(size))
    key = key_of(Scheme.P256)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(plain.not_valid_before_utc)
        .not_valid_after(plain.not_valid_after_utc)
        .add_extension(filler, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def test_what_makes_the_entry_too_large_is_named() -> None:
    holder = f"{VERIFIER}.x509Certificate.rawBytes"
    fits = damaged(hashedrekord_request(certified=True), at(holder, format_base64(large_certificate(48_000))))
    parse_entry(parse_create_entry(fits).leaf)
    too_large = damaged(hashedrekord_request(certified=True), at(holder, format_base64(large_certificate(49_000))))
    with pytest.raises(TooLargeError, match=f"^field {re.escape(holder)}: .*65535 bytes"):
        parse_create_entry(too_large)
    for content in (bytes(60_000), bytes(1_000_000)):
        with pytest.raises(TooLargeError, match=f"^field {re.escape(SIGNATURE)}.content: .*65535 bytes"):
            parse_create_entry(damaged(hashedrekord_request(), at(f"{SIGNATURE}.content", format_base64(content))))
    with pytest.raises(TooLargeError, match=f"^field {re.escape(holder)}: .*65535 bytes"):
        parse_create_entry(
            damaged(hashedrekord_request(certified=True), at(holder, format_base64(large_certificate(1_000_000))))
        )


def test_the_envelope_is_hashed_with_the_hash_of_its_key() -> None:
    for scheme in DIGEST_SCHEMES:
        entry = parse_entry(parse_create_entry(body(dsse_request(scheme))).leaf)
        assert entry.artifacts[0].digests == {scheme.digest: hash_of(scheme, PAE)}
        assert hash_of(scheme, PAYLOAD) not in entry.artifacts[0].digests.values()
