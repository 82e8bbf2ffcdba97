"""Faults put into a feed: each is caught by the expectation that is meant for it, and by no other.

What belongs here: raw lines spoilt as feeds spoil them, and what all suites and SQL checks then
say. What does not: single expectations at their limits, which `test_quality.py` looks at.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from volatility_pipeline.domain.expectations import SUITES
from volatility_pipeline.domain.simulation import Market, simulate
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file
from volatility_pipeline.resources.quality import Quality
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.tick_lake import build_all

DAY = date(2026, 3, 1)
HOUR = timedelta(hours=1)
BTC, ETH = "BTC-USD", "ETH-USD"
Message = dict[str, Any]
Lines = list[Message]
Fault = Callable[[Lines], Lines]


def market(*, hours: int = 3, every: int = 8) -> Lines:
    """Some hours of two products from eleven o'clock on, every so many messages one."""
    start = datetime(2026, 3, 1, 11, tzinfo=UTC)
    found: Lines = []
    for _, chunk in simulate(Market((BTC, ETH), start, hours)):
        found += [json.loads(line) for line in chunk.splitlines()]
    return found[::every]


@pytest.fixture(scope="module")
def lines() -> Lines:
    return market()


def captured(lines: Lines) -> Lines:
    """The same as a recorder writes them: with its own clock, 80 ms late."""
    late = timedelta(milliseconds=80)
    return [
        {"received_at": stamp(time_of(line) + late), "raw": line, "source": "simulated"}
        for line in lines
    ]


