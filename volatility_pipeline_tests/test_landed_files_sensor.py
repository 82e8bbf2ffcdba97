"""What the landed-files sensor asks for, what it leaves alone, and that a daemon does it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from volatility_pipeline.definitions import build_defs, resources
from volatility_pipeline.domain.reach import DATA_STAGES
from volatility_pipeline.partitions import build_tags, is_covered, is_partition
from volatility_pipeline.resources import warehouse as warehouse_module
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.predictions import Predictions
from volatility_pipeline.resources.segments import Segment
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.sensors.landed_files import landed_files_sensor
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.registered_models import appoint, register

ROOT = Path(__file__).parents[1]
D = date(2026, 3, 1)
DAY = timedelta(days=1)
NOTHING = "Nothing has changed since the last build."


def land(
    lake: Lake, day: date, name: str = "a.ndjson", *, minutes: int = 1, hour: int = 12
) -> Path:
    """A segment of one tick a second, renamed into its day's folder."""
    folder = lake.raw_folder(day)
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime(day.year, day.month, day.day, hour)  # noqa: DTZ001  (naive UTC)
    lines = [
        f'{{"type":"ticker","product_id":"BTC-USD","time":"{start + timedelta(seconds=n)}Z",'
        f'"price":"{100 + n % 7}","best_bid":"{100 + n % 7}","best_ask":"{101 + n % 7}"}}\n'
        for n in range(60 * minutes)
    ]
    temporary = folder / f".{name}.tmp"
    temporary.write_text("".join(lines))
    return temporary.rename(folder / name)


