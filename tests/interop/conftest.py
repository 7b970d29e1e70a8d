"""The programs that the tests here use, each skipped with its reason where it cannot be had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop import programs


@pytest.fixture(scope="session")
def reader() -> Path:
    """Our Go program that reads a log with golang.org/x/mod/sumdb and torchwood."""
    return _had(lambda: programs.go_program("reader"))


@pytest.fixture(scope="session")
def sigstore_go() -> Path:
    """Our Go program that signs and verifies with sigstore-go."""
    return _had(lambda: programs.go_program("sigstore"))


@pytest.fixture(scope="session")
def sigstore_python() -> Path:
    """A Python interpreter that has the sigstore package."""
    return _had(programs.sigstore_python)


@pytest.fixture(scope="session")
def litewitness() -> Path:
    """The witness litewitness, whose key an ssh-agent holds."""
    for tool in ("ssh-agent", "ssh-add", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"litewitness takes its key from an ssh-agent, and there is no {tool} on PATH")
    return _had(lambda: programs.go_program("litewitness", package="filippo.io/torchwood/cmd/litewitness"))


def _had(get: Callable[[], Path]) -> Path:
    try:
        return get()
    except programs.NotToBeHadError as exc:
        pytest.skip(str(exc))
