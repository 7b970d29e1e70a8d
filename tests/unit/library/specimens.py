"""Valid specimens of every format, made from fixed seeds, for tests to accept and then to damage."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256, sha512

from treehead.checkpoint import Checkpoint, format_checkpoint
from treehead.cosignature import cosign
from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.entry import attestation, hashedrekord
from treehead.evidence import Evidence, prefix_fork, same_size_fork
from treehead.keys import NoteKeyType, format_vkey
from treehead.merkle import CompactRange, NodeId, hash_leaf, prove_consistency, prove_inclusion, root_at
from treehead.note import Note, format_note, sign_text
from treehead.policy import Policy, SignedHead, parse_policy, verify_head
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.statement import PAYLOAD_TYPE, Release, format_purl, format_release_statement
from treehead.tlogproof import TlogProof, format_proof
from treehead.trust import Trust, parse_trust
from treehead.verify import ArtifactFile
from treehead.view import Prefix, View

ORIGIN = "log.example/treehead"
NOW = 1_800_000_000
"""POSIX seconds; the time at which specimens are cosigned."""


def private_key(name: str, scheme: Scheme = Scheme.ED25519) -> PrivateKey:
    """The key whose seed is the hash of a name."""
    return PrivateKey.from_seed(scheme=scheme, seed=sha256(name.encode()).digest())


LOG = private_key("log")
OTHER_LOG = private_key("other log")
LOG_KEY = LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519)
OTHER_LOG_KEY = OTHER_LOG.verifier_key(name=ORIGIN, key_type=NoteKeyType.ED25519)

WITNESSES = {name: private_key(name) for name in ("w1", "w2", "w3")}
WITNESS_KEYS = {
    name: key.verifier_key(name=f"{name}.example", key_type=NoteKeyType.COSIGNATURE_ED25519)
    for name, key in WITNESSES.items()
}

PUBLISHER = private_key("publisher")
P256_PUBLISHER = private_key("p256 publisher", Scheme.P256)
STRANGER = private_key("stranger")


class Tree:
    """A log's tree that remembers the hash of every complete subtree; a `merkle.HashReader`."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._range = CompactRange()
        self._hashes: dict[NodeId, bytes] = {}
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        """Add a leaf."""
        for level, hash_ in enumerate(self._range.append(hash_leaf(leaf))):
            self._hashes[NodeId(level, (self._range.size >> level) - 1)] = hash_

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._range.size

    def read_hashes(self, nodes: Sequence[NodeId]) -> Sequence[bytes]:
        """See `merkle.HashReader`."""
        return [self._hashes[node] for node in nodes]

    def root(self, size: int | None = None) -> bytes:
        """The root at a size, by default the present one."""
        return root_at(size=self.size if size is None else size, reader=self)

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The inclusion proof of a leaf."""
        return prove_inclusion(index=index, size=self.size if size is None else size, reader=self)

    def consistency(self, size1: int, size2: int | None = None) -> tuple[bytes, ...]:
        """The consistency proof between two sizes."""
        return prove_consistency(size1=size1, size2=self.size if size2 is None else size2, reader=self)


def signed_checkpoint(
    size: int,
    root: bytes,
    *,
    log: PrivateKey = LOG,
    origin: str = ORIGIN,
    cosigned: Mapping[str, int] | None = None,
    extensions: tuple[str, ...] = (),
) -> Note:
    """A checkpoint signed by a log and, at the given times, by witnesses (POSIX seconds by policy name)."""
    text = format_checkpoint(Checkpoint(origin=origin, size=size, root=root, extensions=extensions))
    lines = [sign_text(text, key=log, name=origin)]
    for name, timestamp in (cosigned or {}).items():
        lines.append(cosign(text, key=WITNESSES[name], name=f"{name}.example", timestamp=timestamp))
    return Note(text=text, signatures=tuple(lines))


def head_of(tree: Tree, *, size: int | None = None, log: PrivateKey = LOG, cosigned: Mapping[str, int]) -> Note:
    """The signed and cosigned checkpoint of a tree."""
    size = tree.size if size is None else size
    return signed_checkpoint(size, tree.root(size), log=log, cosigned=cosigned)


# --- policy and trust ------------------------------------------------------------------------------------------------

POLICY_FILE = (
    f"log {format_vkey(LOG_KEY)} https://log.example/\n"
    + "".join(f"witness {name} {format_vkey(key)}\n" for name, key in WITNESS_KEYS.items())
    + "group trusted 2 w1 w2 w3\nquorum trusted\n"
).encode()
POLICY = parse_policy(POLICY_FILE)


def policy(*lines: str) -> Policy:
    """A policy with the log and these lines."""
    return parse_policy("".join(f"{line}\n" for line in (f"log {format_vkey(LOG_KEY)}", *lines)).encode())


def witness_line(name: str) -> str:
    """The policy line of a witness."""
    return f"witness {name} {format_vkey(WITNESS_KEYS[name])}"


TRUST_FILE = f"""\
[[namespace]]
match = "pypi:acme-*"
signers = ["{PUBLISHER.public}", "{P256_PUBLISHER.public}"]
max_age = "14d"

[[namespace]]
match = "generic:*"
signers = ["{PUBLISHER.public}"]

