"""Lakes made straight from ticks, for tests of the stages behind them: bars, features, labels.

What belongs here: ticks that need no drawing, writing them as partitions, building what they
reach, and reading tables back. What does not: making raw lines, and what any value ought to be.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from volatility_pipeline.domain.reach import affected
from volatility_pipeline.domain.schemas import TABLES
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import TIME_COLUMNS, Warehouse, connect, write_parquet
from volatility_pipeline_tests.oracle import Tick, total_order

BUILT = ("bars", "features", "labels")
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
}
Row = dict[str, Any]
Key = tuple[str, datetime]


class Ticks(list[Tick]):
    """Ticks that hypothesis can print: a line each, the first fifty of them."""

    def __repr__(self) -> str:
        shown = [
            f"{one.event_time} {one.sequence} {one.segment}:{one.line}:{one.item} "
            f"{one.best_bid}/{one.best_ask} {one.bid_size}/{one.ask_size} {one.last_size}"
            for one in self[:50]
        ]
        return "\n".join([f"{len(self)} ticks:", *shown])


def at(text: str) -> datetime:
    """A time like `2026-04-04 12:00:00.5`, UTC without a zone, as everywhere."""
    return datetime.fromisoformat(text)


def tick(time: datetime | str, bid: str | int = "99", ask: str | int = "101", **more: Any) -> Tick:
    """One tick; without more said it is of BTC-USD and has neither sizes nor a sequence."""
    plain = Tick(
        product_id="BTC-USD",
        event_time=at(time) if isinstance(time, str) else time,
        sequence=None,
        segment="a",
        line=1,
        item=0,
        best_bid=Decimal(bid),
        best_ask=Decimal(ask),
        bid_size=None,
        ask_size=None,
        last_size=None,
    )
    return replace(plain, **more)


def walk(
    start: datetime | str,
    seconds: int,
    *,
    seed: int = 0,
    step: float = 1.0,
    product_id: str = "BTC-USD",
    is_sized: bool = True,
) -> list[Tick]:
    """A market's walk for so many seconds: a tick about every `step` seconds, in total order."""
    rng = random.Random(seed)
    time = at(start) if isinstance(start, str) else start
    end = time + timedelta(seconds=seconds)
    cents = 8_500_000
    made: list[Tick] = []
    while time < end:
        cents += rng.choice((-700, -50, 0, 0, 50, 700))
        sizes = [Decimal(rng.randint(1, 10**9)).scaleb(-8) if is_sized else None for _ in range(3)]
        made.append(
            tick(
                time,
                str(Decimal(cents).scaleb(-2)),
                str(Decimal(cents + rng.choice((1, 1, 1, 40))).scaleb(-2)),
                product_id=product_id,
                sequence=len(made),
                line=len(made) + 1,
                bid_size=sizes[0],
                ask_size=sizes[1],
                last_size=sizes[2],
            )
        )
        time += timedelta(microseconds=round(2e6 * step * rng.random()))
    return made


def write_ticks(lake: Lake, ticks: Iterable[Tick], *, is_sorted: bool = True) -> list[date]:
    """Writes a partition of ticks for each of their days and returns those days.

    Without `is_sorted` the rows lie in the order in which the ticks are given.
    """
    by_day: dict[date, list[Tick]] = {}
    for one in ticks:
        by_day.setdefault(one.event_time.date(), []).append(one)
    for day, chosen in by_day.items():
        if is_sorted:
            chosen.sort(key=lambda one: (one.product_id, total_order(one)))
        write_rows(lake, "ticks", day, [_tick_row(one) for one in chosen])
    return sorted(by_day)


def write_rows(lake: Lake, stage: str, day: date, rows: Sequence[Row]) -> None:
    """Writes a partition of rows as they are; none empties it. Missing columns become null."""
    table = TABLES[stage]
    columns = {
        column.name: pa.array([row.get(column.name) for row in rows], ARROW_TYPES.get(column.type))
        for column in table.columns
    }
    select = ", ".join(
        f'"{column.name}"::{column.type} as "{column.name}"' for column in table.columns
    )

    def write(path: Path) -> int:
        if not rows:
            return 0
        with connect(1) as connection:
            connection.register("given", pa.table(columns))
            return write_parquet(connection, table, f"select {select} from given", {}, path)

    lake.write_partition(stage, day, write, {"given": len(rows)})


def _tick_row(one: Tick) -> Row:
    row = vars(one) | {"price": one.best_bid}
    return {
        name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()
    }


def reached(lake: Lake) -> list[tuple[str, date]]:
    """The (stage, day) pairs behind the ticks that are or once were there, in build order."""
    days = {day for stage in ("ticks", *BUILT) for day in lake.days(stage)}
    pairs = affected(("ticks", day) for day in days)
    return sorted(
        (pair for pair in pairs if pair[0] in BUILT),
        key=lambda pair: (BUILT.index(pair[0]), pair[1]),
    )


def build(
    warehouse: Warehouse,
    *,
    stages: Sequence[str] = BUILT,
    in_order: Callable[[list[date]], list[date]] = sorted,
) -> list[tuple[str, date]]:
    """Builds what is stale, day by day within a stage, and returns what was made."""
    made = []
    for stage in stages:
        days = [day for name, day in reached(warehouse.lake) if name == stage]
        for day in in_order(days):
            if not warehouse.is_current(stage, day):
                warehouse.build(stage, day)
                made.append((stage, day))
    return made


def built_lake(root: Path, ticks: Iterable[Tick], *, max_gap_seconds: int = 30) -> Lake:
    """A lake with these ticks and all that is made from them."""
    lake = Lake(root)
    write_ticks(lake, ticks)
    build(Warehouse(lake, max_gap_seconds, threads=1))
    return lake


def build_all(lake: Lake) -> None:
    """Builds all days, from the raw lines to the labels."""
    warehouse = Warehouse(lake, threads=1)
    ingest = Ingest(lake, warehouse)
    for day in lake.raw_days():
        ingest.write_manifest(day)
        ingest.build_ticks(day)
    build(warehouse)


def rows(lake: Lake, stage: str) -> dict[Key, Row]:
    """All rows of a data stage by product and time."""
    found: dict[Key, Row] = {}
    for path in lake.files(stage):
        for row in pq.ParquetFile(path).read().to_pylist():
            found[row["product_id"], row[TIME_COLUMNS[stage]]] = row
    return found


def contents(lake: Lake, stages: Sequence[str] = BUILT) -> dict[str, bytes]:
    """The bytes of every partition, by its name under the data root."""
    return {
        str(path.relative_to(lake.root)): path.read_bytes()
        for stage in stages
        for path in lake.files(stage)
    }
