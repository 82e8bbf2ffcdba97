"""What must not change a byte: the order of building, threads, rebuilding, far data, the future.

DESIGN §3: the same input gives the same bytes, and a row at `ts` knows nothing from `ts` on.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.reach import REACH
from volatility_pipeline.domain.schemas import TABLES, TICKS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import (
    STAGE_SQL,
    Warehouse,
    connect,
    create_view,
    sql_text,
    write_parquet,
)
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.tick_lake import (
    BUILT,
    DAY,
    SECOND,
    Key,
    Row,
    at,
    build,
    built_lake,
    contents,
    reached,
    rows,
    tick,
    walk,
    write_rows,
    write_ticks,
)

DAYS = (date(2026, 4, 4), date(2026, 4, 5), date(2026, 4, 6))
MIDNIGHT = at("2026-04-05 00:00")
GAP = timedelta(seconds=30)
SLOW = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def market() -> list[Tick]:
    """Two products over two midnights: long runs, breaks within and at midnight, quiet ends."""
    quiet = GAP + timedelta(microseconds=1)
    evening = walk("2026-04-04 22:40", 4810, seed=1, step=2)  # until 00:00:10
    night = walk(evening[-1].event_time + quiet, 700, seed=2, step=4)
    late = walk("2026-04-05 23:50:00.25", 599, seed=3, step=0.7)  # ends just before midnight
    other = walk("2026-04-04 23:54:59.999999", 1500, seed=4, step=9, product_id="ETH-USD")
    far = walk("2026-04-06 23:56", 400, seed=5, step=3, product_id="ETH-USD", is_sized=False)
    return [*evening, *night, *late, *other, *far]


@pytest.fixture(scope="module")
def ticks() -> list[Tick]:
    """The market's ticks."""
    return market()


