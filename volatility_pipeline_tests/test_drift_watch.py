"""Finished days of a lake judged against their champion's, and what the sensor does about it."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pandas as pd
import pytest

from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.jobs import REASON
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.drift import DriftWatch
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.predictions import Predictions
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.sensors.drift import drift_sensor, tell
from volatility_pipeline_tests.registered_models import appoint, champions, register
from volatility_pipeline_tests.tick_lake import build, walk, write_ticks

PRODUCT = "BTC-USD"
START = date(2026, 3, 1)
SEEN_DAYS = 15
LATER = START + timedelta(days=SEEN_DAYS)
AFTER = LATER + timedelta(days=1)
HOUR = 3600


def hour(day: date, *, seed: int, spread: int = 1) -> list:
    """An hour of a day's ticks; a wider spread is another regime of the book."""
    ticks = walk(datetime(day.year, day.month, day.day), HOUR, seed=seed)  # noqa: DTZ001
    return [
        replace(one, best_ask=one.best_bid + spread * (one.best_ask - one.best_bid))
        for one in ticks
    ]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen days of an hour each, and a champion that was made from all of them."""
    root = tmp_path_factory.mktemp("seen")
    lake = Lake(root)
    for number in range(SEEN_DAYS):
        write_ticks(lake, hour(START + timedelta(days=number), seed=number))
    build(Warehouse(lake, threads=1))
    register(root, PRODUCT, ["har_logistic"], policy="training")
    appoint(root, PRODUCT, "har_logistic")
    return root


@pytest.fixture
def watch(seen: Path, tmp_path: Path) -> DriftWatch:
    """Over days of the test's own, with the champion of `seen`."""
    return copied(seen, tmp_path / "lake", seen)


