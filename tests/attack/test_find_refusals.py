"""A log that lies about what it found: every page has to prove itself and to follow from the one before.

What no page can prove is that nothing was left out; the last test says so, lest anybody think it did.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from tests.processes import Finished, run_module
from tests.unit.library.specimens import (
    CONTENT,
    LOG,
    LOG_KEY,
    OTHER_LOG,
    OTHER_LOG_KEY,
    PUBLISHER,
    STRANGER,
    Tree,
    attestation_leaf,
    digests,
    head_of,
    policy,
    release,
    sealed,
    statement,
    witness_line,
)
from treehead.entry import attestation
from treehead.errors import (
    ConsistencyError,
    InclusionError,
    MalformedError,
    MisbehaviourError,
    QuorumError,
    RefusedError,
    SignatureError,
    TreeheadError,
)
from treehead.evidence import parse_evidence, verify_evidence
from treehead.keys import format_vkey
from treehead.note import format_note
from treehead.policy import Policy, parse_policy
from treehead.privatekey import PrivateKey
from treehead.statement import format_release_statement
from treehead.v1 import log_pb2
from treehead.v1.log_pb2_grpc import LogServicer, add_LogServicer_to_server
from treehead.wire import SERVER_OPTIONS
from treehead_client import search
from treehead_client.memory import Memory
from treehead_client.query import parse_query
from treehead_client.search import Search

POLICY = policy("quorum none")
PACKAGE = "pkg:pypi/acme-tool"


def version(number: int) -> bytes:
    return attestation_leaf(format_release_statement(release(version=f"1.{number}"), digests=digests(CONTENT)))


MINE = [version(number) for number in range(6)]
OTHER = attestation_leaf(statement(name="other", filename="other.zip"))
LEAVES = [leaf for number, mine in enumerate(MINE) for leaf in (b"filler %d" % number, mine)]
"""The entries to find have the odd indices."""
TREE = Tree(LEAVES)


def page(
    *indices: int,
    size: int = 12,
    tree: Tree = TREE,
    leaves: Sequence[bytes] = LEAVES,
    log: PrivateKey = LOG,
    next_index: int | None = None,
) -> log_pb2.FindEntriesResponse:
    """A page of these entries from a tree; with `next_index` there are more."""
    return log_pb2.FindEntriesResponse(
        entries=[
            log_pb2.FoundEntry(leaf=leaves[index], leaf_index=index, hashes=tree.inclusion(index, size))
            for index in indices
        ],
        checkpoint=format_note(head_of(tree, size=size, log=log, cosigned={"w1": 7})),
        more=next_index is not None,
        next_index=size if next_index is None else next_index,
        tree_size=size,
    )


def searching(*, under: Policy | None = POLICY, query: str = PACKAGE) -> Search:
    return Search(parse_query(query), policy=under, peer="log x")


def accept(search_: Search, answer: log_pb2.FindEntriesResponse, *, tree: Tree = TREE) -> list[int]:
    """The indices of what a page proves, with a consistency proof from the tree where one is asked for."""
    link = search_.link_request(answer)
    proof = () if link is None else tree.consistency(link.first_size, link.second_size)
    return [found.index for found in search_.accept(answer, link=proof)]


def changed(
    answer: log_pb2.FindEntriesResponse,
    *,
    index: int | None = None,
    leaf: bytes | None = None,
    hashes: Sequence[bytes] | None = None,
    checkpoint: bytes | None = None,
    tree_size: int | None = None,
) -> log_pb2.FindEntriesResponse:
    """The page with another first entry, checkpoint or size."""
    first = answer.entries[0]
    first.leaf_index = first.leaf_index if index is None else index
    first.leaf = first.leaf if leaf is None else leaf
    if hashes is not None:
        del first.hashes[:]
        first.hashes.extend(hashes)
    answer.checkpoint = answer.checkpoint if checkpoint is None else checkpoint
    answer.tree_size = answer.tree_size if tree_size is None else tree_size
    return answer


# --- what an honest log sends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("under", [POLICY, None], ids=["policy", "no_policy"])
def test_honest_pages_are_accepted_while_the_log_grows(under: Policy | None) -> None:
    search_ = searching(under=under)
    assert search_.request() == log_pb2.FindEntriesRequest(purl=PACKAGE)
    assert accept(search_, page(1, 3, size=5, next_index=4)) == [1, 3]
    assert search_.request() == log_pb2.FindEntriesRequest(purl=PACKAGE, first_index=4)
    assert accept(search_, page(size=5, next_index=5)) == []
    assert (accept(search_, page(5, size=7, next_index=6)), search_.is_over) == ([5], False)
    assert (accept(search_, page(7, 9, 11)), search_.is_over) == ([7, 9, 11], True)
    assert search_.checkpoint is not None
    assert search_.checkpoint.size == 12


def test_an_empty_log_has_one_empty_page() -> None:
    search_ = searching()
    assert accept(search_, page(size=0)) == []
    assert search_.is_over


def test_an_entry_of_an_unknown_kind_is_told_and_not_understood() -> None:
    leaf = b'{"apiVersion":"0.0.1","kind":"sbom","spec":{}}'
    tree = Tree([leaf])
    (found,) = searching().accept(page(0, size=1, tree=tree, leaves=[leaf]))
    assert found.entry is None


# --- one page that lies ----------------------------------------------------------------------------------------------

ANOTHER_TREE = Tree([*LEAVES[:-1], b"another"])
FORGED = attestation.format_leaf(sealed(statement(), signer=STRANGER), signer=PUBLISHER.public)


def of_one(leaf: bytes) -> log_pb2.FindEntriesResponse:
    """A page with one entry, which the log does hold."""
    return page(0, size=1, tree=Tree([leaf]), leaves=[leaf])


LIES: dict[str, tuple[Callable[[], log_pb2.FindEntriesResponse], type[TreeheadError], str]] = {
    "no_checkpoint": (lambda: log_pb2.FindEntriesResponse(), MalformedError, "note"),
    "a_checkpoint_of_another_tree": (
        lambda: changed(page(1), checkpoint=page(tree=ANOTHER_TREE).checkpoint),
        InclusionError,
        "",
    ),
    "a_checkpoint_that_nobody_signed": (lambda: page(1, log=STRANGER), RefusedError, ""),
    "another_size": (lambda: changed(page(1), tree_size=13), RefusedError, "size 13 with a checkpoint of size 12"),
    "an_entry_that_is_not_in_the_log": (lambda: changed(page(1), leaf=version(9)), InclusionError, ""),
    "an_entry_at_another_index": (lambda: changed(page(1), index=3), InclusionError, ""),
    "an_index_beyond_every_log": (lambda: changed(page(1), index=2**64 - 1), TreeheadError, ""),
    "a_short_hash": (lambda: changed(page(1), hashes=[b"short"]), MalformedError, "entries.hashes"),
    "a_thousand_hashes": (lambda: changed(page(1), hashes=[bytes(32)] * 1_000), MalformedError, "entries.hashes"),
    "no_hashes": (lambda: changed(page(1), hashes=[]), InclusionError, ""),
    "an_entry_of_another_package": (lambda: of_one(OTHER), RefusedError, "sent entry 0, which is not found by"),
    "a_filler": (lambda: page(0), RefusedError, "sent entry 0, which is none"),
    "an_entry_that_another_signed": (lambda: of_one(FORGED), SignatureError, "entry 0: field spec.envelope"),
    "entries_out_of_order": (lambda: page(3, 1), RefusedError, "sent entry 1 out of order"),
    "an_entry_twice": (lambda: page(1, 1), RefusedError, "sent entry 1 out of order"),
    "more_from_the_start": (lambda: page(1, next_index=0), RefusedError, "more entries from 0 on"),
    "more_from_within_the_page": (lambda: page(1, 3, next_index=3), RefusedError, "more entries from 3 on"),
    "more_from_beyond_the_log": (lambda: page(1, next_index=13), RefusedError, "more entries from 13 on"),
    "an_empty_page_that_goes_nowhere": (lambda: page(next_index=0), RefusedError, "more entries from 0 on"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_page_that_proves_less_than_it_says_is_refused(lie: str) -> None:
    make, error, reason = LIES[lie]
    with pytest.raises(error) as caught:
        accept(searching(), make())
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_checkpoint_that_too_few_witnesses_cosigned_is_refused() -> None:
    accept(searching(under=policy(witness_line("w1"), "quorum w1")), page(1))
    with pytest.raises(QuorumError):
        accept(searching(under=policy(witness_line("w2"), "quorum w2")), page(1))


@pytest.mark.parametrize(
    "query",
    [
        f"sha256:{sha256(b'other').hexdigest()}",
        "sha1:00",
        "name:other",
        "pkg:pypi/acme-tool@1.9",
        "pkg:pypi/acme",
        str(STRANGER.public),
    ],
)
def test_an_entry_that_does_not_say_what_was_asked_for_is_refused(query: str) -> None:
    with pytest.raises(RefusedError, match=r"sent entry 1, which is not found by '"):
        accept(searching(query=query), page(1))


# --- pages that do not go together -----------------------------------------------------------------------------------


def second(first: log_pb2.FindEntriesResponse, *, under: Policy | None = POLICY) -> Search:
    """A search that has accepted a first page."""
    search_ = searching(under=under)
    accept(search_, first)
    return search_


def test_a_page_that_goes_back_is_refused() -> None:
    with pytest.raises(RefusedError, match="sent entry 1 out of order"):
        accept(second(page(1, 3, next_index=4)), page(1))
    with pytest.raises(RefusedError, match="went back from size 12 to size 9"):
        accept(second(page(1, 3, next_index=4)), page(5, size=9))
    with pytest.raises(RefusedError, match="more entries from 4 on"):
        accept(second(page(1, 3, next_index=4)), page(next_index=4))


def test_a_page_of_a_tree_that_did_not_grow_from_the_last_is_refused() -> None:
    other = Tree([*LEAVES[:2], b"forked", *LEAVES[3:]])
    search_ = second(page(1, size=4, next_index=4))
    with pytest.raises(ConsistencyError):
        accept(search_, page(5, tree=other), tree=other)


def test_a_page_of_a_larger_tree_needs_its_consistency_proof() -> None:
    search_ = second(page(1, size=4, next_index=4))
    with pytest.raises(ConsistencyError):
        search_.accept(page(5))


def test_two_trees_of_one_size_are_proven_to_be_two() -> None:
    search_ = second(page(1, next_index=2))
    with pytest.raises(MisbehaviourError, match="signed two trees of size 12") as caught:
        accept(search_, page(3, tree=ANOTHER_TREE), tree=ANOTHER_TREE)
    verify_evidence(caught.value.evidence, key=LOG_KEY)
    assert search_.head is not None
    assert search_.head.log == LOG_KEY
    unsigned = second(page(1, next_index=2), under=None)
    with pytest.raises(ConsistencyError):
        accept(unsigned, page(3, tree=ANOTHER_TREE), tree=ANOTHER_TREE)


def test_another_log_of_the_policy_does_not_go_on_for_the_first() -> None:
    both = parse_policy(f"log {format_vkey(LOG_KEY)}\nlog {format_vkey(OTHER_LOG_KEY)}\nquorum none\n".encode())
    with pytest.raises(RefusedError, match="another log"):
        accept(second(page(1, next_index=2), under=both), page(3, log=OTHER_LOG))


def test_empty_pages_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EMPTY_PAGES_MAX", 3)
    search_ = second(page(1, next_index=2))
    for next_index in (3, 4, 5):
        accept(search_, page(next_index=next_index))
    with pytest.raises(RefusedError, match="4 pages in a row without an entry"):
        accept(search_, page(next_index=6))
    patient = second(page(1, next_index=2))
    for next_index in range(3, 6):
        accept(patient, page(next_index=next_index))
    assert accept(patient, page(7, next_index=8)) == [7]
    for next_index in range(9, 12):
        accept(patient, page(next_index=next_index))


# --- the command ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(pages: Mapping[int, log_pb2.FindEntriesResponse]) -> AsyncIterator[str]:
    """The address of a log that has a page for each `first_index`, and proofs of consistency."""

    class Pages(LogServicer):
        async def FindEntries(
            self, request: log_pb2.FindEntriesRequest, context: grpc.aio.ServicerContext[object, object]
        ) -> log_pb2.FindEntriesResponse:
            return pages[request.first_index]

        async def GetConsistencyProof(
            self, request: log_pb2.GetConsistencyProofRequest, context: grpc.aio.ServicerContext[object, object]
        ) -> log_pb2.GetConsistencyProofResponse:
            return log_pb2.GetConsistencyProofResponse(hashes=TREE.consistency(request.first_size, request.second_size))

    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    add_LogServicer_to_server(Pages(), server)  # type: ignore[abstract]  # the rest answers UNIMPLEMENTED
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def find(folder: Path, pages: Mapping[int, log_pb2.FindEntriesResponse]) -> Finished:
    (folder / "policy").write_text(f"log {format_vkey(LOG_KEY)}\nquorum none\n")
    async with answering(pages) as address:
        options: list[str | Path] = [
            "--log",
            address,
            "--policy",
            folder / "policy",
            "--state",
            folder / "state",
            "--json",
        ]
        return await run_module("treehead_client", "find", PACKAGE, *options)


async def test_pages_of_a_growing_log_are_listed_and_counted(tmp_path: Path) -> None:
    found = await find(tmp_path, {0: page(1, 3, size=5, next_index=4), 4: page(5, 7, 9, 11)})
    *entries, end = map(json.loads, found.stdout.splitlines())
    assert found.exit_code == 0
    assert [entry["index"] for entry in entries] == [1, 3, 5, 7, 9, 11]
    assert end == {"entries": 6, "all_up_to_size": 12}
    assert "says that these are all up to size 12" in found.stderr


async def test_what_was_proven_before_a_lie_is_shown_and_nothing_is_called_complete(tmp_path: Path) -> None:
    found = await find(tmp_path, {0: page(1, 3, next_index=4), 4: page(5, 3)})
    assert found.exit_code == 1
    assert [json.loads(line)["index"] for line in found.stdout.splitlines()] == [1, 3]
    assert found.stderr.count("\n") == 1
    assert "sent entry 3 out of order" in found.stderr


async def test_a_log_that_shows_two_trees_in_one_answer_is_proven_to_lie_and_never_believed_again(
    tmp_path: Path,
) -> None:
    found = await find(tmp_path, {0: page(1, next_index=2), 2: page(3, tree=ANOTHER_TREE)})
    assert found.exit_code == 4
    assert "signed two trees of size 12" in found.stderr
    (evidence,) = (tmp_path / "state" / "evidence").iterdir()
    assert f"evidence: {evidence}" in found.stderr
    verify_evidence(parse_evidence(evidence.read_bytes()), key=LOG_KEY)
    with pytest.raises(MisbehaviourError):
        Memory(str(tmp_path / "state")).recall(LOG_KEY)


# --- what only someone who reads everything would notice -------------------------------------------------------------


def test_what_a_log_leaves_out_is_not_seen_here() -> None:
    search_ = searching()
    assert accept(search_, page(1, 5)) == [1, 5]
    assert search_.is_over
