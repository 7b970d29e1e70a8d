"""What is installed is the four packages, typed, and nothing that another wheel could overwrite."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

PACKAGES = {
    "treehead": "treehead",
    "treehead_client": "client/treehead_client",
    "treehead_logserver": "logserver/treehead_logserver",
    "treehead_monitor": "monitor/treehead_monitor",
}


def test_the_wheel_holds_exactly_the_four_packages(root: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.iterdir()
    with ZipFile(wheel) as archive:
        members = archive.namelist()
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {member.partition("/")[0] for member in members} == {*PACKAGES, info}
    for package, folder in PACKAGES.items():
        assert f"{package}/py.typed" in members
        modules = {f"{package}/{path.relative_to(root / folder)}" for path in (root / folder).rglob("*.py")}
        assert {member for member in members if member.startswith(f"{package}/") and member.endswith(".py")} == modules
