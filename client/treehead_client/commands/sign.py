"""`treehead sign`: sign files, log the signatures, and leave a proof beside each file.

What the log answers is verified before anything is written. The signature is deterministic, so signing an unchanged
file again is the same entry again, and renews its proof.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from treehead.display import printable, printable_name
from treehead.dsse import Envelope, pre_authentication_encoding
from treehead.entry import parse_entry
from treehead.entry.attestation import format_leaf
from treehead.errors import MalformedError, QuorumError, TreeheadError, UsageError
from treehead.files import replace
from treehead.keyfile import read_private_key
from treehead.policy import Policy, check_quorum
from treehead.privatekey import PrivateKey
from treehead.statement import PAYLOAD_TYPE, format_release_statement
from treehead.tlogproof import PROOF_SUFFIX, format_proof
from treehead.tls import ClientTls
from treehead_client.artifact import read_artifact
from treehead_client.log import Log, Logged
from treehead_client.options import add_log, add_passphrase_file, add_policy, add_timeout, read_policy, read_tls
from treehead_client.passphrase import passphrase_of
from treehead_client.release import release_of
from treehead_client.terminal import is_watched, say
from treehead_client.verdict import EXIT_OK, outcome_of, worst_exit_code

_IN_FLIGHT_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A signed entry that is not logged yet. `label` is what the file is published as, such as `pypi:six 1.17.0`."""

    path: str
    label: str
    leaf: bytes


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to sign")
    parser.add_argument("--key", required=True, metavar="KEY", help="the key file, as keygen makes it")
    add_log(parser)
    add_policy(parser)
    parser.add_argument(
        "--purl",
        metavar="PURL",
        help="the package version that the files are of (default: a wheel's or sdist's own, else pkg:generic/FILE)",
    )
    add_passphrase_file(parser)
    add_timeout(parser, default_s=30, help="seconds to wait for each answer of the log")


def run(arguments: Namespace) -> int:
    """Print a line for each file that was logged, and say why the others were not."""
    policy = read_policy(arguments.policy)
    tls = read_tls(arguments, addresses=[arguments.log])
    passphrase = passphrase_of(arguments.key, path=arguments.passphrase_file)
    key = read_private_key(Path(arguments.key), passphrase=passphrase)
    drafts = [draft(path, purl=arguments.purl, key=key) for path in arguments.files]
    if is_watched():
        say(f"logging {len(drafts)} signatures at {arguments.log}")
    outcomes = asyncio.run(
        _log_all(drafts, policy=policy, address=arguments.log, tls=tls, timeout_s=arguments.timeout_s)
    )
    return worst_exit_code(
        [_finish(draft, outcome, policy=policy) for draft, outcome in zip(drafts, outcomes, strict=True)]
    )


def draft(path: str, *, purl: str | None, key: PrivateKey) -> Draft:
    """A file's release statement, signed, as a log entry.

    Raises:
        UsageError: the file cannot be read, or its name or purl cannot be signed.
    """
    artifact = read_artifact(path)
    release = release_of(artifact, purl=purl)
    payload = format_release_statement(release, digests=artifact.digests)
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    envelope = Envelope(payload_type=PAYLOAD_TYPE, payload=payload, signature=signature)
    leaf = format_leaf(envelope, signer=key.public)
    try:
        parse_entry(leaf)
    except MalformedError as exc:
        raise UsageError(f"{path} cannot be signed as {release.purl}: {exc}") from exc
    label = f"{release.ecosystem}:{release.name} {release.version}".rstrip()
    return Draft(path=path, label=label, leaf=leaf)


async def _log_all(
    drafts: list[Draft], *, policy: Policy, address: str, tls: ClientTls | None, timeout_s: int
) -> list[Logged | TreeheadError]:
    """Each entry logged, a few at a time, or why it is not; in the order of the drafts."""
    slots = asyncio.Semaphore(_IN_FLIGHT_MAX)

    async def log_one(draft: Draft) -> Logged | TreeheadError:
        async with slots:
            try:
                return await log.add(draft.leaf, policy=policy)
            except TreeheadError as exc:
                return exc

    async with Log(address, tls=tls, timeout_s=timeout_s) as log, asyncio.TaskGroup() as group:
        tasks = [group.create_task(log_one(draft)) for draft in drafts]
    return [task.result() for task in tasks]


def _finish(draft: Draft, outcome: Logged | TreeheadError, *, policy: Policy) -> int:
    """The proof is written, or the reason said why there is none; returns the file's exit code."""
    try:
        if isinstance(outcome, TreeheadError):
            raise outcome
        _write_proof(draft, outcome, policy=policy)
    except TreeheadError as exc:
        say(f"{draft.path} has no new proof: {exc}")
        return outcome_of(exc).exit_code
    return EXIT_OK


def _write_proof(draft: Draft, logged: Logged, *, policy: Policy) -> None:
    path = Path(draft.path + PROOF_SUFFIX)
    try:
        check_quorum(policy, logged.head.cosigned)
    except QuorumError as exc:
        say(f"warning: {path} lacks cosignatures that the policy demands: {exc}")
    if path.exists():
        say(f"{path} is replaced")
    replace(path, format_proof(logged.proof))
    checkpoint = logged.head.checkpoint
    before = ", logged before" if logged.duplicate else ""
    print(
        f"signed {printable(draft.path)} ({printable_name(draft.label)}, log {printable_name(checkpoint.origin)} "
        f"index {logged.proof.index} of size {checkpoint.size}{before})"
    )
