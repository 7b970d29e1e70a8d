"""The other form of an ECDSA signature: it verifies, it is the only one, and an entry with it is its entry's twin."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from tests.unit.library.signers import CURVES, certificate, key_of, public_of, sign
from tests.unit.library.specimens import CONTENT, statement
from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.entry import attestation, hashedrekord, parse_entry, verify_entry
from treehead.errors import SignatureError
from treehead.merkle import hash_leaf
from treehead.publickey import Scheme
from treehead.statement import PAYLOAD_TYPE
from treehead_logserver.twin import twin_hash


def rekord(scheme: Scheme, signature: bytes | None = None, *, der: bytes | None = None) -> bytes:
    return hashedrekord.format_leaf(
        digest=hashlib.new(scheme.digest or "", CONTENT).digest(),
        signature=sign(scheme, CONTENT) if signature is None else signature,
        signer=public_of(scheme),
        certificate=der,
    )


def attested(scheme: Scheme, signature: bytes) -> bytes:
    envelope = Envelope(payload_type=PAYLOAD_TYPE, payload=statement(), signature=signature)
    return attestation.format_leaf(envelope, signer=public_of(scheme))


def other_form(scheme: Scheme, signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, CURVES[scheme].group_order - s)


def assert_are_twins(one: bytes, other: bytes) -> None:
    assert one != other
    for leaf, twin in ((one, other), (other, one)):
        entry = parse_entry(leaf)
        verify_entry(entry)
        assert twin_hash(leaf, entry) == hash_leaf(twin)


@pytest.mark.parametrize("scheme", CURVES)
def test_the_twin_of_a_hashedrekord_is_the_one_with_the_other_form_of_its_signature(scheme: Scheme) -> None:
    other = other_form(scheme, sign(scheme, CONTENT))
    for der in (None, certificate(key_of(scheme))):
        assert_are_twins(rekord(scheme, der=der), rekord(scheme, other, der=der))


@pytest.mark.parametrize("scheme", [scheme for scheme in attestation.SCHEMES if scheme in CURVES])
def test_the_twin_of_an_attestation_is_the_one_with_the_other_form_of_its_signature(scheme: Scheme) -> None:
    signature = sign(scheme, pre_authentication_encoding(PAYLOAD_TYPE, statement()))
    assert_are_twins(attested(scheme, signature), attested(scheme, other_form(scheme, signature)))


@pytest.mark.parametrize("scheme", [scheme for scheme in hashedrekord.SCHEMES if scheme not in CURVES])
def test_an_rsa_signature_has_no_other_form(scheme: Scheme) -> None:
    signature = sign(scheme, CONTENT)
    assert twin_hash(rekord(scheme), parse_entry(rekord(scheme))) is None
    modulus = int.from_bytes(public_of(scheme)._middle(), "big")
    value = int.from_bytes(signature, "big")
    others = [(value + times * modulus).to_bytes(len(signature) + 1, "big") for times in (0, 1)]
    others += [other[1:] for other in others if other[0] == 0 and other[1:] != signature]
    for other in others:
        with pytest.raises(SignatureError):
            verify_entry(parse_entry(rekord(scheme, other)))


def test_an_ed25519_signature_has_no_other_form() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sign(Scheme.ED25519, pre_authentication_encoding(PAYLOAD_TYPE, statement()))
    leaf = attested(Scheme.ED25519, signature)
    assert twin_hash(leaf, parse_entry(leaf)) is None
    value = int.from_bytes(signature[32:], "little")
    for other in (order - value, order + value):
        with pytest.raises(SignatureError):
            verify_entry(parse_entry(attested(Scheme.ED25519, signature[:32] + other.to_bytes(32, "little"))))


@pytest.mark.parametrize("scheme", CURVES)
def test_an_ecdsa_signature_has_two_forms_and_no_more(scheme: Scheme) -> None:
    signature = sign(scheme, CONTENT)
    r, s = decode_dss_signature(signature)
    order = CURVES[scheme].group_order
    body = signature[signature.index(b"\x02") :]
    for other in (
        encode_dss_signature(r, s + order),
        encode_dss_signature(r + order, s),
        encode_dss_signature(s, r),
        b"\x30\x82" + len(body).to_bytes(2, "big") + body,
        b"\x30\x80" + body + b"\0\0",
        signature + b"\0",
    ):
        with pytest.raises(SignatureError):
            verify_entry(parse_entry(rekord(scheme, other)))
