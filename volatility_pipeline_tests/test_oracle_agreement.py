"""Bars, features and labels, built day by day in the lake, against the naive oracle.

The same rows exist, nulls stand in the same places, and every number agrees to 1e-9 of itself or
to 1e-14 (DESIGN §3 to §5, issue 2). `microprice_gap_bps` is a difference of two nearly equal
doubles and defined by them, so it is compared with the formula over the stored ones.
"""

import tempfile
from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.schemas import BARS, FEATURES, LABELS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests import oracle
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.strategies import tick_lists
from volatility_pipeline_tests.tick_lake import (
    Row,
    Ticks,
    at,
    build,
    build_all,
    rows,
    tick,
    walk,
    write_ticks,
)

RELATIVE, ABSOLUTE = 1e-9, 1e-14
SLOW = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def is_alike(ours: object, theirs: object) -> bool:
    """Whether two values are both null, or equal, or numbers near enough."""
    if isinstance(ours, int | float | Decimal) and isinstance(theirs, int | float | Decimal):
        difference = abs(float(ours) - float(theirs))
        return difference <= max(ABSOLUTE, RELATIVE * abs(float(theirs)))
    return ours == theirs


def assert_alike(stage: str, ours: dict[object, Row], theirs: dict[object, Row]) -> None:
    """The same rows, and in each the same values."""
    assert sorted(ours) == sorted(theirs), f"{stage}: other rows"
    apart = [
        (key, name, ours[key][name], value)
        for key, row in theirs.items()
        for name, value in row.items()
        if not is_alike(ours[key][name], value)
    ]
    assert apart == [], f"{stage}: {len(apart)} values apart"


def assert_agreement(lake: Lake, ticks: list[Tick], max_gap_seconds: int = 30) -> dict[str, int]:
    """Holds all that is in the lake against the oracle; returns how many rows were compared."""
    expected: dict[str, dict[object, Row]] = {"bars": {}, "features": {}, "labels": {}}
    by_product = defaultdict(list)
    for one in ticks:
        by_product[one.product_id].append(one)
    found = {stage: rows(lake, stage) for stage in expected}
    for product, own in by_product.items():
        last = max(one.event_time for one in own)
        until = oracle.second_of(last) + timedelta(seconds=max_gap_seconds + 2)
        bars = oracle.bars(own, max_gap_seconds, until=until)
        features = oracle.features(bars)
        labels = oracle.labels(features, bars, own)
        for bar in bars:
            expected["bars"][product, bar.second] = {
                column.name: getattr(bar, column.name) for column in BARS.columns
            }
        for ts, row in features.items():
            bar = found["bars"].get((product, ts - oracle.SECOND), {})
            if bar.get("microprice") is not None:
                row["microprice_gap_bps"] = 1e4 * (bar["microprice"] / bar["mid"] - 1)
            expected["features"][product, ts] = dict(row)
        for ts, label in labels.items():
            expected["labels"][product, ts] = dict(label)
    for stage, table in (("bars", BARS), ("features", FEATURES), ("labels", LABELS)):
        names = {column.name for column in table.columns}
        assert all(set(row) == names for row in found[stage].values())
        assert_alike(stage, found[stage], expected[stage])
    return {stage: len(found[stage]) for stage in found}


def assert_built_agreement(ticks: list[Tick], max_gap_seconds: int = 30) -> dict[str, int]:
    """Builds a lake from ticks, day by day, and holds it against the oracle."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        write_ticks(lake, ticks)
        build(Warehouse(lake, max_gap_seconds, threads=1))
        return assert_agreement(lake, ticks, max_gap_seconds)


@st.composite
def printed_ticks(draw: st.DrawFn, *, max_span_seconds: int) -> Ticks:
    """Lists of ticks that fit on a screen when they fail."""
    return Ticks(draw(tick_lists(max_span_seconds=max_span_seconds)))


@settings(SLOW, max_examples=14)
@given(printed_ticks(max_span_seconds=900), st.sampled_from((30, 30, 60, 1)))
def test_made_up_ticks_give_what_the_oracle_gives(ticks: Ticks, max_gap_seconds: int) -> None:
    assert_built_agreement(ticks, max_gap_seconds)


@settings(SLOW, max_examples=3)
@given(printed_ticks(max_span_seconds=900), st.integers(0, 2**16), st.integers(-600, 600))
def test_two_products_beside_each_other_give_what_each_gives_alone(
    ticks: Ticks, seed: int, shift: int
) -> None:
    start = oracle.second_of(ticks[0].event_time) + timedelta(seconds=shift)
    other = walk(start, 400, seed=seed, step=3, product_id="ETH-USD")
    assert_built_agreement([*ticks, *other])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_market_through_midnight_gives_a_threshold_after_an_hour(seed: int) -> None:
    ticks = walk("2026-04-04 22:55:17.3", 4000, seed=seed, step=5)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        assert write_ticks(lake, ticks) == [date(2026, 4, 4), date(2026, 4, 5)]
        build(Warehouse(lake, threads=1))
        assert_agreement(lake, ticks)
        known = [ts for (_, ts), row in rows(lake, "labels").items() if row["trailing_threshold"]]
    # The first row at a whole minute is that of 23:01, the sixtieth that of midnight.
    assert min(known) == at("2026-04-05 00:00:00")


def test_a_threshold_forgets_what_is_older_than_a_day() -> None:
    ticks = [
        one
        for piece in range(40)
        for one in walk(
            at("2026-04-04 03:00") + piece * timedelta(minutes=42), 420, seed=piece, step=7
        )
    ]
    counted = assert_built_agreement(ticks)
    assert counted["labels"] == counted["features"] > 4000


@pytest.mark.parametrize("max_gap_seconds", [1, 30, 60])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_ticks_the_gap_apart_give_what_the_oracle_gives(max_gap_seconds: int, more: int) -> None:
    gap = timedelta(seconds=max_gap_seconds, microseconds=more)
    start = at("2026-04-04 23:57:59.999999")
    before = [
        tick(start + number * min(gap, 5 * oracle.SECOND), str(99 + number % 3), sequence=number)
        for number in range(320 if max_gap_seconds == 1 else 70)
    ]
    after = [
        tick(before[-1].event_time + gap + number * oracle.SECOND, str(98 + number % 2))
        for number in range(330)
    ]
    assert_built_agreement([*before, *after], max_gap_seconds)


def test_the_real_recordings_give_what_the_oracle_gives(recordings: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for path in sorted(recordings.glob("*.ndjson")):
        import_file(lake, path, date(2025, 1, 1))
    build_all(lake)
    ticks = [stored for path in lake.files("ticks") for stored in _stored_ticks(path)]
    assert len(ticks) > 40_000
    counted = assert_agreement(lake, ticks)
    assert counted["labels"] == counted["features"] > 14_000
    future = [row["future_volatility_60s"] for row in rows(lake, "labels").values()]
    assert sum(value is not None for value in future) > 13_000


def _stored_ticks(path: Path) -> list[Tick]:
    """The ticks of a partition, with the decimals that their doubles were written as."""

    def exact(value: float | None) -> Decimal | None:
        return None if value is None else Decimal(repr(value))

    decimals = ("best_bid", "best_ask", "bid_size", "ask_size", "last_size")
    return [
        Tick(
            **{name: exact(row[name]) for name in decimals},
            **{name: row[name] for name in Tick.__annotations__ if name not in decimals},
        )
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
