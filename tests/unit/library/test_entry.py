"""Log entries: what a leaf may be, and which part of a bad one the message names."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.unit.library.signers import DIGEST_SCHEMES, AnyKey, certificate, key_of, public_of, sign
from tests.unit.library.specimens import (
    CONTENT,
    LEAF,
    P256_PUBLISHER,
    PUBLISHER,
    STRANGER,
    attestation_leaf,
    digests,
    hashedrekord_leaf,
    release,
    sealed,
    statement,
)
from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.encoding import format_base64, format_canonical_json
from treehead.entry import KINDS, attestation, hashedrekord, parse_entry, verify_entry
from treehead.entry.base import KEY_DETAILS
from treehead.errors import MalformedError, SignatureError, TooLargeError, UnsupportedError
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.statement import PAYLOAD_TYPE
from treehead.tile import ENTRY_BYTES_MAX

Damage = Callable[[dict[str, Any]], None]

HASHEDREKORD = hashedrekord_leaf()


def damaged(leaf: bytes, damage: Damage) -> bytes:
    document = json.loads(leaf)
    damage(document)
    return format_canonical_json(document)


def at(path: str, value: object) -> Damage:
    """Set or add the member at a dotted path."""

    def damage(document: dict[str, Any]) -> None:
        parent, last = holder(document, path)
        parent[last] = value

    return damage


def without(path: str) -> Damage:
    """Take away the member at a dotted path."""

    def damage(document: dict[str, Any]) -> None:
        parent, last = holder(document, path)
        del parent[last]

    return damage


def holder(document: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parents, last = path.split(".")
    value: Any = document
    for name in parents:
        value = value[0] if name == "0" else value[name]
    return value, last


ENVELOPE = "spec.envelope"
SIGNATURES = "spec.envelope.signatures"
RECORD = "spec.hashedRekordV002"


def test_an_attestation_says_what_its_statement_says() -> None:
    for signer in (PUBLISHER, P256_PUBLISHER):
        entry = parse_entry(attestation_leaf(signer=signer))
        verify_entry(entry)
        assert entry.kind == "attestation/0.0.1"
        assert entry.signer == signer.public
        assert entry.release == release()
        assert [(artifact.name, artifact.digests) for artifact in entry.artifacts] == [
            (release().filename, digests(CONTENT))
        ]


def test_a_hashedrekord_speaks_of_a_digest_and_of_no_name() -> None:
    entry = parse_entry(HASHEDREKORD)
    verify_entry(entry)
    assert entry.kind == "hashedrekord/0.0.2"
    assert entry.signer == P256_PUBLISHER.public
    assert entry.release is None
    assert [(artifact.name, artifact.digests) for artifact in entry.artifacts] == [
        (None, {"sha256": digests(CONTENT)["sha256"]})
    ]


def test_every_kind_is_registered_under_its_own_name() -> None:
    for (kind, version), module in KINDS.items():
        assert kind == module.KIND
        assert version == module.API_VERSION


@pytest.mark.parametrize("leaf", [LEAF, HASHEDREKORD], ids=["attestation", "hashedrekord"])
@pytest.mark.parametrize(
    ("kind", "version"),
    [("opaque", "0.0.1"), ("attestation", "0.0.2"), ("hashedrekord", "0.0.1"), ("Attestation", "0.0.1"), ("", "")],
)
def test_an_unknown_kind_or_version_is_unsupported(leaf: bytes, kind: str, version: str) -> None:
    bad = damaged(damaged(leaf, at("kind", kind)), at("apiVersion", version))
    with pytest.raises(UnsupportedError, match=r"field kind: .*known are attestation 0\.0\.1, hashedrekord 0\.0\.2"):
        parse_entry(bad)


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        pytest.param(at("note", "hidden"), "note", id="extra_field"),
        pytest.param(at("spec.note", 1), "spec.note", id="extra_field_in_spec"),
        pytest.param(at(f"{ENVELOPE}.note", 1), f"{ENVELOPE}.note", id="extra_field_in_envelope"),
        pytest.param(at(f"{SIGNATURES}.0.keyid", ""), f"{SIGNATURES}[0].keyid", id="key_hint"),
        pytest.param(at("spec.verifier.note", 1), "spec.verifier.note", id="extra_field_in_verifier"),
        pytest.param(at("spec.verifier.publicKey.hint", ""), "spec.verifier.publicKey.hint", id="extra_field_in_key"),
        pytest.param(without("spec"), "spec", id="no_spec"),
        pytest.param(without("kind"), "kind", id="no_kind"),
        pytest.param(without("apiVersion"), "apiVersion", id="no_version"),
        pytest.param(at("apiVersion", 1), "apiVersion", id="numeric_version"),
        pytest.param(at("spec", []), "spec", id="spec_is_an_array"),
        pytest.param(without(f"{ENVELOPE}.payload"), f"{ENVELOPE}.payload", id="no_payload"),
        pytest.param(at(f"{ENVELOPE}.payload", "e30"), f"{ENVELOPE}.payload", id="payload_without_padding"),
        pytest.param(at(f"{ENVELOPE}.payloadType", "text/plain"), f"{ENVELOPE}.payloadType", id="other_payload_type"),
        pytest.param(at(SIGNATURES, []), SIGNATURES, id="no_signature"),
        pytest.param(at(SIGNATURES, [{"sig": ""}, {"sig": ""}]), SIGNATURES, id="two_signatures"),
        pytest.param(at(SIGNATURES, {}), SIGNATURES, id="signatures_is_an_object"),
        pytest.param(at(SIGNATURES, ["sig"]), f"{SIGNATURES}[0]", id="signature_is_a_string"),
        pytest.param(at(f"{SIGNATURES}.0.sig", None), f"{SIGNATURES}[0].sig", id="signature_is_null"),
        pytest.param(without("spec.verifier"), "spec.verifier", id="no_verifier"),
        pytest.param(without("spec.verifier.publicKey"), "spec.verifier.publicKey", id="no_key"),
        pytest.param(
            at("spec.verifier.keyDetails", "PKIX_ECDSA_P256_SHA_256"),
            "spec.verifier.keyDetails",
            id="wrong_key_details",
        ),
        pytest.param(
            at("spec.verifier.x509Certificate", {"rawBytes": ""}),
            "spec.verifier.x509Certificate.rawBytes",
            id="key_and_certificate",
        ),
    ],
)
def test_a_malformed_attestation_is_refused_by_the_name_of_its_field(damage: Damage, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_entry(damaged(LEAF, damage))
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        pytest.param(at(f"{RECORD}.note", 1), f"{RECORD}.note", id="extra_field"),
        pytest.param(at(f"{RECORD}.data.note", 1), f"{RECORD}.data.note", id="extra_field_in_data"),
        pytest.param(at(f"{RECORD}.signature.note", 1), f"{RECORD}.signature.note", id="extra_field_in_signature"),
        pytest.param(at("spec.note", 1), "spec.note", id="extra_field_in_spec"),
        pytest.param(at(f"{RECORD}.data.digest", "AAAA"), f"{RECORD}.data.digest", id="short_digest"),
        pytest.param(at(f"{RECORD}.signature.content", "AB=="), f"{RECORD}.signature.content", id="loose_base64"),
        pytest.param(
            at(f"{RECORD}.signature.verifier.keyDetails", "PKIX_ED25519"),
            f"{RECORD}.signature.verifier.keyDetails",
            id="wrong_key_details",
        ),
    ],
)
def test_a_malformed_hashedrekord_is_refused_by_the_name_of_its_field(damage: Damage, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_entry(damaged(HASHEDREKORD, damage))
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("leaf", "damage", "field"),
    [
        pytest.param(LEAF, at("spec.verifier.keyDetails", "PKIX_RSA"), "spec.verifier.keyDetails", id="key_details"),
        pytest.param(
            LEAF, at("spec.verifier.publicKey.rawBytes", "AAAA"), "spec.verifier.publicKey.rawBytes", id="key"
        ),
        pytest.param(HASHEDREKORD, at(f"{RECORD}.data.algorithm", "SHA2_512"), f"{RECORD}.data.algorithm", id="digest"),
        pytest.param(
            HASHEDREKORD,
            at(
                f"{RECORD}.signature.verifier",
                {"keyDetails": "PKIX_ED25519", "publicKey": {"rawBytes": format_base64(PUBLISHER.public.spki)}},
            ),
            f"{RECORD}.signature.verifier.keyDetails",
            id="ed25519_signs_no_digests",
        ),
    ],
)
def test_an_unknown_algorithm_is_unsupported_by_the_name_of_its_field(leaf: bytes, damage: Damage, field: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse_entry(damaged(leaf, damage))
    assert field in str(caught.value)


def test_one_entry_has_one_leaf() -> None:
    document = json.loads(LEAF)
    for leaf in (
        LEAF + b"\n",
        b" " + LEAF,
        json.dumps(document).encode(),
        json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode(),
        LEAF.replace(b"attestation", b"\\u0061ttestation"),
        LEAF.replace(b'"kind"', b'"kind":"attestation","kind"'),
    ):
        with pytest.raises(MalformedError, match="entry "):
            parse_entry(leaf)


def test_a_leaf_that_fits_no_entry_bundle_is_too_large() -> None:
    with pytest.raises(TooLargeError, match="65535 bytes"):
        parse_entry(b"x" * (ENTRY_BYTES_MAX + 1))
    with pytest.raises(MalformedError, match="not JSON"):
        parse_entry(b"x" * ENTRY_BYTES_MAX)


def test_what_the_payload_has_wrong_is_told_with_the_payload() -> None:
    with pytest.raises(MalformedError, match=r"field spec\.envelope\.payload: field statement\.predicate\.purl"):
        parse_entry(attestation_leaf(statement().replace(b"pkg:pypi", b"pkg:rubygems")))


@pytest.mark.parametrize(
    ("leaf", "field"),
    [
        (
            LEAF.replace(format_base64(PUBLISHER.public.spki).encode(), format_base64(STRANGER.public.spki).encode()),
            "sig",
        ),
        (attestation.format_leaf(sealed(statement(), signer=STRANGER), signer=PUBLISHER.public), "sig"),
        (attestation.format_leaf(sealed(statement(), payload_type=""), signer=PUBLISHER.public), None),
        (hashedrekord_leaf().replace(format_base64(digests(CONTENT)["sha256"]).encode(), b"A" * 43 + b"="), "content"),
    ],
    ids=["other_key", "other_signer", "other_payload_type", "other_digest"],
)
def test_a_signature_of_something_else_does_not_verify(leaf: bytes, field: str | None) -> None:
    if field is None:  # the payload type is signed, and there is only one
        with pytest.raises(MalformedError, match="payloadType"):
            parse_entry(leaf)
        return
    with pytest.raises(SignatureError, match=rf"^field spec\..*{field}"):
        verify_entry(parse_entry(leaf))


# --- certificates ----------------------------------------------------------------------------------------------------

ISSUER = ec.derive_private_key(5, ec.SECP256R1())


def certified(der: bytes, *, details: str = "PKIX_ECDSA_P256_SHA_256") -> bytes:
    verifier = {"keyDetails": details, "x509Certificate": {"rawBytes": format_base64(der)}}
    return damaged(HASHEDREKORD, at(f"{RECORD}.signature.verifier", verifier))


CERTIFICATE_FIELD = r"field spec\.hashedRekordV002\.signature\.verifier\.x509Certificate\.rawBytes"
CERTIFICATE = certificate(ISSUER)


def test_an_attestation_put_together_without_what_was_signed_does_not_verify() -> None:
    with pytest.raises(SignatureError, match="does not hold what was signed"):
        verify_entry(replace(parse_entry(LEAF), signed=None))


def test_a_certificate_stands_for_the_key_in_it() -> None:
    entry = parse_entry(certified(CERTIFICATE))
    assert entry.signer == PrivateKey(ISSUER).public
    with pytest.raises(SignatureError):
        verify_entry(entry)


def test_an_entry_says_which_certificate_its_key_came_in_if_it_came_in_one() -> None:
    assert parse_entry(certified(CERTIFICATE)).certificate == CERTIFICATE
    assert parse_entry(HASHEDREKORD).certificate is None
    verifier = json.loads(certified(CERTIFICATE))["spec"]["hashedRekordV002"]["signature"]["verifier"]
    assert parse_entry(damaged(LEAF, at("spec.verifier", verifier))).certificate == CERTIFICATE
    assert parse_entry(LEAF).certificate is None


@pytest.mark.parametrize("version", [1, 3, 127])
def test_a_certificate_of_an_unknown_version_is_refused(version: int) -> None:
    head, _, tail = CERTIFICATE.partition(b"\xa0\x03\x02\x01\x02")
    with pytest.raises(MalformedError, match=CERTIFICATE_FIELD):
        parse_entry(certified(head + b"\xa0\x03\x02\x01" + bytes([version]) + tail))


@pytest.mark.parametrize("der", [b"", b"x", CERTIFICATE + b"\0", CERTIFICATE[:-1]])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(MalformedError, match=CERTIFICATE_FIELD):
        parse_entry(certified(der))


@pytest.mark.parametrize(
    "key",
    [ec.derive_private_key(7, ec.SECP256K1()), rsa.generate_private_key(3, 2048)],
    ids=["secp256k1", "rsa_exponent_3"],
)
def test_a_certificate_for_another_algorithm_is_unsupported(key: AnyKey) -> None:
    with pytest.raises(UnsupportedError, match=CERTIFICATE_FIELD):
        parse_entry(certified(certificate(key)))


def test_the_key_details_must_fit_the_certificate() -> None:
    ed25519_certificate = certificate(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(MalformedError, match=r"keyDetails says PKIX_ECDSA_P256_SHA_256, the key is ed25519"):
        parse_entry(certified(ed25519_certificate))
    for details in KEY_DETAILS.values():
        with pytest.raises((MalformedError, UnsupportedError)):
            parse_entry(certified(ed25519_certificate, details=details))


# --- signature schemes -----------------------------------------------------------------------------------------------


def attested_by(scheme: Scheme) -> bytes:
    signature = sign(scheme, pre_authentication_encoding(PAYLOAD_TYPE, statement()))
    envelope = Envelope(payload_type=PAYLOAD_TYPE, payload=statement(), signature=signature)
    return attestation.format_leaf(envelope, signer=public_of(scheme))


def digest_signed_by(scheme: Scheme, *, certified: bool = False) -> bytes:
    return hashedrekord.format_leaf(
        digest=hashlib.new(scheme.digest or "", CONTENT).digest(),
        signature=sign(scheme, CONTENT),
        signer=public_of(scheme),
        certificate=certificate(key_of(scheme)) if certified else None,
    )


@pytest.mark.parametrize("scheme", attestation.SCHEMES)
def test_an_attestation_is_signed_over_its_encoding(scheme: Scheme) -> None:
    entry = parse_entry(attested_by(scheme))
    verify_entry(entry)
    assert entry.signer == public_of(scheme)
    with pytest.raises(SignatureError, match=r"^field spec\.envelope\.signatures\[0\]\.sig: "):
        verify_entry(replace(entry, signature=sign(scheme, statement())))


def test_an_attestation_is_not_signed_by_a_short_rsa_key_or_by_p521() -> None:
    refused = set(Scheme) - set(attestation.SCHEMES)
    assert refused == {Scheme.RSA2048, Scheme.P521}
    for scheme in refused:
        with pytest.raises(UnsupportedError, match=rf"^field spec\.verifier\.keyDetails is {KEY_DETAILS[scheme]}; "):
            parse_entry(attested_by(scheme))
        holder = {"rawBytes": format_base64(certificate(key_of(scheme)))}
        verifier = {"keyDetails": KEY_DETAILS[scheme], "x509Certificate": holder}
        with pytest.raises(UnsupportedError, match=rf"^field spec\.verifier\.keyDetails is {KEY_DETAILS[scheme]}; "):
            parse_entry(damaged(attested_by(scheme), at("spec.verifier", verifier)))


@pytest.mark.parametrize("certified", [False, True], ids=["key", "certificate"])
@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_a_hashedrekord_speaks_of_the_digest_that_goes_with_its_key(scheme: Scheme, certified: bool) -> None:
    entry = parse_entry(digest_signed_by(scheme, certified=certified))
    verify_entry(entry)
    assert entry.signer == public_of(scheme)
    (artifact,) = entry.artifacts
    assert artifact.digests == {scheme.digest: hashlib.new(scheme.digest or "", CONTENT).digest()}
    with pytest.raises(SignatureError, match=r"^field spec\.hashedRekordV002\.signature\.content: "):
        verify_entry(replace(entry, signature=sign(scheme, b"another")))


def test_every_scheme_but_ed25519_signs_digests() -> None:
    assert set(Scheme) - set(hashedrekord.SCHEMES) == {Scheme.ED25519}
    with pytest.raises(UnsupportedError, match="ed25519 signs no digests"):
        hashedrekord.format_leaf(digest=bytes(32), signature=b"", signer=PUBLISHER.public)


@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_a_digest_of_another_hash_than_the_keys_is_refused(scheme: Scheme) -> None:
    leaf = digest_signed_by(scheme)
    for name, length in (("SHA2_256", 32), ("SHA2_384", 48), ("SHA2_512", 64)):
        data = {"algorithm": name, "digest": format_base64(bytes(length))}
        if name == json.loads(leaf)["spec"]["hashedRekordV002"]["data"]["algorithm"]:
            parse_entry(damaged(leaf, at(f"{RECORD}.data", data)))
            continue
        with pytest.raises(UnsupportedError, match=rf"^field spec\.hashedRekordV002\.data\.algorithm is '{name}'; "):
            parse_entry(damaged(leaf, at(f"{RECORD}.data", data)))
        with pytest.raises(MalformedError, match=r"^field spec\.hashedRekordV002\.data\.digest holds "):
            parse_entry(damaged(leaf, at(f"{RECORD}.data.digest", format_base64(bytes(length)))))


def test_ed25519ph_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"^field spec\..*\.keyDetails is 'PKIX_ED25519_PH', not one of "):
        parse_entry(damaged(HASHEDREKORD, at(f"{RECORD}.signature.verifier.keyDetails", "PKIX_ED25519_PH")))
