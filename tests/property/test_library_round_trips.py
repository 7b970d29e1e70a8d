"""`parse_x` and `format_x` are exact inverses, for every format that has both."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.library.specimens import CONTENT, P256_PUBLISHER, PUBLISHER, digests, private_key
from treehead.checkpoint import CHECKPOINT_CHARS_MAX, Checkpoint, format_checkpoint, parse_checkpoint
from treehead.cosignature import cosign, verify_cosignature
from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.encoding import (
    INT63_MAX,
    format_base64,
    format_canonical_json,
    format_decimal,
    format_hex,
    parse_base64,
    parse_canonical_json,
    parse_decimal,
    parse_hex,
)
from treehead.entry import attestation, hashedrekord, parse_entry, verify_entry
from treehead.evidence import Evidence, Fork, format_evidence, parse_evidence
from treehead.keys import NoteKeyType, VerifierKey, format_vkey, is_key_name, parse_vkey
from treehead.merkle import PROOF_HASHES_MAX
from treehead.note import Note, NoteSignature, format_note, parse_note
from treehead.policy import Group, Policy, PolicyLog, Witness, format_policy, parse_policy
from treehead.privatekey import PrivateKey, format_private_key, parse_private_key
from treehead.publickey import PRIVATE_KEY_SCHEMES, Scheme, format_public_key, parse_public_key, public_key_from_spki
from treehead.statement import (
    NAME_CHARS_MAX,
    PAYLOAD_TYPE,
    Release,
    Subject,
    format_purl,
    format_release_statement,
    parse_statement,
)
from treehead.tile import (
    TILE_WIDTH,
    TilePath,
    format_entry_bundle,
    format_tile_path,
    parse_entry_bundle,
    parse_tile_path,
)
from treehead.tlogproof import TlogProof, format_proof, parse_proof

HASHES = st.binary(min_size=32, max_size=32)
INT63 = st.one_of(st.integers(0, INT63_MAX), st.integers(0, 300), st.sampled_from([INT63_MAX, INT63_MAX - 1]))
KEY_NAMES = st.text(min_size=1, max_size=30).filter(is_key_name)
# A line of a note: no control characters. Everything else is allowed, separators and byte order marks too.
LINES = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=60)
KEY_LENGTHS = {NoteKeyType.COSIGNATURE_MLDSA44: 1312}


@st.composite
def verifier_keys(draw: st.DrawFn, types: tuple[NoteKeyType, ...] = tuple(NoteKeyType)) -> VerifierKey:
    key_type = draw(st.sampled_from(types))
    length = draw(st.integers(1, 100)) if key_type is NoteKeyType.ECDSA else KEY_LENGTHS.get(key_type, 32)
    return VerifierKey(
        name=draw(KEY_NAMES), key_type=key_type, public_key=draw(st.binary(min_size=length, max_size=length))
    )


SIGNATURES = st.builds(
    NoteSignature,
    name=KEY_NAMES,
    key_id=st.binary(min_size=4, max_size=4),
    signature=st.binary(min_size=1, max_size=80),
)


@st.composite
def notes(draw: st.DrawFn, texts: st.SearchStrategy[str], lines_max: int = 4) -> Note:
    unique = st.lists(
        SIGNATURES, min_size=1, max_size=lines_max, unique_by=lambda signature: (signature.name, signature.key_id)
    )
    return Note(text=draw(texts), signatures=tuple(draw(unique)))


NOTE_TEXTS = (
    st.lists(st.one_of(LINES, st.just("")), min_size=1, max_size=5).map("\n".join).filter(bool).map("{}\n".format)
)
CHECKPOINTS = st.builds(
    Checkpoint, origin=LINES, size=INT63, root=HASHES, extensions=st.lists(LINES, max_size=3).map(tuple)
)


# --- text codecs -----------------------------------------------------------------------------------------------------


@given(INT63)
def test_decimals(value: int) -> None:
    assert parse_decimal(format_decimal(value), what="x") == value


@given(st.binary())
def test_base64_and_hexadecimal(value: bytes) -> None:
    assert parse_base64(format_base64(value), what="x", length=len(value)) == value
    assert parse_hex(format_hex(value), what="x", length=len(value)) == value


JSON_STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Beyond 2^53 a double prints as an integer that no canonical JSON may hold; entries have no such numbers.
JSON_NUMBERS = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: abs(value) < 2**53 and value != 0),
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), JSON_NUMBERS, JSON_STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(JSON_STRINGS, inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(JSON_STRINGS, JSON_VALUES, max_size=5))
def test_canonical_json(value: dict[str, Any]) -> None:
    data = format_canonical_json(value)
    read = parse_canonical_json(data, what="x", bytes_max=1_000_000)
    assert read == value
    assert format_canonical_json(read) == data


# --- keys ------------------------------------------------------------------------------------------------------------


@given(verifier_keys())
def test_vkeys(key: VerifierKey) -> None:
    assert parse_vkey(format_vkey(key)) == key


@given(HASHES, st.sampled_from(PRIVATE_KEY_SCHEMES))
def test_public_keys(seed: bytes, scheme: Scheme) -> None:
    public = PrivateKey.from_seed(scheme=scheme, seed=b"\x01" + seed[1:]).public
    assert parse_public_key(format_public_key(public)) == public
    assert public_key_from_spki(public.spki) == public


@settings(max_examples=12)
@given(HASHES, st.sampled_from(PRIVATE_KEY_SCHEMES), st.one_of(st.none(), st.binary(min_size=1, max_size=1023)))
def test_private_keys(seed: bytes, scheme: Scheme, passphrase: bytes | None) -> None:
    key = PrivateKey.from_seed(scheme=scheme, seed=b"\x01" + seed[1:])
    pem = format_private_key(key, passphrase=passphrase)
    read = parse_private_key(pem, passphrase=passphrase)
    assert read.public == key.public
    assert read.sign(b"message") == key.sign(b"message")
    assert passphrase is not None or format_private_key(read, passphrase=None) == pem


# --- notes and what they hold ----------------------------------------------------------------------------------------


@given(notes(NOTE_TEXTS))
def test_notes(note: Note) -> None:
    data = format_note(note)
    assert parse_note(data) == note
    assert format_note(parse_note(data)) == data


@given(CHECKPOINTS)
def test_checkpoints(checkpoint: Checkpoint) -> None:
    text = format_checkpoint(checkpoint)
    if len(text) <= CHECKPOINT_CHARS_MAX and len(checkpoint.origin.encode()) <= 255:
        assert parse_checkpoint(text) == checkpoint


@settings(max_examples=50)
@given(CHECKPOINTS, KEY_NAMES, INT63)
def test_cosignatures(checkpoint: Checkpoint, name: str, timestamp: int) -> None:
    witness = private_key("any witness")
    text = format_checkpoint(checkpoint)
    line = cosign(text, key=witness, name=name, timestamp=timestamp)
    note = Note(text=text, signatures=(line,))
    key = witness.verifier_key(name=name, key_type=NoteKeyType.COSIGNATURE_ED25519)
    assert parse_note(format_note(note)) == note
    assert verify_cosignature(note, key=key) == timestamp


@given(
    st.one_of(st.none(), st.binary(max_size=300)),
    INT63,
    st.lists(HASHES, max_size=PROOF_HASHES_MAX),
    notes(CHECKPOINTS.map(format_checkpoint)),
)
def test_proofs(extra: bytes | None, index: int, hashes: list[bytes], checkpoint: Note) -> None:
    proof = TlogProof(extra=extra, index=index, hashes=tuple(hashes), checkpoint=format_note(checkpoint))
    data = format_proof(proof)
    assert parse_proof(data) == proof
    assert format_proof(parse_proof(data)) == data


@given(
    notes(CHECKPOINTS.map(format_checkpoint), lines_max=2),
    notes(CHECKPOINTS.map(format_checkpoint), lines_max=2),
    st.one_of(st.none(), HASHES),
    st.lists(HASHES, max_size=PROOF_HASHES_MAX + 1),
)
def test_evidence(first: Note, second: Note, prefix_root: bytes | None, path: list[bytes]) -> None:
    if prefix_root is None:
        evidence = Evidence(fork=Fork.SAME_SIZE, first=first, second=second)
    else:
        evidence = Evidence(fork=Fork.PREFIX, first=first, second=second, prefix_root=prefix_root, path=tuple(path))
    data = format_evidence(evidence)
    assert parse_evidence(data) == evidence
    assert format_evidence(parse_evidence(data)) == data


# --- policies --------------------------------------------------------------------------------------------------------

LOG_TYPES = (
    NoteKeyType.ED25519,
    NoteKeyType.ECDSA,
    NoteKeyType.RFC6962,
    NoteKeyType.COSIGNATURE_MLDSA44,
)
WITNESS_TYPES = (NoteKeyType.COSIGNATURE_ED25519, NoteKeyType.COSIGNATURE_MLDSA44)
# Octets of a field: no control characters, space or delete; and not a comment's beginning at a line's.
FIELDS = st.binary(min_size=1, max_size=8).filter(
    lambda octets: all(octet > 0x20 and octet != 0x7F for octet in octets) and octets != b"none"
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def keys(types: tuple[NoteKeyType, ...]) -> list[VerifierKey]:
        # A policy allows no delete character; a key's name elsewhere may have one.
        plain = verifier_keys(types).filter(lambda key: "\x7f" not in key.name)
        return draw(st.lists(plain, max_size=4, unique_by=lambda key: key.public_key))

    def url() -> bytes | None:
        return draw(st.one_of(st.none(), FIELDS))

    logs = [PolicyLog(key=key, url=url()) for key in keys(LOG_TYPES)]
    witness_keys = keys(WITNESS_TYPES)
    names = draw(st.lists(FIELDS, min_size=8, max_size=8, unique=True))
    witnesses = [Witness(name=names.pop(), key=key, url=url()) for key in witness_keys]
    unused = [witness.name for witness in witnesses]
    groups: list[Group] = []
    while unused and len(groups) < 3 and draw(st.booleans()):
        count = draw(st.integers(1, len(unused)))
        members, unused = unused[:count], unused[count:]
        groups.append(Group(name=names.pop(), threshold=draw(st.integers(1, count)), members=tuple(members)))
        unused.append(groups[-1].name)
    defined = [witness.name for witness in witnesses] + [group.name for group in groups]
    quorum = draw(st.sampled_from([None, *defined]))
    return Policy(logs=tuple(logs), witnesses=tuple(witnesses), groups=tuple(groups), quorum=quorum)


@given(policies())
def test_policies(policy: Policy) -> None:
    data = format_policy(policy)
    assert parse_policy(data) == policy
    assert format_policy(parse_policy(data)) == data


# --- tiles -----------------------------------------------------------------------------------------------------------


@given(st.one_of(st.none(), st.integers(0, 63)), INT63, st.integers(1, TILE_WIDTH))
def test_tile_paths(level: int | None, number: int, width: int) -> None:
    path = TilePath(level, number, width)
    assert parse_tile_path(format_tile_path(path)) == path


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_entry_bundles(entries: list[bytes]) -> None:
    assert parse_entry_bundle(format_entry_bundle(entries)) == tuple(entries)


# --- statements and entries ------------------------------------------------------------------------------------------

PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
PARTS = PRINTABLE.filter(lambda part: "/" not in part and part not in (".", ".."))
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@st.composite
def releases(draw: st.DrawFn) -> Release:
    ecosystem = draw(st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True).filter(lambda name: name != "unnamed"))
    name, version = draw(NAMES), draw(st.one_of(st.just(""), PRINTABLE))
    return Release(
        purl=format_purl(ecosystem=ecosystem, name=name, version=version),
        ecosystem=ecosystem,
        name=name,
        version=version,
        filename=draw(PRINTABLE),
        size=draw(st.integers(0, 2**53 - 1)),
    )


RELEASES = releases().filter(lambda release: len(release.purl) <= NAME_CHARS_MAX)


@given(RELEASES, HASHES, st.binary(min_size=64, max_size=64))
def test_release_statements(release: Release, sha256: bytes, sha512: bytes) -> None:
    digests_ = {"sha256": sha256, "sha512": sha512}
    statement = parse_statement(format_release_statement(release, digests=digests_))
    assert statement.release == release
    assert statement.subjects == (Subject(name=release.filename, digests=digests_),)


@settings(max_examples=50)
@given(RELEASES, st.sampled_from([PUBLISHER, P256_PUBLISHER]))
def test_attestations(release: Release, signer: PrivateKey) -> None:
    payload = format_release_statement(release, digests=digests(CONTENT))
    signature = signer.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    envelope = Envelope(payload_type=PAYLOAD_TYPE, payload=payload, signature=signature)
    leaf = attestation.format_leaf(envelope, signer=signer.public)
    entry = parse_entry(leaf)
    verify_entry(entry)
    assert (entry.release, entry.signer, entry.signature) == (release, signer.public, signature)
    assert format_canonical_json(parse_canonical_json(leaf, what="x", bytes_max=65_535)) == leaf


@settings(max_examples=50)
@given(HASHES, st.binary(min_size=1, max_size=80))
def test_hashedrekords(digest: bytes, signature: bytes) -> None:
    leaf = hashedrekord.format_leaf(digest=digest, signature=signature, signer=P256_PUBLISHER.public)
    entry = parse_entry(leaf)
    assert entry.artifacts[0].digests == {"sha256": digest}
    assert (entry.signature, entry.signer) == (signature, P256_PUBLISHER.public)
    assert hashedrekord.format_leaf(digest=digest, signature=entry.signature, signer=entry.signer) == leaf
