"""What every test may count on: repeatable Hypothesis runs and the published test vectors."""

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# `ci` is the profile of every ordinary run: the same examples each time, and no example database to depend on.
# `explore` looks for new counterexamples; TREEHEAD_HYPOTHESIS_PROFILE=explore make test ARGS=tests/property
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=5_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("TREEHEAD_HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of published test vectors: TREEHEAD_VECTORS, or `shared/vectors` beside the checkout."""
    configured = os.environ.get("TREEHEAD_VECTORS")
    folder = Path(configured) if configured else ROOT.parent / "shared" / "vectors"
    if not folder.is_dir():
        if configured:
            pytest.fail(f"TREEHEAD_VECTORS names {folder}, which is no folder")
        pytest.skip("no published test vectors: set TREEHEAD_VECTORS to the folder that holds them")
    return folder
