"""The SQL of bars, features and labels, and their checks, on rows small enough to work out by hand.

Each stage: nothing, one row, ties, gaps at their edge, boundary instants, midnight, missing sizes,
two products. Then prices at the far ends of what ticks may hold, and SQL that yields other columns.
"""

import math
import shutil
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from volatility_pipeline.domain.schemas import BARS, LABELS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse, connect, write_parquet
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.tick_lake import (
    BUILT,
    DAY,
    SECOND,
    Row,
    at,
    build,
    built_lake,
    rows,
    tick,
    walk,
    write_rows,
    write_ticks,
)

TODAY = date(2026, 4, 4)
NOON = at("2026-04-04 12:00")
MIDNIGHT = at("2026-04-05 00:00")
BTC, ETH = "BTC-USD", "ETH-USD"


def bars_of(lake: Lake, *ticks: Tick, max_gap_seconds: int = 30) -> list[Row]:
    """All bars made from some ticks, in order."""
    write_ticks(lake, ticks)
    build(Warehouse(lake, max_gap_seconds, threads=1), stages=["bars"])
    return list(rows(lake, "bars").values())


def columns(found: list[Row], *names: str) -> list[Any]:
    """Of each row one value, or a tuple of them."""
    if len(names) == 1:
        return [row[names[0]] for row in found]
    return [tuple(row[name] for name in names) for row in found]


def sized(bid_size: float | None, ask_size: float | None) -> dict[str, Any]:
    """The sizes of a tick."""
    return {"bid_size": bid_size, "ask_size": ask_size}


# ----------------------------------------------------------------------------------------- bars


def test_no_ticks_make_no_file_and_a_record_of_nothing(lake: Lake) -> None:
    warehouse = Warehouse(lake, threads=1)
    for stage in BUILT:
        record = warehouse.build(stage, TODAY)
        assert (record["rows"], record["bytes"], record["sha256"]) == (0, None, None)
        assert not lake.file(stage, TODAY).exists()
        assert warehouse.is_current(stage, TODAY)


def test_one_tick_makes_one_full_bar_and_29_carried_ones(lake: Lake) -> None:
    one = tick(NOON, "99.5", "100", **sized(1, 3), last_size=0.25)
    made = bars_of(lake, one)
    assert made[0] == {
        "product_id": BTC,
        "second": NOON,
        "mid": 99.75,
        "spread": 0.5,
        "microprice": 99.625,
        "tick_count": 1,
        "spread_sum": Decimal("0.5"),
        "imbalance_sum": 250_000_000_000,
        "imbalance_count": 1,
        "volume": Decimal("0.25"),
        "seconds_since_tick": 0,
        "continuous_seconds": 1,
    }
    assert made[29] == {
        "product_id": BTC,
        "second": NOON + 29 * SECOND,
        "mid": 99.75,
        "spread": 0.5,
        "microprice": 99.625,
        "tick_count": 0,
        "spread_sum": 0,
        "imbalance_sum": 0,
        "imbalance_count": 0,
        "volume": None,
        "seconds_since_tick": 29,
        "continuous_seconds": 30,
    }
    assert len(made) == 30


def test_of_a_tie_the_last_in_total_order_stands_nulls_after_every_sequence(lake: Lake) -> None:
    in_order = [
        tick(NOON, 10, 12, sequence=8, segment="c", line=9, item=9),
        tick(NOON, 20, 22, sequence=9, segment="a", line=1),
        tick(NOON, 30, 32, segment="a", line=1),
        tick(NOON, 40, 42, segment="b", line=1, item=7),
        tick(NOON, 50, 52, segment="b", line=10, item=0),
        tick(NOON, 60, 62, segment="b", line=10, item=1),
    ]
    mids = []
    for count in range(1, 7):
        made = bars_of(lake, *in_order[:count])
        assert made[0]["tick_count"] == count
        mids.append(made[0]["mid"])
    assert mids == [11, 21, 31, 41, 51, 61]


def test_time_comes_before_sequence_within_a_second(lake: Lake) -> None:
    made = bars_of(
        lake,
        tick(NOON, 10, 20, sequence=9, **sized(1, 1)),
        tick(NOON + SECOND / 4, 20, 30, sequence=8, **sized(1, 1)),
        tick(NOON + SECOND / 2, 30, 40, sequence=7),
    )
    assert columns(made[:1], "mid", "microprice", "tick_count") == [(35, 25, 3)]


def test_the_newest_sized_tick_of_a_tie_is_the_last_in_total_order_with_sizes(lake: Lake) -> None:
    made = bars_of(
        lake,
        tick(NOON, 10, 20, sequence=1, **sized(1, 1)),
        tick(NOON, 20, 30, sequence=2, **sized(1, 4)),
        tick(NOON, 30, 40, sequence=3, **sized(None, 4)),
        tick(NOON, 40, 50, sequence=4, **sized(0, 0)),
    )
    assert columns(made[:1], "mid", "microprice", "imbalance_sum", "imbalance_count") == [
        (45, 22, 700_000_000_000, 2)
    ]


