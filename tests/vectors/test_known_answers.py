"""Answers that others published, in specifications and the documentation of other programs."""

from hashlib import sha256

import pytest

from treehead.checkpoint import format_checkpoint, parse_checkpoint
from treehead.dsse import pre_authentication_encoding
from treehead.encoding import format_canonical_json, parse_canonical_json
from treehead.errors import SignatureError
from treehead.keys import NoteKeyType, format_vkey, parse_vkey, verify_ed25519
from treehead.merkle import (
    EMPTY_ROOT,
    CompactRange,
    hash_leaf,
    root_from_inclusion,
    roots_from_consistency,
)
from treehead.note import Note, format_note, parse_note, sign_text, verify_note
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.statement import format_purl
from treehead.tile import TilePath, format_tile_path, parse_tile_path

# golang.org/x/mod/sumdb/note, package documentation. The secret key's seed is what follows the type byte.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = bytes.fromhex("810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173")
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# c2sp.org/signed-note.
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

# The leaves that certificate-transparency programs have tested their trees with since 2012, and the root at each size.
CT_LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    bytes.fromhex("2021"),
    bytes.fromhex("3031"),
    bytes.fromhex("40414243"),
    bytes.fromhex("5051525354555657"),
    bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_go_checksum_databases_note_is_signed_to_the_byte() -> None:
    key = PrivateKey.from_seed(scheme=Scheme.ED25519, seed=GO_SEED)
    vkey = parse_vkey(GO_VKEY)
    assert key.verifier_key(name="PeterNeumann", key_type=NoteKeyType.ED25519) == vkey
    assert format_vkey(vkey) == GO_VKEY
    note = Note(text=GO_TEXT, signatures=(sign_text(GO_TEXT, key=key, name="PeterNeumann"),))
    assert format_note(note).decode() == f"{GO_TEXT}\n{GO_LINE}"
    verify_note(parse_note(f"{GO_TEXT}\n{GO_LINE}".encode()), key=vkey)


def test_the_specifications_note_verifies() -> None:
    key = parse_vkey(C2SP_VKEY)
    assert key.key_id.hex() == "530d903a"
    verify_note(parse_note(C2SP_NOTE.encode()), key=key)
    with pytest.raises(SignatureError):
        verify_note(parse_note(C2SP_NOTE.replace("example m", "Example m").encode()), key=key)


def test_the_specifications_checkpoint_is_read_back() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = parse_checkpoint(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert format_checkpoint(checkpoint) == text


def test_rfc8032_ed25519() -> None:
    key = PrivateKey.from_seed(
        scheme=Scheme.ED25519, seed=bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    public_key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.public.spki[-32:] == public_key
    assert key.sign(b"\x72") == signature
    verify_ed25519(public_key=public_key, signature=signature, message=b"\x72")


def test_rfc6979_ecdsa_p256_is_deterministic() -> None:
    seed = bytes.fromhex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
    key = PrivateKey.from_seed(scheme=Scheme.P256, seed=seed)
    assert key.public.spki[-64:].hex() == (
        "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
        "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    )
    r = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    s = "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
    assert key.sign(b"sample").hex() == f"3046022100{r}022100{s}"


def test_certificate_transparencys_roots() -> None:
    tree = CompactRange()
    roots = [tree.root().hex()]
    for leaf in CT_LEAVES:
        tree.append(hash_leaf(leaf))
        roots.append(tree.root().hex())
    assert roots == CT_ROOTS
    assert EMPTY_ROOT.hex() == CT_ROOTS[0] == sha256(b"").hexdigest()


def test_certificate_transparencys_proofs() -> None:
    inclusion = [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    root = root_from_inclusion(
        index=5, size=8, leaf_hash=hash_leaf(CT_LEAVES[5]), proof=list(map(bytes.fromhex, inclusion))
    )
    assert root.hex() == CT_ROOTS[8]
    consistency = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    roots = roots_from_consistency(
        size1=6, size2=8, root1=bytes.fromhex(CT_ROOTS[6]), proof=list(map(bytes.fromhex, consistency))
    )
    assert [root.hex() for root in roots] == [CT_ROOTS[6], CT_ROOTS[8]]


def test_dsse_pre_authentication_encoding() -> None:
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize(
    ("number", "spelled"), [(0, "000"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")]
)
def test_tlog_tiles_paths(number: int, spelled: str) -> None:
    path = TilePath(0, number, 256)
    assert format_tile_path(path) == f"tile/0/{spelled}"
    assert parse_tile_path(f"tile/0/{spelled}") == path


def test_rfc8785_strings_and_order() -> None:
    """The RFC's examples of section 3.2, without the numbers that are no integers."""
    data = b'{"literals":[null,true,false],"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    value = parse_canonical_json(data, what="example", bytes_max=1000)
    assert value["string"] == '€$\x0f\nA\'B"\\\\"/'
    assert format_canonical_json(value) == data
    ordered = ["\r", "1", "\x80", "ö", "€", "\U0001f600", "\ufb33"]
    printed = format_canonical_json(dict.fromkeys(reversed(ordered), 0))
    assert list(parse_canonical_json(printed, what="example", bytes_max=1000)) == ordered


@pytest.mark.parametrize(
    ("ecosystem", "name", "version", "purl"),
    [
        ("pypi", "django", "1.11.1", "pkg:pypi/django@1.11.1"),
        ("npm", "@angular/animation", "12.3.1", "pkg:npm/%40angular/animation@12.3.1"),
        ("golang", "google.golang.org/genproto", "", "pkg:golang/google.golang.org/genproto"),
        ("deb", "debian/curl", "7.50.3-1", "pkg:deb/debian/curl@7.50.3-1"),
        ("docker", "cassandra", "sha256:244fd47e07d1004f0aed9c", "pkg:docker/cassandra@sha256:244fd47e07d1004f0aed9c"),
        ("maven", "org.apache.xmlgraphics/batik-anim", "1.9.1", "pkg:maven/org.apache.xmlgraphics/batik-anim@1.9.1"),
        ("cpan", "GDT/URI-PackageURL", "", "pkg:cpan/GDT/URI-PackageURL"),
        ("deb", "debian/cpp", "4:10.2.1-1+b1", "pkg:deb/debian/cpp@4:10.2.1-1%2Bb1"),
    ],
)
def test_package_url_examples(ecosystem: str, name: str, version: str, purl: str) -> None:
    assert format_purl(ecosystem=ecosystem, name=name, version=version) == purl