[[namespace]]
match = "unnamed:*"
signers = ["{P256_PUBLISHER.public}"]
""".encode()
TRUST = parse_trust(TRUST_FILE)


def trust(match: str, *signers: PrivateKey, max_age: str | None = None) -> Trust:
    """A trust file with one rule."""
    listed = ", ".join(f'"{signer.public}"' for signer in signers)
    age = "" if max_age is None else f'max_age = "{max_age}"\n'
    return parse_trust(f'[[namespace]]\nmatch = "{match}"\nsigners = [{listed}]\n{age}'.encode())


# --- an artifact and its entry ---------------------------------------------------------------------------------------

CONTENT = b"the bytes of a wheel"
FILENAME = "acme_tool-1.0-py3-none-any.whl"


def artifact(content: bytes = CONTENT, filename: str = FILENAME) -> ArtifactFile:
    """A file at hand."""
    return ArtifactFile(filename=filename, size=len(content), digests=digests(content))


def digests(content: bytes) -> dict[str, bytes]:
    """The digests of some bytes by algorithm."""
    return {"sha256": sha256(content).digest(), "sha512": sha512(content).digest()}


def release(
    *, ecosystem: str = "pypi", name: str = "acme-tool", version: str = "1.0", filename: str = FILENAME, size: int = 0
) -> Release:
    """A release whose purl fits."""
    return Release(
        purl=format_purl(ecosystem=ecosystem, name=name, version=version),
        ecosystem=ecosystem,
        name=name,
        version=version,
        filename=filename,
        size=size or len(CONTENT),
    )


def statement(**changes: str | int) -> bytes:
    """A release statement about `CONTENT`."""
    return format_release_statement(release(**changes), digests=digests(CONTENT))  # type: ignore[arg-type]


def sealed(payload: bytes, *, signer: PrivateKey = PUBLISHER, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """A signed envelope."""
    signature = signer.sign(pre_authentication_encoding(payload_type, payload))
    return Envelope(payload_type=payload_type, payload=payload, signature=signature)


def attestation_leaf(payload: bytes | None = None, *, signer: PrivateKey = PUBLISHER) -> bytes:
    """The leaf of an attestation, by default a release of `CONTENT`."""
    return attestation.format_leaf(
        sealed(statement() if payload is None else payload, signer=signer), signer=signer.public
    )


def hashedrekord_leaf(content: bytes = CONTENT) -> bytes:
    """The leaf of a signature over a digest."""
    return hashedrekord.format_leaf(
        digest=sha256(content).digest(), signature=P256_PUBLISHER.sign(content), signer=P256_PUBLISHER.public
    )


LEAF = attestation_leaf()
INDEX = 11
SIZE = 23


def tree_with(leaf: bytes = LEAF, *, size: int = SIZE) -> Tree:
    """A tree whose leaf `INDEX` is the one given and whose others are fillers."""
    return Tree(leaf if index == INDEX else b"filler %d" % index for index in range(size))


def proof_of(leaf: bytes = LEAF, *, checkpoint: Note | None = None, tree: Tree | None = None) -> TlogProof:
    """The proof of a leaf at `INDEX`, its checkpoint cosigned by all witnesses now."""
    tree = tree_with(leaf) if tree is None else tree
    checkpoint = head_of(tree, cosigned=dict.fromkeys(WITNESSES, NOW)) if checkpoint is None else checkpoint
    return TlogProof(extra=leaf, index=INDEX, hashes=tree.inclusion(INDEX), checkpoint=format_note(checkpoint))


def proof_file(leaf: bytes = LEAF, *, checkpoint: Note | None = None) -> bytes:
    """The same as a file."""
    return format_proof(proof_of(leaf, checkpoint=checkpoint))


# --- forks -----------------------------------------------------------------------------------------------------------


def forked_trees(size: int, fork_at: int) -> tuple[Tree, Tree]:
    """Two trees that agree on the first `fork_at` leaves only."""
    ours = Tree(b"leaf %d" % index for index in range(size))
    theirs = Tree(b"leaf %d" % index if index < fork_at else b"forked leaf %d" % index for index in range(size))
    return ours, theirs


def same_size_evidence(size: int = 7) -> Evidence:
    """Two signed trees of one size."""
    ours, theirs = forked_trees(size, size - 1)
    return same_size_fork(signed_checkpoint(size, ours.root()), signed_checkpoint(size, theirs.root()), key=LOG_KEY)


def prefix_evidence(size1: int = 5, size2: int = 13) -> Evidence:
    """A smaller signed tree that is not a prefix of a larger one."""
    ours, theirs = forked_trees(size2, size1 - 1)
    return prefix_fork(
        signed_checkpoint(size1, ours.root(size1)),
        signed_checkpoint(size2, theirs.root()),
        prefix_root=theirs.root(size1),
        path=theirs.consistency(size1),
        key=LOG_KEY,
    )


def seen_head(note: Note, *, by: Policy = POLICY) -> SignedHead:
    """A head as a client keeps it."""
    return verify_head(by, note)


def view_of(tree: Tree, *, sizes: Iterable[int], cosigned: Mapping[str, int] | None = None) -> View:
    """What an honest monitor that followed this tree answers for these sizes."""
    return View(
        monitor="monitor.example",
        head=head_of(tree, cosigned=cosigned or {}),
        prefixes=tuple(Prefix(size=size, root=tree.root(size), path=tree.consistency(size)) for size in sizes),
    )
