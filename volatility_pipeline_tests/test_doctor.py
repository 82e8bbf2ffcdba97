"""`doctor` and the disk lines of `status`: what they say of a data root in every state."""

import os
import socket
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from volatility_pipeline.resources import disk, health
from volatility_pipeline.resources.disk import growth, left_over, usage
from volatility_pipeline.resources.health import Finding
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.command_line import Answer, volatility
from volatility_pipeline_tests.test_build import market
from volatility_pipeline_tests.test_ingest import DAY, data_of, flat, land

TODAY = datetime.now(UTC).date()
HOUR = 3600.0
DEAD_PID = 2**22 + 1  # above what Linux gives


@pytest.fixture(autouse=True)
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "localhost:1")


def line_of(answer: Answer, subject: str) -> str:
    """What the report says of one thing."""
    (line,) = [line for line in answer.out.splitlines() if line.strip().startswith(subject)]
    return " ".join(line.split())


def make_old(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)
    return path


# --- doctor


def test_doctor_of_a_fresh_installation_finds_nothing_wrong_and_makes_nothing(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    answer = volatility("doctor", data=root)
    assert answer.code == 0, answer.errors
    assert "wrong" not in answer.out
    assert "dagster 1." in answer.out
    assert line_of(answer, "data root") == f"data root ok {root}, not made yet"
    assert line_of(answer, "Kafka").startswith(
        "Kafka warning localhost:1: Connection refused start"
    )
    assert not root.exists()


def test_doctor_of_a_built_data_root_looks_at_all_of_it(tmp_path: Path) -> None:
    land_simulation(Lake(tmp_path), market(0.2))
    volatility("build", data=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    answer = volatility("doctor", data=tmp_path)
    assert answer.code == 0, answer.errors
    assert line_of(answer, "data root") == f"data root ok {tmp_path}"
    assert line_of(answer, "hard links") == "hard links ok the file system has them"
    assert line_of(answer, "Dagster") == f"Dagster ok {tmp_path}/dagster, 1 runs"
    assert "MB free." in line_of(answer, "disk")
    assert line_of(answer, "leftovers").startswith("leftovers ok no temporary files")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_wrong_makes_the_exit_code_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_text("rubbish, and enough of it " * 100)
    answer = volatility("doctor", data=tmp_path)
    assert answer.code == 1
    assert line_of(answer, "MLflow").startswith("MLflow wrong")
    assert answer.errors == "Refused: Wrong is MLflow; the table says what to do.\n"


def test_broken_dagster_storage_is_wrong_and_said(tmp_path: Path) -> None:
    runs = tmp_path / "dagster" / "history" / "runs.db"
    runs.parent.mkdir(parents=True)
    runs.write_text("rubbish, and enough of it " * 100)
    answer = volatility("doctor", data=tmp_path)
    assert answer.code == 1
    assert line_of(answer, "Dagster").startswith("Dagster wrong")
    assert "Traceback" not in answer.errors


def test_leftovers_of_killed_processes_are_counted_and_removed_when_asked(tmp_path: Path) -> None:
    old = make_old(tmp_path / "raw" / "date=2026-04-04" / f".a.ndjson.{DEAD_PID}.tmp", 2 * HOUR)
    stuck = make_old(tmp_path / f".feature_store.duckdb.{os.getpid()}.tmp", 25 * HOUR)
    kept = [
        make_old(tmp_path / "raw" / f".alive.ndjson.{os.getpid()}.tmp", 2 * HOUR),
        make_old(tmp_path / "raw" / f".young.ndjson.{DEAD_PID}.tmp", HOUR / 2),
        make_old(tmp_path / "raw" / ".recorded-20260404T120000-000001.ndjson.tmp", 99 * HOUR),
        make_old(tmp_path / "raw" / "date=2026-04-04" / "a.ndjson", 99 * HOUR),
        make_old(tmp_path / "x.tmp", 99 * HOUR),
    ]
    assert left_over(tmp_path) == sorted([old, stuck])
    answer = volatility("doctor", data=tmp_path)
    assert line_of(answer, "leftovers").startswith("leftovers warning 2 temporary files")
    assert "volatility doctor --clean" in answer.out
    assert old.exists()
    answer = volatility("doctor", "--clean", data=tmp_path)
    assert line_of(answer, "leftovers").endswith("0.0 MB: removed")
    assert left_over(tmp_path) == []
    assert [path for path in (old, stuck, *kept) if path.exists()] == kept


@pytest.mark.parametrize("servers", ["nowhere", "localhost:", ":9092", "localhost:x"])
def test_kafka_address_that_is_none_is_wrong(servers: str) -> None:
    found = health.kafka(servers)
    assert found.verdict == "wrong"
    assert "KAFKA_BOOTSTRAP_SERVERS" in found.mend


def test_one_kafka_broker_of_several_is_enough() -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        found = health.kafka(f"localhost:1,localhost:{port}")
    assert found == Finding("Kafka", "ok", f"localhost:{port} takes connections")


def test_mlflow_store_opens_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow does so itself, and leaves it
    assert health.mlflow_store(uri) == Finding("MLflow", "ok", f"{uri}, not made yet")
    assert not path.exists()
    with Tracking(uri, str(tmp_path / "artifacts"))._client():
        assert path.exists()
    assert health.mlflow_store(uri) == Finding("MLflow", "ok", f"{uri} opens")
    with sqlite3.connect(path) as connection:
        connection.execute("drop table experiments")
    assert "no such table" in health.mlflow_store(uri).said
    path.write_text("rubbish, and enough of it " * 100)
    assert health.mlflow_store(uri).said == f"{path}: file is not a database"
    found = health.mlflow_store("http://localhost:1")
    assert found.verdict == "wrong"
    assert "Connection refused" in found.said


def test_folder_that_cannot_be_written_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    (found,) = health.data_root(Lake(tmp_path))
    assert (found.verdict, found.said) == ("wrong", f"{tmp_path} is not writable")


def test_file_system_without_hard_links_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    found = list(health.data_root(Lake(tmp_path)))[-1]
    assert (found.verdict, found.said) == ("wrong", f"{tmp_path}: Operation not permitted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("room", "verdict"), [(10 << 20, "wrong"), (500 << 20, "warning"), (5 << 30, "ok")]
)
def test_little_room_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, verdict: str
) -> None:
    monkeypatch.setattr(health, "free", lambda _: room)
    found = [one for one in health.data_root(Lake(tmp_path)) if one.subject == "disk"]
    assert [(one.verdict, bool(one.mend)) for one in found] == [(verdict, verdict != "ok")]


# --- the clock


def write_ticks(lake: Lake, lags: list[float], end: datetime, **more: str) -> None:
    """A day of ticks, a second apart up to `end`, captured so many seconds late."""
    end = end.replace(microsecond=0, tzinfo=None)
    lines = []
    for number, lag in enumerate(lags):
        time_ = end - timedelta(seconds=len(lags) - number)
        fields = flat(0, time=f"{time_}Z", received_at=f"{time_ + timedelta(seconds=lag)}Z", **more)
        del fields["timestamp"]
        lines.append(fields)
    day = end.date()
    land(lake, "a.ndjson", data_of(lines), day)
    made = Ingest(lake, Warehouse(lake, threads=1))
    made.write_manifest(day)
    made.build_ticks(day)


@pytest.mark.parametrize(
    ("lag", "verdict", "said"),
    [
        (0.1, "ok", "were captured 0.100 s after the event (the middle 90 %: 0.100 to 0.100 s)"),
        (-0.4, "ok", "captured -0.400 s after"),
        (-0.6, "warning", "this clock is behind the exchange's"),
        (6.0, "warning", "this clock is ahead, or the feed lags behind"),
        (7200.0, "ok", "a replay"),
    ],
)
def test_clock_is_judged_by_fresh_ticks(lake: Lake, lag: float, verdict: str, said: str) -> None:
    now = datetime.now(UTC)
    write_ticks(lake, [lag] * 20, max(now, now.replace(hour=0, minute=1)))
    found = health.clock(lake)
    assert found.verdict == verdict
    assert said in found.said
    assert bool(found.mend) == (verdict == "warning")


def test_old_ticks_tell_nothing_of_the_clock_as_it_is_now(lake: Lake) -> None:
    write_ticks(lake, [-9.0, *[-7.0] * 20, 0.0], datetime(2026, 4, 4, 12, tzinfo=UTC))
    found = health.clock(lake)
    assert found.verdict == "ok"
    assert found.said.startswith("ticks of 2026-04-04 were captured -7.000 s after the event")
    assert found.said.endswith("older than a day, not of this clock as it is now")


def test_clock_without_ticks_or_capture_times_is_not_judged(lake: Lake) -> None:
    assert health.clock(lake).said == "no ticks yet to compare it with"
    fields = {key: value for key, value in flat(0).items() if key != "timestamp"}
    land(lake, "a.ndjson", data_of([{**fields, "time": "2026-04-04T12:00:00Z"}]))
    made = Ingest(lake, Warehouse(lake, threads=1))
    made.write_manifest(DAY)
    made.build_ticks(DAY)
    assert health.clock(lake).said == "the ticks of 2026-04-04 carry no capture time"


def test_simulated_ticks_tell_nothing_of_the_clock(lake: Lake) -> None:
    write_ticks(lake, [9.0] * 20, datetime.now(UTC), source="simulated")
    found = health.clock(lake)
    assert found.verdict == "ok"
    assert found.said.endswith("they are simulated, and tell nothing of this clock")


# --- disk


def test_usage_counts_every_file_once_by_kind(tmp_path: Path) -> None:
    sizes = {
        "raw/date=2026-04-04/a.ndjson": 1000,
        "ticks/date=2026-04-04.parquet": 200,
        "splits/product=BTC-USD.parquet": 30,
        "mlflow/mlflow.db": 4,
        "dagster/dagster.yaml": 50_000,
        "feature_store.duckdb": 600_000,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    link = tmp_path / ".published" / "1" / "ticks" / "date=2026-04-04"
    link.parent.mkdir(parents=True)
    link.hardlink_to(tmp_path / "ticks/date=2026-04-04.parquet")
    assert usage(tmp_path) == {"raw": 1000, "tables": 230, "models": 4, "other": 650_000}


def test_growth_is_the_mean_of_the_last_full_recorded_days(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free", lambda _: 6_000_000)
    assert growth(lake) is None
    for ago, size in {0: 9_000_000, 1: 1_000_000, 2: 3_000_000, 9: 9_000_000}.items():
        land(lake, "a.ndjson", b"x" * size, TODAY - timedelta(days=ago))
    found = growth(lake)
    assert found is not None
    assert (found.bytes_per_day, found.days, found.days_left) == (2e6, 2, 3.0)
    assert found.said() == (
        "Raw data grew by 2.0 MB a day over 2 full days; at that rate the disk is full in 3 days."
    )


def test_simulated_days_do_not_grow(lake: Lake) -> None:
    day = TODAY - timedelta(days=1)
    land(lake, "a.ndjson", data_of([{"source": "simulated"}]), day)
    Ingest(lake, Warehouse(lake, threads=1)).write_manifest(day)
    assert growth(lake) is None


def test_status_shows_disk_use_segments_and_what_to_compact(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    yesterday = TODAY - timedelta(days=1)
    for day in (DAY, yesterday, TODAY):
        for number in range(101 if day != DAY else 100):
            land(lake, f"{number:03}.ndjson", b"x" * 10_000, day)
    out = volatility("status", data=tmp_path).out
    assert "MB on disk: raw 3.0 · tables 0.0 · models 0.0 · other 0.0; " in out
    assert "Raw data grew by 1.0 MB a day over 1 full days" in out
    assert f"volatility compact {yesterday}\n" in out
    row = next(line for line in out.splitlines() if str(DAY) in line)
    assert row.split()[:5] == [str(DAY), "not", "built", "1.0", "100"]
    assert max(map(len, out.splitlines())) < 200


def test_growth_beyond_all_use_is_said_in_words() -> None:
    said: Callable[[float], str] = lambda days: disk.Growth(1.0, 7, days).said()  # noqa: E731
    assert said(1e9).endswith("in more than ten years.")
    assert said(12.3).endswith("in 12 days.")
