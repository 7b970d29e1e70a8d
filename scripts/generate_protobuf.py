"""Derive `treehead/v1` from `protos/treehead/v1`, or check that what is committed is what would be derived.

The generated code is committed, so that installing Treehead needs no compiler; this script is the only thing that
writes it. Versions of the generators come from requirements.lock, and nothing else goes into the output: the same
contract gives the same bytes on every machine.

    python scripts/generate_protobuf.py            write treehead/v1
    python scripts/generate_protobuf.py --check    write nothing; exit 1 and name the files that differ
"""

import argparse
import importlib.resources
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
PACKAGE = Path("treehead/v1")
INIT = '"""Code generated from protos/treehead/v1 by `make proto`. Do not edit."""\n'


def derive(target: Path) -> None:
    """Fill `target` with the package that the contract describes.

    Raises:
        FileNotFoundError: there is no contract to read.
        CalledProcessError: the compiler refused it, and has said why on stderr.
    """
    contract = sorted(path.relative_to(SOURCES).as_posix() for path in (SOURCES / PACKAGE).glob("*.proto"))
    if not contract:
        raise FileNotFoundError(f"no .proto file in {(SOURCES / PACKAGE).relative_to(ROOT)}")
    with tempfile.TemporaryDirectory() as scratch:
        well_known = importlib.resources.files("grpc_tools") / "_proto"
        outputs = (f"--{kind}_out={scratch}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc"))
        # protoc finds the mypy plugins beside this interpreter, not wherever the caller's PATH leads.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCES}", f"-I{well_known}", *outputs, *contract]
        done = subprocess.run(command, env={**os.environ, "PATH": path}, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stderr)  # the plugins also write their progress there, which nobody needs
            done.check_returncode()
        target.mkdir(parents=True, exist_ok=True)
        for stale in generated(target):
            (target / stale).unlink()
        for fresh in sorted((Path(scratch) / PACKAGE).iterdir()):
            (target / fresh.name).write_bytes(fresh.read_bytes())
        (target / "__init__.py").write_text(INIT, encoding="utf-8")


def generated(package: Path) -> set[str]:
    """Name the files of a package, without what interpreters leave there."""
    return {path.name for path in package.iterdir() if path.is_file()} if package.is_dir() else set()


def drift(committed: Path, derived: Path) -> list[str]:
    """Name every file that is missing, left over or different in `committed`."""
    names = generated(committed) | generated(derived)
    return sorted(name for name in names if _content(committed / name) != _content(derived / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main() -> int:
    """Run the command line; the exit code is 1 when the committed code is not what the contract gives."""
    parser = argparse.ArgumentParser(description="derive treehead/v1 from protos/treehead/v1")
    parser.add_argument("--check", action="store_true", help="write nothing, and exit 1 if anything would change")
    if not parser.parse_args().check:
        derive(ROOT / PACKAGE)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        derive(Path(scratch))
        differing = drift(ROOT / PACKAGE, Path(scratch))
    if differing:
        print(f"{PACKAGE} is not what protos/ gives ({', '.join(differing)}): run `make proto` and commit the result")
    return 1 if differing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FileNotFoundError as problem:
        sys.exit(f"generate_protobuf: {problem}")
    except subprocess.CalledProcessError:
        sys.exit("generate_protobuf: protoc refused the contract, for the reason above; nothing was written")
