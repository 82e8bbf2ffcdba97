"""What the run-failures sensor makes of runs that failed, were retried, and succeeded later."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from volatility_pipeline.definitions import build_defs, resources
from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.partitions import build_tags
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.sensors.run_failures import BY_COMMAND, run_failures_sensor
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.test_landed_files_sensor import land

BROKEN: set[str] = set()
DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_offset=1)
PRODUCTS = dg.StaticPartitionsDefinition(["BTC-USD", "ETH-USD"])
ONE_RUN = dg.BackfillPolicy.single_run()


def work(name: str) -> None:
    if name in BROKEN:
        raise RuntimeError(f"{name} has no room\nand more to say")


@dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
def bars() -> None:
    work("bars")


@dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN)
def features() -> None:
    work("features")


@dg.asset(partitions_def=DAYS, backfill_policy=ONE_RUN, deps=[bars, features])
def labels() -> None:
    work("labels")


@dg.asset_check(asset="labels", blocking=True)
def labels_complete() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed="labels_complete" not in BROKEN,
        metadata={"bad_rows": 3, "first": dg.MetadataValue.md("- `2026-03-01: {}`")},
    )


@dg.asset_check(asset="labels")
def labels_pretty() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed="labels_pretty" not in BROKEN)


@dg.asset(partitions_def=PRODUCTS)
def models() -> None:
    work("models")


@dg.asset
def report() -> None:
    work("report")


DEFINITIONS = dg.Definitions(
    assets=[bars, features, labels, models, report],
    asset_checks=[labels_complete, labels_pretty],
    jobs=[
        dg.define_asset_job("build", [bars, features, labels]),
        dg.define_asset_job("rebuild", [bars, features, labels]),
        dg.define_asset_job("train", [models]),
        dg.define_asset_job("write", [report]),
    ],
    executor=dg.in_process_executor,
)


@dataclass
class Sensing:
    """The sensor over an instance, with what it keeps from tick to tick."""

    alerts: Alerts
    instance: dg.DagsterInstance
    cursor: str | None = None
    took: list[Alert] = field(default_factory=list)

    def run(
        self, job: str, first: str | None = None, last: str | None = None, **tags: str
    ) -> dg.DagsterRun:
        """Runs a job for a product, a day or a range of days."""
        if last is not None:
            tags |= build_tags(date.fromisoformat(str(first)), date.fromisoformat(last))
        result = DEFINITIONS.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=first if last is None else None,
            tags=tags,
            raise_on_error=False,
        )
        return self.instance.get_run_by_id(result.run_id)

    def tick(self, *, is_killed: bool = False) -> list[tuple[str, str, str, bool]]:
        """One tick's news: kind, product, partition, whether it is over."""
        before = len(self.took)
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, resources={"alerts": self.alerts}
        ) as context:
            found = run_failures_sensor.evaluate_tick(context)
        if not is_killed:
            self.cursor = found.cursor
        return [(*alert.key, alert.is_recovery) for alert in self.took[before:]]


@pytest.fixture
def sensing(tmp_path: Path) -> Iterator[Sensing]:
    BROKEN.clear()

    @dataclass
    class Recipient:
        name: str = "recipient"
        seconds: None = None
        taken: list[Alert] = field(default_factory=list)

        def send(self, alert: Alert) -> None:
            self.taken.append(alert)

    recipient = Recipient()
    alerts = Alerts(tmp_path, (recipient,), "http://dagster.test/")
    with dg.DagsterInstance.ephemeral(settings={"run_retries": {"enabled": True}}) as instance:
        yield Sensing(alerts, instance, took=recipient.taken)


D1, D2, D3 = "2026-03-01", "2026-03-02", "2026-03-03"