@pytest.mark.parametrize("max_gap_seconds", [1, 30, 60, 3600])
def test_ticks_exactly_the_gap_apart_are_one_run(lake: Lake, max_gap_seconds: int) -> None:
    gap = timedelta(seconds=max_gap_seconds)
    made = bars_of(lake, tick(NOON), tick(NOON + gap), max_gap_seconds=max_gap_seconds)
    counted = [min(number, 3601) for number in range(1, 2 * max_gap_seconds + 1)]
    assert columns(made, "continuous_seconds") == counted


@pytest.mark.parametrize("max_gap_seconds", [1, 30, 60, 3600])
def test_one_microsecond_more_ends_the_run_though_the_seconds_adjoin(
    lake: Lake, max_gap_seconds: int
) -> None:
    gap = timedelta(seconds=max_gap_seconds, microseconds=1)
    made = bars_of(lake, tick(NOON), tick(NOON + gap), max_gap_seconds=max_gap_seconds)
    seconds = [row["second"] for row in made]
    assert seconds == [NOON + number * SECOND for number in range(2 * max_gap_seconds)]
    once = list(range(1, max_gap_seconds + 1))
    assert columns(made, "continuous_seconds") == [*once, *once]


def test_the_last_microsecond_of_a_second_belongs_to_it_and_the_next_to_the_next(
    lake: Lake,
) -> None:
    made = bars_of(
        lake, tick("2026-04-04 12:00:00.999999", 9, 11), tick("2026-04-04 12:00:01", 19, 21)
    )
    assert columns(made[:3], "second", "mid", "tick_count", "seconds_since_tick") == [
        (NOON, 10, 1, 0),
        (NOON + SECOND, 20, 1, 0),
        (NOON + 2 * SECOND, 20, 0, 1),
    ]


def test_a_tick_before_midnight_is_carried_into_a_day_without_ticks(lake: Lake) -> None:
    made = bars_of(lake, tick("2026-04-04 23:59:58.5"))
    assert lake.days("ticks") == [TODAY]
    assert [path.name for path in lake.files("bars")] == [
        "date=2026-04-04.parquet",
        "date=2026-04-05.parquet",
    ]
    assert made[2]["second"] == MIDNIGHT
    assert columns(made, "continuous_seconds") == list(range(1, 31))
    assert columns(made, "seconds_since_tick") == list(range(30))


def test_a_run_is_counted_over_midnight_and_up_to_3601(lake: Lake) -> None:
    start = at("2026-04-04 22:59:00")
    ticks = [tick(start + number * 30 * SECOND) for number in range(124)]
    made = bars_of(lake, *ticks)
    counted = {row["second"]: row["continuous_seconds"] for row in made}
    assert counted[MIDNIGHT - 61 * SECOND] == 3600
    assert counted[MIDNIGHT - 60 * SECOND] == 3601
    assert counted[MIDNIGHT - SECOND] == counted[MIDNIGHT] == counted[max(counted)] == 3601
    assert len(counted) == 3720


def test_without_sizes_there_is_no_microprice_and_nothing_to_sum(lake: Lake) -> None:
    for sizes in (sized(None, None), sized(0, 0), sized(None, 1), sized(1, None)):
        made = bars_of(lake, tick(NOON, **sizes), tick(NOON + SECOND, **sizes))
        assert {
            (row["microprice"], row["imbalance_sum"], row["imbalance_count"]) for row in made
        } == {(None, 0, 0)}


def test_one_empty_side_is_a_size_like_any_other(lake: Lake) -> None:
    made = bars_of(lake, tick(NOON, **sized(0, 5)), tick(NOON, line=2, **sized(5, 0)))
    assert columns(made[:1], "imbalance_sum", "imbalance_count", "microprice") == [
        (1_000_000_000_000, 2, 101)
    ]


def test_the_microprice_outlives_unsized_ticks_until_it_is_older_than_the_gap(lake: Lake) -> None:
    ticks = [tick(NOON + number * SECOND, 10, 20) for number in range(40)]
    ticks[0] = tick(NOON + timedelta(microseconds=1), 10, 20, **sized(1, 4))
    made = bars_of(lake, *ticks)
    # At the end of bar 29 it is 29.999999 s old, at that of bar 30 a second more.
    assert columns(made, "microprice") == [12.0] * 30 + [None] * 39


def test_the_microprice_exactly_the_gap_old_still_counts(lake: Lake) -> None:
    ticks = [tick(NOON + number * SECOND, 10, 20) for number in range(40)]
    ticks[0] = tick(NOON, 10, 20, **sized(1, 4))
    made = bars_of(lake, *ticks)
    assert columns(made, "microprice") == [12.0] * 30 + [None] * 39


def test_a_new_run_knows_no_sizes_of_the_old_one(lake: Lake) -> None:
    late = timedelta(seconds=30, microseconds=1)
    made = bars_of(lake, tick(NOON + SECOND / 2, **sized(1, 1)), tick(NOON + SECOND / 2 + late))
    assert columns(made[29:32], "microprice", "continuous_seconds") == [
        (100, 30),
        (None, 1),
        (None, 2),
    ]