@dataclass
class Sensing:
    """The sensor over a data root, and an instance that runs what it asks for."""

    lake: Lake
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    said: str | None = None

    def tick(self) -> list[dg.RunRequest]:
        """What one tick asks for; `said` is why it skipped."""
        resources = self.definitions.resources or {}
        given = {name: resources[name] for name in ("warehouse", "predictions")}
        with dg.build_sensor_context(
            self.instance, definitions=self.definitions, resources=given
        ) as context:
            found = landed_files_sensor.evaluate_tick(context)
        self.said = found.skip_message
        return list(found.run_requests or [])

    def run(self, request: dg.RunRequest) -> bool:
        """Runs a request in this process as the daemon would; whether it succeeded."""
        job = self.definitions.resolve_job_def(
            "build" if request.job_name == "update" else request.job_name
        )
        tags = {**request.tags, "dagster/run_key": str(request.run_key)}
        done = job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)
        return done.success

    def build(self) -> None:
        """Runs what is asked for until nothing is."""
        for request in self.tick():
            assert self.run(request)
        assert self.tick() == []
        assert self.said == NOTHING

    def in_flight(self, tags: dict[str, str], status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A run that another process is said to be at."""
        target = LoadableTargetOrigin(module_name="volatility_pipeline.definitions")
        location = InProcessCodeLocationOrigin(target)
        return create_run_for_test(
            self.instance,
            job_name="build",
            status=status,
            tags=tags,
            remote_job_origin=RemoteRepositoryOrigin(location, "x").get_job_origin("build"),
        )


@pytest.fixture
def sensing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sensing]:
    monkeypatch.setenv("VOLATILITY_DATA", str(lake.root))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensing(lake, instance, build_defs(resources(Settings())))


def covered(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    """The ranges that requests cover."""
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return [(request.tags[ends[0]], request.tags[ends[1]]) for request in requests]


def test_without_data_the_sensor_skips_and_says_so(sensing: Sensing) -> None:
    assert sensing.tick() == []
    assert sensing.said == NOTHING


def test_sensor_is_off_unless_the_setting_says_otherwise() -> None:
    assert landed_files_sensor.default_status == dg.DefaultSensorStatus.STOPPED
    program = (
        "from volatility_pipeline.sensors.landed_files import landed_files_sensor as sensor;"
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


def test_new_segment_asks_for_its_day_and_the_day_after_and_once_built_for_nothing(
    sensing: Sensing,
) -> None:
    land(sensing.lake, D, minutes=6)
    (request,) = sensing.tick()
    assert covered([request]) == [("2026-03-01", "2026-03-02")]
    assert request.tags["dagster/max_retries"] == "1"
    assert sensing.tick()[0].run_key == request.run_key

    assert sensing.run(request)

    assert sensing.lake.record("features", D)["rows"] > 0
    assert sensing.tick() == []
    assert sensing.said == NOTHING


def test_later_segment_asks_again_with_another_key(sensing: Sensing) -> None:
    land(sensing.lake, D)
    (first,) = sensing.tick()
    sensing.run(first)
    land(sensing.lake, D, "b.ndjson", hour=13)
    (second,) = sensing.tick()
    assert covered([second]) == covered([first])
    assert second.run_key != first.run_key
    land(sensing.lake, D, "c.ndjson", hour=14)
    assert sensing.tick()[0].run_key not in (first.run_key, second.run_key)


def test_replaced_and_removed_and_returned_segments_are_each_built(sensing: Sensing) -> None:
    land(sensing.lake, D)
    sensing.build()
    rows = []
    for change in (
        lambda: land(sensing.lake, D, minutes=2),
        lambda: land(sensing.lake, D, "b.ndjson", hour=13),
        lambda: (sensing.lake.raw_folder(D) / "b.ndjson").unlink(),
        lambda: land(sensing.lake, D, "b.ndjson", hour=13),  # as it was before: still to be built
    ):
        change()
        assert len(sensing.tick()) == 1
        sensing.build()
        rows.append(sensing.lake.record("ticks", D)["rows"])
    assert rows == [120, 180, 120, 180]


def test_lost_partition_is_asked_for(sensing: Sensing) -> None:
    land(sensing.lake, D)
    sensing.build()
    sensing.lake.file("bars", D).unlink()
    assert covered(sensing.tick()) == [("2026-03-01", "2026-03-02")]
    sensing.build()
    assert sensing.lake.file("bars", D).exists()


def test_days_that_no_champion_answered_for_are_asked_for_once_a_champion(
    sensing: Sensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(sensing.lake, D, minutes=90)
    sensing.build()  # which predicts nothing
    assert sensing.tick() == []  # and without a champion nothing is missing
    register(sensing.lake.root, "BTC-USD", ["persistence"], policy="training")
    appoint(sensing.lake.root, "BTC-USD", "persistence")
    (request,) = sensing.tick()
    assert (request.job_name, covered([request])) == ("predict", [("2026-03-01", "2026-03-01")])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as broken:
        broken.setattr(Predictions, "predict", fail)
        assert not sensing.run(request)
    assert sensing.tick() == []
    assert "(failure)" in str(sensing.said)
    register(sensing.lake.root, "BTC-USD", ["ewma"], policy="training")
    appoint(sensing.lake.root, "BTC-USD", "ewma")
    (again,) = sensing.tick()
    assert again.run_key != request.run_key
    assert sensing.run(again)
    assert sensing.lake.record("predictions", D)["rows"] > 0
    assert sensing.tick() == []
    assert sensing.said == NOTHING


def test_stretches_apart_are_separate_requests(sensing: Sensing) -> None:
    for offset in (0, 1, 7):
        land(sensing.lake, D + offset * DAY)
    requests = sensing.tick()
    assert covered(requests) == [("2026-03-01", "2026-03-03"), ("2026-03-08", "2026-03-09")]
    kept = requests[1].run_key
    land(sensing.lake, D, "b.ndjson")
    changed = sensing.tick()
    assert changed[0].run_key != requests[0].run_key
    assert changed[1].run_key == kept


@pytest.mark.parametrize("status", ["QUEUED", "STARTING", "STARTED", "CANCELING"])
def test_days_in_flight_wait_and_are_picked_up_afterwards(sensing: Sensing, status: str) -> None:
    for offset in (0, 7):
        land(sensing.lake, D + offset * DAY)
    wanted = [("2026-03-01", "2026-03-02"), ("2026-03-08", "2026-03-09")]
    run = sensing.in_flight(build_tags(D, D + DAY), dg.DagsterRunStatus[status])
    assert covered(sensing.tick()) == wanted[1:]
    other = sensing.in_flight(build_tags(D + 6 * DAY, D + 8 * DAY), dg.DagsterRunStatus[status])
    assert sensing.tick() == []
    expected = "a run in flight covers 2026-03-01 to 2026-03-02, 2026-03-08 to 2026-03-09"
    assert sensing.said == expected
    for done in (run, other):
        sensing.instance.report_run_canceled(done)
    assert covered(sensing.tick()) == wanted


def test_segment_that_lands_while_its_day_is_built_is_built_after(
    sensing: Sensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(sensing.lake, D)
    build: Callable[..., dict[str, Any]] = Warehouse.build

    def build_meanwhile(self: Warehouse, stage: str, day: date) -> dict[str, Any]:
        if not (sensing.lake.raw_folder(D) / "late.ndjson").exists():
            land(sensing.lake, D, "late.ndjson", hour=13)
            assert sensing.tick() == []
            assert str(sensing.said).startswith("a run in flight covers 2026-03-01")
        return build(self, stage, day)

    monkeypatch.setattr(Warehouse, "build", build_meanwhile)
    (request,) = sensing.tick()
    assert sensing.run(request)
    assert sensing.lake.record("ticks", D)["rows"] == 60
    sensing.build()
    assert sensing.lake.record("ticks", D)["rows"] == 120


def test_failed_run_is_not_asked_for_again_until_something_changes(
    sensing: Sensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as broken:
        broken.setattr(Warehouse, "build", fail)
        land(sensing.lake, D)
        assert not sensing.run(sensing.tick()[0])
        # The run came as far as the ticks, which is another state; its next goes no further.
        assert not sensing.run(sensing.tick()[0])
        for _ in range(2):
            assert sensing.tick() == []
            assert "2026-03-01 to 2026-03-02 has not changed since its run" in str(sensing.said)
            assert "(failure)" in str(sensing.said)
        land(sensing.lake, D + 7 * DAY)
        assert covered(sensing.tick()) == [("2026-03-08", "2026-03-09")]
    land(sensing.lake, D, "b.ndjson")
    assert len(sensing.tick()) == 2
    sensing.build()


def test_tick_after_a_failed_one_finds_all_of_it(sensing: Sensing) -> None:
    land(sensing.lake, D)
    rubbish = sensing.lake.root / "ticks" / "date=rubbish.json"
    rubbish.parent.mkdir()
    rubbish.write_text("{}")
    with pytest.raises(ValueError, match="rubbish"):
        sensing.tick()
    rubbish.unlink()
    assert covered(sensing.tick()) == [("2026-03-01", "2026-03-02")]


def test_manifest_of_garbage_is_made_again(sensing: Sensing) -> None:
    land(sensing.lake, D)
    sensing.build()
    (sensing.lake.raw_folder(D) / "manifest.json").write_bytes(b"\xff{")
    assert len(sensing.tick()) == 1
    sensing.build()


def test_changed_code_makes_every_day_stale(
    sensing: Sensing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in (0, 7):
        land(sensing.lake, D + offset * DAY)
    sensing.build()
    monkeypatch.setattr(warehouse_module, "code_hash", lambda stage: f"another {stage}")
    assert covered(sensing.tick()) == [("2026-03-01", "2026-03-02"), ("2026-03-08", "2026-03-09")]
    sensing.build()


def test_thousands_of_segments_take_a_tick_little_time(sensing: Sensing) -> None:
    lake = sensing.lake
    for day in (D, D + DAY, D + 2 * DAY):
        folder = lake.raw_folder(day)
        folder.mkdir(parents=True)
        names = [f"ticks.raw-0123abcd-0-{n:020d}-{n:020d}.ndjson" for n in range(6000)]
        for name in names:
            (folder / name).touch()
        segments = [Segment(name, 0, 0, "0" * 64, True, False, False) for name in names]
        lake.write_manifest(day, segments, [])
    begin = time.perf_counter()
    requests = sensing.tick()
    # About half a second; the daemon gives up on a tick after sixty.
    assert time.perf_counter() - begin < 10
    assert covered(requests) == [("2026-03-01", "2026-03-04")]


def test_runs_of_products_and_of_nothing_cover_no_day() -> None:
    assert is_covered(D, {"dagster/partition": "2026-03-01"})
    assert not is_covered(D, {"dagster/partition": "2026-03-02"})
    assert not is_covered(D, {"dagster/partition": "BTC-USD"})
    assert not is_covered(D, {})


def test_stale_days_leave_out_what_is_no_partition(lake: Lake) -> None:
    land(lake, date(2024, 12, 31))
    land(lake, D)
    days = Warehouse(lake).stale_days(is_partition)
    assert days == [D, D + DAY]
    assert Warehouse(lake).stale_days(lambda _: False) == []


def test_daemon_builds_a_segment_that_is_dropped_into_the_raw_folder(tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    lake = Lake(tmp_path)
    environment = os.environ | {
        "VOLATILITY_DATA": str(tmp_path),
        "DAGSTER_HOME": str(home),
        "VOLATILITY_UNATTENDED": "true",
    }
    daemon = subprocess.Popen(
        [Path(sys.executable).with_name("dagster-daemon"), "run", "--workspace", "workspace.yaml"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            wait_until(lambda: bool(instance.all_instigator_state()))  # the sensor is on
            land(lake, D, minutes=6)
            wait_until(lambda: lake.record("labels", D + DAY) is not None)
            wait_until(lambda: all(run.is_finished for run in instance.get_runs()))
            (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["dagster/sensor_name"] == "landed_files_sensor"
        assert lake.record("features", D)["rows"] > 0
        assert all(Warehouse(lake).is_current(stage, D) for stage in DATA_STAGES)
        assert (tmp_path / "feature_store.duckdb").exists()
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=60)


def wait_until(is_so: Callable[[], bool], seconds: float = 180) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.25)
