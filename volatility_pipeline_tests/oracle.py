"""The naive oracle: bars, features and labels in plain Python, straight from DESIGN §3 and §4.

What belongs here: the definitions, spelt out one window at a time, with the standard library alone.
What does not: speed, prefix sums, or anything learnt from `sql/`, which this file exists to judge.

Prices, sizes and their sums are exact decimals until the last division. A bar also carries its mid
as an exact decimal, because a difference of two large doubles has few good digits left: one half
cent between two Bitcoin mids is right to 3e-9 only. `microprice_gap_bps` is such a difference too,
but DESIGN defines it by two stored doubles, so it is computed from those, as written there; nobody
can know it better than to about 1e-11 basis points.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise

WINDOWS = (30, 60, 300)
LONG_WINDOWS = (900, 3600)
HORIZON_SECONDS = 60
LONGEST_COUNT = 3601
THRESHOLD_MINIMUM = 60
DIGITS = 80  # enough for every sum and difference of prices here to be exact
SECOND = timedelta(seconds=1)
DAY = timedelta(hours=24)


@dataclass(frozen=True)
class Tick:
    """One de-duplicated ticker message, with the columns that bars, features and labels need."""

    product_id: str
    event_time: datetime
    sequence: int | None
    segment: str
    line: int
    item: int
    best_bid: Decimal
    best_ask: Decimal
    bid_size: Decimal | None
    ask_size: Decimal | None
    last_size: Decimal | None


@dataclass(frozen=True)
class Bar:
    """One second of one product: the columns of DESIGN §4, then what the oracle adds for itself."""

    product_id: str
    second: datetime
    mid: float
    spread: float
    microprice: float | None
    tick_count: int
    spread_sum: Decimal
    imbalance_sum: int
    imbalance_count: int
    volume: Decimal | None
    seconds_since_tick: int
    continuous_seconds: int
    run: int  # not a column: which run of ticks the bar belongs to, counted from 0
    exact_mid: Decimal  # not a column: the mid before it became a double


def total_order(tick: Tick) -> tuple[datetime, bool, int, str, int, int]:
    """The sort key of one product's ticks: time, sequence with nulls last, segment, line, item."""
    return (
        tick.event_time,
        tick.sequence is None,
        tick.sequence or 0,
        tick.segment,
        tick.line,
        tick.item,
    )


def second_of(time: datetime) -> datetime:
    """The whole second a time lies in."""
    return time.replace(microsecond=0)


def is_sized(tick: Tick) -> bool:
    """Whether a tick carries both sizes and they add to more than 0."""
    if tick.bid_size is None or tick.ask_size is None:
        return False
    return tick.bid_size + tick.ask_size > 0


def microprice_of(tick: Tick) -> Fraction:
    """The mid weighted by the opposite side's size, exact."""
    bid, ask = Fraction(tick.best_bid), Fraction(tick.best_ask)
    bid_size, ask_size = Fraction(tick.bid_size or 0), Fraction(tick.ask_size or 0)
    return (bid * ask_size + ask * bid_size) / (bid_size + ask_size)


def scaled_imbalance_of(tick: Tick) -> int:
    """The bid's share of both sizes in units of 1e-12, rounded; a half goes up, as in SQL."""
    bid_size, ask_size = Fraction(tick.bid_size or 0), Fraction(tick.ask_size or 0)
    return math.floor(10**12 * bid_size / (bid_size + ask_size) + Fraction(1, 2))


def bars(ticks: list[Tick], max_gap_seconds: int = 30, *, until: datetime) -> list[Bar]:
    """The bars of one product's ticks, in any input order, for all seconds before `until`.

    A second has a bar where the newest tick before its end is at most `max_gap_seconds` old then.
    Ticks more than `max_gap_seconds` apart belong to different runs.

    Raises:
        ValueError: several products, a gap under a second, or an `until` within a second.
    """
    if len({tick.product_id for tick in ticks}) > 1:
        raise ValueError("bars() takes the ticks of one product")
    if max_gap_seconds < 1:
        raise ValueError("max_gap_seconds must be at least 1")
    if until != second_of(until):
        raise ValueError("until must be a whole second")
    with localcontext(prec=DIGITS):
        known = sorted((tick for tick in ticks if tick.event_time < until), key=total_order)
        return _bars_of_sorted(known, timedelta(seconds=max_gap_seconds), until)


