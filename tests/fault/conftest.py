"""What the fault tests of a session share, because it is costly to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.load import Pool
from tests.fault.preload import MissingShimError, build_shim
from tests.fault.trial import Workshop
from tests.fault.workshop import open_workshop


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
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
async def workshop(library: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """All that a trial needs."""
    try:
        return await open_workshop(tmp_path_factory.mktemp("workshop"), library=library, pool=pool)
    except MissingShimError as exc:
        pytest.skip(str(exc))
