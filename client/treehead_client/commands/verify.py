"""`treehead verify`: may these files be used?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack

from treehead.errors import UsageError
from treehead_client.memory import Memory
from treehead_client.options import (
    add_policy,
    add_state,
    add_timeout,
    add_tls,
    read_policy,
    read_tls,
    read_trust,
    state_directory,
)
from treehead_client.terminal import say
from treehead_client.verdict import EXIT_USAGE, format_json, format_line, worst_exit_code
from treehead_client.verification import Verifier


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to verify")
    add_policy(parser)
    parser.add_argument(
        "--trust", required=True, metavar="TRUST", help="which signers may speak for which names (TOML)"
    )
    parser.add_argument("--proof", metavar="P", help="the proof, with one FILE (default FILE.tlog-proof)")
    parser.add_argument("--purl", metavar="PURL", help="the package that the files have to be of, version or not")
    parser.add_argument(
        "--monitor",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a monitor that has to agree; https://HOST:PORT if it speaks TLS; may be repeated",
    )
    add_tls(parser)
    add_state(parser)
    add_timeout(parser, default_s=10, help="seconds to wait for the monitors")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each file")


def run(arguments: Namespace) -> int:
    """Print a verdict for each file."""
    if arguments.proof is not None and len(arguments.files) > 1:
        raise UsageError("--proof names the proof of one FILE; several files have theirs beside them")
    policy = read_policy(arguments.policy)
    tls = read_tls(arguments, addresses=arguments.monitor)
    codes = []
    with ExitStack() as stack:
        monitors = None
        if arguments.monitor:
            from treehead_client.monitor import Monitors

            monitors = stack.enter_context(Monitors(arguments.monitor, tls=tls, timeout_s=arguments.timeout_s))
        verifier = Verifier(
            policy=policy,
            trust=read_trust(arguments.trust),
            memory=Memory(state_directory(arguments.state)),
            purl=_spelled(arguments.purl),
            monitors=monitors,
        )
        for path in arguments.files:
            verdict = verifier.verify(path, proof_path=arguments.proof)
            codes.append(verdict.outcome.exit_code)
            if verdict.outcome.exit_code == EXIT_USAGE:
                say(str(verdict.error))
            if arguments.json:
                print(format_json(verdict, policy=policy), flush=True)
            elif verdict.outcome.exit_code != EXIT_USAGE:
                print(format_line(verdict), flush=True)
    return worst_exit_code(codes)


def _spelled(purl: str | None) -> str | None:
    """The package URL in the spelling that entries have."""
    if purl is None:
        return None
    from treehead_client.release import parse_purl

    return parse_purl(purl).purl