def _bars_of_sorted(ticks: list[Tick], max_gap: timedelta, until: datetime) -> list[Bar]:
    """Walk over every second from the first tick to `until`."""
    if not ticks:
        return []
    ticks_in: defaultdict[datetime, list[Tick]] = defaultdict(list)
    for tick in ticks:
        ticks_in[second_of(tick.event_time)].append(tick)

    result: list[Bar] = []
    run = 0
    bars_in_run = 0
    newest = ticks[0]
    newest_sized: Tick | None = None  # of the present run
    second = second_of(ticks[0].event_time)
    while second < until:
        end = second + SECOND
        present = ticks_in.get(second, [])
        for tick in present:
            if tick.event_time - newest.event_time > max_gap:
                run += 1
                bars_in_run = 0
                newest_sized = None
            newest = tick
            if is_sized(tick):
                newest_sized = tick
        if end - newest.event_time <= max_gap:
            bars_in_run += 1
            microprice = None
            if newest_sized is not None and end - newest_sized.event_time <= max_gap:
                microprice = float(microprice_of(newest_sized))
            mid = (newest.best_bid + newest.best_ask) / 2
            sized = [tick for tick in present if is_sized(tick)]
            sizes_traded = [tick.last_size for tick in present if tick.last_size is not None]
            result.append(
                Bar(
                    product_id=newest.product_id,
                    second=second,
                    mid=float(mid),
                    spread=float(newest.best_ask - newest.best_bid),
                    microprice=microprice,
                    tick_count=len(present),
                    spread_sum=sum((t.best_ask - t.best_bid for t in present), Decimal(0)),
                    imbalance_sum=sum(scaled_imbalance_of(tick) for tick in sized),
                    imbalance_count=len(sized),
                    volume=sum(sizes_traded, Decimal(0)) if sizes_traded else None,
                    seconds_since_tick=(second - second_of(newest.event_time)) // SECOND,
                    continuous_seconds=min(bars_in_run, LONGEST_COUNT),
                    run=run,
                    exact_mid=mid,
                )
            )
        second = end
    return result


