"""The published catalogue: typed and commented views, whole for every reader at every moment."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from volatility_pipeline.domain.schemas import FEATURES, TABLES
from volatility_pipeline.resources.feature_store import FILE, SNAPSHOTS, publish
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse, connect, write_parquet
from volatility_pipeline_tests.tick_lake import (
    BUILT,
    DAY,
    at,
    build,
    contents,
    rows,
    tick,
    walk,
    write_rows,
    write_ticks,
)

D = date(2026, 4, 4)


@contextmanager
def reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The catalogue as an analyst opens it."""
    connection = duckdb.connect(str(path), read_only=True)
    try:
        yield connection
    finally:
        connection.close()


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """One question, one connection."""
    with reading(path) as connection:
        return connection.execute(sql).fetchall()


def described(path: Path, view: str) -> list[tuple[str, str]]:
    """Names and types of a view's columns."""
    return [row[:2] for row in ask(path, f"describe {view}")]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """An hour and a half through midnight, built: enough for trailing thresholds."""
    lake = Lake(tmp_path_factory.mktemp("market"))
    write_ticks(lake, walk("2026-04-04 22:50", 5400, step=5))
    build(Warehouse(lake, threads=1))
    return lake


@pytest.fixture
def built(market: Lake, tmp_path: Path) -> Lake:
    """A copy of it."""
    root = tmp_path / "data"
    shutil.copytree(market.root, root)
    return Lake(root)


# --------------------------------------------------------------------------- types and comments


def test_without_data_every_view_is_there_typed_and_empty(lake: Lake) -> None:
    path = publish(lake)
    assert path == lake.root / FILE
    for table in TABLES.values():
        assert described(path, table.name) == [
            (column.name, column.type) for column in table.columns
        ]
        assert ask(path, f"select * from {table.name}") == []
    assert ask(path, "select * from training_rows") == []


def test_with_data_every_view_has_the_same_names_and_types(lake: Lake, built: Lake) -> None:
    empty, full = publish(lake), publish(built)
    views = [row[0] for row in ask(full, "select view_name from duckdb_views where not internal")]
    assert sorted(views) == sorted([*TABLES, "training_rows", "predictions_live"])
    for view in views:
        assert described(full, view) == described(empty, view), view


def test_views_hold_the_partitions_rows(built: Lake) -> None:
    path = publish(built)
    for stage in BUILT:
        records = [built.record(stage, day) for day in built.days(stage)]
        expected = sum(record["rows"] for record in records if record)
        assert ask(path, f"select count(*) from {stage}") == [(expected,)]
        assert expected > 0
    key = ("BTC-USD", at("2026-04-05 00:00"))
    with reading(path) as connection:
        found = connection.execute("select * from features where ts = ?", [key[1]])
        names = [column[0] for column in found.description]
        assert dict(zip(names, found.fetchone(), strict=True)) == rows(built, "features")[key]


def test_views_and_columns_carry_their_comments(built: Lake) -> None:
    path = publish(built)
    views = dict(ask(path, "select view_name, comment from duckdb_views where not internal"))
    assert {name: views[name] for name in TABLES} == {
        table.name: table.comment for table in TABLES.values()
    }
    assert "trailing threshold" in views["training_rows"]
    comments = {
        (view, column): comment
        for view, column, comment in ask(
            path, "select table_name, column_name, comment from duckdb_columns where not internal"
        )
    }
    for table in TABLES.values():
        for column in table.columns:
            assert comments[table.name, column.name] == column.comment
    training = {
        column: comment for (view, column), comment in comments.items() if view == "training_rows"
    }
    assert training["is_spike"]
    assert all(training.values())
    assert set(training) >= {column.name for column in FEATURES.columns}


def test_training_rows_are_those_whose_future_and_threshold_are_known(built: Lake) -> None:
    path = publish(built)
    expected = {
        ts: bool(
            row["future_volatility_60s"] >= row["trailing_threshold"]
            and row["future_volatility_60s"] > 0
        )
        for (_, ts), row in rows(built, "labels").items()
        if row["future_volatility_60s"] is not None and row["trailing_threshold"] is not None
    }
    assert len(expected) > 1000
    assert 0 < sum(expected.values()) < len(expected)
    assert dict(ask(path, "select ts, is_spike from training_rows")) == expected


