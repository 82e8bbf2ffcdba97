"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest

from volatility_pipeline.resources.lake import Lake

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings that VOLATILITY_RECORDINGS names; `none` skips."""
    named = os.environ.get("VOLATILITY_RECORDINGS", "../shared/data/recordings")
    if named == "none":
        pytest.skip("VOLATILITY_RECORDINGS=none: the real recordings are left out")
    folder = REPOSITORY / named
    if not folder.is_dir():
        reason = f"{folder} is not there: VOLATILITY_RECORDINGS names the real recordings' folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
