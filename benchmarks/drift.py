"""False alarms and power of the drift rule, on markets that it was not tuned on.

`python -m benchmarks.drift` draws a hundred markets (`drift_market.py`), takes 14 or 30 days of
each as the reference, leaves six days out as validation and test would be, and judges each of the
ten days after, unchanged and with changes of several sizes. A *false alarm* is a verdict of medium
or high on an unchanged day, by whatever was judged; *power* is the same on a changed one. Half of
the markets have moods that last for days, half are as calm as the simulated market.

Days of one market share their reference and follow each other, so they are no independent trials:
intervals are Wilson's with the number of days that would scatter as the markets do. The rule's
constants were chosen with seed 100; any other seed, as the default, reports.

The last table does the same for performance: a week of a champion's predictions that ranks by
what it should, and by that under more and more noise.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.drift_market import (
    SLOW,
    UNCHANGED,
    Change,
    draw_day,
    draw_factors,
    draw_predictions,
)
from volatility_pipeline.domain.drift import SEVERITIES, WINDOW_DAYS, Reference
from volatility_pipeline.domain.drift_verdict import PERFORMANCE_DAYS, performance

SEED, SERIES = 2026, 100
REFERENCES = (14, 30)
LEFT_OUT, JUDGED = 6, 10
CASES = {
    "unchanged": UNCHANGED,
    "volatility × 1.25": Change(volatility=1.25),
    "volatility × 1.6": Change(volatility=1.6),
    "volatility × 2.5": Change(volatility=2.5),
    "volatility × 4": Change(volatility=4.0),
    "spread × 1.5": Change(spread=1.5),
    "spread × 3": Change(spread=3.0),
    "one column dead": Change(dead="order_book_imbalance_60s"),
    "one column stuck": Change(stuck="order_book_imbalance_60s"),
    "30 % more faulty lines": Change(faulty=0.3),
}
MARKETS = {"markets of lasting moods": SLOW, "markets as calm as the simulated one": 0.0}
NOISES = {
    "what it should": 0.0,
    "that, a quarter as much noise": 0.25,
    "that, half as much noise": 0.5,
    "that, as much noise": 1.0,
    "nothing but noise": 1e3,
}
WEEKS = 40
ALARM = SEVERITIES.index("medium")

Severities = NDArray[np.int64]


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--series", type=int, default=SERIES, help="how many markets")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    start, console = time.perf_counter(), Console(width=120)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, slow in MARKETS.items():
            study = partial(judge_series, seed=arguments.seed, cases=arguments.cases, slow=slow)
            found = joined(pool.map(study, range(arguments.series // len(MARKETS))))
            console.print(drift_table(found, name))
        weeks = partial(judge_weeks, seed=arguments.seed)
        console.print(performance_table(list(pool.map(weeks, range(WEEKS)))))
    console.print(f"{time.perf_counter() - start:.0f} s")


def judge_series(
    number: int,
    *,
    seed: int,
    references: Sequence[int] = REFERENCES,
    cases: Iterable[str] = tuple(CASES),
    slow: float = SLOW,
) -> dict[tuple[int, str], Severities]:
    """Judge one market's days; return severities of its days by reference and case."""
    rng = np.random.default_rng([seed, number])
    longest = max(references)
    factors = draw_factors(longest + LEFT_OUT + JUDGED, rng, slow=slow)
    past = [draw_day(factors, day, rng) for day in range(longest + LEFT_OUT)]
    known = {days: Reference.of(past[longest - days : longest]) for days in references}
    found = {}
    for case in cases:
        change, eve = CASES[case], UNCHANGED
        own = np.random.default_rng([seed, number, 1])  # the same rows in every case
        days = list(past[longest:])
        severities: dict[int, list[int]] = {length: [] for length in references}
        for day in range(longest + LEFT_OUT, longest + LEFT_OUT + JUDGED):
            days.append(draw_day(factors, day, own, change=change, eve=eve))
            eve = change
            for length, reference in known.items():
                severity = reference.judge(days).severity
                severities[length].append(SEVERITIES.index(severity or "none"))
        for length, values in severities.items():
            found[length, case] = np.array(values)
    return found


def joined(
    series: Iterable[dict[tuple[int, str], Severities]],
) -> dict[tuple[int, str], Severities]:
    """Stack the markets' severities: by reference and case, shape (markets, days)."""
    listed = list(series)
    return {key: np.stack([each[key] for each in listed]) for key in listed[0]}


def judge_weeks(number: int, *, seed: int) -> dict[str, str]:
    """Judge one market's champion by a week of predictions; return its state by noise."""
    found = {}
    for name, noise in NOISES.items():
        rng = np.random.default_rng([seed, number, 2])
        rows = draw_predictions(draw_factors(PERFORMANCE_DAYS + 1, rng), rng, noise=noise)
        found[name] = performance(rows, policy="trailing", resamples=200).state
    return found


def rate_with_interval(is_alarm: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the share of alarms and its 95 % interval, shape (markets, days).

    Wilson's (JASA 1927), with as many trials as independent days would need to scatter as much as
    the markets' shares do; without an alarm, or all alarms, with one trial a market.
    """
    markets, days = is_alarm.shape
    share = float(is_alarm.mean())
    variance = float(is_alarm.mean(axis=1).var(ddof=1)) / markets
    trials = share * (1 - share) / variance if variance else markets
    trials = min(max(trials, 1.0), markets * days)
    z = 1.96
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    half = z * spread / (1 + z**2 / trials)
    return share, max(middle - half, 0.0), min(middle + half, 1.0)


def drift_table(found: dict[tuple[int, str], Severities], name: str) -> Table:
    """Lay out the rates by case and reference."""
    markets, days = next(iter(found.values())).shape
    table = Table(title=f"Medium or high on {markets * days:,} days each of {markets} {name}")
    table.add_column("days judged", no_wrap=True)
    references = sorted({length for length, _ in found})
    for length in references:
        table.add_column(f"of {length} days' reference", justify="right", no_wrap=True)
        table.add_column(f"once in {WINDOW_DAYS} days", justify="right")
    rows = [(case, case, ALARM) for case in dict.fromkeys(case for _, case in found)]
    rows += [(f"{case}, low too", case, ALARM - 1) for _, case, _ in rows if case == "unchanged"]
    for title, case, least in rows:
        cells = []
        for length in references:
            is_alarm = found[length, case] >= least
            share, low, high = rate_with_interval(is_alarm)
            in_week = is_alarm[:, :WINDOW_DAYS].any(axis=1).mean()
            cells += [f"{share:.1%} [{low:.1%}, {high:.1%}]", f"{in_week:.0%}"]
        table.add_row(title, *cells)
    return table


def performance_table(states: Sequence[dict[str, str]]) -> Table:
    """Lay out how often performance was called below its floor."""
    table = Table(title=f"Performance over {PERFORMANCE_DAYS} days, {len(states)} markets")
    table.add_column("champion ranks by")
    names = ("below_floor", "holding", "insufficient")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for noise in NOISES:
        counts = [sum(state[noise] == name for state in states) for name in names]
        table.add_row(noise, *map(str, counts))
    return table


if __name__ == "__main__":
    main()
