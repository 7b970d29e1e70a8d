"""Which package version a file belongs to: from a package URL, or from the file's name."""

from __future__ import annotations

from typing import NamedTuple

from packageurl import PackageURL
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from treehead.errors import UsageError
from treehead.statement import PYPI, Release, format_purl, normalise_project, project_of
from treehead.verify import ArtifactFile

_SDIST_SUFFIX = ".tar.gz"


class Package(NamedTuple):
    """A package, or a version of one if `version` is not empty. `name` has its namespace in front, as `@scope/name`."""

    ecosystem: str
    name: str
    version: str

    @property
    def purl(self) -> str:
        """The package URL, in the one spelling that statements have."""
        return format_purl(ecosystem=self.ecosystem, name=self.name, version=self.version)


def parse_purl(text: str) -> Package:
    """Read a package URL in any spelling that purl-spec allows.

    Not checked: whether an entry could say this.

    Raises:
        UsageError: it is none, or has qualifiers or a subpath: an entry speaks of a whole file of a version.
    """
    if not text.isprintable():
        raise UsageError(f"{text!r} is not a package URL: it has characters that cannot be printed")
    try:
        purl = PackageURL.from_string(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a package URL such as pkg:pypi/sampleproject@4.0.0: {exc}") from exc
    if purl.qualifiers or purl.subpath:
        raise UsageError(f"{text!r} has qualifiers or a subpath, which say nothing about a whole file: leave them out")
    name = f"{purl.namespace}/{purl.name}" if purl.namespace else purl.name
    if purl.type == PYPI:
        name = normalise_project(name)  # package URLs leave the dots of `zope.interface`
    return Package(ecosystem=purl.type, name=name, version=purl.version or "")


def package_of(filename: str) -> Package:
    """The package that a file name tells: a wheel's or sdist's own name, or else the file as its own package."""
    try:
        if filename.endswith(".whl"):
            wheel_name, version, _, _ = parse_wheel_filename(filename)
            return Package(ecosystem=PYPI, name=wheel_name, version=str(version))
        if filename.endswith(_SDIST_SUFFIX):
            sdist_name, version = parse_sdist_filename(filename)
            return Package(ecosystem=PYPI, name=sdist_name, version=str(version))
    except (InvalidWheelFilename, InvalidSdistFilename):
        pass
    return Package(ecosystem="generic", name=filename, version="")


def release_of(artifact: ArtifactFile, *, purl: str | None) -> Release:
    """The release statement's content for a file, which belongs to `purl` if that is given.

    Raises:
        UsageError: the purl or the file's name cannot be used.
    """
    if not artifact.filename.isprintable():
        raise UsageError(f"the file name {artifact.filename!r} has characters that cannot be printed: rename the file")
    package = package_of(artifact.filename) if purl is None else parse_purl(purl)
    project = project_of(artifact.filename)
    if package.ecosystem == PYPI and project not in (None, package.name):
        raise UsageError(f"the file name {artifact.filename!r} is that of the project {project!r}: not {package.purl}")
    return Release(
        purl=package.purl,
        ecosystem=package.ecosystem,
        name=package.name,
        version=package.version,
        filename=artifact.filename,
        size=artifact.size,
    )
