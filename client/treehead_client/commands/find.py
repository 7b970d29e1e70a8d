"""`treehead find`: what a log holds about an artifact, a package or a signer."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser, Namespace

from treehead.display import printable, printable_name
from treehead.errors import MisbehaviourError, StorageError, UndecidedError, UsageError
from treehead_client.log import Log
from treehead_client.memory import Memory
from treehead_client.options import add_log, add_policy, add_state, add_timeout, read_policy, read_tls, state_directory
from treehead_client.query import parse_query
from treehead_client.search import Found, Search
from treehead_client.terminal import say
from treehead_client.verdict import EXIT_OK


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "query",
        metavar="QUERY",
        help="a digest (sha256:HEX, or of another algorithm), a file's name (name:FILE), a package URL with a version "
        "or for all versions (pkg:TYPE/NAME@VERSION, pkg:TYPE/NAME), or a signer's public key (ed25519:BASE64)",
    )
    add_log(parser)
    add_policy(parser, required=False)
    add_state(parser)
    add_timeout(parser, default_s=30, help="seconds to wait for each answer")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each entry, and one at the end")


def run(arguments: Namespace) -> int:
    """Print the entries, in the log's order. That a log finds none proves nothing, and ends with 3."""
    query = parse_query(arguments.query)
    if arguments.policy is None:
        say("without --policy the log's signature is not checked: the entries are what this address says they are")
    policy = None if arguments.policy is None else read_policy(arguments.policy)
    search = Search(query, policy=policy, peer=f"log {arguments.log}")
    try:
        count = asyncio.run(_print_entries(arguments, search))
    except MisbehaviourError as exc:
        _keep(exc, search, state=arguments.state)
        raise
    size = 0 if search.checkpoint is None else search.checkpoint.size
    if arguments.json:
        print(json.dumps({"entries": count, "all_up_to_size": size}), flush=True)
    if count == 0:
        raise UndecidedError(
            f"log {arguments.log} says that no entry up to size {size} is found by {query.text}, which proves nothing"
        )
    say(f"log {arguments.log} says that these are all up to size {size}")
    return EXIT_OK


async def _print_entries(arguments: Namespace, search: Search) -> int:
    count = 0
    tls = read_tls(arguments, addresses=[arguments.log])
    async with Log(arguments.log, tls=tls, timeout_s=arguments.timeout_s) as log:
        async for page in log.find(search):
            for found in page:
                print(_format_json(found) if arguments.json else _format_line(found), flush=True)
            count += len(page)
    return count


def _keep(error: MisbehaviourError, search: Search, *, state: str | None) -> None:
    """Keep the evidence where verifications will heed it."""
    if search.head is None:
        return
    try:
        path = Memory(state_directory(state)).keep_evidence(error.evidence, log=search.head.log)
    except (StorageError, UsageError) as exc:
        say(f"warning: the evidence could not be kept: {exc}")
    else:
        say(f"evidence: {path}")


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
