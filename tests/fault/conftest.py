"""What the fault tests of a session share, because it is costly to make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from tests.fault.load import Pool
from tests.fault.preload import MissingShimError, build_shim
from tests.fault.trial import Workshop
from tests.fault.workshop import open_workshop


def not_here(reason: MissingShimError) -> NoReturn:
    """Leave the tests out, but not where changes are judged: there, they would be missed."""
    if os.environ.get("CI"):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Signed leaves."""
    return Pool()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled."""
    try:
        return build_shim(tmp_path_factory.mktemp("shim"))
    except MissingShimError as exc:
        not_here(exc)


@pytest.fixture(scope="session")
async def workshop(library: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """All that a trial needs."""
    try:
        return await open_workshop(tmp_path_factory.mktemp("workshop"), library=library, pool=pool)
    except MissingShimError as exc:
        not_here(exc)
