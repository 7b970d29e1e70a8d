"""Entries to submit, made and signed before any clock starts.

The standard entry is what `treehead sign` makes: an attestation of about 1.2 KB of one file of a release, signed with
ECDSA P-256, with digests of its own. The same seed gives the same entries.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.entry import parse_entry, verify_entry
from treehead.entry.attestation import format_leaf
from treehead.merkle import hash_leaf
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme
from treehead.statement import DIGEST_BYTES, PAYLOAD_TYPE, Release, format_purl, format_release_statement
from treehead.v1 import log_pb2

SIGNERS = 8
OPAQUE_BYTES = 300
OPAQUE_CHUNK_ENTRIES = 1_024

_VERSION = "1.0.0"
_SIGNATURE = b"signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request as it goes over the wire, and the leaf hashes of what it submits, in order.

    `known` are those of them, by position, that the log has already, with their indices.
    """

    request: bytes
    leaf_hashes: tuple[bytes, ...]
    known: Mapping[int, int] = field(default_factory=dict)


def single(leaf: bytes, *, wait: log_pb2.Wait.ValueType = log_pb2.WAIT_UNSPECIFIED) -> Submission:
    """An AddEntry request."""
    request = log_pb2.AddEntryRequest(leaf=leaf, wait=wait).SerializeToString()
    return Submission(request=request, leaf_hashes=(hash_leaf(leaf),))


def batches(leaves: Sequence[bytes], *, entries: int) -> list[Submission]:
    """AddEntries requests of so many entries each; what is left over is left out."""
    return [batch(leaves[at : at + entries]) for at in range(0, len(leaves) - entries + 1, entries)]


def batch(leaves: Sequence[bytes], *, known: Mapping[int, int] | None = None) -> Submission:
    """An AddEntries request, of which some leaves, by position, are in the log already."""
    return Submission(
        request=log_pb2.AddEntriesRequest(leaves=leaves).SerializeToString(),
        leaf_hashes=tuple(map(hash_leaf, leaves)),
        known=known or {},
    )


# --- attestations ----------------------------------------------------------------------------------------------------


class Publisher:
    """Signs releases of one file each, like `treehead sign`, with one of several P-256 keys in turn.

    The parts of a leaf that do not change are printed once, by the code that the client uses.
    """

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(f"publisher:{seed}")
        self._count = 0
        self._statement = _statement_template()
        self._keys = [PrivateKey.from_seed(scheme=Scheme.P256, seed=self._random.randbytes(32)) for _ in range(SIGNERS)]
        self._frames = [_frame(key) for key in self._keys]
        leaf = self.leaf()
        verify_entry(parse_entry(leaf))

    def leaf(self) -> bytes:
        """The leaf of the next release."""
        return self.leaf_with_digest()[0]

    def leaf_with_digest(self) -> tuple[bytes, bytes]:
        """The leaf of the next release, and the sha256 digest that it is found by."""
        signer = self._count % SIGNERS
        self._count += 1
        sha256, sha512 = (self._random.randbytes(DIGEST_BYTES[name]) for name in ("sha256", "sha512"))
        payload = (
            self._statement.replace(_marker("sha256").hex().encode(), sha256.hex().encode())
            .replace(_marker("sha512").hex().encode(), sha512.hex().encode())
            .replace(_VERSION.encode(), f"1.{self._count}.0".encode())
        )
        signature = self._keys[signer].sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
        before, between, after = self._frames[signer]
        return before + base64.b64encode(payload) + between + base64.b64encode(signature) + after, sha256

    def leaves(self, count: int) -> list[bytes]:
        """The leaves of the next releases."""
        return [self.leaf() for _ in range(count)]


def _marker(algorithm: str) -> bytes:
    return algorithm[-1:].encode() * DIGEST_BYTES[algorithm]


def _statement_template() -> bytes:
    release = Release(
        purl=format_purl(ecosystem="pypi", name="acme-tool", version=_VERSION),
        ecosystem="pypi",
        name="acme-tool",
        version=_VERSION,
        filename=f"acme_tool-{_VERSION}-py3-none-any.whl",
        size=123_456,
    )
    return format_release_statement(release, digests={name: _marker(name) for name in ("sha256", "sha512")})


def _frame(key: PrivateKey) -> tuple[bytes, bytes, bytes]:
    """What stands before a leaf's payload, between it and the signature, and after that."""
    payload = b"payload"
    leaf = format_leaf(Envelope(payload_type=PAYLOAD_TYPE, payload=payload, signature=_SIGNATURE), signer=key.public)
    before, _, rest = leaf.partition(base64.b64encode(payload))
    between, _, after = rest.partition(base64.b64encode(_SIGNATURE))
    return before, between, after


# --- opaque entries --------------------------------------------------------------------------------------------------


class OpaqueLeaves:
    """An endless sequence of random leaves of 300 bytes, of which any part can be made again."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._last: tuple[int, list[bytes]] = (-1, [])

    def chunk(self, number: int) -> list[bytes]:
        """The leaves from `number * OPAQUE_CHUNK_ENTRIES` on, as many as a chunk has."""
        if self._last[0] != number:
            chunk = random.Random(f"opaque:{self._seed}:{number}").randbytes(OPAQUE_BYTES * OPAQUE_CHUNK_ENTRIES)
            self._last = number, [chunk[at : at + OPAQUE_BYTES] for at in range(0, len(chunk), OPAQUE_BYTES)]
        return self._last[1]

    def leaf(self, index: int) -> bytes:
        """The leaf at an index."""
        return self.chunk(index // OPAQUE_CHUNK_ENTRIES)[index % OPAQUE_CHUNK_ENTRIES]

    def chunks(self, begin: int, end: int) -> Iterator[list[bytes]]:
        """The leaves from `begin` up to, not including, `end`, in parts."""
        for number in range(begin // OPAQUE_CHUNK_ENTRIES, -(-end // OPAQUE_CHUNK_ENTRIES)):
            first = number * OPAQUE_CHUNK_ENTRIES
            yield self.chunk(number)[max(begin - first, 0) : end - first]

    def leaves(self, begin: int, end: int) -> list[bytes]:
        """The leaves from `begin` up to, not including, `end`."""
        return [leaf for chunk in self.chunks(begin, end) for leaf in chunk]
