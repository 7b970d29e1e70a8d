"""The remembered head of a log: it only moves forward, whoever else is remembering at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.library.specimens import LOG_KEY, OTHER_LOG, OTHER_LOG_KEY, POLICY, Tree, forked_trees, head_of
from treehead.errors import MisbehaviourError, StorageError
from treehead.evidence import parse_evidence, verify_evidence
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
    path = memory.keep_evidence(caught.value.evidence)
    verify_evidence(parse_evidence(Path(path).read_bytes()), key=LOG_KEY)
    recalled = memory.recall(LOG_KEY)
    assert recalled is not None
    assert recalled.checkpoint.root == ours.root()


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