@pytest.fixture(scope="module")
def judged(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same days and a later one, which was found to be of another regime."""
    watch = copied(seen, tmp_path_factory.mktemp("judged") / "lake", seen)
    add_day(watch, AFTER, seed=100, spread=40)
    watch.judge(PRODUCT, today=datetime.now(UTC).date())
    return watch.lake.root


@pytest.fixture
def drifted(judged: Path, seen: Path, tmp_path: Path) -> DriftWatch:
    """Over a copy of that."""
    return copied(judged, tmp_path / "lake", seen)


def copied(root: Path, to: Path, registry: Path) -> DriftWatch:
    left_out = shutil.ignore_patterns("mlflow")
    return watch_of(shutil.copytree(root, to, ignore=left_out), registry)


def watch_of(root: Path, registry: Path) -> DriftWatch:
    lake = Lake(root)
    return DriftWatch(lake, Warehouse(lake, threads=1), champions(registry))


def add_day(watch: DriftWatch, day: date, *, seed: int = 99, spread: int = 1) -> None:
    """Lands, builds and predicts one more day."""
    write_ticks(watch.lake, hour(day, seed=seed, spread=spread))
    build(watch.warehouse)
    Predictions(watch.lake, watch.warehouse, watch.champions).predict(day)


def test_a_day_like_those_before_is_no_drift(watch: DriftWatch) -> None:
    add_day(watch, LATER)
    assert not watch.is_current(PRODUCT, AFTER)
    record = watch.judge(PRODUCT, today=AFTER)
    verdict = record["verdict"]
    assert (verdict["day"], verdict["severity"], verdict["action"]) == (str(LATER), "none", "none")
    assert verdict["performance"] == "insufficient"  # an hour holds too few spikes
    assert verdict["reference_days"] == SEEN_DAYS
    assert watch.is_current(PRODUCT, AFTER)
    assert watch.in_drift(PRODUCT) is None


def test_another_regime_of_the_book_is_drift_and_stands_in_history_and_pages(
    watch: DriftWatch,
) -> None:
    add_day(watch, LATER)
    watch.judge(PRODUCT, today=AFTER)
    add_day(watch, AFTER, seed=100, spread=40)
    record = watch.judge(PRODUCT, today=AFTER + timedelta(days=1))
    verdict = record["verdict"]
    assert verdict["severity"] in ("medium", "high")
    assert verdict["action"] in ("retrain", "retrain_now")
    assert verdict["features_low"] >= 3
    assert "microprice_gap_bps" in verdict["reasons"]
    clause = watch.in_drift(PRODUCT)
    assert clause == f"is in drift on {AFTER} (severity {verdict['severity']})"
    history = pd.read_parquet(watch.lake.file("drift", PRODUCT))
    assert [str(day) for day in history["day"]] == [str(LATER), str(AFTER)]
    assert list(history["severity"]) == ["none", verdict["severity"]]
    folder = watch.page(PRODUCT).parent
    assert verdict["reasons"][:40] in watch.page(PRODUCT).read_text()
    page = (folder / "evidently.html").read_text()
    assert "spread_bps" in page
    judged_again = watch.judge(PRODUCT, today=AFTER + timedelta(days=1))["verdict"]
    assert {**judged_again, "judged_at": ""} == {**verdict, "judged_at": ""}
    assert len(pd.read_parquet(watch.lake.file("drift", PRODUCT))) == 2


def test_without_a_champion_or_a_later_day_it_says_so(seen: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_ticks(lake, hour(START, seed=1))
    build(Warehouse(lake, threads=1))
    with pytest.raises(BadInputError, match="no champion to watch"):
        watch_of(tmp_path, tmp_path).judge(PRODUCT, today=AFTER)
    with pytest.raises(BadInputError, match="no finished day after 2026-03-15"):
        watch_of(seen, seen).judge(PRODUCT, today=START + timedelta(days=SEEN_DAYS))


# The sensor.


def tick(watch: DriftWatch, alerts: Alerts, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    context = dg.build_sensor_context(
        instance=instance, resources={"drift_watch": watch, "alerts": alerts}
    )
    return list(drift_sensor(context).run_requests)


def verdict_of(severity: str, *, minute: int, performance: str = "insufficient") -> dict:
    actions = {"none": "none", "low": "watch", "medium": "retrain", "high": "retrain_now"}
    return {
        "day": str(AFTER),
        "severity": severity,
        "performance": performance,
        "action": actions[severity],
        "reasons": "So many columns.",
        "features_low": 7,
        "judged_at": f"2026-03-18T00:{minute:02}:00",
    }


def test_sensor_asks_once_for_a_verdict_then_once_for_a_retraining_and_alerts_once(
    watch: DriftWatch, tmp_path: Path
) -> None:
    add_day(watch, LATER)
    add_day(watch, AFTER, seed=100, spread=40)
    alerts = Alerts(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        (request,) = tick(watch, alerts, instance)
        assert (request.job_name, request.partition_key) == ("watch", PRODUCT)
        (again,) = tick(watch, alerts, instance)
        assert again.run_key == request.run_key  # Dagster starts one run a key
        assert not alerts.open()
        watch.judge(PRODUCT, today=datetime.now(UTC).date())
        (retraining,) = tick(watch, alerts, instance)
        assert (retraining.job_name, retraining.partition_key) == ("train", PRODUCT)
        assert retraining.tags[REASON].startswith(f"drift on {AFTER} (drift ")
        splits = retraining.run_config["ops"]["splits"]
        assert splits == {"config": {"threshold_policy": "training"}}
        (entry,) = alerts.open()
        assert entry.alert.key == ("drift", PRODUCT, "")
        # Killed before Dagster stored the tick: the same again, and nothing is told twice.
        (repeated,) = tick(watch, alerts, instance)
        assert repeated.run_key == retraining.run_key
        assert len(alerts.history()) == 1


def test_sensor_retrains_once_a_week_and_not_where_the_setting_says_never(
    drifted: DriftWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = Alerts(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setenv("VOLATILITY_RETRAIN_ON_DRIFT", "never")
        assert tick(drifted, alerts, instance) == []
        monkeypatch.setenv("VOLATILITY_RETRAIN_ON_DRIFT", "medium")
        tags = {"dagster/partition": PRODUCT, "dagster/sensor_name": "drift_sensor"}
        assert len(tick(drifted, alerts, instance)) == 1
        run = dg.DagsterRun(job_name="train", run_id=str(uuid4()), tags=tags)
        instance.add_run(run)
        assert tick(drifted, alerts, instance) == []


def test_drift_is_one_alert_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    alerts = Alerts(tmp_path)
    assert tell(alerts, PRODUCT, verdict_of("low", minute=0)) == 0
    assert tell(alerts, PRODUCT, verdict_of("medium", minute=1)) == 1
    assert tell(alerts, PRODUCT, verdict_of("medium", minute=2)) == 0
    assert tell(alerts, PRODUCT, verdict_of("high", minute=3)) == 1  # worse is told again
    assert tell(alerts, PRODUCT, verdict_of("none", minute=4)) == 1
    (entry,) = alerts.history()
    assert entry.alert.is_recovery
    assert tell(alerts, PRODUCT, verdict_of("none", minute=4)) == 0


def test_performance_below_its_floor_is_an_alert_of_its_own(tmp_path: Path) -> None:
    alerts = Alerts(tmp_path)
    tell(alerts, PRODUCT, verdict_of("none", minute=0, performance="below_floor"))
    assert [entry.alert.kind for entry in alerts.open()] == ["performance"]
    tell(alerts, PRODUCT, verdict_of("none", minute=1, performance="insufficient"))
    assert [entry.alert.kind for entry in alerts.open()] == ["performance"]
    tell(alerts, PRODUCT, verdict_of("none", minute=2, performance="holding"))
    assert alerts.open() == []


def test_an_alert_of_drift_says_what_to_do() -> None:
    alert = Alert("drift", PRODUCT, "", "So many columns.", since=datetime(2026, 3, 17, tzinfo=UTC))
    assert alert.runbook.endswith("#data-drifted")


DYING_TICK = """
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path
import dagster as dg
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.sensors.drift import drift_sensor
from volatility_pipeline_tests.test_drift_watch import watch_of

@dataclass(frozen=True)
class Dying:
    name: str = "collected"
    seconds: None = None
    def send(self, alert):
        os.kill(os.getpid(), signal.SIGKILL)

lake, registry, ledger = map(Path, sys.argv[1:])
resources = {"drift_watch": watch_of(lake, registry), "alerts": Alerts(ledger, (Dying(),))}
with dg.DagsterInstance.ephemeral() as instance:
    drift_sensor(dg.build_sensor_context(instance=instance, resources=resources))
"""


@dataclass(frozen=True)
class Collected:
    """A channel that keeps what it is given."""

    sent: list[Alert]
    name: str = "collected"
    seconds: None = None

    def send(self, alert: Alert) -> None:
        self.sent.append(alert)


def test_sensor_killed_in_the_middle_of_a_tick_neither_loses_nor_repeats_an_alert(
    drifted: DriftWatch, seen: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    arguments = [sys.executable, "-W", "ignore", "-c", DYING_TICK, drifted.lake.root, seen, ledger]
    killed = subprocess.run(arguments, capture_output=True, cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    channel = Collected([])
    alerts = Alerts(ledger, (channel,))
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(3):
            (request,) = tick(drifted, alerts, instance)
            assert request.job_name == "train"
    assert [alert.key for alert in channel.sent] == [("drift", PRODUCT, "")]
    assert len(alerts.history()) == 1


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        ({"severity": "none", "performance": "below_floor"}, "is below its performance floor on"),
        ({"severity": "high", "performance": "holding"}, "is in drift on"),
        ({"severity": "high", "performance": "holding", "action": "mend"}, None),
    ],
)
def test_why_the_champion_is_in_drift_is_said_by_its_cause_and_faulty_data_are_none(
    watch: DriftWatch, facts: dict[str, str], clause: str | None
) -> None:
    served = watch.champions.find(PRODUCT)
    assert served is not None
    verdict = {"day": str(LATER), "action": "retrain_now", **facts}
    record = {"bytes": None, "verdict": verdict, "made_from": watch.made_from(LATER, served)}
    watch.lake.write_record("drift", PRODUCT, record)
    said = watch.in_drift(PRODUCT)
    assert said is None if clause is None else str(said).startswith(f"{clause} {LATER}")
    assert "severity none" not in str(said)


def test_alerts_of_a_champion_end_once_it_is_removed(watch: DriftWatch, tmp_path: Path) -> None:
    channel = Collected([])
    alerts = Alerts(tmp_path, (channel,))
    tell(alerts, PRODUCT, verdict_of("high", minute=0, performance="below_floor"))
    assert len(alerts.open()) == 2
    with dg.DagsterInstance.ephemeral() as instance:
        tick(watch, alerts, instance)
        assert len(alerts.open()) == 2
        tick(watch_of(watch.lake.root, tmp_path / "empty"), alerts, instance)
    assert alerts.open() == []
    assert {alert.title for alert in channel.sent[2:]} == {"There is no champion any more."}


def test_day_whose_features_are_not_made_yet_is_not_judged(watch: DriftWatch) -> None:
    add_day(watch, LATER)
    write_ticks(watch.lake, hour(AFTER, seed=3))
    watch.lake.file("features", AFTER, ".json").unlink(missing_ok=True)
    watch.lake.file("features", AFTER).unlink(missing_ok=True)
    tomorrow = AFTER + timedelta(days=1)
    assert watch.newest_day(PRODUCT, tomorrow) == LATER
    assert watch.judge(PRODUCT, today=tomorrow)["verdict"]["day"] == str(LATER)


def test_faulty_lines_count_for_the_product_that_they_name(watch: DriftWatch) -> None:
    both = [*hour(LATER, seed=1), *walk(f"{LATER} 00:00:00", HOUR, product_id="ETH-USD")]
    write_ticks(watch.lake, both)
    named = '{"type":"ticker","product_id":"ETH-USD","price":"-1"}'
    wrapped = json.dumps({"raw": named})
    lines = [named.encode()] * 300 + [wrapped.encode()] * 100 + [b'"BTC-USDC"', b"\xff{"] * 50
    faulty = pd.DataFrame(
        {"segment": "a", "line": range(500), "item": 0, "reason": "bad_price", "raw": lines}
    )
    path = watch.lake.file("quarantine", LATER)
    path.parent.mkdir()
    faulty.to_parquet(path)
    ticks = sum(one.product_id == "ETH-USD" for one in both)
    assert watch._faulty_share("ETH-USD", LATER) == 400 / (400 + ticks)
    assert watch._faulty_share(PRODUCT, LATER) == 0
    write_ticks(watch.lake, hour(LATER, seed=1))  # of one product alone: all are its own
    assert watch._faulty_share(PRODUCT, LATER) == 500 / (500 + len(hour(LATER, seed=1)))


def test_performance_counts_no_row_that_the_champion_was_judged_by(watch: DriftWatch) -> None:
    served = watch.champions.find(PRODUCT)
    assert served is not None
    add_day(watch, LATER)
    Predictions(watch.lake, watch.warehouse, watch.champions).predict(LATER - timedelta(days=1))
    performed = watch._performed(PRODUCT, LATER, served)
    assert performed["ts"].min() > pd.Timestamp(served.seen_until)
    assert len(performed)


def test_rows_carried_over_midnight_do_not_make_a_day(watch: DriftWatch) -> None:
    evening = datetime(LATER.year, LATER.month, LATER.day, 23)  # noqa: DTZ001
    write_ticks(watch.lake, walk(evening, HOUR, seed=7))
    build(watch.warehouse)
    assert 0 < watch.lake.record("features", AFTER)["rows"] < 60
    assert watch.newest_day(PRODUCT, AFTER + timedelta(days=1)) == LATER
    assert watch.newest_day(PRODUCT, LATER) == LATER - timedelta(days=1)
