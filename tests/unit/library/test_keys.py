"""Note keys, publisher keys and private keys: what names a key, what opens it, and what is refused."""

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.library.signers import CURVES, DIGEST_SCHEMES, PRIMES, key_of, public_of, sign, spki_of
from tests.unit.library.specimens import LOG, LOG_KEY, ORIGIN, P256_PUBLISHER, PUBLISHER, private_key
from treehead.encoding import format_base64
from treehead.errors import MalformedError, SignatureError, UnsupportedError, UsageError
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, is_key_name, parse_vkey, verify_ed25519
from treehead.privatekey import PrivateKey, format_private_key, parse_private_key
from treehead.publickey import (
    PRIVATE_KEY_SCHEMES,
    PublicKey,
    Scheme,
    format_public_key,
    parse_public_key,
    public_key_from_ed25519,
    public_key_from_spki,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


def pem_of(key: "PrivateKeyTypes", form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


# --- note keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["log.example", "log.example/a", "Ä", "x" * 300, "a\x7fb", "a\u200cb", "name—with—dashes", "\U0001f332"]
)
def test_a_key_may_have_any_visible_name(name: str) -> None:
    assert is_key_name(name)
    key = LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519)
    assert parse_vkey(format_vkey(key)) == key


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a+b", "a\tb", "a\nb", "a\0b", "a\x1fb", "a\u00a0b", "a\u2028b", "a\u3000b", "\u0085", "\udce9"],
)
def test_a_key_name_has_no_space_plus_or_control(name: str) -> None:
    assert not is_key_name(name)
    with pytest.raises(UsageError, match="cannot name a key"):
        LOG.verifier_key(name=name, key_type=NoteKeyType.ED25519)
    with pytest.raises(MalformedError):
        parse_vkey(f"{name}+00000000+{format_base64(bytes([1]) + bytes(32))}")


def test_the_encoded_key_may_hold_plus_signs() -> None:
    key = VerifierKey(name="log", key_type=NoteKeyType.ED25519, public_key=bytes.fromhex("fb" * 32))
    text = format_vkey(key)
    assert text.count("+") > 2
    assert parse_vkey(text) == key


def test_the_same_key_under_another_name_or_type_has_another_id() -> None:
    ids = {
        LOG.verifier_key(name=name, key_type=key_type).key_id
        for name in ("a", "b")
        for key_type in (NoteKeyType.ED25519, NoteKeyType.COSIGNATURE_ED25519)
    }
    assert len(ids) == 4


def test_a_key_id_is_the_start_of_a_whole_hash() -> None:
    for key_type in (NoteKeyType.ED25519, NoteKeyType.ECDSA):
        key = VerifierKey(name="log", key_type=key_type, public_key=bytes(32))
        assert len(key.key_hash) == 32
        assert key.key_id == key.key_hash[:4]


def test_an_ecdsa_key_id_does_not_hash_the_name() -> None:
    keys = [VerifierKey(name=name, key_type=NoteKeyType.ECDSA, public_key=P256_PUBLISHER.public.spki) for name in "ab"]
    assert keys[0].key_id == keys[1].key_id
    assert [parse_vkey(format_vkey(key)) for key in keys] == keys


@pytest.mark.parametrize(("key_type", "length"), [(1, 31), (1, 33), (1, 0), (2, 0), (4, 64), (5, 20), (6, 32)])
def test_a_public_key_of_another_length_is_refused(key_type: int, length: int) -> None:
    blob = bytes([key_type]) + bytes(length)
    with pytest.raises(MalformedError, match=f"public key of {length} bytes"):
        parse_vkey(f"log+00000000+{format_base64(blob)}")


@pytest.mark.parametrize("key_type", [0x00, 0x03, 0x07, 0xFA, 0xFF])
def test_an_unknown_signature_type_is_unsupported(key_type: int) -> None:
    with pytest.raises(UnsupportedError, match=f"log has signature type 0x{key_type:02x}"):
        parse_vkey(f"log+00000000+{format_base64(bytes([key_type]) + bytes(32))}")


