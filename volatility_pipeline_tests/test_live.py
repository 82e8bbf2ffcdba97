"""The memory of the live features: its rows are the batch's, whatever arrives in which order."""

import os
import random
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline.resources.compaction import compact
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import LANDED
from volatility_pipeline.serving.kafka_source import ends_of_ticks
from volatility_pipeline.serving.memory import Line, Memory
from volatility_pipeline_tests.live_run import (
    GRACE,
    LOG,
    Answer,
    Arrival,
    answered,
    arrivals,
    as_lines,
    expected,
    follow,
    land,
    written,
)
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.strategies import tick_lists
from volatility_pipeline_tests.tick_lake import SECOND, Key, Ticks, at, build_all, tick, walk

IS_ENDURANCE = os.environ.get("VOLATILITY_ENDURANCE") == "1"
SLOW = settings(
    deadline=None,
    derandomize=not IS_ENDURANCE,
    database=None,
    max_examples=300 if IS_ENDURANCE else 4,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NOON = "2026-04-04 12:00"


@st.composite
def markets(draw: st.DrawFn) -> list[Tick]:
    """Ticks of one product of any kind, and perhaps a plain one beside it."""
    found = draw(tick_lists(max_span_seconds=1500, max_ticks=1500))
    if draw(st.booleans()):
        first = min(one.event_time for one in found)
        found += walk(first, draw(st.integers(1, 900)), step=3, product_id="ETH-USD")
    return Ticks(found)


def moments(ticks: list[Tick], rng: random.Random) -> list[datetime]:
    """Whole seconds from the first tick to after the last one: single ones, and leaps."""
    found = [min(one.event_time for one in ticks).replace(microsecond=0)]
    end = max(one.event_time for one in ticks).replace(microsecond=0) + 40 * SECOND
    longest = max(int((end - found[0]).total_seconds()) // 4, 2)
    while found[-1] < end:
        found.append(found[-1] + rng.choice((1, 2, longest, longest)) * SECOND)
    return found


def steps(first: str, count: int, seconds: int) -> list[datetime]:
    """So many moments, so many seconds apart."""
    return [at(first) + number * seconds * SECOND for number in range(count)]


def check(
    found: dict[Key, Answer], batch: dict[Key, Answer], first: datetime, last: datetime
) -> None:
    """Asserts that live and batch have the same rows in (first, last], with the same values."""
    within = {key: one for key, one in batch.items() if first < key[1] <= last}
    found = {key: one for key, one in found.items() if first < key[1] <= last}
    assert found.keys() == within.keys()
    for key, answer in within.items():
        assert found[key] == answer, key


@SLOW
@given(ticks=markets(), seed=st.integers(0, 2**32))
def test_what_arrives_within_the_grace_makes_the_rows_of_the_batch(
    ticks: list[Tick], seed: int
) -> None:
    rng = random.Random(seed)
    lines = as_lines(arrivals(ticks, rng, grace=GRACE))
    asked = moments(ticks, rng)
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        lake = Lake(Path(folder))
        land(lake, lines)
        found = answered(row for rows in follow(memory, lines, asked) for row in rows)
        check(found, expected(lake), asked[0], asked[-1])
        assert (memory.late, memory.messages) == (0, len(lines))


@SLOW
@given(ticks=markets(), seed=st.integers(0, 2**32), overlap=st.integers(0, 50))
def test_a_memory_that_starts_from_the_lake_goes_on_as_the_batch(
    ticks: list[Tick], seed: int, overlap: int
) -> None:
    rng = random.Random(seed)
    lines = as_lines(arrivals(ticks, rng, grace=GRACE))
    asked = moments(ticks, rng)
    landed = rng.randrange(len(lines))
    begun = rng.choice(asked)
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        lake = Lake(Path(folder))
        land(lake, lines[:landed])
        memory.load(lake, begun)
        later = [begun, *(one for one in asked if one > begun)]
        unread = lines[max(landed - overlap, 0) :]
        found = answered(row for rows in follow(memory, unread, later) for row in rows)
        land(lake, lines[landed:])
        # What the lake held beyond the grace of the first row was known to it.
        check(found, expected(lake), begun, asked[-1])
        assert memory.late == 0


def test_late_ticks_are_counted_once_and_known_to_the_rows_to_come(tmp_path: Path) -> None:
    rng = random.Random(1)
    ticks = walk(NOON, 900, step=1)
    late = [number for number in range(300, 700) if number % 40 == 0]
    timely = [one for number, one in enumerate(ticks) if number not in late]
    found = arrivals(timely, rng, grace=GRACE)
    for number in late:
        delay = timedelta(seconds=rng.uniform(20, 100))
        found += [Arrival(ticks[number].event_time + delay, written(ticks[number]))] * 2
    lines = as_lines(sorted(found, key=lambda one: one.at))
    with Memory() as memory:
        rows = list(follow(memory, lines, steps(NOON, 61, 15)))
        assert memory.late == len(late)
    land(Lake(tmp_path), lines)
    batch = expected(Lake(tmp_path))
    known = ticks[late[-1]].event_time + timedelta(seconds=115)  # when the last of them had come
    live = answered(row for made in rows for row in made)
    check(live, batch, known, at(NOON) + 900 * SECOND)
    assert any(live[key] != batch[key] for key in live if key[1] < known)


def test_what_is_older_than_the_memory_holds_is_counted_and_left_out(tmp_path: Path) -> None:
    ticks = walk(NOON, 800, step=1)
    found = [Arrival(one.event_time, written(one)) for one in ticks]
    old = tick(at(NOON) + 100.5 * SECOND, "5", "6")
    land(Lake(tmp_path), as_lines(found))
    late = Arrival(at(NOON) + 700 * SECOND, written(old))
    lines = as_lines(sorted([*found, late], key=lambda one: one.at))
    with Memory() as memory:
        rows = list(follow(memory, lines, steps(NOON, 41, 20)))
        assert memory.late == 1
    asked = at(NOON), at(NOON) + 800 * SECOND
    check(answered(row for made in rows for row in made), expected(Lake(tmp_path)), *asked)


def test_hours_of_a_market_leave_no_trace_but_what_its_rows_need(tmp_path: Path) -> None:
    ticks = walk(NOON, 3 * 3600, step=5)
    ticks += walk("2026-04-04 12:20", 9000, step=12, product_id="ETH-USD", seed=3)
    lines = as_lines(arrivals(ticks, random.Random(2), grace=GRACE))
    asked = steps(NOON, 60, 180)
    sizes = []
    with Memory() as memory:
        found = []
        for rows in follow(memory, lines, asked):
            found += rows
            counts = "select (select count(*) from messages), (select count(*) from settled), "
            counts += "(select count(*) from bars)"
            sizes.append(memory._memory.execute(counts).fetchall()[0])
    land(Lake(tmp_path), lines)
    live = answered(found)
    check(live, expected(Lake(tmp_path)), asked[0], asked[-1])
    assert any(answer[1] != "None" for answer in live.values())
    assert any(answer[0]["realized_volatility_3600s"] != "None" for answer in live.values())
    messages, settled, bars = map(max, zip(*sizes, strict=True))
    assert messages < 0.1 * len(lines)
    assert settled <= 2 * 2 * (7200 / 30 + 2)
    assert bars <= 2 * (3602 + 180)


def test_a_first_row_from_before_the_lake_was_read_loses_no_tick(tmp_path: Path) -> None:
    # A row waits for its grace: the first one may lie before the time up to which the lake was
    # read, and the ticks that stay may begin half a minute earlier for it.
    ticks = walk(NOON, 900, step=1)
    lines = as_lines([Arrival(one.event_time, written(one)) for one in ticks])
    lake = Lake(tmp_path)
    land(lake, lines)
    read = at("2026-04-04 12:10:02.5")
    asked = [read - 1.5 * SECOND + number * SECOND for number in range(5)]
    with Memory() as memory:
        memory.load(lake, read)
        found = answered(row for rows in follow(memory, [], asked) for row in rows)
    check(found, expected(lake), asked[0] - SECOND, asked[-1])


def test_thresholds_after_a_restart_are_those_of_the_batch(tmp_path: Path) -> None:
    ticks = walk("2026-04-03 22:00", 4 * 3600, step=8)
    lines = as_lines(arrivals(ticks, random.Random(4), grace=GRACE))
    begun = at("2026-04-04 01:30")
    lake = Lake(tmp_path)
    # The lake ends twenty minutes ago: the minutes since have to be made from what is replayed.
    landed = sum(one.stamp.replace(tzinfo=None) < begun - 1200 * SECOND for one in lines)
    land(lake, lines[:landed])
    with Memory() as memory:
        memory.load(lake, begun)
        asked = [begun, *steps("2026-04-04 01:30:01", 15, 97)]
        found = answered(row for made in follow(memory, lines[landed:], asked) for row in made)
    land(lake, lines[landed:])
    assert all(answer[1] != "None" for answer in found.values())
    check(found, expected(lake), begun - SECOND, asked[-1])


def test_minutes_between_the_lake_and_the_look_back_are_said_to_lack_until_they_are_built(
    tmp_path: Path,
) -> None:
    ticks = walk("2026-04-03 20:00", 6 * 3600, step=5)
    lines = as_lines(arrivals(ticks, random.Random(4), grace=GRACE))
    begun = at("2026-04-04 01:30")
    lake = Lake(tmp_path)

    def sent(first: str, last: str) -> list[Line]:
        return [line for line in lines if at(first) <= line.stamp.replace(tzinfo=None) < at(last)]

    old = sent("2026-04-03 20:00", "2026-04-03 21:40")
    land(lake, old)
    with Memory() as memory:
        memory.load(lake, begun)
        recent = sent("2026-04-03 22:27:58", "2026-04-04 01:30:00.5")  # three hours, and a little
        (row,) = next(follow(memory, recent, [begun]))
        hole = memory.hole
        assert hole is not None
        known, since = hole
        assert at("2026-04-03 21:39:50") <= known <= at("2026-04-03 21:40")
        assert at("2026-04-03 22:34") <= since <= at("2026-04-03 22:36")
        assert not row.is_threshold_whole
        land(lake, sent("2026-04-03 20:00", "2026-04-03 23:00"))
        rest = sent("2026-04-04 01:30:00.5", "2026-04-04 02:00")
        later = follow(memory, rest, steps("2026-04-04 01:31", 4, 30))
        mended = [row for rows in later for row in rows if row.is_threshold_whole]
        assert memory.hole is None
    land(lake, lines)
    batch = expected(lake)
    assert answered([row])[row.product, begun] != batch[row.product, begun]
    check(answered(mended), batch, at("2026-04-04 01:31"), at("2026-04-04 01:32:30"))


def test_a_silence_between_the_lake_and_the_source_counts_as_lacking(tmp_path: Path) -> None:
    ticks = walk("2026-04-03 22:00", 2 * 3600, step=5)
    lines = as_lines(arrivals(ticks, random.Random(4), grace=GRACE))
    lake = Lake(tmp_path)
    heard = at("2026-04-03 23:00")
    land(lake, [line for line in lines if line.stamp.replace(tzinfo=None) < heard - 600 * SECOND])
    recent = [line for line in lines if line.stamp.replace(tzinfo=None) > heard + 10 * SECOND]
    with Memory() as memory:
        memory.load(lake, heard)
        assert list(follow(memory, recent, [heard + 20 * SECOND])) == [[]]
        hole = memory.hole
        assert hole is not None
        assert hole[0] <= heard - 600 * SECOND
        assert heard + 312 * SECOND <= hole[1] <= heard + 320 * SECOND
        assert len(list(follow(memory, [], steps("2026-04-04 00:01", 2, 23 * 3600 + 300)))) == 2
        assert memory.hole is None


def test_a_tick_dated_ahead_waits_for_its_time(tmp_path: Path) -> None:
    ticks = walk(NOON, 600, step=1)
    ahead = tick(at(NOON) + 500.25 * SECOND, "70000", "70001")
    found = [Arrival(one.event_time, written(one)) for one in ticks]
    found.append(Arrival(at(NOON) + 10 * SECOND, written(ahead)))
    lines = as_lines(sorted(found, key=lambda one: one.at))
    land(Lake(tmp_path), lines)
    asked = steps(NOON, 31, 20)
    with Memory() as memory:
        rows = [row for made in follow(memory, lines, asked) for row in made]
        assert memory.late == 0
        assert memory.newest["BTC-USD"] <= asked[-1]
    check(answered(rows), expected(Lake(tmp_path)), asked[0], asked[-1])


def test_an_outage_is_filled_by_what_comes_after_it(tmp_path: Path) -> None:
    ticks = walk(NOON, 1300, step=1)
    begun, ended = at(NOON) + 400 * SECOND, at(NOON) + 800 * SECOND
    found = [
        Arrival(ended if begun <= one.event_time < ended else one.event_time, written(one))
        for one in ticks
    ]
    lines = as_lines(sorted(found, key=lambda one: one.at))
    with Memory() as memory:
        rows = list(follow(memory, lines, steps(NOON, 53, 25)))
        assert memory.late > 300
    land(Lake(tmp_path), lines)
    live, batch = answered(row for made in rows for row in made), expected(Lake(tmp_path))
    check(live, batch, at(NOON), begun)
    check(live, batch, ended + 25 * SECOND, at(NOON) + 1300 * SECOND)
    assert ("BTC-USD", ended - 60 * SECOND) not in live


@pytest.mark.parametrize(
    ("value", "faulty"),
    [
        (b"{", 1),
        (b'{"type": "heartbeat"}', 0),
        (written(replace(tick(NOON), best_ask=tick(NOON, "1").best_bid)), 1),
        (written(tick("2026-04-07 12:00")), 1),
        (written(tick(NOON)), 0),
    ],
)
def test_what_the_batch_would_quarantine_is_counted(value: bytes, faulty: int) -> None:
    with Memory() as memory:
        memory.add(Line(LOG, 0, value, at(NOON).replace(tzinfo=UTC)), at(NOON))
        assert (memory.faulty, memory.messages) == (faulty, 1)
        assert memory.advance(at(NOON)) == []


def test_only_the_products_asked_for_are_held(tmp_path: Path) -> None:
    ticks = walk(NOON, 400, step=1) + walk(NOON, 400, step=1, product_id="ETH-USD")
    lines = as_lines(arrivals(ticks, random.Random(1), grace=GRACE))
    land(Lake(tmp_path), lines[: len(lines) // 2])
    with Memory(products=frozenset({"ETH-USD"})) as memory:
        memory.load(Lake(tmp_path), at(NOON) + 390 * SECOND)
        rows = next(follow(memory, lines[len(lines) // 2 :], [at(NOON) + 390 * SECOND]))
        assert [row.product for row in rows] == ["ETH-USD"]
        assert set(memory.newest) == {"ETH-USD"}


def test_reading_goes_on_behind_what_is_built_and_not_behind_what_has_landed(lake: Lake) -> None:
    found = arrivals(walk("2026-04-04 23:59", 120, step=0.2), random.Random(1), grace=GRACE)
    found.insert(200, Arrival(found[200].at, written(tick("2026-03-01 12:00"))))  # lands elsewhere
    lines = as_lines(found)
    assert ends_of_ticks(lake) == {}
    land(lake, lines[:500], per_segment=70)
    assert ends_of_ticks(lake) == {LOG: 500}
    newest = lake.segments(at("2026-04-05").date())[-1]
    moved = newest.rename(lake.root / newest.name)
    build_all(lake)
    moved.rename(newest)
    landed = LANDED.fullmatch(newest.name)
    assert landed is not None
    assert ends_of_ticks(lake) == {LOG: int(landed["first"])}


def test_what_was_built_of_a_compacted_segment_counts(lake: Lake) -> None:
    lines = as_lines(arrivals(walk(NOON, 100, step=0.5), random.Random(1), grace=GRACE))
    land(lake, lines, per_segment=30)
    compact(lake, at(NOON).date())
    build_all(lake)
    assert len(lake.segments(at(NOON).date())) == 1
    assert ends_of_ticks(lake) == {LOG: len(lines)}
