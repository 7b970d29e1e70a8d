"""Whatever the schedule: honest logs are never accused, and a fork seen by two connected monitors is proven at both."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.library.specimens import LOG_KEY, Tree, forked_trees, private_key, signed_checkpoint
from tests.unit.monitor.gossiper import Gossiper, exchange, signed_head
from treehead.evidence import verify_evidence
from treehead.note import format_note
from treehead_monitor.gossip import Limits
from treehead_monitor.message import Gossip

SIZE_MAX = 70
TREE = Tree(b"leaf %d" % index for index in range(SIZE_MAX))
NAMES = ("a", "b", "c")

sizes = st.integers(0, SIZE_MAX)
names = st.sampled_from(NAMES)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("follow"), names, sizes),
        st.tuples(st.just("see"), names, sizes),
        st.tuples(st.just("note"), names, sizes),
        st.tuples(st.just("exchange"), names, names),
        st.tuples(st.just("tick"), names, st.integers(0, 100_000)),
        st.tuples(st.just("restart"), names, st.none()),
    ),
    max_size=40,
)


def damaged(data: bytes, *, at: int) -> bytes:
    """The same with one bit flipped, in the text or in the signature."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def exchange_all(monitors: dict[str, Gossiper]) -> None:
    """Every monitor talks to every other, and says what it has to say."""
    for caller in monitors.values():
        for callee in monitors.values():
            if caller is not callee:
                exchange(caller, callee)
    for caller in monitors.values():
        while caller.outbox:
            peer, gossip = caller.outbox.popleft()
            exchange(caller, monitors[peer], gossip)


@given(steps)
def test_no_schedule_of_honest_heads_leads_to_an_accusation(schedule: list[tuple[str, str, object]]) -> None:
    monitors = {
        name: Gossiper(TREE, name=name, peers=[peer for peer in NAMES if peer != name], limits=Limits(parked_max=5))
        for name in NAMES
    }
    for step in schedule:
        match step:
            case ("follow", name, int(size)):
                monitors[name].follow(size)
            case ("see", name, int(size)):
                monitors[name].see(signed_head(TREE, size))
            case ("note", name, int(size)):
                monitors[name].hear(signed_head(TREE, size))
            case ("exchange", name, str(other)) if name != other:
                exchange(monitors[name], monitors[other])
            case ("tick", name, int(later_ms)):
                monitors[name].tick(later_ms=later_ms)
            case ("restart", name, None):
                monitors[name] = monitors[name].restarted()
            case _:
                pass
    assert not any(monitor.is_accusing for monitor in monitors.values())
    assert [fault for monitor in monitors.values() for fault in monitor.faults()] == []
    for monitor in monitors.values():
        assert all(digest.size > (monitor.head.size if monitor.head else -1) for digest in monitor.parked)
        assert len(monitor.parked) <= 5


@given(
    first=st.integers(1, SIZE_MAX),
    second=st.integers(1, SIZE_MAX),
    agreed=st.integers(0, SIZE_MAX - 1),
    early=st.booleans(),
    swapped=st.booleans(),
)
def test_a_fork_seen_by_two_connected_monitors_is_proven_at_both_after_one_exchange(
    *, first: int, second: int, agreed: int, early: bool, swapped: bool
) -> None:
    agreed = min(agreed, first - 1, second - 1)
    ours, theirs = forked_trees(SIZE_MAX, agreed)
    one, two = Gossiper(ours, name="one", peers=("two",)), Gossiper(theirs, name="two", peers=("one",))
    monitors = {"one": one, "two": two}
    if early:
        one.follow(agreed)
        two.follow(agreed)
        exchange_all(monitors)
        assert not one.is_accusing
    one.follow(first)
    two.follow(second)
    exchange(two, one) if swapped else exchange(one, two)
    exchange_all(monitors)
    assert one.files == two.files
    (evidence,) = one.evidence
    head1, head2 = verify_evidence(evidence, key=LOG_KEY)
    assert sorted((head1.size, head2.size)) == sorted((first, second))


@given(
    first=st.integers(1, SIZE_MAX),
    second=st.integers(1, SIZE_MAX),
    agreed=st.integers(0, SIZE_MAX - 1),
    swapped=st.booleans(),
    restarted=st.booleans(),
)
def test_a_fork_is_proven_at_both_even_if_the_log_refuses_one_of_them_the_entries(
    *, first: int, second: int, agreed: int, swapped: bool, restarted: bool
) -> None:
    """Once the other monitor's tree has reached the head whose entries are refused, whenever they spoke before."""
    agreed = min(agreed, first - 1, second - 1)
    ours, theirs = forked_trees(SIZE_MAX, agreed)
    monitors = {"one": Gossiper(ours, name="one", peers=("two",)), "two": Gossiper(theirs, name="two", peers=("one",))}
    monitors["one"].follow(agreed)
    monitors["one"].see(signed_head(ours, first))
    if restarted:
        monitors["one"] = monitors["one"].restarted()
    for size in sorted((second, max(first, second))):
        monitors["two"].follow(size)
        exchange_all(dict(reversed(monitors.items())) if swapped else monitors)
    assert monitors["one"].files == monitors["two"].files
    (evidence,) = monitors["one"].evidence
    verify_evidence(evidence, key=LOG_KEY)


@given(
    first=st.integers(1, SIZE_MAX),
    second=st.integers(1, SIZE_MAX),
    agreed=st.integers(0, SIZE_MAX - 1),
    seed=st.integers(0, 2**32),
)
def test_a_fork_is_known_to_all_three_monitors_within_three_intervals(
    first: int, second: int, agreed: int, seed: int
) -> None:
    agreed = min(agreed, first - 1, second - 1)
    ours, theirs = forked_trees(SIZE_MAX, agreed)
    monitors = {
        name: Gossiper(tree, name=name, peers=[peer for peer in NAMES if peer != name], seed=seed + at)
        for at, (name, tree) in enumerate(zip(NAMES, (ours, theirs, ours), strict=True))
    }
    for monitor, size in zip(monitors.values(), (first, second, agreed), strict=True):
        monitor.follow(size)
    for _ in range(3):
        for monitor in monitors.values():
            monitor.tick()
            while monitor.outbox:
                peer, gossip = monitor.outbox.popleft()
                exchange(monitor, monitors[peer], gossip)
    assert all(monitor.is_accusing for monitor in monitors.values())


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.builds(
                lambda size, root: format_note(signed_checkpoint(size, root, log=private_key("stranger"))),
                sizes,
                st.binary(min_size=32, max_size=32),
            ),
            st.builds(
                lambda size, at: damaged(signed_head(TREE, size).data, at=at),
                sizes,
                st.integers(0, 200),
            ),
        ),
        max_size=10,
    )
)
def test_nothing_that_the_log_did_not_sign_is_kept_or_leads_to_an_accusation(items: list[bytes]) -> None:
    monitor = Gossiper(TREE)
    monitor.follow(33)
    monitor.trace.clear()
    monitor.hear_gossip(Gossip(notes=tuple(items), evidence=tuple(items)))
    assert not monitor.is_accusing
    assert all(line.startswith("fault of ") for line in monitor.trace)