def test_only_ed25519_keys_sign_notes() -> None:
    with pytest.raises(UsageError, match="Ed25519"):
        P256_PUBLISHER.verifier_key(name="log", key_type=NoteKeyType.ED25519)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_a_signature_that_is_none_does_not_verify(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_ed25519(public_key=LOG_KEY.public_key, signature=signature, message=b"")


def test_a_signature_has_one_encoding() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = LOG.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(SignatureError):
        verify_ed25519(
            public_key=LOG_KEY.public_key, signature=signature[:32] + scalar.to_bytes(32, "little"), message=b"message"
        )


# --- publisher keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", Scheme)
def test_a_publisher_key_has_one_long_and_one_short_form(scheme: Scheme) -> None:
    key = public_of(scheme)
    assert key.scheme is scheme
    assert key.spki == spki_of(key_of(scheme))
    text = format_public_key(key)
    assert text.partition(":")[0] == ("rsa" if scheme in PRIMES else scheme.value)
    assert parse_public_key(text) == key


@pytest.mark.parametrize("scheme", Scheme)
def test_a_signature_is_of_one_message_by_one_key(scheme: Scheme) -> None:
    key, signature = public_of(scheme), sign(scheme, b"message")
    key.verify(signature=signature, message=b"message")
    for other in (b"", signature[:-1], signature + b"\0", bytes(len(signature)), sign(scheme, b"another")):
        with pytest.raises(SignatureError, match="does not verify"):
            key.verify(signature=other, message=b"message")
    with pytest.raises(SignatureError):
        key.verify(signature=signature, message=b"another")
    for other_scheme in set(Scheme) - {scheme}:
        with pytest.raises(SignatureError):
            public_of(other_scheme).verify(signature=signature, message=b"message")


@pytest.mark.parametrize("scheme", DIGEST_SCHEMES)
def test_a_signature_can_be_checked_against_the_digest_that_goes_with_the_key(scheme: Scheme) -> None:
    key, signature = public_of(scheme), sign(scheme, b"message")
    for algorithm in ("sha256", "sha384", "sha512"):
        digest = hashlib.new(algorithm, b"message").digest()
        if algorithm == scheme.digest:
            key.verify_digest(signature=signature, digest=digest)
        else:
            with pytest.raises(SignatureError):
                key.verify_digest(signature=signature, digest=digest)


def test_an_rsa_signature_is_pkcs1_over_sha256() -> None:
    key = key_of(Scheme.RSA3072)
    assert isinstance(key, rsa.RSAPrivateKey)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    for signature in (
        key.sign(b"message", pss, hashes.SHA256()),
        key.sign(b"message", padding.PKCS1v15(), hashes.SHA512()),
    ):
        with pytest.raises(SignatureError):
            public_of(Scheme.RSA3072).verify(signature=signature, message=b"message")


def test_ecdsa_signatures_are_deterministic() -> None:
    assert P256_PUBLISHER.sign(b"message") == P256_PUBLISHER.sign(b"message")


def test_an_ed25519_signature_cannot_be_checked_against_a_digest() -> None:
    with pytest.raises(UnsupportedError, match="digest"):
        PUBLISHER.public.verify_digest(signature=bytes(64), digest=bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("ed25519", id="no_colon"),
        pytest.param("ED25519:" + format_base64(bytes(32)), id="upper_case_scheme"),
        pytest.param(" ed25519:" + format_base64(bytes(32)), id="leading_space"),
        pytest.param("ed25519:" + format_base64(bytes(33)), id="ed25519_too_long"),
        pytest.param("ed25519:" + format_base64(bytes(32)).rstrip("="), id="no_padding"),
        pytest.param("p256:" + format_base64(b"\x02" + b"\xff" * 32), id="p256_off_the_curve"),
        pytest.param("p256:" + format_base64(bytes(33)), id="p256_infinity"),
        pytest.param("p256:" + format_base64(b"\x04" + P256_PUBLISHER.public.spki[-64:]), id="p256_uncompressed"),
        pytest.param("p384:" + format_base64(bytes(49)), id="p384_infinity"),
        pytest.param("p384:" + str(P256_PUBLISHER.public).partition(":")[2], id="p256_for_p384"),
        pytest.param("p384:" + format_base64(b"\x04" + public_of(Scheme.P384).spki[-96:]), id="p384_uncompressed"),
        pytest.param("p521:" + format_base64(b"\x02\x01" + b"\xff" * 65), id="p521_off_the_curve"),
        pytest.param("p521:" + format_base64(public_of(Scheme.P521).spki), id="p521_in_its_long_form"),
        pytest.param("rsa:AAAA", id="rsa_of_nothing"),
        pytest.param("rsa:" + format_base64(P256_PUBLISHER.public.spki), id="p256_for_rsa"),
        pytest.param("rsa:" + format_base64(PUBLISHER.public.spki), id="ed25519_for_rsa"),
        pytest.param("rsa2048:" + format_base64(public_of(Scheme.RSA2048).spki), id="rsa_with_its_size"),
        pytest.param("rsa:" + format_base64(public_of(Scheme.RSA2048).spki + b"\0"), id="rsa_with_a_byte_more"),
        pytest.param("ed25519:\ud800", id="surrogate"),
    ],
)
def test_any_other_spelling_of_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_public_key(text)


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem_spki(scheme: Scheme) -> bytes:
    public = key_of(scheme).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


