"""How far a change goes: which days are stale after it, and where rebuilding stops.

The days are told by `domain.reach`; that they are right is seen in the lake's records. What a crash
leaves behind is stale, never wrong.
"""

import json
import shutil
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.reach import DATA_STAGES, REACH, affected, ranges
from volatility_pipeline.resources import lake as lake_module
from volatility_pipeline.resources import warehouse as warehouse_module
from volatility_pipeline.resources.feature_store import publish
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse, code_hash
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.tick_lake import (
    BUILT,
    DAY,
    SECOND,
    at,
    build,
    contents,
    reached,
    rows,
    tick,
    walk,
    write_rows,
    write_ticks,
)

D = date(2026, 4, 4)
MIDNIGHT = at("2026-04-05 00:00")
STEADY = settings(deadline=None, derandomize=True, database=None)
READS = {
    "ticks": [("raw", 0)],
    "bars": [("ticks", -1), ("ticks", 0)],
    "features": [("bars", -1), ("bars", 0)],
    "labels": [("features", -1), ("features", 0), ("bars", -1), ("bars", 0), ("bars", 1)],
}
Pair = tuple[str, date]


def near(stage: str, *offsets: int) -> set[Pair]:
    """Pairs of a stage and days counted from D."""
    return {(stage, D + offset * DAY) for offset in offsets}


# ------------------------------------------------------------------------------------- the days


def test_a_new_segment_of_a_day_reaches_the_days_that_the_design_names() -> None:
    assert affected([("raw", D)]) == (
        near("raw", 0)
        | near("ticks", 0)
        | near("bars", 0, 1)
        | near("features", 0, 1, 2)
        | near("labels", -1, 0, 1, 2, 3)
    )


def test_stages_read_what_the_design_says() -> None:
    for stage in DATA_STAGES:
        named = [
            (source, offset)
            for source, offsets in REACH[stage].offsets.items()
            for offset in offsets
        ]
        assert sorted(named) == sorted(READS.get(stage, []))
        assert sorted(REACH[stage].days(D)) == sorted(
            (source, D + offset * DAY) for source, offset in READS.get(stage, [])
        )


pairs = st.tuples(st.sampled_from(DATA_STAGES), st.dates(date(2026, 2, 26), date(2026, 3, 4)))


@STEADY
@given(st.sets(pairs, max_size=4))
def test_affected_is_what_walking_the_reads_to_the_end_finds(changed: set[Pair]) -> None:
    found = set(changed)
    window = [date(2026, 2, 10) + number * DAY for number in range(40)]
    while True:
        more = {
            (stage, day)
            for stage, reads in READS.items()
            for day in window
            if any((source, day + offset * DAY) in found for source, offset in reads)
        }
        if more <= found:
            break
        found |= more
    assert affected(changed) == found


@STEADY
@given(st.sets(pairs, max_size=4), st.sets(pairs, max_size=4))
def test_affected_of_two_changes_is_what_each_affects(one: set[Pair], other: set[Pair]) -> None:
    assert affected(one | other) == affected(one) | affected(other)
    assert affected(affected(one)) == affected(one)


@STEADY
@given(st.lists(st.dates(date(2025, 12, 20), date(2026, 1, 20))))
def test_ranges_hold_exactly_the_days_in_as_few_pieces_as_can_be(days: list[date]) -> None:
    found = ranges(days)
    held = [
        first + number * DAY for first, last in found for number in range((last - first).days + 1)
    ]
    assert held == sorted(set(days))
    assert all(later[0] - earlier[1] > DAY for earlier, later in pairwise(found))


# --------------------------------------------------------------------------------- late segments


def stale(warehouse: Warehouse) -> set[Pair]:
    """What is not current, of all that lies behind ticks."""
    return {pair for pair in reached(warehouse.lake) if not warehouse.is_current(*pair)}


