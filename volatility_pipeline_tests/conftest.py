"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline_tests.broker import Broker, jars, missing_tools

REPOSITORY = Path(__file__).parents[1]
LONG = {
    *("test_analysis", "test_audit", "test_build", "test_compose"),
    *("test_drift_watch", "test_faults", "test_feed", "test_kill", "test_land"),
    *("test_landed_files_sensor", "test_live", "test_monitoring", "test_parity", "test_run"),
}
"""Files that take longest: were one of them the last, the other process would have nothing."""


def pytest_configure(config: pytest.Config) -> None:
    """Trainings leave out the noise control, half a minute each: it has a test of its own."""
    os.environ.setdefault("VOLATILITY_NOISE_MARKETS", "0")
    config.option.loadscopereorder = False  # xdist would begin with the files of many tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetches Kafka's jars before the first test: a download counts towards no test's timeout."""
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    asked = {name for name in names if name.endswith("broker")}
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        asked.discard("broker")
    if asked and not session.config.option.collectonly and missing_tools() is None:
        with suppress(RuntimeError):  # the fixture says it
            jars()


@pytest.fixture(autouse=True)
def own_model_store() -> Iterator[None]:
    """Forgets, before and after each test, the store that MLflow noted in the environment."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


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


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka: KAFKA_BOOTSTRAP_SERVERS's, else one of the session's own."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    own = start_broker(Broker(tmp_path_factory.mktemp("kafka")))
    yield own.address
    own.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A Kafka of the test's own, to be stopped and started at will."""
    own = start_broker(Broker(tmp_path / "kafka"))
    yield own
    own.stop()


def start_broker(chosen: Broker) -> Broker:
    """Starts a broker, or skips where this machine cannot; in CI that is a failure."""
    reason = missing_tools()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    chosen.start()
    return chosen
