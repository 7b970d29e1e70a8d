"""What a log is held to after a fault: that it starts, tells the truth, has kept what it said, and goes on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tests.fault.ledger import Ledger
from tests.fault.load import CALL_SECONDS_MAX, Load, newest_head, submit, submit_batch
from tests.processes import Finished, ServerProcess, run_module
from tests.unit.library.specimens import Tree
from treehead.checkpoint import Checkpoint
from treehead.entry import parse_entry
from treehead.merkle import hash_leaf, verify_consistency, verify_inclusion
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogStub

if TYPE_CHECKING:
    from treehead.v1.log_pb2_grpc import LogAsyncStub

SAMPLE = 3
"""How many old entries and heads a log proves again."""
RETRIES_MAX = 64
"""How many entries that got no answer are submitted again, in one batch."""
EXIT_FAILED = 1


class LostError(AssertionError):
    """Acknowledged entries are not in the log where it said."""

    def __init__(self, count: int, message: str) -> None:
        super().__init__(message)
        self.count = count


async def entries(stub: LogAsyncStub, first_index: int = 0) -> list[bytes]:
    """All entries of the log from an index on."""
    call = stub.GetEntries(log_pb2.GetEntriesRequest(first_index=first_index), timeout=CALL_SECONDS_MAX)
    return [leaf async for message in call for leaf in message.leaves]


def check_entries(ledger: Ledger, leaves: list[bytes]) -> None:
    """The log has each acknowledged entry at its index, each only once, none that nobody submitted, and no false head.

    Raises:
        LostError: acknowledged entries are missing, or elsewhere.
    """
    lost = [index for index, leaf in ledger.leaf_at.items() if index >= len(leaves) or leaves[index] != leaf]
    if lost:
        raise LostError(
            len(lost),
            f"{len(lost)} of {len(ledger.leaf_at)} acknowledged entries are lost, the first at index {min(lost)} of "
            f"{len(leaves)}",
        )
    assert len(set(leaves)) == len(leaves), "the log has an entry twice"
    assert ledger.submitted.issuperset(leaves), "the log has an entry that nobody submitted"
    tree = Tree(leaves)
    false = [size for size, head in ledger.heads.items() if size > len(leaves) or tree.root(size) != head.root]
    assert not false, f"checkpoints of the sizes {false} were handed out that the log of size {len(leaves)} contradicts"


async def check_service(log: ServerProcess, load: Load, rng: random.Random) -> None:
    """A started log answers as if nothing had happened: all it has is right, is proven and found, and it takes more."""
    ledger = load.ledger
    async with grpc.aio.insecure_channel(log.address) as channel:
        stub = LogStub(channel)
        newest = await newest_head(stub, ledger)
        leaves = await entries(stub)
        assert len(leaves) == newest.size, f"the log has {len(leaves)} entries and a head of {newest.size}"
        check_entries(ledger, leaves)
        for index in rng.sample(range(len(leaves)), min(SAMPLE, len(leaves))):
            await check_entry(stub, ledger, leaves[index], index)
        for size in rng.sample(sorted(ledger.heads), min(SAMPLE, len(ledger.heads))):
            await check_head(stub, ledger.heads[size], newest)
        retries = [ledger.unanswered.pop() for _ in range(min(RETRIES_MAX, len(ledger.unanswered)))]
        await submit_batch(stub, ledger, retries or [load.next_leaf(rng)])
        await submit(stub, ledger, load.next_leaf(rng))
        leaves += await entries(stub, first_index=len(leaves))
        check_entries(ledger, leaves)


async def check_entry(stub: LogAsyncStub, ledger: Ledger, leaf: bytes, index: int) -> None:
    """An entry is proven by its hash and found by its digest, and submitting it again gives its first index."""
    proven = await stub.GetInclusionProof(
        log_pb2.GetInclusionProofRequest(leaf_hash=hash_leaf(leaf)), timeout=CALL_SECONDS_MAX
    )
    assert proven.leaf_index == index
    proof = log_pb2.InclusionProof(leaf_index=index, hashes=proven.hashes, checkpoint=proven.checkpoint)
    ledger.note_answer(leaf, log_pb2.AddEntryResponse(proof=proof, duplicate=True))
    # What is found is what was published, so that is waited for.
    submission = log_pb2.AddEntryRequest(leaf=leaf, wait=log_pb2.WAIT_WITNESSED)
    again = await stub.AddEntry(submission, timeout=CALL_SECONDS_MAX)
    ledger.note_answer(leaf, again)
    assert again.duplicate
    assert again.proof.leaf_index == index
    algorithm, value = next(iter(parse_entry(leaf).artifacts[0].digests.items()))
    request = log_pb2.FindEntriesRequest(digest=log_pb2.Digest(algorithm=algorithm, value=value))
    found = await stub.FindEntries(request, timeout=CALL_SECONDS_MAX)
    assert index in [entry.leaf_index for entry in found.entries]
    head = ledger.note_head(found.checkpoint)
    for entry in found.entries:
        verify_inclusion(
            index=entry.leaf_index,
            size=head.size,
            leaf_hash=hash_leaf(entry.leaf),
            proof=entry.hashes,
            root=head.root,
        )


async def check_head(stub: LogAsyncStub, old: Checkpoint, newest: Checkpoint) -> None:
    """The log proves that the old head's tree is a prefix of the newest one."""
    request = log_pb2.GetConsistencyProofRequest(first_size=old.size, second_size=newest.size)
    response = await stub.GetConsistencyProof(request, timeout=CALL_SECONDS_MAX)
    verify_consistency(size1=old.size, size2=newest.size, root1=old.root, root2=newest.root, proof=response.hashes)


async def fsck(data: Path, *, environment: Mapping[str, str] | None = None) -> Finished:
    """What `treehead-log fsck` says of a log that does not run."""
    finished = await run_module("treehead_logserver", "fsck", "--data", data, environment=environment)
    assert finished.exit_code in (0, EXIT_FAILED), f"fsck ended with {finished.exit_code}: {finished.stderr}"
    check_no_defect(finished.stderr)
    return finished


async def check_clean(data: Path) -> None:
    """The log's database is what its entries make of it."""
    finished = await fsck(data)
    assert finished.exit_code == 0, f"fsck found damage: {finished.stdout}{finished.stderr}"


def check_no_defect(stderr: str) -> None:
    """Whatever happened, it was foreseen: no traceback went to the operator."""
    assert "Traceback" not in stderr, f"a defect: {stderr}"


def check_complaint(stderr: str) -> None:
    """A program that ended itself says why, in one sentence, last of all."""
    check_no_defect(stderr)
    assert stderr.rstrip("\n").rpartition("\n")[2].startswith("treehead-log: "), f"no clear reason: {stderr!r}"