def day_through(first: date, seed: int) -> list[Tick]:
    """Ticks of a day's last ten minutes and of the first ten of the next."""
    midnight = at(first.isoformat()) + DAY
    return walk(midnight - timedelta(minutes=10), 1200, seed=seed, step=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a lake of six days whose markets run through every midnight, all built."""
    made = Warehouse(Lake(tmp_path_factory.mktemp("built")), threads=1)
    write_ticks(made.lake, [one for n in range(-3, 3) for one in day_through(D + n * DAY, n)])
    build(made)
    assert stale(made) == set()
    return made.lake.root


@pytest.fixture
def warehouse(built: Path, tmp_path: Path) -> Warehouse:
    """A copy of it."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return Warehouse(Lake(tmp_path), threads=1)


def ticks_of_d() -> list[Tick]:
    """The ticks of day D as they were first."""
    both = day_through(D - DAY, -1) + day_through(D, 0)
    return [one for one in both if one.event_time.date() == D]


def late_tick(warehouse: Warehouse, time: str) -> None:
    """Adds one tick to day D, as a late segment would; its price is far off the others."""
    write_ticks(warehouse.lake, [*ticks_of_d(), tick(time, "100.00", "100.01", segment="late")])


def test_a_late_tick_before_midnight_rebuilds_two_days_and_the_labels_around_them(
    warehouse: Warehouse,
) -> None:
    before = contents(warehouse.lake)
    late_tick(warehouse, "2026-04-04 23:59:40")
    assert stale(warehouse) == near("bars", 0, 1)
    made = build(warehouse)
    assert set(made) == (
        near("bars", 0, 1) | near("features", 0, 1) | near("labels", -1, 0, 1, 2)
        # bars of D + 1 come out the same, so features of D + 2 and labels of D + 3 stand
    )
    changed = {name for name, data in contents(warehouse.lake).items() if data != before.get(name)}
    assert changed == {
        "bars/date=2026-04-04.parquet",
        "features/date=2026-04-04.parquet",
        "features/date=2026-04-05.parquet",
        "labels/date=2026-04-04.parquet",
    }
    assert stale(warehouse) == set()
    assert build(warehouse) == []


def test_a_late_tick_after_midnight_changes_the_labels_of_the_day_before(
    warehouse: Warehouse,
) -> None:
    before = contents(warehouse.lake)
    late_tick(warehouse, "2026-04-04 00:00:20")
    made = build(warehouse)
    # bars of D + 1 come out the same, so features of D + 2 are never looked at
    assert set(made) == (near("bars", 0, 1) | near("features", 0, 1) | near("labels", -1, 0, 1))
    after = contents(warehouse.lake)
    assert {name for name in after if after[name] != before[name]} == {
        "bars/date=2026-04-04.parquet",
        "features/date=2026-04-04.parquet",
        "labels/date=2026-04-03.parquet",
        "labels/date=2026-04-04.parquet",
    }


def test_a_late_segment_that_adds_nothing_new_stops_at_once(warehouse: Warehouse) -> None:
    before = {pair: _stamp(warehouse.lake, pair) for pair in reached(warehouse.lake)}
    write_ticks(warehouse.lake, ticks_of_d())
    assert stale(warehouse) == set()
    assert build(warehouse) == []
    assert {pair: _stamp(warehouse.lake, pair) for pair in before} == before


def test_a_tick_of_a_product_that_is_silent_else_rebuilds_bars_and_stops_at_features(
    warehouse: Warehouse,
) -> None:
    alone = tick("2026-04-04 12:00", product_id="ETH-USD")
    write_ticks(warehouse.lake, [*ticks_of_d(), alone])
    made = build(warehouse)
    assert set(made) == near("bars", 0, 1) | near("features", 0, 1) | near("labels", -1, 0, 1)
    changed = [warehouse.lake.record(stage, day) for stage, day in made]
    assert sum(record["rows"] == 30 for record in changed if record) == 0
    eth = [key for key in rows(warehouse.lake, "bars") if key[0] == "ETH-USD"]
    assert len(eth) == 30


def _stamp(lake: Lake, pair: Pair) -> int | None:
    path = lake.file(*pair)
    return path.stat().st_mtime_ns if path.exists() else None


def test_another_gap_makes_bars_and_labels_stale_and_no_features(warehouse: Warehouse) -> None:
    other = Warehouse(warehouse.lake, max_gap_seconds=60, threads=1)
    recorded = {(stage, day) for stage in ("bars", "labels") for day in warehouse.lake.days(stage)}
    assert stale(other) == recorded
    assert len(recorded) > 12


def test_other_code_makes_its_stage_stale(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        warehouse_module,
        "code_hash",
        lambda stage: "new" if stage == "features" else code_hash(stage),
    )
    features = {("features", day) for day in warehouse.lake.days("features")}
    assert stale(warehouse) == features
    assert set(build(warehouse)) == features  # the same bytes, so labels stand


# -------------------------------------------------------------------------- days without a file


def test_an_eve_up_to_midnight_gives_a_row_at_0_to_a_day_without_raw_lines(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    eve = [tick(MIDNIGHT - number * SECOND) for number in range(400, 0, -1)]
    assert write_ticks(lake, eve) == [D]
    build(Warehouse(lake, threads=1))
    tomorrow = D + DAY
    assert not lake.raw_folder(tomorrow).exists()
    assert lake.record("ticks", tomorrow) is None
    second = [ts for (_, ts) in rows(lake, "features") if ts >= MIDNIGHT]
    assert second == [MIDNIGHT + number * SECOND for number in range(30)]
    assert [ts for (_, ts) in rows(lake, "labels") if ts >= MIDNIGHT] == second
    # Of the bars after midnight none has a tick, so nothing at its end is known of the future.
    future = {ts: row["future_volatility_60s"] for (_, ts), row in rows(lake, "labels").items()}
    assert {ts for ts, value in future.items() if value is None} == {
        ts for ts in future if ts > MIDNIGHT - 60 * SECOND
    }


def test_an_eve_that_ends_in_its_last_carried_second_gives_the_row_at_0_alone(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    last = MIDNIGHT - 30 * SECOND
    write_ticks(lake, [tick(last - number * 10 * SECOND) for number in range(60)])
    build(Warehouse(lake, threads=1))
    assert [path.name for path in lake.files("bars")] == ["date=2026-04-04.parquet"]
    assert max(rows(lake, "bars"))[1] == MIDNIGHT - SECOND
    assert [ts for (_, ts) in rows(lake, "features") if ts >= MIDNIGHT] == [MIDNIGHT]
    assert [path.name for path in lake.files("features")] == [
        "date=2026-04-04.parquet",
        "date=2026-04-05.parquet",
    ]
    assert not lake.file("bars", D + DAY).exists()
    assert Warehouse(lake).is_current("bars", D + DAY)


def test_days_without_data_have_no_file(warehouse: Warehouse) -> None:
    for stage, day in reached(warehouse.lake):
        record = warehouse.lake.record(stage, day)
        if record is None or record["rows"] == 0:
            assert not warehouse.lake.file(stage, day).exists()
    build_days = {day for stage, day in reached(warehouse.lake) if stage == "labels"}
    assert {path.name for path in warehouse.lake.files("labels")} < {
        f"date={day}.parquet" for day in build_days
    }


def test_an_emptied_days_files_are_removed_in_every_stage(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    warehouse = Warehouse(lake, threads=1)
    write_ticks(lake, walk("2026-04-04 23:50", 700, step=2))
    build(warehouse)
    assert all(lake.file(stage, D).exists() for stage in BUILT)
    assert lake.file("labels", D + DAY).exists()
    write_rows(lake, "ticks", D, [])
    assert not lake.file("ticks", D).exists()
    write_rows(lake, "ticks", D + DAY, [])
    assert build(warehouse)
    assert [path for stage in BUILT for path in lake.files(stage)] == []
    assert {lake.record("bars", D)["rows"], lake.record("labels", D + DAY)["rows"]} == {0}
    assert stale(warehouse) == set()


# ------------------------------------------------------------------------------- lost and broken


def test_a_deleted_file_is_stale_and_comes_back_alike(warehouse: Warehouse) -> None:
    before = contents(warehouse.lake)
    for stage in BUILT:
        warehouse.lake.file(stage, D).unlink()
        assert warehouse.lake.record(stage, D) is None
        assert (stage, D) in stale(warehouse)
        build(warehouse)
        assert contents(warehouse.lake) == before


def test_a_file_of_another_size_is_stale_and_comes_back_alike(warehouse: Warehouse) -> None:
    before = contents(warehouse.lake)
    path = warehouse.lake.file("features", D)
    path.write_bytes(path.read_bytes()[:-1])
    assert stale(warehouse) >= near("features", 0)
    build(warehouse)
    assert contents(warehouse.lake) == before


@pytest.mark.parametrize("text", ["", "{", "\x00\x00\x00", '{"rows": 1'])
def test_a_torn_record_is_no_record(warehouse: Warehouse, text: str) -> None:
    before = contents(warehouse.lake)
    warehouse.lake.file("bars", D, ".json").write_text(text)
    assert near("bars", 0) <= stale(warehouse)
    build(warehouse)
    assert contents(warehouse.lake) == before


def test_a_record_of_bytes_that_are_no_text_is_no_record(warehouse: Warehouse) -> None:
    warehouse.lake.file("bars", D, ".json").write_bytes(b"\xff\xfe{}")
    assert near("bars", 0) <= stale(warehouse)


class CrashError(Exception):
    """Stands for a kill at this very instant."""


def _crash(*_: Any, **__: Any) -> None:
    raise CrashError


@pytest.mark.parametrize("stage", BUILT)
def test_a_crash_between_file_and_record_leaves_the_day_stale(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    late_tick(warehouse, "2026-04-04 23:59:40")
    before = BUILT[: BUILT.index(stage)]
    build(warehouse, stages=before)
    with monkeypatch.context() as patched:
        patched.setattr(lake_module.Lake, "write_record", _crash)
        with pytest.raises(CrashError):
            warehouse.build(stage, D)
    whole = warehouse.lake.file(stage, D).read_bytes()
    assert (stage, D) in stale(warehouse)
    build(warehouse)
    assert stale(warehouse) == set()
    assert warehouse.lake.file(stage, D).read_bytes() == whole


@pytest.mark.parametrize("name", ["commit", "file_sha256"])
def test_a_crash_before_the_rename_leaves_the_old_partition_and_no_rubbish(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = contents(warehouse.lake)
    late_tick(warehouse, "2026-04-04 23:59:40")
    with monkeypatch.context() as patched:
        patched.setattr(lake_module, name, _crash)
        with pytest.raises(CrashError):
            warehouse.build("bars", D)
    assert contents(warehouse.lake) == before
    assert stale(warehouse) == near("bars", 0, 1)
    assert list((warehouse.lake.root / "bars").glob(".*")) == []


def test_a_first_build_that_crashed_before_its_record_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    warehouse = Warehouse(lake, threads=1)
    write_ticks(lake, walk("2026-04-04 12:00", 400, step=4))
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "write_record", _crash)
        with pytest.raises(CrashError):
            warehouse.build("bars", D)
    assert lake.file("bars", D).exists()
    assert lake.content("bars", D) is None
    assert ("bars", D) in stale(warehouse)


def test_a_removal_that_crashed_before_its_record_empties_what_lay_behind(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (-1, 0):
        write_rows(warehouse.lake, "ticks", D + n * DAY, [])
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "write_record", _crash)
        with pytest.raises(CrashError):
            warehouse.build("bars", D)
    assert not warehouse.lake.file("bars", D).exists()
    assert near("features", 0) | near("labels", 0) <= stale(warehouse)
    build(warehouse)
    assert stale(warehouse) == set()
    assert not warehouse.lake.file("features", D).exists()


def test_a_file_without_a_record_and_without_inputs_is_stale_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    warehouse = Warehouse(lake, threads=1)
    write_ticks(lake, walk("2026-04-04 12:00", 400, step=4))
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "write_record", _crash)
        with pytest.raises(CrashError):
            warehouse.build("bars", D)
    write_rows(lake, "ticks", D, [])
    build(warehouse)
    assert not lake.file("bars", D).exists()


def test_temporary_files_are_read_as_no_partition(warehouse: Warehouse) -> None:
    before = {stage: (rows(warehouse.lake, stage), warehouse.lake.days(stage)) for stage in BUILT}
    for stage in ("ticks", *BUILT):
        folder = warehouse.lake.root / stage
        real = warehouse.lake.file(stage, D)
        for name in (f".{real.name}.4711.tmp", f"tmp_.{real.name}.4711.tmp"):
            (folder / name).write_bytes(real.read_bytes()[:100])
        (folder / f".{real.stem}.json.4711.tmp").write_text("{")
    assert before == {
        stage: (rows(warehouse.lake, stage), warehouse.lake.days(stage)) for stage in BUILT
    }
    assert stale(warehouse) == set()
    assert warehouse.products() == ["BTC-USD"]
    assert warehouse.labelled_rows("BTC-USD").num_rows == len(before["labels"][0])
    publish(warehouse.lake)
    assert warehouse.lake.days("ticks") == [D + n * DAY for n in range(-3, 4)]


def test_a_write_that_fails_keeps_the_old_partition_and_its_record(warehouse: Warehouse) -> None:
    lake = warehouse.lake
    before, record = contents(lake), lake.record("bars", D)

    def fail(path: Path) -> int:
        path.write_bytes(b"half")
        raise CrashError

    with pytest.raises(CrashError):
        lake.write_partition("bars", D, fail, {})
    assert contents(lake) == before
    assert lake.record("bars", D) == record
    assert list((lake.root / "bars").glob(".*")) == []


def test_a_record_says_what_the_partition_was_made_from(warehouse: Warehouse) -> None:
    lake = warehouse.lake
    record = json.loads(lake.file("labels", D, ".json").read_text())
    assert set(record["made_from"]["inputs"]) == {
        "features/2026-04-03",
        "features/2026-04-04",
        "bars/2026-04-03",
        "bars/2026-04-04",
        "bars/2026-04-05",
    }
    hashes = record["made_from"]["inputs"]
    assert hashes["bars/2026-04-05"] == lake.content("bars", D + DAY)
    assert record["made_from"]["max_gap_seconds"] == 30
    assert "max_gap_seconds" not in lake.record("features", D)["made_from"]
    assert record["bytes"] == lake.file("labels", D).stat().st_size
