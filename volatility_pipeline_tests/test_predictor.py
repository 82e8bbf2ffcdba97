"""The predictor over a real registry: what it answers, whom it follows, and what it never says."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.resources.champions import CHALLENGER, CHAMPION
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.live import FeatureRow
from volatility_pipeline.serving.predictor import (
    LivePrediction,
    Predictor,
    UnavailableError,
    UnknownProductError,
)
from volatility_pipeline_tests.registered_models import champions
from volatility_pipeline_tests.serving_lake import (
    BTC,
    ETH,
    EWMA,
    PERSISTENCE,
    Clock,
    asked,
    copied,
    live,
    make,
    predictor,
)

NEWEST = datetime(2026, 4, 4, 23, 40, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests change a copy of it."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the lake and its registry."""
    return copied(made, tmp_path / "data")


@pytest.fixture
def clock() -> Clock:
    """Half a second after the newest row that the tests give."""
    return Clock(NEWEST + timedelta(seconds=0.5))


@pytest.fixture
def start(root: Path, clock: Clock) -> Iterator[Callable[..., Predictor]]:
    """Starts predictors over the copy, and stops them at the end."""
    started: list[Predictor] = []

    def start_one(**more: Any) -> Predictor:
        started.append(predictor(root, clock, **more))
        return started[-1]

    yield start_one
    for one in started:
        one.stop()


@pytest.fixture
def serving(start: Callable[..., Predictor], root: Path) -> Predictor:
    """A predictor that has been given ten rows up to `NEWEST`."""
    given = start()
    given.take(rows_until(root, NEWEST, 10))
    return given


def rows_until(root: Path, newest: datetime, count: int, product: str = BTC) -> list[FeatureRow]:
    """The live rows of so many seconds up to a time."""
    frame = asked(root)
    times = frame["ts"].dt.tz_localize(UTC)
    chosen = frame[(times <= newest) & (times > newest - timedelta(seconds=count))]
    assert len(chosen) == count
    return [live(row, product=product) for row in chosen.itertuples()]


def refusal(given: Predictor, product: str = BTC) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        given.newest(product)
    return caught.value


def moved(root: Path, alias: str, version: str | None, product: str = BTC) -> None:
    champions(root).tracking.move_alias(product, alias, version)


def spoiled(root: Path, version: str, sha256: str = "0" * 64) -> str:
    """Makes the registry expect another archive of a version; returns what it expected before."""
    tracking = champions(root).tracking
    found = tracking.version(BTC, version)
    assert found is not None
    tracking.tag_version(BTC, version, {"sha256": sha256})
    return found.stored.sha256


# ------------------------------------------------------------------------------ what is answered


def test_live_answers_are_the_batch_s_of_the_same_rows(
    serving: Predictor, root: Path, clock: Clock
) -> None:
    served = champions(root).find(BTC)
    assert served is not None
    frame = asked(root)
    frame = frame[frame["ts"].dt.tz_localize(UTC) <= NEWEST].tail(10)
    frame = frame.assign(threshold=frame["trailing_threshold"])
    expected = probabilities(champions(root).load(served), frame)
    history = serving.history(BTC, NEWEST - timedelta(minutes=1))
    assert [answer.ts for answer in history] == [
        time.to_pydatetime().replace(tzinfo=UTC) for time in frame["ts"]
    ]
    np.testing.assert_allclose([answer.probability for answer in history], expected, rtol=1e-12)
    assert [answer.threshold for answer in history] == list(frame["trailing_threshold"])
    newest = serving.newest(BTC)
    assert newest == history[-1]
    assert newest.age_seconds(clock()) == 0.5
    assert (newest.model.model, newest.model.version) == ("persistence", PERSISTENCE)
    assert newest.is_alert == (newest.probability >= served.decision_threshold)


def test_null_feature_is_missing_and_not_zero(serving: Predictor) -> None:
    model = serving.champion(BTC)
    columns = {name: [1.0, 1.0, 1.0] for name in model.served.columns}
    columns["realized_volatility_60s"] = [0.0, None, 5.0]
    assert len(set(model.ask(columns))) == 3


def test_row_that_was_taken_before_or_is_older_is_left_out(serving: Predictor, root: Path) -> None:
    before = serving.history(BTC, NEWEST - timedelta(hours=1))
    serving.take(rows_until(root, NEWEST, 3))
    serving.take(rows_until(root, NEWEST - timedelta(minutes=5), 3))
    assert serving.history(BTC, NEWEST - timedelta(hours=1)) == before


