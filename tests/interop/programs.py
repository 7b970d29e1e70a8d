"""Programs that no one here wrote, fetched and built once, and kept in the user's cache for the runs after.

What is fetched is pinned by hashes in files beside this one: `go.sum` of each module in `go/`, and `sigstore.lock`. It
is kept in `$XDG_CACHE_HOME/treehead-interop` (else `~/.cache/treehead-interop`), under a name made of everything that
it was made from, so that it never has to be cleared; it may be deleted at any time. Go keeps modules and what it
compiled in caches of its own.

What cannot be had here (no go command, no network, no package index) is a reason to skip a test. What is there and does
not build is a failure: it is our files that are wrong then.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from tests.processes import Finished

FOLDER = Path(__file__).resolve().parent
SIGSTORE_LOCK = FOLDER / "sigstore.lock"

FETCH_SECONDS_MAX = 90
BUILD_SECONDS_MAX = 150
"""Both together are less than what pytest gives a test before it ends the run."""
RUN_SECONDS_MAX = 100
_REASON_CHARS_MAX = 300

# Go's own files say what is wanted, and it is taken or nothing: no other versions, no other toolchain, no C compiler.
_GO_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}
_OUR_MISTAKES = ("SECURITY ERROR", "missing go.sum entry", "updates to go.mod", "is not in std", "malformed")
"""By these words of the go command it is our module that is wrong, and not the network."""

_too_slow: list[str] = []
"""What was waited for in vain in this run. Nothing more is fetched then: the next run goes on from what has come."""


class NotToBeHadError(Exception):
    """A program cannot be had on this machine; the message says why, in one line."""


def cache_folder() -> Path:
    """Where programs are kept, made if it is not there.

    Raises:
        NotToBeHadError: it cannot be made.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "treehead-interop"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise NotToBeHadError(f"cannot keep programs in {folder}: {exc.strerror}") from exc
    return folder


def go_program(name: str, *, package: str = ".") -> Path:
    """The program that the module `go/NAME` builds from one of its packages, or of those that it requires.

    Raises:
        NotToBeHadError: there is no go command, it is too old, or the modules cannot be fetched.
        AssertionError: the module is wrong.
    """
    go = shutil.which("go")
    if go is None:
        raise NotToBeHadError("there is no go command on PATH")
    module = FOLDER / "go" / name
    environment = {**os.environ, **_GO_ENVIRONMENT}
    version = _bounded([go, "version"], folder=module, environment=environment, seconds_max=FETCH_SECONDS_MAX)
    sources = sorted(path for path in module.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    program = cache_folder() / f"{name}-{_key(version.stdout.encode(), *(path.read_bytes() for path in sources))}"
    if not program.exists():
        # Naming all packages fetches what they are in, and compiles nothing.
        fetched = _fetch([go, "list", "-deps", package], folder=module, environment=environment)
        if fetched.returncode:
            assert not any(words in fetched.stderr for words in _OUR_MISTAKES), fetched.stderr
            raise NotToBeHadError(f"the modules of {name} cannot be fetched: {_last_line(fetched.stderr)}")
        with tempfile.TemporaryDirectory(dir=program.parent) as making:
            made = Path(making) / name
            built = _bounded(
                [go, "build", "-o", str(made), package],
                folder=module,
                environment=environment,
                seconds_max=BUILD_SECONDS_MAX,
            )
            assert built.returncode == 0, built.stderr
            made.replace(program)
    return program


def sigstore_python() -> Path:
    """A Python interpreter with the sigstore package, in an environment of its own.

    Raises:
        NotToBeHadError: the packages cannot be fetched.
    """
    lock = SIGSTORE_LOCK.read_bytes()
    environment = cache_folder() / f"sigstore-python-{_key(lock, sys.version.encode(), sys.base_prefix.encode())}"
    if not environment.exists():
        with tempfile.TemporaryDirectory(dir=environment.parent) as making:
            made = Path(making) / "environment"
            _bounded([sys.executable, "-m", "venv", "--without-pip", str(made)], seconds_max=FETCH_SECONDS_MAX)
            pip = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python"), "install", "--quiet"]
            installed = _fetch(
                [*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", str(SIGSTORE_LOCK)]
            )
            if installed.returncode:
                assert "DO NOT MATCH THE HASHES" not in installed.stderr, installed.stderr
                raise NotToBeHadError(f"the sigstore package cannot be installed: {_last_line(installed.stderr)}")
            try:
                made.replace(environment)
            except OSError:
                if not environment.exists():  # else another run was faster, and made the same
                    raise
    return environment / "bin" / "python"


async def run(program: Path, *arguments: str | Path) -> Finished:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        program,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS_MAX):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(exit_code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


def _fetch(
    command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that fetches something.

    Raises:
        NotToBeHadError: it took too long, or another one did before.
    """
    if _too_slow:
        raise NotToBeHadError(_too_slow[0])
    try:
        return _bounded(command, folder=folder, environment=environment, seconds_max=FETCH_SECONDS_MAX)
    except NotToBeHadError as exc:
        _too_slow.append(str(exc))
        raise


def _key(*parts: bytes) -> str:
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()[:16]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:_REASON_CHARS_MAX] if lines else "it says nothing"


def _bounded(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds_max: int,
) -> subprocess.CompletedProcess[str]:
    """Run a command, and end it with all that it started if it takes too long.

    Raises:
        NotToBeHadError: it took too long, or could not be started.
    """
    shown = " ".join([Path(command[0]).name, *command[1:4]])
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as exc:
        raise NotToBeHadError(f"cannot run {shown}: {exc.strerror}") from exc
    with process:
        try:
            stdout, stderr = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired as exc:
            os.killpg(process.pid, signal.SIGKILL)
            raise NotToBeHadError(f"{shown} … took longer than {seconds_max} s") from exc
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
