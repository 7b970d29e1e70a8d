"""Real wheels for the demonstration, without a network: one that Python brings, and some that are installed here."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.metadata import Distribution, PackagePath, distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from treehead.errors import UsageError

# What installing adds to a distribution; the rest is the wheel's content.
_ADDED_BY_INSTALLERS = frozenset({"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD"})


def bundled_wheel(folder: Path) -> Path | None:
    """A copy of the pip wheel that `ensurepip` installs from, or None if this Python comes without."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or not spec.submodule_search_locations:
        return None
    for location in spec.submodule_search_locations:
        for wheel in sorted(Path(location, "_bundled").glob("pip-*.whl")):
            return Path(shutil.copyfile(wheel, folder / wheel.name))
    return None


def rebuilt_wheel(name: str, folder: Path) -> Path:
    """The wheel of an installed pure-Python distribution, put together again from its record.

    Raises:
        UsageError: what is installed is not all there.
    """
    installed = distribution(name)
    record = [path for path in installed.files or () if _is_wheel_content(path)]
    info = next((path.parent for path in record if path.name == "WHEEL"), None)
    if info is None:
        raise UsageError(f"the installed distribution {name} has no record of its files")
    wheel = folder / f"{info.name.removesuffix('.dist-info')}-{_tag(installed)}.whl"
    lines = [f"{path},{path.hash.mode}={path.hash.value},{path.size}" for path in record if path.hash is not None]
    with ZipFile(wheel, "w", ZIP_DEFLATED) as archive:
        for path in record:
            archive.writestr(ZipInfo(str(path)), path.read_binary(), ZIP_DEFLATED)
        archive.writestr(ZipInfo(f"{info}/RECORD"), "".join(f"{line}\n" for line in [*lines, f"{info}/RECORD,,"]))
    return wheel


def _is_wheel_content(path: PackagePath) -> bool:
    return not ({"..", "__pycache__"} & set(path.parts)) and path.name not in _ADDED_BY_INSTALLERS


def _tag(installed: Distribution) -> str:
    """The compressed tag set of the wheel that was installed, such as `py2.py3-none-any`."""
    lines = (installed.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ").split("-") for line in lines if line.startswith("Tag: ")]
    columns = zip(*tags, strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)
