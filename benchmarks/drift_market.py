"""Feature days of an invented market, minute by minute: what the drift study judges.

Ticks would cost a minute a day, and the study needs thousands of days. So the feature columns are
drawn directly from a few factors, each an Ornstein-Uhlenbeck process, with spreads within a day and
between days like those of features built from the simulated market of `domain/simulation`.

- Log volatility: a daily cosine, quieter weekends, a factor of five days, one of half a day and one
  of a quarter of an hour. Days are like their eves: neighbouring days' means correlate by 0.5 to
  0.6 and scatter by a quarter to a third. That is harder to judge than the simulated market, whose
  days scatter by a fifth: without the factor of five days it is as calm as that one.
- Activity and spread follow volatility and have factors of their own; the book's tilt has none.
- Gaps come by chance and take the slow windows with them.

The figures that come of it are about the rule, not about any real market.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from volatility_pipeline.domain.day_sketch import DaySketch, sketch
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS

Floats = NDArray[np.float64]
MINUTES = 1440
SLOW = 0.3
FIRST_DAY = np.datetime64("2026-01-05")


@dataclass(frozen=True)
class Change:
    """What is otherwise from some day on; 1 is as before.

    Attributes:
        volatility: Times the volatility, which activity and spread follow.
        spread: Times the spread alone.
        dead: A column without values.
        stuck: A column that repeats one value.
        faulty: Share of faulty lines on top.
    """

    volatility: float = 1.0
    spread: float = 1.0
    dead: str | None = None
    stuck: str | None = None
    faulty: float = 0.0


UNCHANGED = Change()


@dataclass(frozen=True)
class Factors:
    """A market's factors, minute by minute, shape (days * 1440,) each."""

    volatility: Floats
    activity: Floats
    spread: Floats