def time_of(line: Message) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def stamp(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat() + "Z"


def is_at_noon(line: Message) -> bool:
    return time_of(line).hour == 12


def spoilt(line: Message, **changes: Any) -> Message:
    """A line with other values in its ticker."""
    event = line["events"][0]
    ticker = event["tickers"][0] | changes
    return line | {"events": [event | {"tickers": [ticker]}]}


def ticker(line: Message) -> Message:
    found: Message = line["events"][0]["tickers"][0]
    return found


def at_noon(change: Callable[[Message], Message]) -> Fault:
    """A fault of the hour from twelve to one o'clock."""
    return lambda lines: [change(line) if is_at_noon(line) else line for line in lines]


def renamed(line: Message, names: dict[str, str]) -> Message:
    name = ticker(line)["product_id"]
    return spoilt(line, product_id=names.get(name, name))


def shifted(line: Message, hours: int = 1) -> Message:
    return line | {"timestamp": stamp(time_of(line) + hours * HOUR)}


def recorded(fault: Fault) -> Fault:
    """A fault of the exchange's messages, which the recorder's clock has no part in."""
    return lambda lines: [
        outer | {"raw": inner} for outer, inner in zip(captured(lines), fault(lines), strict=True)
    ]


def ahead_for_good(lines: Lines) -> Lines:
    """The clock goes an hour ahead at noon and stays there."""
    return [line if time_of(line).hour < 12 else shifted(line) for line in lines]


def frozen(lines: Lines) -> Lines:
    still: dict[str, Message] = {}
    found = []
    for line in lines:
        own = ticker(line)
        if is_at_noon(line) and own["product_id"] == BTC:
            still = still or {name: own[name] for name in ("price", "best_bid", "best_ask")}
            found.append(spoilt(line, **still))
        else:
            found.append(line)
    return found


def times_100(line: Message) -> Message:
    if ticker(line)["product_id"] != ETH:
        return line
    prices = {
        name: str(100 * float(ticker(line)[name])) for name in ("price", "best_bid", "best_ask")
    }
    return spoilt(line, **prices)


def swapped_sides(line: Message) -> Message:
    own = ticker(line)
    return spoilt(line, best_bid=own["best_ask"], best_ask=own["best_bid"])


def with_copies(lines: Lines) -> Lines:
    """The other product's feed reaches the recorder twice, once under a wrong name."""
    found: Lines = []
    for line in lines:
        found.append(line)
        if is_at_noon(line) and ticker(line)["product_id"] == ETH:
            found.append(renamed(line, {ETH: BTC}))
    return found


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "none": (lambda lines: lines, set()),
    "none, with capture times": (captured, set()),
    "null sizes": (
        at_noon(lambda line: spoilt(line, best_bid_quantity=None)),
        {"ticks unsized_share"},
    ),
    "null prices": (
        at_noon(lambda line: spoilt(line, price=None)),
        {"quarantine bad_price_share"},
    ),
    "frozen price": (frozen, {"ticks frozen_minutes"}),
    "clock an hour ahead": (at_noon(shifted), {"ticks misclocked_share"}),
    "clock an hour behind": (
        at_noon(lambda line: shifted(line, -1)),
        {"ticks misclocked_share"},
    ),
    "clock an hour ahead of the recorder's": (
        recorded(at_noon(shifted)),
        {"ticks misclocked_share"},
    ),
    "clock ahead of the recorder's for good": (
        recorded(ahead_for_good),
        {"ticks misclocked_share"},
    ),
    "price times 100": (at_noon(times_100), {"ticks unit_changes"}),
    "missing hour": (
        lambda lines: [line for line in lines if not is_at_noon(line)],
        {"ticks silent_seconds"},
    ),
    "missing hour of one product": (
        lambda lines: [
            line for line in lines if not is_at_noon(line) or ticker(line)["product_id"] == BTC
        ],
        {"ticks silent_seconds"},
    ),
    "bid and ask swapped": (at_noon(swapped_sides), {"quarantine crossed_share"}),
    "one product under another's name": (
        at_noon(lambda line: renamed(line, {ETH: BTC})),
        {"ticks name_changes"},
    ),
    "one product under its own and another's name": (with_copies, {"ticks name_changes"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_its_own_expectation_alone(
    name: str, lines: Lines, tmp_path: Path
) -> None:
    fault, expected = FAULTS[name]
    lake = landed(tmp_path, fault(lines))
    assert caught(lake) == expected


def test_segment_that_landed_twice_is_caught_as_duplicates_alone(
    lines: Lines, tmp_path: Path
) -> None:
    lake = landed(tmp_path, lines, [line for line in lines if is_at_noon(line)])
    assert caught(lake) == {"quarantine duplicate_share"}


def test_real_recordings_are_in_order(recordings: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for path in sorted(recordings.glob("*.ndjson")):
        import_file(lake, path, date(2025, 1, 1))
    assert len(lake.raw_days()) == 6
    assert caught(lake) == set()


def landed(root: Path, *files: Lines) -> Lake:
    """A lake with raw segments of these lines."""
    lake = Lake(root)
    folder = lake.raw_folder(DAY)
    folder.mkdir(parents=True)
    for number, lines in enumerate(files):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"feed{number}.ndjson").write_text(text)
    return lake


def caught(lake: Lake) -> set[str]:
    """All that any suite or SQL check says of a lake once it is built, as `table name`."""
    build_all(lake)
    warehouse = Warehouse(lake, threads=1)
    quality = Quality(lake, warehouse)
    days = lake.raw_days()
    found = {
        f"{table} {failure.name}"
        for table in SUITES
        for outcome in quality.validate_days(table, days)
        for failure in outcome.failures
    }
    return found | {name for name, rows in sql_checks(warehouse, days) if rows}


def sql_checks(warehouse: Warehouse, days: list[date]) -> list[tuple[str, list[dict[str, Any]]]]:
    found = []
    for day in days:
        eve, morrow = day - timedelta(days=1), day + timedelta(days=1)
        found += [
            ("ticks_books_unbalanced", unbalanced_books(warehouse, day)),
            *(
                (name, warehouse.bad_days(name, read, day))
                for name, read in {
                    "features_across_silence": {"features": [day], "bars": [eve, day]},
                    "features_look_ahead": {"features": [day], "bars": [eve, day]},
                    "labels_incomplete_horizon": {"labels": [day], "bars": [day, morrow]},
                }.items()
            ),
            (
                "labels_without_features",
                warehouse.bad_rows("labels_without_features", {"labels": [day], "features": [day]}),
            ),
        ]
    return found


def unbalanced_books(warehouse: Warehouse, day: date) -> list[dict[str, Any]]:
    record, manifest = warehouse.lake.record("ticks", day), warehouse.lake.manifest(day)
    assert record
    assert manifest
    landed = [{"segment": entry["name"], "lines": entry["lines"]} for entry in manifest["segments"]]
    tables = {"books": record["books"], "manifest": landed}
    return warehouse.bad_rows("ticks_books_unbalanced", {}, tables)