def test_only_named_products_are_served(start: Callable[..., Predictor], root: Path) -> None:
    given = start(products=[ETH])
    given.take(rows_until(root, NEWEST, 1))
    assert given.products == (ETH,)
    with pytest.raises(UnknownProductError, match="there are: ETH-USD"):
        given.newest(BTC)


# ---------------------------------------------------------------------------- why there is none


def test_answer_is_given_up_to_its_age_limit_and_not_a_moment_longer(
    serving: Predictor, clock: Clock
) -> None:
    clock.forward(9.5)
    assert serving.newest(BTC).age_seconds(clock()) == 10
    clock.forward(0.001)
    error = refusal(serving)
    assert (error.reason, error.age_seconds) == ("stale", pytest.approx(10.001))
    assert str(error) == "BTC-USD: the newest row is 10 s old; 10 s are allowed."


def test_row_ahead_of_the_clock_is_no_fresh_one(serving: Predictor, clock: Clock) -> None:
    clock.forward(-60)
    error = refusal(serving)
    assert error.reason == "stale"
    assert "60 s ahead of this machine's clock" in str(error)


def test_clock_that_was_put_back_makes_no_row_younger(serving: Predictor, clock: Clock) -> None:
    clock.forward(-1.4)
    assert serving.newest(BTC).age_seconds(clock()) == -0.9, "it may be slewed"
    clock.forward(-4)
    assert refusal(serving).reason == "stale"
    assert serving.trailing_threshold(BTC) is None


def test_product_without_a_champion_says_what_was_decided(
    start: Callable[..., Predictor], root: Path
) -> None:
    given = start()
    given.take(rows_until(root, NEWEST, 1, ETH))
    error = refusal(given, ETH)
    assert error.reason == "no_champion"
    assert "ETH-USD has no champion: `volatility train` decides on one." in str(error)
    assert given.history(ETH, NEWEST - timedelta(hours=1)) == []


def test_product_without_a_row_says_so(start: Callable[..., Predictor]) -> None:
    assert refusal(start()).reason == "no_row"


def test_first_champion_answers_the_next_row_and_says_so(
    start: Callable[..., Predictor], root: Path, clock: Clock
) -> None:
    moved(root, CHAMPION, None)
    given = start()
    given.take(rows_until(root, NEWEST, 1))
    moved(root, CHAMPION, PERSISTENCE)
    given.refresh()
    error = refusal(given)
    assert (error.reason, str(error)) == ("no_row", "BTC-USD: no row since its model was loaded.")
    clock.forward(1)
    given.take(rows_until(root, NEWEST + timedelta(seconds=1), 1))
    assert given.newest(BTC).model.version == PERSISTENCE


def test_newer_row_without_a_threshold_hides_the_answer_before_it(
    serving: Predictor, root: Path, clock: Clock
) -> None:
    later = NEWEST + timedelta(seconds=1)
    row = asked(root).iloc[[0]].itertuples()
    serving.take([live(next(iter(row)), ts=later, trailing_threshold=None)])
    clock.forward(1)
    assert refusal(serving).reason == "no_threshold"
    assert serving.trailing_threshold(BTC) is None
    clock.forward(60)
    assert refusal(serving).reason == "stale"


def test_live_threshold_is_not_given_when_it_is_old(serving: Predictor, clock: Clock) -> None:
    assert serving.trailing_threshold(BTC) == serving.newest(BTC).threshold
    clock.forward(60)
    assert serving.trailing_threshold(BTC) is None


# ------------------------------------------------------------------------------ who is followed


def test_moved_alias_changes_who_answers_and_what_was_said_stays(
    serving: Predictor, root: Path, clock: Clock
) -> None:
    before = serving.champion(BTC)
    moved(root, CHAMPION, EWMA)
    assert serving.champion(BTC) is before
    serving.refresh()
    assert serving.champion(BTC).served.model == "ewma"
    assert serving.models(BTC).challenger is None, "it is the champion now"
    assert serving.newest(BTC).model.version == PERSISTENCE, "who said it, not who is champion"
    clock.forward(1)
    serving.take(rows_until(root, NEWEST + timedelta(seconds=1), 1))
    assert serving.newest(BTC).model.version == EWMA
    moved(root, CHAMPION, PERSISTENCE)
    serving.refresh()
    assert serving.champion(BTC).served.version == PERSISTENCE


def test_unmoved_alias_loads_nothing_again(serving: Predictor) -> None:
    before = serving.models(BTC)
    serving.refresh()
    assert serving.champion(BTC) is before.champion
    assert serving.models(BTC).challenger is before.challenger


