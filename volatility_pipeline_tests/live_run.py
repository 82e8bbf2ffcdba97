"""The batch and the live features over the same lines, side by side.

What belongs here: lines with times of arrival, the lake that the batch makes of them, and what the
memory answers to them. What does not: what any value ought to be.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from volatility_pipeline.domain.messages import read_day
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.memory import FeatureRow, Line, Memory
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.tick_lake import Key, build_all, rows

LOG = "ticks.raw-00000000-0"
GRACE = timedelta(seconds=0.5)
Answer = tuple[dict[str, str], str]  # features and threshold, doubles to the last bit


@dataclass(frozen=True)
class Arrival:
    """A line's bytes, and when it arrived (naive UTC)."""

    at: datetime
    value: bytes


def written(tick: Tick) -> bytes:
    """A tick as a line of the Exchange's feed."""
    numbers = {
        "price": tick.best_bid,
        "best_bid": tick.best_bid,
        "best_ask": tick.best_ask,
        "best_bid_size": tick.bid_size,
        "best_ask_size": tick.ask_size,
        "last_size": tick.last_size,
    }
    line: dict[str, Any] = {"type": "ticker", "product_id": tick.product_id}
    line["time"] = tick.event_time.isoformat(timespec="microseconds") + "Z"
    line["sequence"] = tick.sequence
    line |= {name: None if one is None else f"{one:f}" for name, one in numbers.items()}
    return json.dumps(line).encode()


def arrivals(ticks: Iterable[Tick], rng: random.Random, *, grace: timedelta) -> list[Arrival]:
    """Ticks with delays within the grace, some of them twice, and rubbish between them."""
    found = []
    for tick in ticks:
        for _ in range(rng.choice((1, 1, 1, 1, 2))):
            delay = rng.choice((0.0, 0.1, 0.999, rng.random())) * grace
            found.append(Arrival(tick.event_time + delay, written(tick)))
        if rng.random() < 0.02:
            found.append(Arrival(tick.event_time, rng.choice((b"{", b"", b'{"price": "x"}'))))
    return sorted(found, key=lambda one: one.at)


def as_lines(found: Sequence[Arrival], *, log: str = LOG) -> list[Line]:
    """Arrivals as a source gives them."""
    return [
        Line(log, offset, one.value, one.at.replace(tzinfo=UTC)) for offset, one in enumerate(found)
    ]


def land(lake: Lake, lines: Sequence[Line], *, per_segment: int = 500) -> None:
    """Lands the lines of one log as the lander does, and builds everything that they reach."""
    day = date(2000, 1, 1)
    dated = []
    for line in lines:
        day = read_day(line.value, latest=datetime.max) or day  # noqa: DTZ901  (naive UTC)
        dated.append((day, line))
    for day, chosen in groupby(dated, key=lambda one: one[0]):
        of_day = [line for _, line in chosen]
        for start in range(0, len(of_day), per_segment):
            piece = of_day[start : start + per_segment]
            folder = lake.raw_folder(day)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{piece[0].log}-{piece[0].offset:020d}-{piece[-1].offset:020d}.ndjson"
            (folder / name).write_bytes(b"".join(line.value + b"\n" for line in piece))
    build_all(lake)


def expected(lake: Lake) -> dict[Key, Answer]:
    """What the batch knows of each decision time."""
    thresholds = {key: row["trailing_threshold"] for key, row in rows(lake, "labels").items()}
    return {
        key: ({name: repr(row[name]) for name in FEATURE_COLUMNS}, repr(thresholds[key]))
        for key, row in rows(lake, "features").items()
    }


def answered(found: Iterable[FeatureRow]) -> dict[Key, Answer]:
    """The same of live rows; none of them may come twice with different values."""
    answers: dict[Key, Answer] = {}
    for row in found:
        features = {name: repr(value) for name, value in row.features.items()}
        answer = (features, repr(row.trailing_threshold))
        key = (row.product, row.ts.replace(tzinfo=None))
        assert answers.setdefault(key, answer) == answer
    return answers


def follow(
    memory: Memory, lines: Iterable[Line], until: Iterable[datetime], *, grace: timedelta = GRACE
) -> Iterator[list[FeatureRow]]:
    """Gives a memory its lines as they arrive, and asks for rows at the given times plus grace."""
    waiting = iter(lines)
    line = next(waiting, None)
    for moment in until:
        while line is not None and line.stamp.replace(tzinfo=None) < moment + grace:
            memory.add(line, line.stamp.replace(tzinfo=None))
            line = next(waiting, None)
        yield memory.advance(moment)
        memory.tidy()
