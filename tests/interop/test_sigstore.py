"""Sigstore's clients write to our log as to Rekor v2, and verify by its trusted root what they are answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.entries import HASTY, mixed_leaves, publish
from tests.interop.programs import run
from tests.processes import LogProcess, create_log, run_module

ORIGIN = "127.0.0.1"
"""As the clients want it: the host of the log's URL."""
SIZE = 5
CLIENT = Path(__file__).resolve().parent / "sigstore_client.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A log with a few entries, and what Sigstore's clients are told of it."""

    url: str
    trusted_root: Path
    signing_config: Path


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    data = tmp_path / "log"
    await create_log(data, origin=ORIGIN)
    (data / "log.toml").write_text(HASTY)
    async with LogProcess(data) as process:
        await publish(process.address, mixed_leaves(SIZE))
        log = Log(url=process.http, trusted_root=tmp_path / "root.json", signing_config=tmp_path / "config.json")
        for command, file in (
            (["trusted-root"], log.trusted_root),
            (["signing-config", "--operator", "log.example"], log.signing_config),
        ):
            told = await run_module("treehead_logserver", *command, "--data", data, "--url", log.url)
            assert told.exit_code == 0, told.stderr
            file.write_text(told.stdout, encoding="utf-8")
        yield log


async def told_by(program: Path, *arguments: str | Path) -> dict[str, Any]:
    """What a client says that it did."""
    done = await run(program, *arguments)
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
async def by_python(sigstore_python: Path, log: Log) -> dict[str, Any]:
    """What the sigstore package did with the log."""
    arguments = ("--trusted-root", log.trusted_root, "--signing-config", log.signing_config)
    told = await told_by(sigstore_python, CLIENT, *arguments)
    assert told["log_url"] == f"{log.url}/api/v2"
    return told


async def test_sigstore_python_logs_and_verifies_and_refuses_what_was_changed(by_python: dict[str, Any]) -> None:
    assert by_python["indices"] == [SIZE, SIZE + 1]
    assert by_python["kinds"] == [{"kind": "hashedrekord", "version": "0.0.2"}] * 2
    assert by_python["again"] == {"first": SIZE + 1, "again": SIZE + 1, "as_envelope": SIZE + 1, "status": 201}
    refused = by_python["refused"]
    for change in ("hash of the proof", "one hash less", "root", "size", "index", "body"):
        assert refused[change].startswith("inclusion proof "), change
    for change in ("checkpoint", "log id", "another log key"):
        assert refused[change].startswith("checkpoint: "), change
    assert refused["another file"] == "transparency log entry is inconsistent with other materials"
    # Why no whole bundle is verified. When this changes, one can be.
    assert by_python["whole_bundle"] == "Fulcio certificates not found in trusted root"


async def test_sigstore_go_logs_and_verifies_and_refuses_what_was_changed(sigstore_go: Path, log: Log) -> None:
    arguments = ("-trusted-root", log.trusted_root, "-signing-config", log.signing_config)
    told = await told_by(sigstore_go, *arguments)
    kinds = (
        "PKIX_ECDSA_P256_SHA_256",
        "PKIX_ECDSA_P384_SHA_384",
        "PKIX_ECDSA_P521_SHA_512",
        "PKIX_RSA_PKCS1V15_2048_SHA256",
    )
    wanted = [
        f"{what} {kind} {holder}"
        for kind in kinds
        for holder in ("key", "certificate")
        for what in ("file", "attestation")
    ]
    assert told["logged"] == [{"what": what, "index": SIZE + number} for number, what in enumerate(wanted)]
    first, again = told["duplicate"]
    assert first == again == SIZE + len(wanted)
    refused = told["refused"]
    assert "invalid signature" in refused["another file"]
    for change in ("another log key", "size in the checkpoint"):
        assert "failed to verify signatures on checkpoint" in refused[change], change
    for change in ("hash of the proof", "index", "signature"):
        assert "verifying inclusion: " in refused[change], change
    assert "not enough verified log entries" in refused["log id"]