def test_volume_is_null_without_a_size_traded_and_zero_where_zero_was_traded(lake: Lake) -> None:
    made = bars_of(
        lake,
        tick(NOON),
        tick(NOON + SECOND, last_size=0),
        tick(NOON + 2 * SECOND, last_size=0.1),
        tick(NOON + 2 * SECOND, last_size=0.2),
        tick(NOON + 2 * SECOND),
    )
    assert columns(made[:4], "volume") == [None, Decimal(0), Decimal("0.3"), None]


def test_one_products_silence_takes_nothing_from_the_others_ticks(lake: Lake) -> None:
    busy = [tick(NOON + number * SECOND, 9, 11, product_id=ETH) for number in range(100)]
    made = bars_of(lake, tick(NOON), tick(NOON + 90 * SECOND), *busy)
    quiet = [row for row in made if row["product_id"] == BTC]
    assert columns(quiet, "second") == [
        NOON + number * SECOND for number in [*range(30), *range(90, 120)]
    ]
    assert columns(quiet[30:31], "mid", "continuous_seconds", "tick_count") == [(100, 1, 1)]
    others = [row for row in made if row["product_id"] == ETH]
    assert columns(others, "continuous_seconds") == list(range(1, 130))
    assert set(columns(others, "mid")) == {10}


# ------------------------------------------------------------------------------------- features


def bar(second: datetime, number: int, **more: Any) -> Row:
    """The bar that is `number` in its run, with one tick unless more is said."""
    return {
        "product_id": BTC,
        "second": second,
        "mid": 100.0,
        "spread": 1.0,
        "tick_count": 1,
        "spread_sum": Decimal("1.0000000000"),
        "imbalance_sum": 0,
        "imbalance_count": 0,
        "seconds_since_tick": 0,
        "continuous_seconds": min(number, 3601),
    } | more


def run(first: datetime, count: int, **more: Any) -> list[Row]:
    """Adjoining bars of one run, all alike."""
    return [bar(first + number * SECOND, number + 1, **more) for number in range(count)]


def write_bars(lake: Lake, *bars: Row) -> None:
    """Writes bars as partitions of their days."""
    for day in {row["second"].date() for row in bars}:
        chosen = [row for row in bars if row["second"].date() == day]
        chosen.sort(key=lambda row: (row["product_id"], row["second"]))
        write_rows(lake, "bars", day, chosen)


def features_of(lake: Lake, *bars: Row, days: tuple[date, ...] = (TODAY,)) -> list[Row]:
    """The feature rows of some days, made from these bars."""
    write_bars(lake, *bars)
    for day in days:
        Warehouse(lake, threads=1).build("features", day)
    return list(rows(lake, "features").values())


def test_300_bars_make_no_feature_row(lake: Lake) -> None:
    assert features_of(lake, *run(NOON, 300)) == []
    assert not lake.file("features", TODAY).exists()


def test_301_bars_make_one_row_complete_with_the_last_of_them(lake: Lake) -> None:
    bars = run(NOON, 301, imbalance_sum=600_000_000_000, imbalance_count=1, volume=Decimal("0.5"))
    bars[270] |= {"mid": 110.0}  # up and down again: two returns of the last 60 and of the last 300
    bars[300] |= {"spread": 2.0, "microprice": 100.01, "seconds_since_tick": 0, "tick_count": 3}
    bars[300] |= {"spread_sum": Decimal("5.0000000000"), "mid": 101.0}
    (row,) = features_of(lake, *bars)
    assert (row["product_id"], row["ts"]) == (BTC, NOON + 301 * SECOND)

    up, last = math.log(1.1), math.log(1.01)

    def deviation(seconds: int, *returns: float) -> float:
        squares = seconds * sum(value**2 for value in returns) - sum(returns) ** 2
        return math.sqrt(squares / (seconds * (seconds - 1)))

    seconds_of_day = 12 * 3600 + 301
    assert row == {
        "product_id": BTC,
        "ts": NOON + 301 * SECOND,
        "log_return_30s": pytest.approx(math.log(101 / 110), rel=1e-14),
        "realized_volatility_30s": pytest.approx(deviation(30, -up, last), rel=1e-12),
        "price_velocity_30s": pytest.approx(11 / 30, rel=1e-15),
        "spread_mean_30s": pytest.approx(34 / 32, rel=1e-15),
        "order_book_imbalance_30s": pytest.approx(0.6, rel=1e-15),
        "trade_intensity_30s": 32,
        "volume_velocity_30s": 15.0,
        "log_return_60s": pytest.approx(last, rel=1e-14),
        "realized_volatility_60s": pytest.approx(deviation(60, up, -up, last), rel=1e-12),
        "price_velocity_60s": pytest.approx(21 / 60, rel=1e-15),
        "spread_mean_60s": pytest.approx(64 / 62, rel=1e-15),
        "order_book_imbalance_60s": pytest.approx(0.6, rel=1e-15),
        "trade_intensity_60s": 62,
        "volume_velocity_60s": 30.0,
        "log_return_300s": pytest.approx(last, rel=1e-14),
        "realized_volatility_300s": pytest.approx(deviation(300, up, -up, last), rel=1e-12),
        "price_velocity_300s": pytest.approx(21 / 300, rel=1e-15),
        "spread_mean_300s": pytest.approx(304 / 302, rel=1e-15),
        "order_book_imbalance_300s": pytest.approx(0.6, rel=1e-15),
        "trade_intensity_300s": 302,
        "volume_velocity_300s": 150.0,
        "mid": 101.0,
        "realized_volatility_900s": None,
        "realized_volatility_3600s": None,
        "spread_bps": pytest.approx(1e4 * 2 / 101, rel=1e-15),
        "microprice_gap_bps": pytest.approx(1e4 * (100.01 / 101 - 1), rel=1e-15),
        "seconds_since_tick": 0,
        "time_of_day_sin": pytest.approx(math.sin(2 * math.pi * seconds_of_day / 86400)),
        "time_of_day_cos": pytest.approx(math.cos(2 * math.pi * seconds_of_day / 86400)),
    }