def test_failed_reload_keeps_the_old_champion_says_so_once_and_recovers(
    start: Callable[..., Predictor], root: Path
) -> None:
    said: list[str] = []
    given = start(said=said)
    given.take(rows_until(root, NEWEST, 1))
    right = spoiled(root, EWMA)
    moved(root, CHAMPION, EWMA)
    given.refresh()
    given.refresh()
    assert given.newest(BTC).model.version == PERSISTENCE
    assert given.reload_failures == 2
    trouble = given.models(BTC).trouble
    assert trouble is not None
    assert "its SHA-256 differs" in trouble
    assert sum("Persistence (version 1) goes on answering" in line for line in said) == 1
    spoiled(root, EWMA, right)
    given.refresh()
    assert given.models(BTC).trouble is None
    assert given.champion(BTC).served.version == EWMA


def test_broken_challenger_does_not_hold_up_the_champion(
    start: Callable[..., Predictor], root: Path
) -> None:
    spoiled(root, EWMA)
    given = start()
    assert given.champion(BTC).served.version == PERSISTENCE
    assert given.models(BTC).challenger is None
    assert given.reload_failures == 1
    assert "its SHA-256 differs" in str(given.models(BTC).trouble)


def test_champion_that_never_could_be_loaded_is_said_not_to_be(
    start: Callable[..., Predictor], root: Path
) -> None:
    spoiled(root, PERSISTENCE)
    given = start()
    error = refusal(given)
    assert error.reason == "not_loaded"
    assert "its SHA-256 differs" in str(error)


def test_removed_champion_answers_no_more(serving: Predictor, root: Path) -> None:
    moved(root, CHAMPION, None)
    serving.refresh()
    assert refusal(serving).reason == "no_champion"


def test_vanished_registry_is_a_failed_reload_and_no_removal(
    serving: Predictor, root: Path
) -> None:
    shutil.rmtree(root / "mlflow")
    serving.refresh()
    assert serving.newest(BTC).model.version == PERSISTENCE
    assert "MLflow's store is gone" in str(serving.models(BTC).trouble)


def test_registry_that_cannot_be_read_is_a_failed_reload_until_it_can(
    serving: Predictor, root: Path
) -> None:
    store = root / "mlflow" / "mlflow.db"
    whole = store.read_bytes()
    store.write_bytes(b"no database " * 1000)
    serving.refresh()
    assert serving.newest(BTC).model.version == PERSISTENCE
    assert "MLflow does not do what is asked" in str(serving.models(BTC).trouble)
    store.write_bytes(whole)
    serving.refresh()
    assert serving.models(BTC).trouble is None


def test_reload_without_a_file_to_be_had_is_a_failed_one(
    start: Callable[..., Predictor], root: Path
) -> None:
    given = start(products=None)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        given.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "Too many open files" in str(given.models(BTC).trouble)
    assert given.champion(BTC).served.version == PERSISTENCE
    given.refresh()
    assert given.models(BTC).trouble is None


def test_all_aliases_are_those_of_each_product(root: Path) -> None:
    registry = champions(root).tracking
    assert registry.all_aliases() == {BTC: {CHAMPION: PERSISTENCE, CHALLENGER: EWMA}}
    assert registry.all_aliases()[BTC] == registry.aliases(BTC)