MODULUS = int.from_bytes(public_of(Scheme.RSA2048).spki[-261:-5], "big")
RSA_SPKI = public_of(Scheme.RSA2048).spki
P384_SPKI = public_of(Scheme.P384).spki


@pytest.mark.parametrize(
    "spki",
    [
        pytest.param(b"", id="empty"),
        *(pytest.param(public_of(scheme).spki + b"\0", id=f"{scheme.value}_with_a_byte_more") for scheme in Scheme),
        *(pytest.param(public_of(scheme).spki[:-1], id=f"{scheme.value}_cut_short") for scheme in Scheme),
        pytest.param(spki_of(ec.derive_private_key(7, ec.SECP256K1())), id="secp256k1"),
        pytest.param(spki_of(ec.derive_private_key(7, ec.BrainpoolP384R1())), id="brainpool"),
        pytest.param(rsa_spki(MODULUS >> 1024 | 1), id="rsa_of_1024_bits"),
        pytest.param(rsa_spki(MODULUS << 8 | 1), id="rsa_of_2056_bits"),
        pytest.param(rsa_spki(MODULUS, 3), id="rsa_exponent_3"),
        pytest.param(rsa_spki(MODULUS, 65539), id="rsa_exponent_65539"),
        pytest.param(RSA_SPKI.replace(b"\x01\x01\x01\x05\x00", b"\x01\x01\x0a\x05\x00"), id="rsa_for_pss_only"),
        pytest.param(RSA_SPKI.replace(b"\x30\x82\x01\x22", b"\x30\x83\x00\x01\x22"), id="rsa_with_a_long_length"),
        pytest.param(P384_SPKI.replace(b"\x03\x62\x00\x04", b"\x03\x62\x00\x02")[:72], id="p384_compressed"),
        pytest.param(pem_spki(Scheme.P256), id="pem"),
    ],
)
def test_a_key_of_another_algorithm_or_encoding_is_unsupported(spki: bytes) -> None:
    with pytest.raises(
        UnsupportedError, match=r"none of Ed25519, ECDSA P-256, .*, RSA 4096 \(SubjectPublicKeyInfo DER"
    ):
        public_key_from_spki(spki)


@pytest.mark.parametrize("scheme", CURVES)
def test_a_key_off_the_curve_is_refused(scheme: Scheme) -> None:
    spki = public_of(scheme).spki
    with pytest.raises(MalformedError, match=f"not a point of the curve P-{scheme.value[1:]}"):
        public_key_from_spki(spki[:-1] + bytes([spki[-1] ^ 1]))


@pytest.mark.parametrize("scheme", PRIMES)
def test_a_modulus_that_is_even_or_shorter_than_its_key_is_refused(scheme: Scheme) -> None:
    spki = public_of(scheme).spki
    modulus_at = len(spki) - 5 - int(scheme.value[3:]) // 8
    for at, byte in ((len(spki) - 6, spki[-6] ^ 0x01), (modulus_at, spki[modulus_at] & 0x7F)):
        with pytest.raises(MalformedError, match=f"even, or has fewer than {scheme.value[3:]} bits"):
            public_key_from_spki(spki[:at] + bytes([byte]) + spki[at + 1 :])