def test_a_market_that_stands_still_has_no_spikes(lake: Lake) -> None:
    still = [{"product_id": "BTC-USD", "ts": at("2026-04-04 12:00")}]
    write_rows(lake, "features", D, still)
    write_rows(
        lake,
        "labels",
        D,
        [still[0] | {"future_volatility_60s": 0.0, "trailing_threshold": 0.0}],
    )
    assert ask(publish(lake), "select is_spike from training_rows") == [(False,)]


# ------------------------------------------------------------------------- moves, gaps, rubbish


@pytest.mark.parametrize(
    "name", ["it's here", "a b", "[old] data", "all*", "date=2026-01-01", "x{1,2}"]
)
def test_a_data_root_of_any_name_can_be_published(built: Lake, name: str) -> None:
    root = built.root.parent / name
    shutil.move(built.root, root)
    path = publish(Lake(root))
    assert ask(path, "select count(*) > 0 from labels") == [(True,)]
    assert described(path, "bars") == [
        (column.name, column.type) for column in TABLES["bars"].columns
    ]


def test_a_data_root_given_relatively_is_found_from_anywhere(
    built: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(built.root.parent)
    path = publish(Lake(Path(built.root.name))).absolute()
    monkeypatch.chdir("/")
    assert ask(path, "select count(*) > 0 from bars") == [(True,)]


def test_a_moved_data_root_is_read_after_the_next_publish(built: Lake) -> None:
    publish(built)
    expected = ask(built.root / FILE, "select * from labels order by ts")
    moved = built.root.parent / "moved"
    shutil.move(built.root, moved)
    with pytest.raises(duckdb.IOException, match="No files found"):
        ask(moved / FILE, "select * from labels")
    assert publish(Lake(moved)) == moved / FILE
    assert ask(moved / FILE, "select * from labels order by ts") == expected


def test_a_partition_deleted_after_the_publish_is_read_until_the_next(built: Lake) -> None:
    path = publish(built)
    before = ask(path, "select count(*) from features")
    built.file("features", D).unlink()
    assert ask(path, "select count(*) from features") == before
    assert ask(publish(built), "select min(ts) from features") == [(at("2026-04-05 00:00"),)]
    assert ask(path, "select count(*) > 0 from bars where second < '2026-04-05'") == [(True,)]


def test_a_table_whose_last_partition_went_is_empty_after_the_next_publish(built: Lake) -> None:
    publish(built)
    for path in built.files("labels"):
        path.unlink()
    path = publish(built)
    assert ask(path, "select * from labels") == []
    assert described(path, "labels")[2] == ("future_volatility_60s", "DOUBLE")
    assert ask(path, "select count(*) > 0 from features") == [(True,)]


def test_what_came_after_the_publish_is_read_after_the_next_all_of_it(built: Lake) -> None:
    path = publish(built)
    before = ask(path, "select max(event_time) from ticks")
    write_ticks(built, [tick("2026-04-05 23:00"), tick("2026-04-09 12:00")])
    assert ask(path, "select max(event_time) from ticks") == before
    publish(built)
    assert ask(path, "select max(event_time) from ticks") == [(at("2026-04-09 12:00"),)]
    assert ask(path, "select count(*) from ticks where event_time >= '2026-04-05'") == [(2,)]


def test_half_written_files_beside_the_partitions_are_not_read(built: Lake) -> None:
    path = publish(built)
    expected = ask(path, "select count(*) from bars")
    for name in (".date=2026-04-04.parquet.1.tmp", "tmp_.date=2026-04-04.parquet.1.tmp"):
        (built.root / "bars" / name).write_bytes(b"PAR1 half")
    assert ask(path, "select count(*) from bars") == expected
    assert ask(publish(built), "select count(*) from bars") == expected


def test_a_publish_that_fails_leaves_the_old_catalogue_and_no_rubbish(
    built: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(built)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("volatility_pipeline.resources.feature_store.commit", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(built)
    assert path.read_bytes() == before
    assert sorted(found.name for found in built.root.iterdir()) == sorted(
        [SNAPSHOTS, "bars", "features", FILE, "labels", "ticks"]
    )
    assert len(list((built.root / SNAPSHOTS).iterdir())) == 1
    assert ask(path, "select count(*) > 0 from bars") == [(True,)]


def test_publishing_is_no_change_of_any_partition(built: Lake) -> None:
    before = contents(built), [path.stat().st_mtime_ns for path in built.files("bars")]
    publish(built)
    assert (contents(built), [path.stat().st_mtime_ns for path in built.files("bars")]) == before


def test_what_is_published_takes_no_room_and_goes_with_the_publish_after_the_next(
    built: Lake,
) -> None:
    snapshots = built.root / SNAPSHOTS
    publish(built)
    (first,) = snapshots.iterdir()
    (link,) = (first / "bars").glob("date=2026-04-04*")
    assert link.samefile(built.file("bars", D))
    assert not list(snapshots.rglob("*.parquet"))  # nobody may take a link for a partition
    publish(built)
    assert first.exists()  # somebody may have been about to open it
    publish(built)
    assert not first.exists()
    assert len(list(snapshots.iterdir())) == 2


# ---------------------------------------------------------------------------------- many readers


READER = """
import sys
from pathlib import Path

import duckdb

path, stop, is_held = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "held"
connection = duckdb.connect(path, read_only=True)
loops, seen = 0, set()
print("ready", flush=True)
while loops < 3 or not stop.exists():
    if not is_held:
        connection.close()
        connection = duckdb.connect(path, read_only=True)
    found = connection.execute("select count(*), min(mid), max(mid) from bars").fetchone()
    assert found[0] == 6000 and found[1] == found[2], found
    seen.add(found[1])
    joined = connection.execute(
        "select count(*), count(distinct mid), sum(trailing_threshold) is not null "
        "from features left join labels using (product_id, ts)"
    ).fetchone()
    assert joined == (9000, 1, True), joined
    loops += 1
print(loops, len(seen))
"""


@contextmanager
def reader(path: Path, stop: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that asks in a loop until `stop` is there; it has opened the catalogue."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", READER, str(path), str(stop), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


SECONDS = {"bars": 2000, "features": 1000, "labels": 1000}


def versions(folder: Path) -> dict[tuple[str, int], bytes]:
    """Two versions of a stage's file, of other values and another length."""
    made = {}
    for stage, count in SECONDS.items():
        for number in (0, 1):
            path = folder / f"{stage}{number}"
            with connect(1) as connection:
                write_parquet(connection, TABLES[stage], _made_up(stage, number, count), {}, path)
            made[stage, number] = path.read_bytes()
    assert len({len(data) for data in made.values()}) == len(made)
    return made


def _made_up(stage: str, number: int, count: int) -> str:
    """A select of `count` seconds whose mid is the number of the version."""
    values = {
        "product_id": "'BTC-USD'",
        "second" if stage == "bars" else "ts": "timestamp '2026-04-04' + to_seconds(i)",
        "mid": str(1000 + number),
    }
    noise = f"(hash(i + {number}) % {1000 + 10**9 * number})"
    columns = ", ".join(
        f'({values.get(column.name, noise)})::{column.type} as "{column.name}"'
        for column in TABLES[stage].columns
    )
    return f"select {columns} from range({count}) as numbers (i)"


def write_days(lake: Lake, files: dict[tuple[str, int], bytes], number: int) -> None:
    """Replaces three days by one version of theirs and publishes."""
    for stage, count in SECONDS.items():
        for day in (D, D + DAY, D + 2 * DAY):

            def write(path: Path, stage: str = stage, count: int = count) -> int:
                path.write_bytes(files[stage, number % 2])
                return count

            lake.write_partition(stage, day, write, {})
    publish(lake)


@pytest.mark.parametrize("kind", ["fresh", "held"])
def test_a_reader_in_another_process_meets_whole_partitions_while_days_are_replaced(
    tmp_path: Path, kind: str
) -> None:
    lake = Lake(tmp_path / "data")
    stop = tmp_path / "stop"
    files = versions(tmp_path)
    write_days(lake, files, 0)
    with reader(lake.root / FILE, stop, kind) as process:
        end = time.monotonic() + 3
        number = 0
        while number < 3 or (time.monotonic() < end and process.poll() is None):
            number += 1
            write_days(lake, files, number)
        if kind == "held":  # its snapshot outlives the two newest, for it is read
            assert len(list((lake.root / SNAPSHOTS).iterdir())) == 3
        stop.touch()
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    loops, seen = map(int, out.split())
    assert loops >= 3
    # Who opens the catalogue anew sees days change, who holds it open sees what it opened.
    assert seen == (2 if kind == "fresh" else 1)
    publish(lake)
    assert len(list((lake.root / SNAPSHOTS).iterdir())) == 2