def test_whoever_asks_during_a_change_meets_one_model_whole(
    start: Callable[..., Predictor], serving: Predictor, root: Path
) -> None:
    columns = {name: [1e-4] for name in serving.champion(BTC).served.columns}
    expected = {}
    for version in (EWMA, PERSISTENCE):
        moved(root, CHAMPION, version)
        serving.refresh()
        expected[version] = serving.champion(BTC).ask(columns)[0]
    assert len(set(expected.values())) == 2
    met: list[tuple[str, float]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            model = serving.champion(BTC)
            met.append((model.served.version, model.ask(columns)[0]))

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for version in (EWMA, PERSISTENCE) * 4:
        moved(root, CHAMPION, version)
        serving.refresh()
    done.set()
    for thread in asking:
        thread.join()
    assert {version for version, _ in met} == set(expected)
    assert all(answer == expected[version] for version, answer in met)


# ---------------------------------------------------------------------------------- what is kept


def test_champion_and_challenger_are_logged_side_by_side(serving: Predictor, clock: Clock) -> None:
    serving.stop()
    lines = serving.log.since(NEWEST - timedelta(seconds=4))
    assert [(line["ts"].second, line["role"], line["model_version"]) for line in lines] == [
        (second % 60, role, version)
        for second in (56, 57, 58, 59, 60)
        for role, version in ((CHALLENGER, EWMA), (CHAMPION, PERSISTENCE))
    ]
    newest = serving.history(BTC, NEWEST)[0]
    assert lines[-1] == {
        "product_id": BTC,
        "ts": NEWEST.replace(tzinfo=None),
        "role": CHAMPION,
        "probability": newest.probability,
        "threshold": newest.threshold,
        "decision_threshold": newest.model.decision_threshold,
        "is_alert": newest.is_alert,
        "model_name": "persistence",
        "model_version": PERSISTENCE,
        "trained_until": datetime.fromisoformat(newest.model.fitted_until),
        "realized_volatility_60s": newest.realized_volatility_60s,
        "seconds_since_tick": newest.seconds_since_tick,
        "answered_at": clock().replace(tzinfo=None),
    }
    assert lines[-2]["probability"] != lines[-1]["probability"]


def test_restart_knows_the_last_hour_and_answers_no_row_twice(
    start: Callable[..., Predictor], serving: Predictor, root: Path, clock: Clock
) -> None:
    said = serving.history(BTC, NEWEST - timedelta(hours=1))
    serving.stop()
    again = Predictor(champions(root), AnswerLog(Lake(root), print), print, clock=clock)
    again.start()
    try:
        again.take(rows_until(root, NEWEST, 10))
        assert again.history(BTC, NEWEST - timedelta(hours=1)) == said
        assert again.newest(BTC) == said[-1]
        clock.forward(11)
        assert refusal(again).reason == "stale"
    finally:
        again.stop()
    assert len(again.log.since(NEWEST - timedelta(hours=1))) == 20


def test_day_s_end_begins_another_file_and_names_are_of_days(root: Path) -> None:
    log = AnswerLog(Lake(root), print)
    line = {"product_id": BTC, "role": CHAMPION, "probability": 0.5}
    midnight = datetime(2026, 4, 5, tzinfo=UTC)
    log.write([{**line, "ts": midnight - timedelta(seconds=1)}, {**line, "ts": midnight}])
    log.write([{**line, "ts": midnight + timedelta(seconds=1)}])
    log.close()
    files = sorted(log.folder.glob("*/*"))
    assert [path.parent.name for path in files] == ["date=2026-04-04", "date=2026-04-05"]
    assert [len(log.since(day)) for day in (midnight - timedelta(days=1), midnight)] == [3, 2]


def test_killed_writer_s_answers_are_taken_over_and_a_living_one_s_are_left(
    root: Path,
) -> None:
    script = f"""
import os, signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.answer_log import AnswerLog
log = AnswerLog(Lake(Path({str(root)!r})), print)
for second in range(30):
    ts = datetime(2026, 4, 4, 23, 0, second, tzinfo=UTC)
    log.write([{{"product_id": "BTC-USD", "role": "champion", "ts": ts, "probability": 0.25}}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (root / "predictions_live").glob("*/.*")
    with left.open("r+b") as file:
        file.truncate(left.stat().st_size - 7)  # what the last write had not finished
    living = AnswerLog(Lake(root), print)
    assert not left.exists()
    lines = living.since(datetime(2026, 4, 4, tzinfo=UTC))
    assert [line["ts"].second for line in lines] == list(range(29))
    living.write([{"product_id": BTC, "role": CHAMPION, "ts": NEWEST}])
    other = AnswerLog(Lake(root), print)
    assert len(other.since(datetime(2026, 4, 4, tzinfo=UTC))) == 29
    living.close()
    assert len(other.since(datetime(2026, 4, 4, tzinfo=UTC))) == 30


def test_disk_that_takes_nothing_costs_the_log_and_no_answer(
    start: Callable[..., Predictor], root: Path, clock: Clock
) -> None:
    (root / "predictions_live").write_text("in the way")
    said: list[str] = []
    given = start(said=said)
    given.take(rows_until(root, NEWEST - timedelta(seconds=1), 1))
    given.take(rows_until(root, NEWEST, 1))
    assert given.newest(BTC).ts == NEWEST
    assert given.log.lost == 4
    assert sum("answers are not kept" in line for line in said) == 1
    (root / "predictions_live").unlink()
    clock.forward(1)
    given.take(rows_until(root, NEWEST + timedelta(seconds=1), 1))
    given.stop()
    assert len(given.log.since(NEWEST)) == 2


def test_each_live_answer_is_told_to_whoever_counts(
    start: Callable[..., Predictor], root: Path
) -> None:
    counted: list[LivePrediction] = []
    given = start()
    given.on_answer = counted.append
    given.take(rows_until(root, NEWEST, 3))
    given.stop()
    assert counted == given.history(BTC, NEWEST - timedelta(minutes=1))