def sample_standard_deviation(values: list[float]) -> float:
    """The definition in two passes: the mean, then the squared distances from it over n - 1."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum([(value - mean) ** 2 for value in values]) / (len(values) - 1))


def log_return(mid: float, previous: float) -> float:
    """The log return from one mid to another."""
    return math.log(mid / previous)


def features(bars: list[Bar]) -> dict[datetime, dict[str, float | int | None]]:
    """The feature row of every `ts` whose last 301 bars exist in one run, by `ts`.

    Raises:
        ValueError: bars of several products, or a run whose seconds do not follow on one another.
    """
    if len({bar.product_id for bar in bars}) > 1:
        raise ValueError("features() takes the bars of one product")
    runs: defaultdict[int, list[Bar]] = defaultdict(list)
    for bar in sorted(bars, key=lambda bar: bar.second):
        runs[bar.run].append(bar)
    rows: dict[datetime, dict[str, float | int | None]] = {}
    with localcontext(prec=DIGITS):
        for run in runs.values():
            rows.update(_features_of_run(run))
    return rows


def _features_of_run(run: list[Bar]) -> dict[datetime, dict[str, float | int | None]]:
    """The feature rows of the consecutive bars of one run."""
    for previous, bar in pairwise(run):
        if bar.second - previous.second != SECOND:
            raise ValueError(f"a second is missing in run {bar.run} before {bar.second}")

    # Position i of a list below belongs to bar i. Returns and moves lead into a bar, so the first
    # has none: its place holds a NaN that would spoil every number it got into.
    returns = [math.nan]
    moves = [Decimal("NaN")]
    for previous, bar in pairwise(run):
        returns.append(log_return(bar.mid, previous.mid))
        moves.append(abs(bar.exact_mid - previous.exact_mid))
    tick_counts = [bar.tick_count for bar in run]
    spread_sums = [bar.spread_sum for bar in run]
    imbalance_sums = [bar.imbalance_sum for bar in run]
    imbalance_counts = [bar.imbalance_count for bar in run]
    volumes = [bar.volume for bar in run]

    rows: dict[datetime, dict[str, float | int | None]] = {}
    for last in range(max(WINDOWS), len(run)):  # the bar at ts - 1
        bar = run[last]
        ts = bar.second + SECOND
        row: dict[str, float | int | None] = {}
        for w in WINDOWS:
            window = slice(last - w + 1, last + 1)  # the bars ts - W … ts - 1
            ticks = sum(tick_counts[window])
            sized = sum(imbalance_counts[window])
            traded = [volume for volume in volumes[window] if volume is not None]
            spread_mean = sum(spread_sums[window], Decimal(0)) / ticks if ticks else None
            imbalance = Fraction(sum(imbalance_sums[window]), sized * 10**12) if sized else None
            row[f"log_return_{w}s"] = log_return(bar.mid, run[last - w].mid)
            row[f"realized_volatility_{w}s"] = sample_standard_deviation(returns[window])
            row[f"price_velocity_{w}s"] = float(sum(moves[window], Decimal(0)) / w)
            row[f"spread_mean_{w}s"] = None if spread_mean is None else float(spread_mean)
            row[f"order_book_imbalance_{w}s"] = None if imbalance is None else float(imbalance)
            row[f"trade_intensity_{w}s"] = ticks
            row[f"volume_velocity_{w}s"] = float(sum(traded, Decimal(0))) if traded else None
        row["mid"] = bar.mid
        for w in LONG_WINDOWS:
            is_long_enough = last - w >= 0  # W returns need W + 1 bars
            row[f"realized_volatility_{w}s"] = (
                sample_standard_deviation(returns[last - w + 1 : last + 1])
                if is_long_enough
                else None
            )
        row["spread_bps"] = 1e4 * bar.spread / bar.mid
        row["microprice_gap_bps"] = (
            None if bar.microprice is None else 1e4 * (bar.microprice / bar.mid - 1)
        )
        row["seconds_since_tick"] = bar.seconds_since_tick
        second_of_day = ts.hour * 3600 + ts.minute * 60 + ts.second
        row["time_of_day_sin"] = math.sin(2 * math.pi * second_of_day / 86400)
        row["time_of_day_cos"] = math.cos(2 * math.pi * second_of_day / 86400)
        rows[ts] = row
    return rows


def labels(
    features: dict[datetime, dict[str, float | int | None]],
    bars: list[Bar],
    ticks: list[Tick],
) -> dict[datetime, dict[str, float | None]]:
    """The label row of every feature row, by `ts`; `bars` must come from these `ticks`.

    A tick in a second that has no bar is one after the known time, and counts for nothing.
    """
    bar_at = {bar.second: bar for bar in bars}
    last_tick_of_run: dict[int, datetime] = {}
    for tick in ticks:
        bar = bar_at.get(second_of(tick.event_time))
        if bar is not None:
            known = last_tick_of_run.get(bar.run, tick.event_time)
            last_tick_of_run[bar.run] = max(known, tick.event_time)
    volatility_at_minute = {
        ts: row["realized_volatility_60s"] for ts, row in features.items() if ts.second == 0
    }
    return {
        ts: {
            "future_volatility_60s": _future_volatility(ts, bar_at, last_tick_of_run),
            "trailing_threshold": _trailing_threshold(ts, volatility_at_minute),
        }
        for ts in features
    }


def _future_volatility(
    ts: datetime, bar_at: dict[datetime, Bar], last_tick_of_run: dict[int, datetime]
) -> float | None:
    """The volatility of the returns into bars `ts` … `ts + 59`, where all of it is known."""
    run = bar_at[ts - SECOND].run
    path: list[Bar] = []
    for offset in range(-1, HORIZON_SECONDS):
        bar = bar_at.get(ts + offset * SECOND)
        if bar is None or bar.run != run:
            return None
        path.append(bar)
    if last_tick_of_run[run] < ts + (HORIZON_SECONDS - 1) * SECOND:
        return None
    return sample_standard_deviation(
        [log_return(bar.mid, before.mid) for before, bar in pairwise(path)]
    )


def _trailing_threshold(
    ts: datetime, volatility_at_minute: dict[datetime, float | int | None]
) -> float | None:
    """The 90th percentile of the volatilities at the whole minutes of the last 24 hours."""
    values = [
        value
        for minute, value in volatility_at_minute.items()
        if ts - DAY < minute <= ts and value is not None
    ]
    return quantile_90(values) if len(values) >= THRESHOLD_MINIMUM else None


def quantile_90(values: list[float]) -> float:
    """The 90th percentile: linear interpolation at position 0.9 · (n - 1) of the sorted values."""
    ordered = sorted(values)
    below, tenths = divmod(9 * (len(ordered) - 1), 10)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * tenths / 10
