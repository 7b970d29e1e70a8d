"""Gossip as protobuf messages, each field with its limit: what a peer may send is bounded before anyone looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from treehead.encoding import INT63_MAX
from treehead.errors import MalformedError
from treehead.evidence import EVIDENCE_BYTES_MAX
from treehead.merkle import HASH_BYTES
from treehead.v1 import monitor_pb2
from treehead_monitor.head import HEAD_BYTES_MAX, HeadDigest, LogId
from treehead_monitor.message import DIGESTS_MAX, EVIDENCE_MAX, NOTES_MAX, EvidenceId, Gossip

GOSSIP_BYTES_MAX = 1_048_576
"""The largest message that a monitor accepts from others: what `message` allows in one takes less."""


def gossip_to_wire(gossip: Gossip) -> monitor_pb2.Gossip:
    """A message as it is sent."""
    return monitor_pb2.Gossip(
        heads=[monitor_pb2.HeadDigest(log_id=log, size=size, root=root) for log, size, root in gossip.heads],
        wanted_notes=[
            monitor_pb2.HeadDigest(log_id=log, size=size, root=root) for log, size, root in gossip.wanted_notes
        ],
        notes=gossip.notes,
        evidence_ids=gossip.evidence_ids,
        wanted_evidence=gossip.wanted_evidence,
        evidence=gossip.evidence,
    )


def gossip_from_wire(message: monitor_pb2.Gossip) -> Gossip:
    """A message as it was received. Not checked: what its notes and evidence are worth.

    Raises:
        MalformedError: a field holds more than a message may, or what it cannot; the error names the field.
    """
    return Gossip(
        heads=_digests(message.heads, what="heads"),
        wanted_notes=_digests(message.wanted_notes, what="wanted_notes"),
        notes=_blobs(message.notes, what="notes", count_max=NOTES_MAX, bytes_max=HEAD_BYTES_MAX),
        evidence_ids=_ids(message.evidence_ids, what="evidence_ids"),
        wanted_evidence=_ids(message.wanted_evidence, what="wanted_evidence"),
        evidence=_blobs(message.evidence, what="evidence", count_max=EVIDENCE_MAX, bytes_max=EVIDENCE_BYTES_MAX),
    )


def _digests(messages: Sequence[monitor_pb2.HeadDigest], *, what: str) -> tuple[HeadDigest, ...]:
    if len(messages) > DIGESTS_MAX:
        raise MalformedError(f"field gossip.{what} has more than {DIGESTS_MAX} heads")
    for message in messages:
        if len(message.log_id) != HASH_BYTES or len(message.root) != HASH_BYTES or message.size > INT63_MAX:
            raise MalformedError(
                f"field gossip.{what} has a head without a log_id and root of {HASH_BYTES} bytes and a size below 2^63"
            )
    return tuple(HeadDigest(LogId(message.log_id), message.size, message.root) for message in messages)


def _ids(ids: Iterable[bytes], *, what: str) -> tuple[EvidenceId, ...]:
    checked = tuple(EvidenceId(id_) for id_ in ids)
    if len(checked) > DIGESTS_MAX or any(len(id_) != HASH_BYTES for id_ in checked):
        raise MalformedError(f"field gossip.{what} is not at most {DIGESTS_MAX} ids of {HASH_BYTES} bytes")
    return checked


def _blobs(blobs: Sequence[bytes], *, what: str, count_max: int, bytes_max: int) -> tuple[bytes, ...]:
    if len(blobs) > count_max or any(len(blob) > bytes_max for blob in blobs):
        raise MalformedError(f"field gossip.{what} is not at most {count_max} items of at most {bytes_max} bytes")
    return tuple(dict.fromkeys(blobs))
