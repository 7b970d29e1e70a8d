"""A signer of every scheme that is verified here, with a fixed key, as other programs have them.

The keys are for tests and known to all: those on curves are the hash of their scheme's name, and the RSA keys are made
of the primes below, which were drawn once. Never use them for anything else.
"""

from __future__ import annotations

import datetime
from functools import cache
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from treehead.publickey import PublicKey, Scheme, public_key_from_spki

AnyKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

DIGEST_SCHEMES = tuple(scheme for scheme in Scheme if scheme.digest is not None)

CURVES = {Scheme.P256: ec.SECP256R1(), Scheme.P384: ec.SECP384R1(), Scheme.P521: ec.SECP521R1()}
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}

PRIMES = {
    Scheme.RSA2048: (
        "de0fa670d6e0a6d5a754baffbe4f84db12587275e2960914c5fed9407dd8c0329cb5aa84bb9e3857b09c89a8709060e64d15e2e78b9b"
        "1f37326fe6d8b6c5ab1f7fab3a691e5b93fd97777741bf63d9722183895a3d1ba56adf7e55719d67ea4fecf736102803987c6b2d96c8"
        "e1a8a27c26b7e9bf274cd6384e3092bc4f542443",
        "cd7a1865ee932689d4ffd1f53ea0150744c10de0668ab840ba7d4662c1e878b3dce3910b8c4106ae9afe5f3f0a835b19f6fba17d444b"
        "5346f15bd9e0ad102935cbd2763e9d02f887680f5f48ff53e19d57850c62d8d5eeeed0b4c28593aa0f5cad8110ec64d7ac8fb2f7c44a"
        "0c33144217ad5e0f4e274608d11bae5baab2b9fd",
    ),
    Scheme.RSA3072: (
        "edae22951efa45855f58e0f301dacc8a83aaf83016df1c974ac0a006a34d9aa33bff1d7051912c2946fb825e50c9d8141e9dacec5f43"
        "ec4912578a367470e5a01a4f3cc5e5621a7911c1e707ad215682c4aa9f6bd410b11d3983343a791cc7f24c92eb94503e31a475153d99"
        "079f44804da8d263ca99578fbc95bb058e0876c734ba0ed51896a24ee528b40e6d528f7bd8e727e3ff4d596b53658fcd5b85430eb554"
        "88ee862dbfbdc71d3cb0e21c950c295098044abadc0f305145e66029f1b5",
        "d7f43d398f9d9863dcc199b10f43f618066a2b66e75e6ffd47d53b747f221be3572bdc0276026d510c27278286a1a51f7536f68b2bbe"
        "cc636e4fcb0cb4ac3f299d4f1ae1cdd4665ac5d1c0a34b22062f467513acabb01af0978e34fefd1946602c20ed71b6e2b42c78908f93"
        "375417a27ddf74a3597868bf6c6393f1766078207f8678965d809ca666735ed0451b79e7240d51f0e91294b2b35e95e53edc9399e683"
        "d5a66cb572da82a36b940cbf8b4f6d096ab963a5efcc701de6255b49fea1",
    ),
    Scheme.RSA4096: (
        "faef9de4cb314a5ff1f59ce608480b8071a16331462e5d06790b1fab6ba4f6a61dcd3d541dc72c11dafe73ea04cc1a0df00d0f700762"
        "88324028100ea4a97acc6fb8a041cd3792a20d890656bbb1d26674fe32b01bc8dbf75e5bd6fe471c2ead77a4247d138f5d6f0eb67c9f"
        "2cc738cfbd6aa094b9f681cdf8600ae65702daed5e473e5d69adcf076ba65f7f24b5c673dfa9a82484d95540e10c7abbe4041f0a9ab3"
        "d4ecdd7e8298920d5390d69e6b365209b74dab9915c03241a8ff39edff5cf5825d44a4b97f59faf8fcec6be9d28b0d31aff18a8723d8"
        "b3b65f09d5c84c336f7669488793011ff939163c9bc72c2cafc6fe54be9965ca41e7084575b0eb27",
        "ee7338a0f855486c35b332d5b100c215a91be592856bd80505f1048a785c6fba65c1f7f5953f04bf596680611938d055b60e76f0e738"
        "3124a9562121a79aa844cd711e57c8ebaaab88affa40cb43336c4e1aea9acbe4ab0e40149865ddc92c1bca13600c32ac9a2a1ac4bec7"
        "a9b36bd8fb663dbdfc8ab6c30df25ff43db1c544e342eb4146fc11661d737d5a875e0049f49b6d1c53504f98bdd010427b8773c26226"
        "3a0a8cbf51993aecdbd8c4513b9d10d26aaa2cfe4e19540fdd6554bd3a57149b529b06388400412f901d4208df5a2dfc9cd78903c6a8"
        "72378e92e0b95317a9ca1d7846290a7527d349f877b144d9836be50e596fcfe4c217a9346f308a2b",
    ),
}


@cache
def key_of(scheme: Scheme) -> AnyKey:
    """The private key of a scheme."""
    seed = sha256(scheme.value.encode()).digest()
    if scheme is Scheme.ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    if scheme in CURVES:
        return ec.derive_private_key(int.from_bytes(seed, "big"), CURVES[scheme])
    p, q = (int(prime, 16) for prime in PRIMES[scheme])
    public = rsa.RSAPublicNumbers(65_537, p * q)
    d = pow(public.e, -1, (p - 1) * (q - 1))
    dmp1, dmq1, iqmp = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, dmp1, dmq1, iqmp, public).private_key(unsafe_skip_rsa_key_validation=True)


def spki_of(key: AnyKey) -> bytes:
    """The SubjectPublicKeyInfo of a private key, whatever its algorithm."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_of(scheme: Scheme) -> PublicKey:
    """The public key of a scheme."""
    return public_key_from_spki(spki_of(key_of(scheme)))


def sign(scheme: Scheme, message: bytes) -> bytes:
    """The signature of a message, the same each time."""
    key = key_of(scheme)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    algorithm = HASHES[scheme.digest or ""]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(algorithm, deterministic_signing=True))
    return key.sign(message, padding.PKCS1v15(), algorithm)


def certificate(key: AnyKey, *, serial: int = 1) -> bytes:
    """A certificate for a key, made by somebody else, who need not have asked (DER)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC))
    )
    issuer = ec.derive_private_key(5, ec.SECP256R1())
    signed = builder.sign(issuer, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)
