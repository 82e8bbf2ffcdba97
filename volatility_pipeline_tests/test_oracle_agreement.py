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
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.schemas import BARS, FEATURES, LABELS
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests import oracle
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.strategies import tick_lists
from volatility_pipeline_tests.tick_lake import DAY, Row, Ticks, at, build, rows, tick, walk, write_ticks

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


@settings(SLOW, max_examples=25)
@given(printed_ticks(max_span_seconds=1000), st.sampled_from((30, 30, 30, 60, 1)))
def test_made_up_ticks_give_what_the_oracle_gives(ticks: list[Tick], max_gap_seconds: int) -> None:
    assert_built_agreement(ticks, max_gap_seconds)