def draw_factors(days: int, rng: np.random.Generator, *, slow: float = SLOW) -> Factors:
    """Draw so many days of a market whose log volatility's five-day factor deviates by `slow`."""
    n = days * MINUTES
    minute = np.arange(n)
    weekday = (minute // MINUTES) % 7
    volatility = (
        0.2 * np.cos(2 * math.pi * (minute - 14.5 * 60) / MINUTES)
        - 0.15 * (weekday >= 5)
        + slow * _reverting(n, 5 * MINUTES, rng)
        + 0.25 * _reverting(n, MINUTES / 2, rng)
        + 0.28 * _reverting(n, 15, rng)
    )
    activity = (
        0.7 * volatility + 0.15 * _reverting(n, 3 * MINUTES, rng) + 0.3 * _reverting(n, 10, rng)
    )
    spread = (
        0.6 * volatility + 0.15 * _reverting(n, 3 * MINUTES, rng) + 0.3 * _reverting(n, 60, rng)
    )
    return Factors(volatility, activity, spread)


def draw_day(
    factors: Factors,
    number: int,
    rng: np.random.Generator,
    *,
    change: Change = UNCHANGED,
    eve: Change | None = None,
) -> DaySketch:
    """Draw a day's feature rows and reduce them to their sketch.

    Args:
        factors: The market.
        number: Which of its days.
        rng: For what is the rows' own.
        change: What is otherwise on that day.
        eve: And on the day before, which makes the trailing threshold; None for the same.
    """
    day = slice(number * MINUTES, (number + 1) * MINUTES)
    hour = slice(max(day.start - 60, 0), day.stop)
    louder = math.log(change.volatility)
    log_volatility = factors.volatility[hour] + louder
    activity = factors.activity[day] + 0.7 * louder
    spread = factors.spread[day] + 0.6 * louder + math.log(change.spread)
    now = log_volatility[-MINUTES:]
    mid = 67_000.0
    columns: dict[str, Floats] = {"mid": np.full(MINUTES, mid)}
    for seconds, noise in ((30, 0.42), (60, 0.3), (300, 0.14)):
        window = f"{seconds}s"
        volatility = 8e-5 * np.exp(now + noise * rng.standard_normal(MINUTES))
        columns[f"realized_volatility_{window}"] = volatility
        columns[f"log_return_{window}"] = (
            volatility * math.sqrt(seconds) * rng.standard_normal(MINUTES)
        )
        columns[f"price_velocity_{window}"] = (
            mid * 0.45 * volatility * np.exp(0.15 * rng.standard_normal(MINUTES))
        )
        columns[f"spread_mean_{window}"] = 0.1 * np.exp(
            spread + 1.5 * noise * rng.standard_normal(MINUTES)
        )
        tilt = 0.69 / math.sqrt(seconds + 1)
        columns[f"order_book_imbalance_{window}"] = 0.5 + tilt * rng.standard_normal(MINUTES)
        columns[f"trade_intensity_{window}"] = rng.poisson(
            3.0 * seconds * np.exp(activity - 0.05)
        ).astype(float)
        columns[f"volume_velocity_{window}"] = np.full(MINUTES, np.nan)
    for minutes, window in ((15, "900s"), (60, "3600s")):
        variance = np.convolve(np.exp(2 * log_volatility), np.ones(minutes) / minutes)
        columns[f"realized_volatility_{window}"] = 8e-5 * np.sqrt(
            variance[len(log_volatility) - MINUTES : len(log_volatility)]
        )
    columns["spread_bps"] = np.where(
        rng.random(MINUTES) < 0.03 * np.exp(now), 0.2 * np.exp(spread), 0.0014
    ) * np.exp(0.01 * rng.standard_normal(MINUTES))
    columns["microprice_gap_bps"] = 0.03 * np.exp(spread) * rng.standard_t(3, MINUTES)
    columns["seconds_since_tick"] = rng.geometric(1 - np.exp(-3 * np.exp(activity)), MINUTES) - 1.0
    yesterday = factors.volatility[max(day.start - MINUTES, 0) : max(day.start, MINUTES)]
    threshold = np.quantile(yesterday, 0.9) + math.log((eve or change).volatility)
    score = 3.0 * (now - threshold + 0.2 * rng.standard_normal(MINUTES)) - 1.0
    gaps = rng.uniform(0, MINUTES, rng.poisson(4))
    for name, minutes in (("realized_volatility_900s", 15), ("realized_volatility_3600s", 60)):
        since = np.arange(MINUTES)[:, None] - gaps
        columns[name][((since >= 0) & (since < minutes)).any(axis=1)] = np.nan
    if change.dead:
        columns[change.dead] = np.full(MINUTES, np.nan)
    if change.stuck:
        columns[change.stuck] = np.full(MINUTES, columns[change.stuck][0])
    zeros = {name: np.zeros(MINUTES) for name in FEATURE_COLUMNS if name not in columns}
    return sketch(
        str(FIRST_DAY + number),
        pd.DataFrame({**columns, **zeros}),
        probability=1 / (1 + np.exp(-score)),
        bad_shares={
            "faulty lines": change.faulty + float(rng.beta(1, 400)),
            "missing seconds": float(rng.beta(2, 150)),
        },
    )


def draw_predictions(factors: Factors, rng: np.random.Generator, *, noise: float) -> pd.DataFrame:
    """Draw a champion's predictions on all but the market's first day, a row a minute.

    It ranks by the smoothed log volatility of the last minutes, which beats persistence a little;
    noise, in standard deviations of that, takes its information away.
    """
    from scipy.signal import lfilter
    from scipy.special import expit

    last = factors.volatility + 0.3 * rng.standard_normal(len(factors.volatility))
    future = np.append(last[1:], np.nan)
    quantiles = np.quantile(sliding_window_view(last, MINUTES)[::60], 0.9, axis=1)
    threshold = np.repeat(quantiles, 60)[: len(last) - MINUTES]
    smooth = lfilter([0.25], [1, -0.75], last)
    rows = slice(MINUTES - 1, -1)
    score = (smooth[rows] - threshold) + noise * smooth.std() * rng.standard_normal(len(threshold))
    ts = FIRST_DAY + np.arange(MINUTES, len(last)) * np.timedelta64(60, "s")
    return pd.DataFrame(
        {
            "ts": ts.astype("datetime64[us]"),
            "probability": expit(3 * score / (1 + noise)),
            "persistence": np.exp(last[rows] - threshold),
            "is_spike": future[rows] >= threshold,
            "out_of_sample": True,
        }
    )


def _reverting(n: int, time: float, rng: np.random.Generator) -> Floats:
    """An Ornstein-Uhlenbeck process of mean 0 and variance 1, minute by minute."""
    from scipy.signal import lfilter

    memory = math.exp(-1 / time)
    shocks = math.sqrt(1 - memory**2) * rng.standard_normal(n)
    shocks[0] = rng.standard_normal()
    path: Floats = lfilter([1.0], [1.0, -memory], shocks)
    return path