def test_sensor_is_off_unless_the_setting_says_otherwise() -> None:
    assert run_failures_sensor.default_status == dg.DefaultSensorStatus.STOPPED
    program = (
        "from volatility_pipeline.sensors.run_failures import run_failures_sensor as sensor;"
        "print(sensor.default_status.value)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"VOLATILITY_UNATTENDED": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "RUNNING"


def test_failed_run_is_one_alert_that_says_what_where_why_and_links_to_it(sensing: Sensing) -> None:
    BROKEN.add("bars")
    run = sensing.run("build", D1, D2)
    where = f"bars {D1} to {D2}"
    assert sensing.tick() == [("run_failed", "", where, False)]
    assert sensing.tick() == []
    (entry,) = sensing.alerts.open()
    assert entry.alert.title == "The run of build failed at bars: RuntimeError: bars has no room"
    assert entry.alert.link == f"http://dagster.test/runs/{run.run_id}"
    assert entry.alert.numbers == {
        "job": "build",
        "run": run.run_id,
        "first_day": D1,
        "last_day": D2,
        "steps": "bars",
    }
    record = sensing.instance.get_run_record_by_id(run.run_id)
    assert record is not None
    assert entry.alert.since.timestamp() == pytest.approx(record.end_time, abs=1e-5)
    assert sensing.alerts.deliver() == 0


def test_bad_input_of_a_command_is_no_alert_and_that_of_a_sensor_s_run_is(
    sensing: Sensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise BadInputError("too little data") from OSError("why")

    with monkeypatch.context() as patched:
        patched.setitem(globals(), "work", refuse)
        sensing.run("build", D1, D2, **BY_COMMAND)
        assert sensing.tick() == []
        sensing.run("build", D1, D2)
        assert sensing.tick() == [("run_failed", "", f"bars, features {D1} to {D2}", False)]
    BROKEN.add("bars")
    sensing.run("build", D3, D3, **BY_COMMAND)
    assert sensing.tick() == [("run_failed", "", f"bars {D3}", False)]


def test_it_is_over_once_the_step_succeeded_for_all_its_days_whatever_the_job(
    sensing: Sensing,
) -> None:
    BROKEN.add("bars")
    sensing.run("build", D1, D2)
    sensing.tick()
    sensing.run("build", D1, D2)
    assert sensing.tick() == []
    BROKEN.clear()
    sensing.run("build", D1)
    sensing.run("build", D2, D3)
    sensing.run("train", "BTC-USD")
    assert sensing.tick() == []
    BROKEN.add("labels")
    mended = sensing.run("rebuild", D1, D3)
    assert sensing.tick() == [
        ("run_failed", "", f"labels {D1} to {D3}", False),
    ]
    BROKEN.clear()
    mended = sensing.run("rebuild", D1, D3)
    assert set(sensing.tick()) == {
        ("run_failed", "", f"bars {D1} to {D2}", True),
        ("run_failed", "", f"labels {D1} to {D3}", True),
    }
    assert sensing.alerts.open() == []
    assert sensing.took[-1].link.endswith(mended.run_id)


def test_two_steps_of_a_run_that_failed_are_one_alert(sensing: Sensing) -> None:
    BROKEN.update(("bars", "features"))
    sensing.run("build", D1)
    ((kind, product, partition, _),) = sensing.tick()
    assert (kind, product) == ("run_failed", "")
    assert partition in (f"bars, features {D1}", f"features, bars {D1}")
    BROKEN.clear()
    sensing.run("build", D1)
    assert sensing.tick() == [(kind, product, partition, True)]


def test_products_fail_and_recover_apart(sensing: Sensing) -> None:
    BROKEN.add("models")
    for product in ("BTC-USD", "ETH-USD"):
        sensing.run("train", product)
    assert sensing.tick() == [
        ("run_failed", "BTC-USD", "models", False),
        ("run_failed", "ETH-USD", "models", False),
    ]
    BROKEN.clear()
    sensing.run("train", "ETH-USD")
    sensing.run("build", D1)
    assert sensing.tick() == [("run_failed", "ETH-USD", "models", True)]


def test_run_of_no_partition_is_an_alert_of_its_own(sensing: Sensing) -> None:
    BROKEN.add("report")
    sensing.run("write")
    assert sensing.tick() == [("run_failed", "", "report", False)]
    BROKEN.clear()
    sensing.run("build", D1)
    assert sensing.tick() == []
    sensing.run("write")
    assert sensing.tick() == [("run_failed", "", "report", True)]


def test_blocking_check_is_one_alert_with_its_rows_and_no_failed_run_beside_it(
    sensing: Sensing,
) -> None:
    BROKEN.add("labels_complete")
    run = sensing.run("build", D1, D2)
    assert run.status == dg.DagsterRunStatus.FAILURE
    where = f"labels_complete {D1} to {D2}"
    assert sensing.tick() == [("check_failed", "", where, False)]
    (entry,) = sensing.alerts.open()
    assert entry.alert.title == "The check labels_complete of labels failed and stopped the run."
    assert entry.alert.numbers == {
        "asset": "labels",
        "check": "labels_complete",
        "bad_rows": 3,
        "first": "- `2026-03-01: {}`",
        "job": "build",
        "run": run.run_id,
        "first_day": D1,
        "last_day": D2,
        "steps": "labels_labels_complete",
    }
    sensing.run("build", D1, D2)
    assert sensing.tick() == []
    BROKEN.clear()
    sensing.run("rebuild", D1, D3)
    assert sensing.tick() == [("check_failed", "", where, True)]


def test_check_that_blocks_nothing_raises_nothing(sensing: Sensing) -> None:
    BROKEN.add("labels_pretty")
    assert sensing.run("build", D1).status == dg.DagsterRunStatus.SUCCESS
    assert sensing.tick() == []
    BROKEN.add("labels_complete")
    sensing.run("build", D1)
    assert sensing.tick() == [("check_failed", "", f"labels_complete {D1}", False)]


def test_run_that_will_be_retried_is_told_only_if_that_fails_too(sensing: Sensing) -> None:
    BROKEN.add("bars")
    sensing.run("build", D1, **{"dagster/max_retries": "1"})
    assert sensing.tick() == []
    sensing.run("build", D1, **{"dagster/max_retries": "1", "dagster/will_retry": "false"})
    assert len(sensing.tick()) == 0  # whose retry is still to come, says Dagster
    (newest, *_) = sensing.instance.get_runs()
    sensing.instance.add_run_tags(newest.run_id, {"dagster/will_retry": "false"})
    assert sensing.tick() == [("run_failed", "", f"bars {D1}", False)]


def test_run_that_was_cancelled_raises_nothing(sensing: Sensing) -> None:
    run = create_run_for_test(sensing.instance, "build", status=dg.DagsterRunStatus.STARTED)
    sensing.instance.report_run_canceled(run)
    assert sensing.tick() == []


def test_run_whose_process_is_gone_is_told_by_its_job(sensing: Sensing) -> None:
    tags = build_tags(date(2026, 3, 1), date(2026, 3, 2))
    run = create_run_for_test(
        sensing.instance, "build", status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    sensing.instance.report_run_failed(run, "It was not heard of for 180 seconds.")
    assert sensing.tick() == [("run_failed", "", f"build {D1} to {D2}", False)]
    said = "The run of build failed without a failed step: It was not heard of for 180 seconds."
    assert sensing.took[-1].title == said
    sensing.run("rebuild", D1, D2)
    assert sensing.tick() == []
    sensing.run("build", D1, D2)
    assert sensing.tick() == [("run_failed", "", f"build {D1} to {D2}", True)]


def test_tick_that_is_killed_and_evaluated_again_neither_loses_nor_repeats(
    sensing: Sensing,
) -> None:
    sensing.run("train", "BTC-USD")
    sensing.tick()
    news = []
    for is_broken in (True, True, False, True):
        BROKEN.update({"models"} if is_broken else ())
        sensing.run("train", "BTC-USD")
        BROKEN.clear()
    for _ in range(3):
        news += sensing.tick(is_killed=True)
    news += sensing.tick()
    alert = ("run_failed", "BTC-USD", "models")
    assert news == [(*alert, False), (*alert, True), (*alert, False)]
    assert len(sensing.alerts.open()) == 1


def test_tick_whose_ledger_cannot_be_written_fails_and_the_next_finds_all(
    sensing: Sensing,
) -> None:
    sensing.tick()
    BROKEN.add("models")
    sensing.run("train", "BTC-USD")
    in_the_way = sensing.alerts.root / "alerts"
    in_the_way.touch()
    with pytest.raises(OSError, match="alerts"):
        sensing.tick()
    in_the_way.unlink()
    assert sensing.tick() == [("run_failed", "BTC-USD", "models", False)]


def test_runs_from_before_the_cursors_minute_are_not_looked_at_again(sensing: Sensing) -> None:
    BROKEN.add("models")
    sensing.run("train", "BTC-USD")
    sensing.cursor = (datetime.now(UTC) + timedelta(seconds=50)).isoformat()
    assert sensing.tick() == [("run_failed", "BTC-USD", "models", False)]
    sensing.run("train", "ETH-USD")
    sensing.cursor = tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert sensing.tick() == []
    assert sensing.cursor == tomorrow


def test_every_blocking_check_of_the_pipeline_that_fails_is_one_alert(
    sensing: Sensing, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLATILITY_DATA", str(lake.root))
    books = Ingest._books

    def forged(*given: Any) -> list[dict[str, Any]]:
        return [book | {"lines": book["lines"] + 1} for book in books(*given)]

    monkeypatch.setattr(Ingest, "_books", staticmethod(forged))
    land(lake, date(2026, 3, 1))
    definitions = build_defs(resources(Settings()))
    result = definitions.resolve_job_def("build").execute_in_process(
        instance=sensing.instance,
        tags=build_tags(date(2026, 3, 1), date(2026, 3, 2)),
        raise_on_error=False,
    )
    assert not result.success
    assert sensing.tick() == [("check_failed", "", f"ticks_books_balance {D1} to {D2}", False)]
    numbers = sensing.took[-1].numbers
    assert (numbers["asset"], numbers["bad_rows"], numbers["days"]) == ("ticks", 1, 2)
    assert str(numbers["first"]).startswith("- `2026-03-01: {'segment': 'a.ndjson'")
