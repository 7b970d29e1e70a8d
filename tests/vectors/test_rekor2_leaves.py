"""Real Rekor v2 entries, made anew from what their bundles hold: our write face logs, byte for byte, what Rekor did.

From each bundle the request is built that its client would send. Where the log's entry is of the kind `dsse`, which
Rekor v2 made of envelopes until it stopped taking them, the leaf cannot be the same: the request makes a hashedrekord
over the hash of what the envelope's signature covers, by the same key. Of bundles that must be refused, those that are
bad in their checkpoint have a good entry; of the others it is only seen that nothing but our own errors comes of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.vectors.test_rekor2_bundles import BUNDLE_BYTES_MAX
from treehead.dsse import pre_authentication_encoding
from treehead.encoding import Fields, JsonValue, format_base64, parse_base64, parse_canonical_json, parse_json_object
from treehead.entry import parse_entry, verify_entry
from treehead.entry.base import KEY_DETAILS
from treehead.errors import TreeheadError
from treehead.publickey import public_key_from_spki
from treehead.tile import ENTRY_BYTES_MAX
from treehead_logserver.rekor.request import parse_create_entry

HASHEDREKORDS_MIN = 3
"""A folder of vectors with fewer good entries of this kind is not the one that was published."""


def read(folder: Path) -> Fields:
    data = (folder / "bundle.sigstore.json").read_bytes()
    return Fields(parse_json_object(data, what=folder.name, bytes_max=BUNDLE_BYTES_MAX), path="")


def logged_leaf(folder: Path) -> bytes:
    entries = read(folder).object("verificationMaterial").array("tlogEntries")
    return Fields(entries[0], path="tlogEntries[0]").base64("canonicalizedBody")


def kind_of(leaf: bytes) -> str:
    fields = Fields(parse_canonical_json(leaf, what="entry", bytes_max=ENTRY_BYTES_MAX), path="")
    return f"{fields.text('kind')}/{fields.text('apiVersion')}"


def said_kind(folder: Path) -> str:
    """The kind that the bundle says its entry is of, whatever the entry says."""
    entries = read(folder).object("verificationMaterial").array("tlogEntries")
    return Fields(entries[0], path="tlogEntries[0]").object("kindVersion").text("kind")


def request_of(folder: Path) -> bytes:
    """The request by which a client has logged what the bundle holds."""
    bundle = read(folder)
    verifier = verifier_of(folder, bundle.object("verificationMaterial"))
    request: JsonValue
    if bundle.has("messageSignature"):
        message = bundle.object("messageSignature")
        digest = message.object("messageDigest").text("digest")
        signature: JsonValue = {"content": message.text("signature"), "verifier": verifier}
        request = {"hashedRekordRequestV002": {"digest": digest, "signature": signature}}
    else:
        request = {"dsseRequestV002": {"envelope": bundle.value("dsseEnvelope"), "verifiers": [verifier]}}
    return json.dumps(request).encode()


def verifier_of(folder: Path, material: Fields) -> JsonValue:
    """The certificate in the bundle; a bundle by a bare key only hints at it, so that is the one in the log."""
    if not material.has("certificate"):
        key = parse_entry(logged_leaf(folder)).signer
        return {"keyDetails": KEY_DETAILS[key.scheme], "publicKey": {"rawBytes": format_base64(key.spki)}}
    raw = material.object("certificate").text("rawBytes")
    public_key = x509.load_der_x509_certificate(parse_base64(raw, what="certificate")).public_key()
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"keyDetails": KEY_DETAILS[public_key_from_spki(spki).scheme], "x509Certificate": {"rawBytes": raw}}


def folders(vectors: Path) -> list[Path]:
    found = sorted(path.parent for path in (vectors / "rekor2").glob("*/bundle.sigstore.json"))
    if not found:
        pytest.skip(f"no bundles in {vectors / 'rekor2'}")
    return found


def with_good_entries(vectors: Path) -> Iterator[Path]:
    for folder in folders(vectors):
        if not folder.name.endswith("_fail") or "checkpoint" in folder.name:
            yield folder


def test_the_request_of_a_bundle_makes_the_leaf_that_rekor_logged(vectors: Path) -> None:
    compared = []
    for folder in with_good_entries(vectors):
        logged = logged_leaf(folder)
        if kind_of(logged) == "hashedrekord/0.0.2":
            leaf = parse_create_entry(request_of(folder)).leaf
            assert leaf == logged, folder.name
            verify_entry(parse_entry(leaf))
            compared.append(folder)
    assert compared == [folder for folder in with_good_entries(vectors) if said_kind(folder) == "hashedrekord"]
    assert len(compared) >= HASHEDREKORDS_MIN


def test_an_envelope_that_rekor_logged_as_such_makes_a_signed_hashedrekord(vectors: Path) -> None:
    converted = 0
    for folder in with_good_entries(vectors):
        bundle = read(folder)
        if not bundle.has("dsseEnvelope"):
            continue
        envelope = bundle.object("dsseEnvelope")
        signed = pre_authentication_encoding(envelope.text("payloadType"), envelope.base64("payload"))
        entry = parse_entry(parse_create_entry(request_of(folder)).leaf)
        verify_entry(entry)
        entry.signer.verify(signature=entry.signature, message=signed)
        if entry.signer.scheme.digest == "sha256":
            assert entry.artifacts[0].digests == {"sha256": sha256(signed).digest()}, folder.name
        converted += 1
    if not converted:
        pytest.skip("no bundle here holds an envelope")


def test_a_bad_bundle_leads_to_no_foreign_exception(vectors: Path) -> None:
    requests = []
    for folder in folders(vectors):
        with contextlib.suppress(TreeheadError, LookupError, ValueError):  # it may be too bad to make a request of
            requests.append(request_of(folder))
    assert len(requests) >= HASHEDREKORDS_MIN
    for request in requests:
        with contextlib.suppress(TreeheadError):
            parse_entry(parse_create_entry(request).leaf)
