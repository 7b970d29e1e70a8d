"""The remembered head of a log: it only moves forward, whoever else is remembering at the same time."""

import errno
import fcntl
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.unit.library.specimens import (
    LOG_KEY,
    OTHER_LOG,
    OTHER_LOG_KEY,
    POLICY,
    Tree,
    forked_trees,
    head_of,
    prefix_evidence,
    same_size_evidence,
)
from treehead.errors import MisbehaviourError, StorageError
from treehead.evidence import format_evidence, parse_evidence, verify_evidence
from treehead.keys import format_vkey
from treehead.note import format_note
from treehead.policy import SignedHead, verify_head
from treehead_client.memory import Memory

TREE = Tree(b"leaf %d" % index for index in range(100))


def signed_head(size: int, tree: Tree = TREE) -> SignedHead:
    return verify_head(POLICY, head_of(tree, size=size, cosigned={}))


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(str(tmp_path / "not" / "there" / "yet"))


def test_nothing_is_remembered_at_first(memory: Memory) -> None:
    assert memory.recall(LOG_KEY) is None


def test_a_remembered_head_is_recalled_for_its_log_only(memory: Memory) -> None:
    memory.remember(signed_head(7))
    recalled = memory.recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint == signed_head(7).checkpoint
    assert memory.recall(OTHER_LOG_KEY) is None


@pytest.mark.parametrize(("sizes", "kept"), [((7, 9), 9), ((9, 7), 9), ((7, 7), 7), ((1, 100, 50, 99), 100)])
def test_the_memory_only_moves_forward(memory: Memory, sizes: tuple[int, ...], kept: int) -> None:
    for size in sizes:
        memory.remember(signed_head(size))
    recalled = memory.recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint.size == kept


def test_same_size_other_root_is_a_fork(memory: Memory) -> None:
    ours, theirs = forked_trees(9, 4)
    memory.remember(signed_head(9, ours))
    with pytest.raises(MisbehaviourError) as caught:
        memory.remember(signed_head(9, theirs))
    recalled = memory.recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint.root == ours.root()
    path = memory.keep_evidence(caught.value.evidence, log=LOG_KEY)
    verify_evidence(parse_evidence(Path(path).read_bytes()), key=LOG_KEY)


def test_evidence_once_kept_outweighs_all_that_its_log_shows_later(memory: Memory) -> None:
    first, later = same_size_evidence(), prefix_evidence()
    path = memory.keep_evidence(first, log=LOG_KEY)
    assert memory.keep_evidence(later, log=LOG_KEY) == path
    with pytest.raises(MisbehaviourError) as caught:
        memory.recall(LOG_KEY)
    assert caught.value.evidence == first
    with pytest.raises(MisbehaviourError):
        memory.remember(signed_head(7))
    assert memory.recall(OTHER_LOG_KEY) is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(format_evidence(same_size_evidence())[:-1], id="truncated"),
        pytest.param(b"x" * 100_000, id="too_large"),
        pytest.param(format_evidence(replace(same_size_evidence(), second=same_size_evidence().first)), id="no_fork"),
    ],
)
def test_damaged_evidence_is_an_error_that_names_the_file(memory: Memory, content: bytes) -> None:
    path = Path(memory.keep_evidence(same_size_evidence(), log=LOG_KEY))
    path.write_bytes(content)
    with pytest.raises(StorageError, match=path.name):
        memory.recall(LOG_KEY)


@pytest.mark.parametrize("kept", ["evidence", "head"])
def test_only_what_does_not_exist_is_not_remembered(memory: Memory, kept: str) -> None:
    directory = Path(memory.directory)
    directory.mkdir(parents=True)
    name = sha256(format_vkey(LOG_KEY).encode()).hexdigest()
    path = directory / ("evidence" if kept == "evidence" else name)
    assert memory.recall(LOG_KEY) is None
    path.symlink_to(path.name)  # a loop: it is there, and cannot be read
    with pytest.raises(StorageError, match=path.name):
        memory.recall(LOG_KEY)


def test_a_lock_that_others_hold_is_not_waited_for_without_end(memory: Memory) -> None:
    memory.remember(signed_head(7))
    with open(f"{memory.directory}/lock", "rb") as lock:  # noqa: PTH123 -- a file beside the heads
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process has held"):
            memory.remember(signed_head(9))
    memory.remember(signed_head(9))
    recalled = memory.recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint.size == 9


def test_a_file_system_without_locks_is_an_error_of_the_storage(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="No locks available"):
        memory.remember(signed_head(9))


@pytest.mark.parametrize("content", [b"", b"garbage", format_note(head_of(TREE, log=OTHER_LOG, cosigned={}))])
def test_a_damaged_memory_is_an_error_that_names_the_file(memory: Memory, content: bytes) -> None:
    memory.remember(signed_head(7))
    path = next(path for path in Path(memory.directory).iterdir() if path.name != "lock")
    path.write_bytes(content)
    with pytest.raises(StorageError, match=path.name):
        memory.recall(LOG_KEY)


REMEMBER = """
import random, sys
from treehead.checkpoint import open_checkpoint
from treehead.keys import parse_vkey
from treehead.note import parse_note
from treehead.policy import SignedHead
from treehead_client.memory import Memory

directory, vkey, seed = sys.argv[1:4]
key = parse_vkey(vkey)
notes = sys.stdin.buffer.read().split(b"\\0")
random.Random(seed).shuffle(notes)
largest = 0
for data in notes:
    head = SignedHead(checkpoint=open_checkpoint(data, key=key), note=parse_note(data), log=key, cosigned={})
    Memory(directory).remember(head)
    largest = max(largest, head.checkpoint.size)
    assert Memory(directory).recall(key).checkpoint.size >= largest, "moved back"
"""


def test_of_eight_processes_that_remember_at_once_the_largest_head_wins(tmp_path: Path) -> None:
    heads = b"\0".join(format_note(head_of(TREE, size=size, cosigned={})) for size in range(1, 41))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REMEMBER, str(tmp_path / "state"), format_vkey(LOG_KEY), str(seed)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(heads)
        process.stdin.close()
        process.stdin = None
    failures = [stderr for _, stderr in (process.communicate(timeout=60) for process in processes) if stderr]
    assert failures == []
    assert [process.returncode for process in processes] == [0] * 8
    recalled = Memory(str(tmp_path / "state")).recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint.size == 40
    assert sorted(path.name for path in (tmp_path / "state").iterdir() if len(path.name) != 64) == ["lock"]
