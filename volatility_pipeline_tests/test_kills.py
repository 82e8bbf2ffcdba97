"""The judge of `benchmarks/kills.py`: it finds what is stale, wrong or untrue, and nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf, nextafter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import Kept
from benchmarks.kills_verdict import (
    Arrivals,
    Batch,
    Kill,
    Log,
    Poll,
    Run,
    Said,
    compare,
    contradictions,
    not_to_be,
    recovered,
    too_old,
    untrue,
)
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.memory import Memory
from volatility_pipeline.serving.predictor import LoadedModel
from volatility_pipeline_tests.live_run import Arrival, as_lines, follow, land, written
from volatility_pipeline_tests.registered_models import champions, register
from volatility_pipeline_tests.tick_lake import SECOND, walk

BTC = "BTC-USD"
NOON = datetime(2026, 4, 4, 12, tzinfo=UTC).timestamp()


def iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()


def naive(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC).replace(tzinfo=None)


def given(ts: float, *, sent: float, received: float, **changed: Any) -> Poll:
    """An answer of 200 about a decision time."""
    body = {"product": BTC, "ts": iso(ts), "age_seconds": received - ts, "probability": 0.25}
    body |= {"threshold": 1e-4, "version": "1", "seconds_since_tick": 0}
    return Poll(f"/predict/{BTC}", sent, received, 200, body | changed)


def refused(sent: float, received: float, reason: str = "stale") -> Poll:
    return Poll(f"/predict/{BTC}", sent, received, 503, {"reason": reason})


def ready(sent: float, received: float, *, is_fresh: bool) -> Poll:
    products = {BTC: {"data_fresh": is_fresh}}
    return Poll("/ready", sent, received, 200 if is_fresh else 503, {"products": products})


def logged(*pairs: tuple[float, float]) -> Log:
    """A log of answers: decision time, and when it was answered."""

    def line(ts: float, at: float) -> Mapping[str, Any]:
        row = {"product_id": BTC, "ts": naive(ts), "answered_at": naive(at), "model_version": "1"}
        return row | {"probability": 0.25, "threshold": 1e-4}

    return Log(line(*pair) for pair in pairs)


# Freshness


@pytest.mark.parametrize(
    ("poll", "faults"),
    [
        (given(NOON, sent=NOON + 9, received=NOON + 9.1), 0),
        (given(NOON, sent=NOON + 11, received=NOON + 11.1), 1),
        (given(NOON, sent=NOON - 2, received=NOON - 1.9), 1),
        (given(NOON, sent=NOON + 9, received=NOON + 9.1, age_seconds=1.0), 1),
        (given(NOON, sent=NOON + 11, received=NOON + 11.1, age_seconds=1.0), 2),
        (refused(NOON + 11, NOON + 11.1), 0),
    ],
)
def test_old_answers_and_wrong_ages_are_found(poll: Poll, faults: int) -> None:
    assert len(list(too_old([poll]))) == faults


def test_an_answer_is_good_or_a_refusal_and_nothing_else() -> None:
    good = [refused(NOON, NOON), given(NOON, sent=NOON, received=NOON + 1)]
    good += [Poll("/health", NOON, NOON, None, "ConnectionRefusedError")]
    bad = [Poll("/ready", NOON, NOON, 500, {}), Poll("/health", NOON, NOON, 503, {})]
    assert list(not_to_be(good)) == []
    assert len(list(not_to_be(bad))) == 2


ONE_ROW = logged((NOON, NOON + 0.6))


@pytest.mark.parametrize(
    ("poll", "is_true"),
    [
        (ready(NOON + 5, NOON + 5.1, is_fresh=True), True),
        (ready(NOON + 5, NOON + 5.1, is_fresh=False), False),
        (ready(NOON + 12, NOON + 12.1, is_fresh=True), False),
        (ready(NOON + 12, NOON + 12.1, is_fresh=False), True),
        (refused(NOON + 5, NOON + 5.1), False),
        (refused(NOON + 5, NOON + 5.1, "no_row"), True),
        (refused(NOON + 9.9, NOON + 10.1), True),
        (refused(NOON + 0.5, NOON + 0.7), True),
        (given(NOON - 1, sent=NOON + 0.3, received=NOON + 0.4), False),
    ],
)
def test_what_is_claimed_of_freshness_is_held_against_the_log(poll: Poll, is_true: bool) -> None:
    assert (list(untrue([poll], ONE_ROW)) == []) is is_true


# Rightness


def test_two_answers_about_one_decision_time_are_found_where_they_differ() -> None:
    one = Said(BTC, NOON, 0.25, 1e-4, "1")
    assert list(contradictions([one, one, one._replace(ts=NOON + 1, probability=0.5)])) == []
    assert len(list(contradictions([one, one._replace(probability=0.5)]))) == 1


@dataclass(frozen=True)
class Market:
    """A market whose last event before noon came two seconds after it, and its batch.

    `lines` are those of Kafka with their arrivals, `said` what the live features and a model say of
    the second before that event, of noon and of four more.
    """

    batch: Batch
    lines: list[tuple[bytes, float]]
    said: list[Said]

    def compared(self, *changed: Said, **times: float) -> list[tuple[str, bool]]:
        """The kinds of answers, and which of them are faults."""
        at = times.get("answered_at", NOON + 1)
        hurried = times.get("arrived", inf)
        arrivals = Arrivals((value, min(when, hurried)) for value, when in self.lines)
        starts = [times.get("start", 0)]
        found = compare(changed or self.said, self.batch, arrivals, logged((NOON, at)), starts)
        return [(one.kind, one.fault is not None) for one in found]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    root = tmp_path_factory.mktemp("market") / "data"
    noon = naive(NOON)
    found = [
        Arrival(one.event_time, written(one)) for one in walk("2026-04-04 09:30", 9300, step=5)
    ]
    last = max(place for place, one in enumerate(found) if one.at < noon)
    before = found[last].at.replace(microsecond=0)
    found[last] = Arrival(noon + 2 * SECOND, found[last].value)
    lines = as_lines(sorted(found, key=lambda one: one.at))
    land(Lake(root), lines)
    (served,) = register(root, BTC, ["logistic_regression"])
    model = LoadedModel(served, champions(root).load(served))
    batch = Batch(root, root.parent / "batch")
    asked = [before, *(noon + number * SECOND for number in range(5))]
    said = []
    with Memory() as memory:
        rows = [row for made in follow(memory, lines, asked) for row in made]
    for row in rows:
        if row.ts.replace(tzinfo=None) in asked:
            ts = row.ts.timestamp()
            threshold = batch.threshold(Said(BTC, ts, 0, 0, served.version))
            assert threshold is not None
            columns = {name: [value] for name, value in row.features.items()}
            (probability,) = model.ask(columns | {"threshold": [threshold]})
            said.append(Said(BTC, ts, float(probability), threshold, served.version))
    return Market(batch, [(one.value, one.stamp.timestamp()) for one in lines], said)


EQUAL = ("equal", False)
LATE = ("without an event that came after the grace", False)


def test_answers_are_equal_or_lack_what_came_late(market: Market) -> None:
    assert market.compared() == [EQUAL, LATE, LATE, EQUAL, EQUAL, EQUAL]


def test_what_was_there_and_not_read_is_a_fault_where_it_lasts(market: Market) -> None:
    kind = "without an event that was read late"
    arrived = NOON - 0.1
    late = market.said[1]
    assert market.compared(late, arrived=arrived) == [(kind, False)]
    assert market.compared(late, arrived=arrived, answered_at=NOON + 12) == [(kind, True)]


def test_what_no_event_explains_is_a_fault(market: Market) -> None:
    before, late = market.said[:2]
    wrong = ("not the batch's", True)
    for one in (before, late):
        assert market.compared(one._replace(probability=one.probability * 1.000001)) == [wrong]
    assert market.compared(before._replace(threshold=2 * before.threshold)) == [wrong]
    assert market.compared(before._replace(ts=NOON + 86400)) == [wrong]


def test_an_incomplete_whole_minute_excuses_thresholds_until_the_next_start(
    market: Market,
) -> None:
    noon, one = market.said[1], market.said[-1]
    odd = one._replace(threshold=nextafter(one.threshold, 1))  # which no probability shows
    alone = ("not the batch's threshold", True)
    assert market.compared(odd) == [alone]
    assert market.compared(noon, odd)[1] == ("with a threshold that knows such an answer", False)
    assert market.compared(noon, odd, start=NOON + 1) == [LATE, alone]


def test_recovery_is_an_answer_that_knows_an_event_after_the_kill() -> None:
    kill = Kill("api", "SIGKILL", NOON + 0.5, NOON + 0.5)
    polls = [
        given(NOON + 1, sent=NOON + 2, received=NOON + 2.1),
        given(NOON + 3, sent=NOON + 4, received=NOON + 4.1, seconds_since_tick=2),
        given(NOON + 4, sent=NOON + 5, received=NOON + 5.5, seconds_since_tick=2),
        given(NOON + 5, sent=NOON + 6, received=NOON + 6.5),
    ]
    run = Run((BTC,), NOON, NOON + 9, [kill], polls, set(), {}, is_well=True)
    assert recovered(run, kill) == pytest.approx(5)
    assert recovered(run, Kill("api", "SIGKILL", NOON + 7, NOON + 7)) is None


# Processes


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A process with a child, whose ids it writes down."""
    code = (
        "import json, os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps([os.getpid(), child.pid]))\n"
        "child.wait()"
    )
    ids = tmp_path / "ids"

    def start() -> "subprocess.Popen[bytes]":
        ids.unlink(missing_ok=True)
        return subprocess.Popen([sys.executable, "-c", code, ids], start_new_session=True)

    return Kept("sleeper", start, lambda _: ids.exists() and bool(ids.read_text()))


def test_a_killed_process_takes_its_children_along_and_is_started_again(
    kept: Kept, tmp_path: Path
) -> None:
    wait_until(lambda: kept.is_at_work(0))
    first, child = json.loads((tmp_path / "ids").read_text())
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(kept.starts) == 2 and kept.is_at_work(0))
    wait_until(lambda: not is_there(child))
    second, child = json.loads((tmp_path / "ids").read_text())
    assert second != first
    kept.stop()
    assert len(kept.starts) == 2
    wait_until(lambda: not is_there(child))


def is_there(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + timedelta(minutes=1).total_seconds()
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
