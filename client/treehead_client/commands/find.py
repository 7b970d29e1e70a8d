"""`treehead find`: what a log holds about an artifact."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser, Namespace

from treehead.display import printable, printable_name
from treehead.encoding import parse_hex
from treehead.errors import MalformedError, UndecidedError, UsageError
from treehead.policy import Policy
from treehead.statement import DIGEST_BYTES
from treehead_client.log import Found, Log
from treehead_client.options import add_log, add_policy, add_timeout, read_policy
from treehead_client.terminal import say
from treehead_client.verdict import EXIT_OK


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("digest", metavar="sha256:HEX", help="the artifact's digest; sha512:HEX will do, too")
    add_log(parser)
    add_policy(parser, required=False)
    add_timeout(parser, default_s=30, help="seconds to wait for each answer")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each entry")


def run(arguments: Namespace) -> int:
    """Print the entries, in the log's order. That a log finds none proves nothing, and ends with 3."""
    algorithm, digest = _parse_digest(arguments.digest)
    if arguments.policy is None:
        say("without --policy the log's signature is not checked: the entries are what this address says they are")
    policy = None if arguments.policy is None else read_policy(arguments.policy)
    count = asyncio.run(_print_entries(arguments, algorithm, digest, policy))
    if count == 0:
        raise UndecidedError(f"log {arguments.log} finds no entry for {arguments.digest}, which proves nothing")
    return EXIT_OK


def _parse_digest(text: str) -> tuple[str, bytes]:
    algorithm, _, encoded = text.partition(":")
    if algorithm not in DIGEST_BYTES:
        raise UsageError(f"{text!r} is not {' or '.join(f'{name}:HEX' for name in DIGEST_BYTES)}")
    try:
        return algorithm, parse_hex(encoded, what=f"{algorithm} digest", length=DIGEST_BYTES[algorithm])
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc


async def _print_entries(arguments: Namespace, algorithm: str, digest: bytes, policy: Policy | None) -> int:
    count = 0
    async with Log(arguments.log, timeout_s=arguments.timeout_s) as log:
        async for found in log.find(algorithm=algorithm, digest=digest, policy=policy):
            print(_format_json(found) if arguments.json else _format_line(found), flush=True)
            count += 1
    return count


def _format_line(found: Found) -> str:
    if found.entry is None:
        return f"{found.index} of a kind that is not known here"
    return f"{found.index} {found.entry.kind} {_name(found) or 'unnamed'} signer {found.entry.signer}"


def _format_json(found: Found) -> str:
    entry = found.entry
    return json.dumps(
        {
            "index": found.index,
            "kind": None if entry is None else entry.kind,
            "name": _name(found),
            "signer": None if entry is None else str(entry.signer),
        }
    )


def _name(found: Found) -> str | None:
    """The package URL of a release, else the first name that was signed."""
    if found.entry is None:
        return None
    if found.entry.release is not None:
        return printable(found.entry.release.purl)
    names = [artifact.name for artifact in found.entry.artifacts if artifact.name is not None]
    return printable_name(names[0]) if names else None