def test_bars_of_two_runs_whose_seconds_adjoin_make_no_row(lake: Lake) -> None:
    assert features_of(lake, *run(NOON, 300), *run(NOON + 300 * SECOND, 300)) == []


def test_a_window_without_ticks_or_sizes_is_null_and_counts_no_ticks(lake: Lake) -> None:
    bars = run(NOON, 301)
    for number in range(240, 301):
        bars[number] |= {"tick_count": 0, "spread_sum": 0, "seconds_since_tick": number - 239}
    (row,) = features_of(lake, *bars)
    for w in (30, 60):
        assert row[f"trade_intensity_{w}s"] == 0
        assert row[f"spread_mean_{w}s"] is None
        assert row[f"realized_volatility_{w}s"] == row[f"price_velocity_{w}s"] == 0.0
    for w in (30, 60, 300):
        assert row[f"order_book_imbalance_{w}s"] is row[f"volume_velocity_{w}s"] is None
    assert (row["trade_intensity_300s"], row["spread_mean_300s"]) == (239, 1.0)
    assert (row["microprice_gap_bps"], row["seconds_since_tick"]) == (None, 61)


def test_a_volume_of_zero_is_no_missing_volume(lake: Lake) -> None:
    bars = run(NOON, 301)
    bars[1] |= {"volume": Decimal("0.0000000000")}
    (row,) = features_of(lake, *bars)
    assert columns([row], *(f"volume_velocity_{w}s" for w in (30, 60, 300))) == [(None, None, 0.0)]
    bars[0], bars[1] = bars[0] | {"volume": Decimal("7.0")}, bar(NOON + SECOND, 2)
    (row,) = features_of(lake, *bars)
    assert row["volume_velocity_300s"] is None  # bar 0 lends its mid alone


def test_longer_volatilities_are_null_until_the_run_is_that_long(lake: Lake) -> None:
    found = features_of(lake, *run(NOON, 3602))
    assert [row["ts"] for row in found] == [NOON + n * SECOND for n in range(301, 3603)]
    for name, seconds in (("realized_volatility_900s", 900), ("realized_volatility_3600s", 3600)):
        known = [row["ts"] for row in found if row[name] is not None]
        assert known[0] == NOON + (seconds + 1) * SECOND
        assert len(known) == 3602 - seconds
        assert {row[name] for row in found} == {None, 0.0}


def test_no_window_borrows_from_the_run_before_though_the_seconds_adjoin(lake: Lake) -> None:
    before = run(NOON - 4000 * SECOND, 4000, mid=50.0)
    found = features_of(lake, *before, *run(NOON, 3602))
    later = {row["ts"]: row for row in found if row["ts"] > NOON}
    assert min(later) == NOON + 301 * SECOND
    for name, seconds in (("realized_volatility_900s", 900), ("realized_volatility_3600s", 3600)):
        known = [ts for ts, row in later.items() if row[name] is not None]
        assert known[0] == NOON + (seconds + 1) * SECOND
        assert {row[name] for row in later.values()} == {None, 0.0}


def test_a_run_up_to_midnight_has_its_row_at_0_in_the_day_after(lake: Lake) -> None:
    tomorrow = TODAY + DAY
    found = features_of(lake, *run(MIDNIGHT - 301 * SECOND, 301), days=(TODAY, tomorrow))
    assert columns(found, "ts", "time_of_day_sin", "time_of_day_cos") == [(MIDNIGHT, 0.0, 1.0)]
    assert [path.name for path in lake.files("features")] == ["date=2026-04-05.parquet"]


def test_windows_reach_over_midnight(lake: Lake) -> None:
    bars = run(MIDNIGHT - 3601 * SECOND, 3602)
    bars[3600 - 3600] |= {"mid": 50.0}
    found = features_of(lake, *bars, days=(TODAY + DAY,))
    assert columns(found, "ts", "trade_intensity_300s") == [
        (MIDNIGHT, 300),
        (MIDNIGHT + SECOND, 300),
    ]
    assert found[0]["realized_volatility_3600s"] > 0  # the return into the second of 3601 bars
    assert found[1]["realized_volatility_3600s"] == 0.0


