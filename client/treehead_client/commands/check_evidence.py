"""`treehead check-evidence`: does this file prove that a log signed contradicting trees?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from treehead.checkpoint import Checkpoint
from treehead.display import printable, printable_name
from treehead.errors import MalformedError, RefusedError, TreeheadError, UnsupportedError
from treehead.evidence import EVIDENCE_BYTES_MAX, Evidence, Fork, parse_evidence, verify_evidence
from treehead.files import read_limited
from treehead.keys import VerifierKey, format_vkey
from treehead.policy import Policy
from treehead_client.options import add_policy, read_policy
from treehead_client.verdict import EXIT_MISBEHAVIOUR


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", metavar="FILE", help="the evidence")
    add_policy(parser)


def run(arguments: Namespace) -> int:
    """Print what the evidence proves, and end with 4; or raise the reason why it proves nothing."""
    policy = read_policy(arguments.policy)
    try:
        evidence = parse_evidence(read_limited(arguments.file, bytes_max=EVIDENCE_BYTES_MAX, what="evidence"))
        key, first, second = _verify(evidence, policy)
    except (RefusedError, MalformedError) as exc:
        raise type(exc)(f"{arguments.file} proves nothing: {exc}") from exc
    print(f"proven: log {printable_name(key.name)} misbehaved: {_describe(evidence, first, second)}")
    print(f"key: {printable(format_vkey(key))}")
    return EXIT_MISBEHAVIOUR


def _verify(evidence: Evidence, policy: Policy) -> tuple[VerifierKey, Checkpoint, Checkpoint]:
    """The policy's key that signed both checkpoints, and these.

    Raises:
        TreeheadError: no key of the policy did, or they do not contradict each other.
    """
    origin = evidence.origin_unverified
    reasons: list[TreeheadError] = []
    for key in policy.log_keys(origin):
        try:
            return key, *verify_evidence(evidence, key=key)
        except UnsupportedError as exc:
            reasons.append(exc)  # says nothing about the evidence, so any other key's reason goes before it
        except TreeheadError as exc:
            reasons.insert(0, exc)
    raise reasons[0] if reasons else RefusedError(f"it is about the log {origin!r}, which the policy does not list")


def _describe(evidence: Evidence, first: Checkpoint, second: Checkpoint) -> str:
    if evidence.fork is Fork.SAME_SIZE:
        return f"it signed two trees of size {first.size}, with the roots {first.root.hex()} and {second.root.hex()}"
    return (
        f"it signed a tree of size {first.size} with the root {first.root.hex()}, "
        f"and one of size {second.size} which does not begin with it"
    )