def test_an_ed25519_key_is_its_32_bytes() -> None:
    assert public_key_from_ed25519(PUBLISHER.public.spki[-32:]) == PUBLISHER.public
    with pytest.raises(ValueError, match="32 bytes"):
        public_key_from_ed25519(bytes(31))


# --- private keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", PRIVATE_KEY_SCHEMES)
@pytest.mark.parametrize("passphrase", [None, b"x", "größe".encode(), b"x" * 1023])
def test_a_private_key_survives_its_file(scheme: Scheme, passphrase: bytes | None) -> None:
    key = private_key("survivor", scheme)
    pem = format_private_key(key, passphrase=passphrase)
    assert parse_private_key(pem, passphrase=passphrase).public == key.public


def test_an_encrypted_key_needs_its_passphrase() -> None:
    pem = format_private_key(LOG, passphrase=b"right")
    with pytest.raises(UsageError, match="give its passphrase"):
        parse_private_key(pem, passphrase=None)
    with pytest.raises(UsageError, match="wrong passphrase"):
        parse_private_key(pem, passphrase=b"wrong")


def test_a_plain_key_is_not_taken_for_an_encrypted_one() -> None:
    with pytest.raises(UsageError, match="not encrypted"):
        parse_private_key(format_private_key(LOG, passphrase=None), passphrase=b"any")


@pytest.mark.parametrize("length", [0, 1024, 5000])
def test_a_passphrase_that_cannot_encrypt_is_refused_in_our_own_words(length: int) -> None:
    with pytest.raises(UsageError, match=f"passphrase has {length} bytes"):
        format_private_key(LOG, passphrase=b"x" * length)
    with pytest.raises(UsageError, match=f"passphrase has {length} bytes"):
        parse_private_key(format_private_key(LOG, passphrase=b"x"), passphrase=b"x" * length)


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(b"junk\n" + format_private_key(LOG, passphrase=None), id="junk_before"),
        pytest.param(format_private_key(LOG, passphrase=None).replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(
            pem_of(ec.derive_private_key(7, ec.SECP256R1()), serialization.PrivateFormat.TraditionalOpenSSL),
            id="not_pkcs8",
        ),
        pytest.param(
            pem_of(Ed25519PrivateKey.from_private_bytes(bytes(32)), serialization.PrivateFormat.OpenSSH), id="openssh"
        ),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", id="no_key_inside"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\n", id="truncated"),
    ],
)
def test_what_is_no_key_file_is_refused(pem: bytes) -> None:
    for passphrase in (None, b"any"):
        with pytest.raises(UsageError, match="PKCS#8"):
            parse_private_key(pem, passphrase=passphrase)


def test_a_key_file_without_bound_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than"):
        parse_private_key(b"-" * 20_000, passphrase=None)


@pytest.mark.parametrize(
    "key", [ec.derive_private_key(7, ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["p384", "rsa"]
)
def test_a_private_key_of_another_algorithm_is_refused(key: "PrivateKeyTypes") -> None:
    with pytest.raises(UsageError, match="neither Ed25519 nor ECDSA P-256"):
        parse_private_key(pem_of(key), passphrase=None)


def test_a_private_key_never_prints_itself() -> None:
    secret = format_base64(bytes(range(32)))
    key = PrivateKey.from_seed(scheme=Scheme.ED25519, seed=bytes(range(32)))
    assert secret not in f"{key!r} {key} {key.public}"
    assert repr(key) == f"PrivateKey(public={key.public})"


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        PrivateKey.from_seed(scheme=Scheme.ED25519, seed=bytes(31))


@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme not in PRIVATE_KEY_SCHEMES])
def test_private_keys_of_other_schemes_are_not_made(scheme: Scheme) -> None:
    with pytest.raises(ValueError, match=scheme.value):
        PrivateKey.from_seed(scheme=scheme, seed=bytes(range(32)))


def test_keys_are_equal_by_value() -> None:
    assert LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519) == LOG_KEY
    assert PublicKey(scheme=Scheme.ED25519, spki=PUBLISHER.public.spki) == PUBLISHER.public
    assert str(LOG_KEY) == format_vkey(LOG_KEY)