def test_an_absent_eve_is_empty_and_leaves_no_row_with_a_hole(lake: Lake) -> None:
    bars = run(MIDNIGHT - 3601 * SECOND, 4600, volume=Decimal(1))
    found = features_of(
        lake, *(row for row in bars if row["second"] >= MIDNIGHT), days=(TODAY + DAY,)
    )
    assert found[0]["ts"] == MIDNIGHT + 301 * SECOND
    assert {row["realized_volatility_3600s"] for row in found} == {None}
    assert {row["realized_volatility_900s"] for row in found} == {None, 0.0}
    windows = [name for name in found[0] if name.endswith(("_30s", "_60s", "_300s"))]
    given = [name for name in windows if not name.startswith("order_book")]
    assert all(row[name] is not None for row in found for name in given)


def test_one_products_windows_hold_nothing_of_the_other(lake: Lake) -> None:
    other = run(NOON - 77 * SECOND, 400, product_id=ETH, mid=7.0, tick_count=50)
    alone = features_of(lake, *run(NOON, 310))
    both = features_of(lake, *run(NOON, 310), *other)
    assert [row for row in both if row["product_id"] == BTC] == alone
    assert {row["mid"] for row in both if row["product_id"] == ETH} == {7.0}


# --------------------------------------------------------------------------------------- labels


def feature(ts: datetime, volatility: float | None = 1e-5, product_id: str = BTC) -> Row:
    """A feature row of which labels read all they read."""
    return {"product_id": product_id, "ts": ts, "realized_volatility_60s": volatility}


def labels_of(lake: Lake, features: list[Row], bars: list[Row], day: date = TODAY) -> list[Row]:
    """The label rows of a day, made from these features and bars."""
    write_bars(lake, *bars)
    for chosen in {row["ts"].date() for row in features}:
        write_rows(
            lake, "features", chosen, [row for row in features if row["ts"].date() == chosen]
        )
    Warehouse(lake, threads=1).build("labels", day)
    return list(rows(lake, "labels").values())


