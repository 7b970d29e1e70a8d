"""Which package version a file is signed as."""

import pytest

from treehead.errors import UsageError
from treehead.verify import ArtifactFile
from treehead_client.release import Package, package_of, parse_purl, release_of


def file(name: str) -> ArtifactFile:
    return ArtifactFile(filename=name, size=7, digests={"sha256": bytes(32), "sha512": bytes(64)})


@pytest.mark.parametrize(
    ("filename", "purl"),
    [
        ("six-1.17.0-py2.py3-none-any.whl", "pkg:pypi/six@1.17.0"),
        ("Acme_Tool-1.0.post1-1build-py3-none-any.whl", "pkg:pypi/acme-tool@1.0.post1"),
        ("torch-2.1+cu118-cp311-cp311-linux_x86_64.whl", "pkg:pypi/torch@2.1%2Bcu118"),
        ("acme_tool-1.0.tar.gz", "pkg:pypi/acme-tool@1.0"),
        ("zope.interface-7.2.tar.gz", "pkg:pypi/zope-interface@7.2"),
        ("Zope.Interface-7.2-py3-none-any.whl", "pkg:pypi/zope-interface@7.2"),
        ("linux.tar.gz", "pkg:generic/linux.tar.gz"),
        ("not-a-wheel.whl", "pkg:generic/not-a-wheel.whl"),
        ("model.safetensors", "pkg:generic/model.safetensors"),
        ("acme-1.0.zip", "pkg:generic/acme-1.0.zip"),
        ("a b+c.bin", "pkg:generic/a%20b%2Bc.bin"),
    ],
)
def test_a_file_name_tells_the_package(filename: str, purl: str) -> None:
    assert package_of(filename).purl == purl
    assert release_of(file(filename), purl=None).filename == filename


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("pkg:pypi/six@1.17.0", Package("pypi", "six", "1.17.0")),
        ("pkg:PyPI/Acme_Tool@1.0", Package("pypi", "acme-tool", "1.0")),
        ("pkg:pypi/Zope._-Interface@7.2", Package("pypi", "zope-interface", "7.2")),
        ("pkg:npm/%40scope/name@2.0.0", Package("npm", "@scope/name", "2.0.0")),
        ("pkg:maven/org.example/lib@1.0-rc1", Package("maven", "org.example/lib", "1.0-rc1")),
        ("pkg:generic/tool", Package("generic", "tool", "")),
        ("pkg:pypi/torch@2.1%2Bcu118", Package("pypi", "torch", "2.1+cu118")),
    ],
)
def test_a_package_url_in_any_spelling_has_one_meaning(text: str, package: Package) -> None:
    assert parse_purl(text) == package
    assert parse_purl(package.purl) == package


@pytest.mark.parametrize(
    "text",
    [
        "",
        "six",
        "pypi/six@1",
        "pkg:pypi",
        "pkg:pypi/six@1?arch=any",
        "pkg:pypi/six@1#src",
        "pkg:pypi/\udcff@1",
    ],
)
def test_what_is_no_package_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_purl(text)


def test_a_wheel_of_one_project_is_not_signed_as_another() -> None:
    with pytest.raises(UsageError, match="that of the project 'six'"):
        release_of(file("six-1.17.0-py2.py3-none-any.whl"), purl="pkg:pypi/sixx@1.17.0")
    assert release_of(file("checksums.txt"), purl="pkg:pypi/six@1.17.0").name == "six"


def test_a_given_package_url_outweighs_the_file_name() -> None:
    release = release_of(file("six-1.17.0-py2.py3-none-any.whl"), purl="pkg:generic/mirror@1")
    assert (release.ecosystem, release.name, release.version) == ("generic", "mirror", "1")
    assert release.filename == "six-1.17.0-py2.py3-none-any.whl"