@pytest.fixture(scope="module")
def built(ticks: list[Tick], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of the market, built in order on one thread; nobody changes it."""
    lake = built_lake(tmp_path_factory.mktemp("built"), ticks)
    assert [len(contents(lake, [stage])) for stage in BUILT] == [4, 4, 4]
    assert all(rows(lake, "features").values())
    return lake


@pytest.fixture(scope="module")
def built_rows(built: Lake) -> dict[str, dict[Key, Row]]:
    """Its rows by stage."""
    return {stage: rows(built, stage) for stage in BUILT}


def ticks_alone(built: Lake, root: Path) -> Lake:
    """A lake with the same ticks and nothing made from them."""
    shutil.copytree(built.root / "ticks", root / "ticks")
    return Lake(root)


# --------------------------------------------------------------------------- order and threads


@pytest.mark.parametrize("seed", range(3))
def test_days_built_in_any_order_give_the_same_bytes(
    built: Lake, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    lake = ticks_alone(built, tmp_path)
    build(Warehouse(lake, threads=1), in_order=lambda days: rng.sample(days, len(days)))
    assert contents(lake) == contents(built)


def test_partitions_built_too_early_are_mended_by_the_next_build(
    built: Lake, tmp_path: Path
) -> None:
    lake = ticks_alone(built, tmp_path)
    warehouse = Warehouse(lake, threads=1)
    pairs = reached(lake)
    random.Random(7).shuffle(pairs)
    for stage, day in pairs:
        warehouse.build(stage, day)
    assert contents(lake) != contents(built)
    assert build(warehouse)
    assert contents(lake) == contents(built)
    assert build(warehouse) == []


def test_building_again_gives_the_same_bytes(built: Lake, tmp_path: Path) -> None:
    shutil.copytree(built.root, tmp_path, dirs_exist_ok=True)
    lake = Lake(tmp_path)
    warehouse = Warehouse(lake, threads=1)
    assert build(warehouse) == []
    for stage in BUILT:
        for day in lake.days(stage):
            assert warehouse.build(stage, day) == built.record(stage, day)
    assert contents(lake) == contents(built)


def test_two_threads_give_the_bytes_of_one(built: Lake, tmp_path: Path) -> None:
    lake = ticks_alone(built, tmp_path)
    build(Warehouse(lake, threads=2))
    assert contents(lake) == contents(built)


def test_two_threads_give_the_bytes_of_one_over_several_row_groups(tmp_path: Path) -> None:
    made: list[dict[str, bytes]] = []
    for threads in (1, 2):
        lake = Lake(tmp_path / str(threads))
        lake.write_partition("ticks", DAYS[0], _write_long_day, {})
        warehouse = Warehouse(lake, threads=threads)
        for stage in BUILT:
            assert warehouse.build(stage, DAYS[0])["rows"] > 150_000
            assert pq.ParquetFile(lake.file(stage, DAYS[0])).num_row_groups > 1
        made.append(contents(lake))
    assert made[0] == made[1]


def _write_long_day(path: Path) -> int:
    """A tick every two seconds of two products, all day long."""
    values = {
        "product_id": "'P' || i % 2",
        "event_time": "timestamp '2026-04-04' + to_microseconds(i * 1000003)",
        "sequence": "i",
        "price": "100",
        "best_bid": "85000 + hash(i) % 1000 / 100",
        "best_ask": "85010 + hash(i) % 997 / 100",
        "bid_size": "1 + hash(i) % 977",
        "ask_size": "1 + hash(i + 7) % 1013",
        "last_size": "hash(i) % 7 / 7",
        "segment": "'a'",
        "line": "i",
        "item": "0",
    }
    select = ", ".join(
        f'({values.get(column.name, "null")})::{column.type} as "{column.name}"'
        for column in TICKS.columns
    )
    sql = f"select {select} from range(86_390) as numbers (i) order by 1, 2"
    with connect(1) as connection:
        return write_parquet(connection, TICKS, sql, {}, path)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_rows_in_the_ticks_files_changes_nothing(
    built: Lake, ticks: list[Tick], tmp_path: Path, seed: int
) -> None:
    lake = Lake(tmp_path)
    shuffled = random.Random(seed).sample(ticks, len(ticks))
    write_ticks(lake, shuffled, is_sorted=False)
    assert contents(lake, ["ticks"]) != contents(built, ["ticks"])
    build(Warehouse(lake, threads=2))
    assert contents(lake) == contents(built)


# ------------------------------------------------------------------------------------- reach


@pytest.mark.parametrize("stage", BUILT)
def test_a_day_is_made_from_its_reach_alone(built: Lake, tmp_path: Path, stage: str) -> None:
    for day in (*DAYS, DAYS[-1] + DAY):
        lake = Lake(tmp_path / str(day))
        for source, near in REACH[stage].days(day):
            for suffix in (".parquet", ".json"):
                path = built.file(source, near, suffix)
                if path.exists():
                    copy = lake.file(source, near, suffix)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        record = Warehouse(lake, threads=1).build(stage, day)
        assert record == built.record(stage, day)
        assert record["rows"] > 0
        assert lake.file(stage, day).read_bytes() == built.file(stage, day).read_bytes()


def between(lake: Lake, stage: str, start: datetime, end: datetime) -> dict[Key, Row]:
    """The rows of a stage's SQL for any stretch of time, over all that lies in the lake."""
    sql = sql_text(STAGE_SQL[stage][-1])
    bounds = {"start": start, "end": end, "max_gap_seconds": 30}
    with connect(1) as connection:
        for source in REACH[stage].offsets:
            create_view(connection, TABLES[source], lake.files(source))
        used = {name: value for name, value in bounds.items() if f"${name}" in sql}
        found = connection.execute(sql, used)
        names = [column[0] for column in found.description]
        return {row[:2]: dict(zip(names, row, strict=True)) for row in found.fetchall()}


@pytest.mark.parametrize("stage", BUILT)
def test_all_days_at_once_give_the_rows_of_day_by_day(built: Lake, stage: str) -> None:
    day_by_day = rows(built, stage)
    assert len(day_by_day) > 5000
    assert between(built, stage, at("2026-04-01"), at("2026-04-09")) == day_by_day


@settings(SLOW, max_examples=6)
@given(
    stage=st.sampled_from(BUILT),
    start=st.integers(-4000, 1000),
    seconds=st.integers(1, 3000),
)
def test_any_stretch_built_alone_gives_its_rows_of_the_day(
    built: Lake, stage: str, start: int, seconds: int
) -> None:
    first = MIDNIGHT + start * SECOND
    last = first + seconds * SECOND
    expected = {key: row for key, row in rows(built, stage).items() if first <= key[1] < last}
    assert between(built, stage, first, last) == expected


def test_bars_know_nothing_of_ticks_two_hours_before_the_day(tmp_path: Path) -> None:
    near = walk("2026-04-04 22:00", 9000, seed=1, step=3)
    far = [
        one for one in walk("2026-04-04 21:30", 1800, seed=2) if one.event_time < near[0].event_time
    ]
    made = []
    for number, ticks in enumerate(([*far, *near], near)):
        lake = Lake(tmp_path / str(number))
        write_ticks(lake, ticks)
        Warehouse(lake, threads=1).build("bars", DAYS[1])
        made.append(contents(lake, ["bars"]))
    assert made[0] == made[1]
    assert rows(lake, "bars")["BTC-USD", MIDNIGHT]["continuous_seconds"] == 3601


def _ticks_beyond_reach(lake: Lake, ticks: list[Tick]) -> None:
    """Ticks of another kind more than two hours before the day."""
    write_ticks(lake, [*ticks, *walk("2026-04-04 12:00", 300, step=5, is_sized=False)])


def _bars_beyond_reach(lake: Lake, _: list[Tick]) -> None:
    """Bars that lack what others have more than 3602 s before the day and 121 s after it."""
    for day, hour in ((DAYS[0], 12), (DAYS[2], 12)):
        given = [row for (_, second), row in rows(lake, "bars").items() if second.date() == day]
        bare = {
            "second": at(f"{day} {hour}:00"),
            "mid": 1.0,
            "spread": 0.0,
            "spread_sum": Decimal(0),
            **dict.fromkeys(("tick_count", "imbalance_sum", "imbalance_count"), 0),
            **dict.fromkeys(("seconds_since_tick", "continuous_seconds"), 1),
        }
        more = [bare | {"product_id": product} for product in ("BTC-USD", "NEW-USD")]
        write_rows(lake, "bars", day, sorted([*given, *more], key=_in_order))


def _features_beyond_reach(lake: Lake, _: list[Tick]) -> None:
    """A row exactly 24 hours before the day, with a null where others have a number."""
    given = [row for (_, ts), row in rows(lake, "features").items() if ts.date() == DAYS[0]]
    old = [{"product_id": product, "ts": at("2026-04-04")} for product in ("BTC-USD", "NEW-USD")]
    write_rows(lake, "features", DAYS[0], sorted([*given, *old], key=_in_order))


def _in_order(row: Row) -> Key:
    return row["product_id"], row.get("second") or row["ts"]


@pytest.mark.parametrize(
    ("stage", "add"),
    [
        ("bars", _ticks_beyond_reach),
        ("features", _bars_beyond_reach),
        ("labels", _bars_beyond_reach),
        ("labels", _features_beyond_reach),
    ],
    ids=["bars", "features", "labels_by_bars", "labels_by_features"],
)
def test_what_lies_beyond_the_reach_leaves_no_trace_in_the_bytes(
    built: Lake,
    ticks: list[Tick],
    tmp_path: Path,
    stage: str,
    add: Callable[[Lake, list[Tick]], None],
) -> None:
    shutil.copytree(built.root, tmp_path, dirs_exist_ok=True)
    lake = Lake(tmp_path)
    add(lake, ticks)
    warehouse = Warehouse(lake, threads=1)
    assert not warehouse.is_current(stage, DAYS[1])
    record = warehouse.build(stage, DAYS[1])
    assert record["made_from"] != built.record(stage, DAYS[1])["made_from"]
    assert lake.file(stage, DAYS[1]).read_bytes() == built.file(stage, DAYS[1]).read_bytes()


def test_a_sum_that_began_long_ago_leaves_no_trace_in_a_window(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    many = 9_000_000_000_000_001  # as nine thousand ticks of one second add up to
    bars = [
        {
            "product_id": "BTC-USD",
            "second": MIDNIGHT + number * SECOND,
            "mid": 85_000.01 if number % 7 else 91_000.5,
            "spread": 0.01,
            "tick_count": 10_000,
            "spread_sum": Decimal(100),
            "imbalance_sum": many if number < 3000 else 1,
            "imbalance_count": 10_000,
            "volume": Decimal(10**20 if number < 3000 else 1),
            "seconds_since_tick": 0,
            "continuous_seconds": number + 1,
        }
        for number in range(3600)
    ]
    write_rows(lake, "bars", DAYS[1], bars)
    Warehouse(lake, threads=1).build("features", DAYS[1])
    last = rows(lake, "features")["BTC-USD", MIDNIGHT + 3600 * SECOND]
    for w in (30, 60, 300):
        assert last[f"order_book_imbalance_{w}s"] == 1 / 10_000 / 1e12
        assert last[f"volume_velocity_{w}s"] == w
    first = MIDNIGHT + 3599 * SECOND
    assert between(lake, "features", first, first + 2 * SECOND) == {
        key: row for key, row in rows(lake, "features").items() if key[1] >= first
    }


# ---------------------------------------------------------------------------------- the future


def cut_instants() -> st.SearchStrategy[datetime]:
    """Instants of every kind: midnight and around it, whole seconds, just off a tick, anywhere."""
    moments = sorted({one.event_time for one in market()})
    near = st.sampled_from(
        [timedelta(0), timedelta(microseconds=1), -timedelta(microseconds=1), SECOND, -SECOND]
    )
    starts = st.sampled_from([MIDNIGHT, MIDNIGHT + DAY, *moments])
    whole = st.sampled_from(moments).map(lambda moment: moment.replace(microsecond=0))
    around = st.integers(-90 * 10**6, 90 * 10**6).map(
        lambda micros: MIDNIGHT + timedelta(microseconds=micros)
    )
    return st.one_of(
        st.sampled_from([MIDNIGHT, MIDNIGHT + DAY]),
        around,
        st.builds(lambda moment, more: moment + more, starts, near),
        st.builds(lambda moment, more: moment + more, whole, near),
    )


@settings(SLOW, max_examples=10)
@given(end=cut_instants())
def test_without_the_future_no_past_row_changes_or_is_lost(
    built_rows: dict[str, dict[Key, Row]],
    ticks: list[Tick],
    tmp_path_factory: pytest.TempPathFactory,
    end: datetime,
) -> None:
    known = [one for one in ticks if one.event_time < end]
    cut = built_lake(tmp_path_factory.mktemp("cut"), known)

    def until(last: datetime, stage: str) -> tuple[dict[Key, Row], dict[Key, Row]]:
        ours, theirs = rows(cut, stage), built_rows[stage]
        return (
            {key: row for key, row in ours.items() if key[1] <= last},
            {key: row for key, row in theirs.items() if key[1] <= last},
        )

    ours, theirs = until(end - SECOND, "bars")
    assert ours == theirs
    ours, theirs = until(end, "features")
    assert ours == theirs
    ours, theirs = until(end, "labels")
    assert _columns(ours, "trailing_threshold") == _columns(theirs, "trailing_threshold")
    for (product, ts), row in theirs.items():
        future = ours[product, ts]["future_volatility_60s"]
        if ts <= end - 60 * SECOND and future != row["future_volatility_60s"]:
            # Not known yet: the tick that vouches for the last second is still to come.
            assert future is None
            last = max(one.event_time for one in known if one.product_id == product)
            assert last < ts + 59 * SECOND


def _columns(found: dict[Key, Row], name: str) -> dict[Key, Any]:
    return {key: row[name] for key, row in found.items()}


def test_the_future_of_a_row_is_the_past_of_the_row_a_minute_later(built: Lake) -> None:
    _assert_futures_become_pasts(built, at_least=4000)


@settings(SLOW, max_examples=4)
@given(seed=st.integers(0, 2**32), step=st.sampled_from((0.3, 2, 15)))
def test_the_future_of_any_row_is_the_past_of_the_row_a_minute_later(
    tmp_path_factory: pytest.TempPathFactory, seed: int, step: float
) -> None:
    ticks = walk("2026-04-04 23:50:00", 1300, seed=seed, step=step)
    dropped = random.Random(seed).randrange(len(ticks))
    silent = [
        one
        for one in ticks
        if abs(one.event_time - ticks[dropped].event_time) > timedelta(seconds=seed % 25)
    ]
    _assert_futures_become_pasts(built_lake(tmp_path_factory.mktemp("any"), silent), at_least=1)


def _assert_futures_become_pasts(lake: Lake, *, at_least: int) -> None:
    features, labels = rows(lake, "features"), rows(lake, "labels")
    assert features.keys() == labels.keys()
    compared = 0
    for (product, ts), row in labels.items():
        future = row["future_volatility_60s"]
        later = features.get((product, ts + timedelta(seconds=60)))
        if later is None:
            assert future is None, (product, ts)
        elif future is not None:
            assert future == later["realized_volatility_60s"], (product, ts)
            compared += 1
    assert compared >= at_least


def test_known_futures_are_missing_only_at_the_quiet_ends_of_runs(built: Lake) -> None:
    features, labels = rows(built, "features"), rows(built, "labels")
    unknown = _quiet(labels, features)
    ends = [key for key in features if (key[0], key[1] + SECOND) not in features]
    assert len(unknown) <= len(ends) * 30
    assert all(
        any(key[0] == product and key[1] < ts <= key[1] + 91 * SECOND for product, ts in ends)
        for key in unknown
    )


def _quiet(labels: dict[Key, Row], features: dict[Key, Row]) -> Sequence[Key]:
    """Rows with a row a minute later whose future is unknown all the same."""
    return [
        (product, ts)
        for (product, ts), row in labels.items()
        if row["future_volatility_60s"] is None
        and (product, ts + timedelta(seconds=60)) in features
    ]


def test_a_later_tick_may_only_turn_an_unknown_future_into_a_known_one(tmp_path: Path) -> None:
    before = walk("2026-04-04 23:50:00", 596, seed=3)
    after = tick(at("2026-04-05 00:00:05.5"))
    short, long = Lake(tmp_path / "short"), Lake(tmp_path / "long")
    for lake, ticks in ((short, before), (long, [*before, after])):
        write_ticks(lake, ticks)
        build(Warehouse(lake, threads=1))
    known = _columns(rows(short, "labels"), "future_volatility_60s")
    more = _columns(rows(long, "labels"), "future_volatility_60s")
    turned = {ts: more[product, ts] for (product, ts), value in known.items() if value is None}
    assert all(more[key] == value for key, value in known.items() if value is not None)
    found = [ts for ts, value in turned.items() if value is not None]
    # The last tick stood in 23:59:55; now the one of 00:00:05 vouches for the bars in between.
    assert found[0] == at("2026-04-04 23:58:57")
    assert found[-1] == at("2026-04-04 23:59:06")