def futures(found: list[Row]) -> dict[int, float | None]:
    """The future volatilities by seconds after noon."""
    return {(row["ts"] - NOON) // SECOND: row["future_volatility_60s"] for row in found}


def test_a_label_takes_the_returns_into_the_60_bars_from_its_ts_on(lake: Lake) -> None:
    bars = run(NOON - SECOND, 64)
    bars[0] |= {"mid": 50.0}  # doubles into bar 0, halves again into bar 61
    bars[62] |= {"mid": 50.0}
    found = labels_of(lake, [feature(NOON + number * SECOND) for number in range(5)], bars)
    one = math.log(2) * math.sqrt((60 - 1) / (60 * 59))
    assert futures(found) == {
        0: pytest.approx(one, rel=1e-12),
        1: 0.0,
        2: pytest.approx(one, rel=1e-12),
        3: pytest.approx(math.log(2) * math.sqrt(2 / 59), rel=1e-12),
        4: None,
    }
    assert {row["trailing_threshold"] for row in found} == {None}


@pytest.mark.parametrize(
    ("ticks_from_the_end", "known"), [(0, 3), (1, 2), (5, 0)], ids=["at_the_end", "before", "long"]
)
def test_the_future_is_unknown_where_no_later_tick_vouches_for_it(
    lake: Lake, ticks_from_the_end: int, known: int
) -> None:
    bars = run(NOON - SECOND, 63)
    for row in bars[len(bars) - ticks_from_the_end :]:
        row |= {"tick_count": 0}
    found = labels_of(lake, [feature(NOON + number * SECOND) for number in range(4)], bars)
    assert [value is not None for value in futures(found).values()] == [
        number < known for number in range(4)
    ]


def test_a_later_tick_of_the_run_vouches_for_quiet_bars(lake: Lake) -> None:
    bars = run(NOON - SECOND, 91)
    for row in bars[30:-1]:
        row |= {"tick_count": 0}
    assert futures(labels_of(lake, [feature(NOON)], bars)) == {0: 0.0}


def test_a_tick_of_the_next_run_vouches_for_nothing_though_the_seconds_adjoin(lake: Lake) -> None:
    bars = run(NOON - SECOND, 63)
    for row in bars[50:]:
        row |= {"tick_count": 0}
    bars += run(NOON + 62 * SECOND, 10)
    found = labels_of(lake, [feature(NOON + number * SECOND) for number in range(3)], bars)
    assert futures(found) == {0: None, 1: None, 2: None}


@pytest.mark.parametrize("max_gap_seconds", [1, 30, 3600])
def test_the_vouching_tick_may_come_as_late_as_the_gap_allows(
    lake: Lake, max_gap_seconds: int
) -> None:
    last = MIDNIGHT + 58 * SECOND - timedelta(microseconds=1)
    vouching = last + timedelta(seconds=max_gap_seconds)
    ticks = [tick(MIDNIGHT + number * SECOND) for number in range(-400, 58)]
    write_ticks(lake, [*ticks, tick(last, line=2), tick(vouching)])
    build(Warehouse(lake, max_gap_seconds, threads=1))
    label = rows(lake, "labels")[BTC, MIDNIGHT - SECOND]
    assert label["future_volatility_60s"] == 0.0


def test_a_run_that_ends_within_the_horizon_or_at_its_start_leaves_it_unknown(lake: Lake) -> None:
    bars = [*run(NOON - 100 * SECOND, 100), *run(NOON, 120)]
    found = labels_of(lake, [feature(NOON + number * SECOND) for number in (-41, -40, 0, 1)], bars)
    # -60 s is the last row of the old run whose bars are all there; 0 lacks the mid before it.
    assert futures(found) == {-41: None, -40: None, 0: None, 1: 0.0}
    found = labels_of(lake, [feature(NOON + number * SECOND) for number in (-60, -59)], bars)
    assert futures(found) == {-60: 0.0, -59: None}


def test_a_horizon_over_midnight_reads_the_day_after_and_the_eve(lake: Lake) -> None:
    bars = run(MIDNIGHT - 400 * SECOND, 500)
    bars[430] |= {"mid": 50.0}
    features = [feature(MIDNIGHT + number * SECOND) for number in (-61, -1, 0)]
    found = labels_of(lake, features, bars)
    assert [row["ts"] for row in found] == [MIDNIGHT - 61 * SECOND, MIDNIGHT - SECOND]
    assert [row["future_volatility_60s"] > 0 for row in found] == [False, True]
    Warehouse(lake, threads=1).build("labels", TODAY + DAY)
    found = list(rows(lake, "labels").values())
    assert found[-1]["ts"] == MIDNIGHT
    assert found[-1]["future_volatility_60s"] == found[-2]["future_volatility_60s"]
    lake.file("bars", TODAY).unlink()  # the mid before midnight is gone
    Warehouse(lake, threads=1).build("labels", TODAY + DAY)
    assert list(rows(lake, "labels").values())[-1]["future_volatility_60s"] is None


def minutes(first: datetime, count: int) -> list[Row]:
    """Feature rows at `count` whole minutes from `first` on, of volatilities 1, 2, 3 and so on."""
    return [feature(first + number * 60 * SECOND, number + 1.0) for number in range(count)]


def thresholds(found: list[Row]) -> list[float | None]:
    return [row["trailing_threshold"] for row in found]


def test_sixty_whole_minutes_make_a_threshold_and_59_none(lake: Lake) -> None:
    found = labels_of(lake, minutes(NOON, 61), [])
    expected = [1 + 0.9 * 59, 1 + 0.9 * 60]
    assert thresholds(found) == [None] * 59 + [pytest.approx(value) for value in expected]


def test_rows_within_a_minute_share_its_threshold_and_their_volatility_counts_not(
    lake: Lake,
) -> None:
    last = NOON + 59 * 60 * SECOND
    between = [feature(last + number * SECOND, 1e9) for number in (-1, 1, 59)]
    found = labels_of(lake, sorted(minutes(NOON, 60) + between, key=lambda row: row["ts"]), [])
    assert thresholds(found[-4:]) == [None, *[pytest.approx(1 + 0.9 * 59)] * 3]


def test_null_volatilities_are_no_minutes_of_the_sixty(lake: Lake) -> None:
    features = minutes(NOON, 61)
    features[7] |= {"realized_volatility_60s": None}
    found = labels_of(lake, features, [])
    assert thresholds(found)[59] is None
    assert thresholds(found)[60] == pytest.approx(2 + 0.9 * 59)


def test_a_volatility_counts_until_it_is_24_hours_old(lake: Lake) -> None:
    today = at("2026-04-05 12:00")
    eve = minutes(NOON, 60)  # 1 at noon, 2 a minute later …
    later = [feature(today + number * SECOND, 1e9) for number in (-1, 0, 1, 59)]
    found = labels_of(lake, [*eve, *later], [], TODAY + DAY)
    # At 11:59:59 the sixty of the eve; from 12:00 on 59 of them and that of 12:00 itself.
    assert thresholds(found) == [
        pytest.approx(1 + 0.9 * 59),
        *[pytest.approx(2 + 0.9 * 59)] * 3,
    ]


def test_the_first_row_of_a_day_knows_the_whole_day_before(lake: Lake) -> None:
    eve = minutes(at("2026-04-04 00:00"), 60)
    found = labels_of(lake, [*eve, feature(MIDNIGHT, 1e9)], [], TODAY + DAY)
    # The volatility of 00:00 the day before is 24 hours old: 59 stay, and the row's own.
    assert thresholds(found) == [pytest.approx(2 + 0.9 * 59)]


def test_one_products_volatilities_make_no_threshold_for_the_other(lake: Lake) -> None:
    own = minutes(NOON, 60)
    other = [row | {"product_id": ETH, "realized_volatility_60s": 0.0} for row in own[:30]]
    found = labels_of(lake, [*own, *other], [])
    assert thresholds([row for row in found if row["product_id"] == ETH]) == [None] * 30
    assert found[59]["trailing_threshold"] == pytest.approx(1 + 0.9 * 59)


# --------------------------------------------------------------------------------------- splits


def test_split_rows_are_one_products_features_with_their_labels_in_time_order(lake: Lake) -> None:
    for stage in ("features", "labels"):
        for day in (TODAY, TODAY + DAY):
            noon = NOON + (day - TODAY)
            given = [
                feature(noon + number * SECOND, product_id=product)
                | {"future_volatility_60s": float(number)}
                for product in (BTC, ETH)
                for number in range(3)
            ]
            write_rows(lake, stage, day, given)
    table = Warehouse(lake, threads=1).labelled_rows(ETH)
    assert set(table["product_id"].to_pylist()) == {ETH}
    expected = [NOON + days * DAY + number * SECOND for days in (0, 1) for number in range(3)]
    assert table["ts"].to_pylist() == expected
    assert table["future_volatility_60s"].to_pylist() == [0.0, 1.0, 2.0] * 2
    assert Warehouse(lake, threads=1).labelled_rows("SOL-USD").num_rows == 0


# --------------------------------------------------------------------------------------- checks


@pytest.fixture(scope="module")
def built_around_midnight(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two products around midnight, one of them with a break at which seconds adjoin."""
    before = walk("2026-04-04 23:50", 700)
    quiet = before[-1].event_time + timedelta(seconds=30, microseconds=1)
    after = [tick(quiet + number * SECOND) for number in range(400)]
    other = walk("2026-04-04 23:53", 900, product_id=ETH, step=4)
    return built_lake(tmp_path_factory.mktemp("sound"), [*before, *after, *other])


@pytest.fixture
def sound_lake(built_around_midnight: Lake, tmp_path: Path) -> Lake:
    """A copy of it to tamper with."""
    shutil.copytree(built_around_midnight.root, tmp_path, dirs_exist_ok=True)
    return Lake(tmp_path)


def bad(lake: Lake, check: str, day: date) -> list[tuple[str, datetime]]:
    """The rows that a check finds at fault, given the days that the asset check gives it."""
    near = {
        "features_across_silence": {"features": [day], "bars": [day - DAY, day]},
        "labels_incomplete_horizon": {"labels": [day], "bars": [day, day + DAY]},
    }[check]
    return [
        (row["product_id"], row["ts"])
        for row in Warehouse(lake, threads=1).bad_days(check, near, day)
    ]


@pytest.mark.parametrize("check", ["features_across_silence", "labels_incomplete_horizon"])
def test_the_checks_find_nothing_in_sound_partitions(sound_lake: Lake, check: str) -> None:
    assert all(rows(sound_lake, stage) for stage in BUILT)
    for day in (TODAY, TODAY + DAY):
        assert sound_lake.record("labels", day)["rows"] > 0
        assert bad(sound_lake, check, day) == []


def test_features_across_a_silence_are_found_and_no_others(sound_lake: Lake) -> None:
    tomorrow = TODAY + DAY
    breaks = [
        second
        for (product, second), row in rows(sound_lake, "bars").items()
        if product == BTC and row["continuous_seconds"] == 1
    ]
    assert breaks[0] == at("2026-04-04 23:50")
    assert (BTC, breaks[1] - SECOND) in rows(sound_lake, "bars")  # the seconds adjoin
    sound = rows(sound_lake, "features")
    added = [
        (BTC, breaks[1] + SECOND),  # the first of a run
        (BTC, breaks[1] + 300 * SECOND),  # the last without its 301 bars
        (BTC, at("2026-04-05 20:00")),  # no bars at all
        (ETH, MIDNIGHT - 120 * SECOND),
        ("SOL-USD", MIDNIGHT + SECOND),
    ]
    assert (BTC, breaks[1] + 301 * SECOND) in sound
    assert not set(added) & set(sound)
    template = next(iter(sound.values()))
    tampered = sound | {key: template | {"product_id": key[0], "ts": key[1]} for key in added}
    for day in (TODAY, tomorrow):
        chosen = [row for (_, ts), row in sorted(tampered.items()) if ts.date() == day]
        write_rows(sound_lake, "features", day, chosen)
        assert bad(sound_lake, "features_across_silence", day) == sorted(
            key for key in added if key[1].date() == day
        )


def test_labels_of_an_incomplete_horizon_are_found_and_no_others(sound_lake: Lake) -> None:
    sound = rows(sound_lake, "labels")
    followed = {key for key, row in sound.items() if row["future_volatility_60s"] is not None}
    bars = rows(sound_lake, "bars")
    complete = {
        (product, ts)
        for product, ts in sound
        if bars.get((product, ts + 59 * SECOND), {"continuous_seconds": 0})["continuous_seconds"]
        > 60
    }
    assert followed < complete < set(sound)
    for day in (TODAY, TODAY + DAY):
        tampered = [
            row | {"future_volatility_60s": 1e-5}
            for (_, ts), row in sorted(sound.items())
            if ts.date() == day
        ]
        write_rows(sound_lake, "labels", day, tampered)
        found = bad(sound_lake, "labels_incomplete_horizon", day)
        assert found == sorted(
            (product, ts) for product, ts in set(sound) - complete if ts.date() == day
        )
    assert found  # the runs' last rows all lie in the day after


def test_a_bar_lost_from_a_partition_makes_its_rows_bad(sound_lake: Lake) -> None:
    lost = MIDNIGHT + 50 * SECOND
    kept = [
        row
        for (product, second), row in sorted(rows(sound_lake, "bars").items())
        if second >= MIDNIGHT and (product, second) != (ETH, lost)
    ]
    write_rows(sound_lake, "bars", TODAY + DAY, kept)
    found = bad(sound_lake, "features_across_silence", TODAY + DAY)
    assert found == [(ETH, lost + number * SECOND) for number in range(1, 302)]
    ahead = bad(sound_lake, "labels_incomplete_horizon", TODAY)
    assert ahead == [(ETH, lost - number * SECOND) for number in range(59, 50, -1)]


# ------------------------------------------------------------------------- the ends of the range


@pytest.mark.parametrize(
    ("low", "high"),
    [("1e-10", "1e17"), ("1e-10", "999999999999999999"), ("5e17", "999999999999999999")],
)
def test_prices_at_the_ends_of_their_range_give_finite_numbers_or_nulls(
    lake: Lake, low: str, high: str
) -> None:
    ticks = [
        tick(
            at("2026-04-04 22:57") + number * SECOND,
            low if number % 2 else high,
            high,
            sequence=number,
            **sized(*((1e17, 1e-10) if number % 3 else (0, 1e17))),
            last_size=1e17,
        )
        for number in range(3800)
    ]
    write_ticks(lake, ticks)
    build(Warehouse(lake, threads=1))
    for stage in BUILT:
        found = rows(lake, stage)
        assert len(found) >= 3500
        for key, row in found.items():
            wild = [name for name, value in row.items() if _is_wild(value)]
            assert wild == [], (stage, key)
    known = [row["realized_volatility_3600s"] for row in rows(lake, "features").values()]
    assert sum(value is not None for value in known) == 229
    assert any(row["future_volatility_60s"] for row in rows(lake, "labels").values())


def _is_wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def test_a_whole_day_of_the_wildest_moves_still_builds(lake: Lake) -> None:
    prices = (1e-10, 1e18)
    bars = run(at("2026-04-04"), 86_400)
    for number, row in enumerate(bars):
        row |= {"mid": prices[number % 2]}
    write_rows(lake, "bars", TODAY, bars)
    warehouse = Warehouse(lake, threads=1)
    assert warehouse.build("features", TODAY)["rows"] == 86_400 - 301
    assert warehouse.build("labels", TODAY)["rows"] == 86_400 - 301
    future = pq.ParquetFile(lake.file("labels", TODAY)).read()["future_volatility_60s"].to_pylist()
    assert None not in future[:-59]
    assert 43 < min(future[:-59]) <= max(future[:-59]) < 44  # e^43 a second is the most that counts


def test_a_price_that_stands_still_at_any_height_has_no_volatility(lake: Lake) -> None:
    for price in ("1e-10", "85000.01", "999999999999999999"):
        lake = Lake(lake.root / price)
        write_ticks(lake, [tick(NOON + number * SECOND, price, price) for number in range(1000)])
        build(Warehouse(lake, threads=1))
        names = [f"realized_volatility_{w}s" for w in (30, 60, 300, 900)]
        found = rows(lake, "features").values()
        assert {row[name] for row in found for name in names} == {0.0, None}
        assert {row["realized_volatility_60s"] for row in found} == {0.0}


# ----------------------------------------------------------------------------------- the writer


@pytest.mark.parametrize(
    "sql",
    [
        "select product_id, ts, future_volatility_60s from given",
        "select product_id, ts, trailing_threshold, future_volatility_60s from given",
        "select product_id, ts, future_volatility_60s::float as future_volatility_60s, "
        "trailing_threshold from given",
        "select product_id, ts, future_volatility_60s, trailing_threshold, 1 as more from given",
        "select product_id, ts, future_volatility_60s, trailing_threshold as threshold from given",
    ],
    ids=["missing", "out_of_order", "other_type", "one_more", "other_name"],
)
def test_sql_with_other_columns_than_the_tables_is_refused_and_writes_nothing(
    lake: Lake, sql: str
) -> None:
    def write(path: Path) -> int:
        with connect(1) as connection:
            connection.execute(f"create view given as {LABELS.empty_select()}")
            return write_parquet(connection, LABELS, sql, {}, path)

    with pytest.raises(TypeError, match="the SQL of labels yields"):
        lake.write_partition("labels", TODAY, write, {})
    assert [path.name for path in (lake.root / "labels").iterdir()] == []


def test_the_tables_own_columns_are_written_with_its_name_and_version(lake: Lake) -> None:
    path = lake.root / "it's bars.parquet"
    with connect(1) as connection:
        assert write_parquet(connection, BARS, BARS.empty_select(), {}, path) == 0
        kept = connection.execute(
            "select decode(key), decode(value) from parquet_kv_metadata(?)", [str(path)]
        ).fetchall()
    assert dict(kept) == {"table_name": "bars", "schema_version": str(BARS.version)}
