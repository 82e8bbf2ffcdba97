"""Drift: how far a day lies from the days that a model learnt from, and how unusual that is.

A day of 86,400 rows is one observation of the market's mood, not 86,400: its rows are so much alike
that a p-value over rows calls every day changed. So whole UTC days are compared, by **effect size**
(PSI, Wasserstein, Jensen-Shannon), and what size is unusual is read off the reference days, each
held against the others.

- A day is its sketch (`day_sketch`): quantiles of each column on the scale that models see.
- A column's **limit**, measure by measure, is the root mean square of the reference days' effects
  times a quantile of Student's t with a degree of freedom less than there are days, so that few
  days make wide limits, and at least the customary 0.1. Its **excess** is its effect over that
  limit, the median of the three measures.
- Columns move together, so how many lie over their limit is itself judged: it has to be more than
  on any reference day, each held to the limits that the others set.
- The same at 1.5 times and at twice the limits makes the difference between low, medium and high.

The constants were chosen by `benchmarks/drift.py`, which measures false alarms and power on days
that they were not chosen on. Performance and what to do is `drift_verdict`; pages are
`reports/drift`. Nothing here reads a file. scipy is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from volatility_pipeline.domain.day_sketch import COLUMNS, POINTS, PROBABILITY, DaySketch, mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

Severity = Literal["none", "low", "medium", "high"]
SEVERITIES: tuple[Severity, ...] = ("none", "low", "medium", "high")
SUBJECTS = ("features", "window", "predictions", "quality")
"""What is judged: a day's features, those of its week, what the champion said, and bad rows."""

BUSY_COLUMN = "seconds_since_tick"
"""Zero all day where ticks come every second: the one column that may stand still."""

MINIMUM_DAYS = 14
WINDOW_DAYS = 7
MINIMUM_WINDOWS = 4
MINIMUM_ROWS_SHARE = 0.8
"""A day with fewer rows than this share of a usual one's is part of a day: its hours, not its mood,
would be compared."""

LEVEL = 0.02
"""How often an unchanged day would exceed a limit, were days' moods independent and normal."""

FACTORS = (1.0, 1.5, 2.0)
"""How many times its limit a column's effect has to be, for low, medium and high."""

MINIMUM_COLUMNS = 3
CONVENTION = 0.1
"""The least limit of each measure: nobody calls a PSI, or either distance, of less a change."""

RISES = (0.05, 0.2, 0.5)
"""By how much a share of bad rows has to exceed its worst reference day: low, medium, high."""

_BINS = 10


@dataclass(frozen=True)
class Effect:
    """How far one column lies from the reference.

    Attributes:
        column: Its name.
        psi: Population stability index over ten bins of equal reference share.
        wasserstein: Mean distance of the quantiles, in standard deviations of the reference.
        jensen_shannon: Distance over the same bins, base 2, 0 to 1.
        excess: How many times its limit that is, the median of the three measures; None where
            there are no limits.
    """

    column: str
    psi: float
    wasserstein: float
    jensen_shannon: float
    excess: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that was judged.

    Attributes:
        subject: One of `SUBJECTS`.
        severity: How bad.
        sentence: What was found, in plain words.
        beyond: How many columns, or shares, lie beyond what low, medium and high ask for.
    """

    subject: str
    severity: Severity
    sentence: str
    beyond: tuple[int, ...]


@dataclass(frozen=True)
class Drift:
    """A day held against a reference.

    Attributes:
        day: UTC, ISO.
        insufficient: Why nothing is judged; None where it is.
        findings: What was judged, worst first; empty where nothing was.
        effects: Of the day's columns, widest excess first.
        reference_days: How many whole days the reference has.
    """

    day: str
    insufficient: str | None
    findings: tuple[Finding, ...]
    effects: tuple[Effect, ...]
    reference_days: int

    @property
    def severity(self) -> Severity | None:
        """The worst finding's; None where nothing is judged."""
        if self.insufficient is not None:
            return None
        return max((found.severity for found in self.findings), key=SEVERITIES.index)

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """How many columns lie beyond each limit, by what is judged, and the widest excess.

        None where nothing was judged: the same names for every day.
        """
        widest = max((effect.excess or 0.0 for effect in self.effects), default=None)
        beyond = {found.subject: found.beyond for found in self.findings}
        counts = {
            f"{subject}_{severity}": beyond[subject][step] if subject in beyond else None
            for subject in SUBJECTS
            for step, severity in enumerate(SEVERITIES[1:])
        }
        return {"widest_excess": widest, **counts}


@dataclass(frozen=True, eq=False)
class Scale:
    """What is usual for blocks of so many days: how far the reference's own lie from its rest.

    Attributes:
        columns: What is compared.
        window: Days in a block.
        whole: The whole reference as one, by column.
        edges: Bin edges, by column.
        limits: By column and measure, shape (columns, 3); of PSI its root, which grows with a
            shift as the others do.
        counts: The most columns that one block has beyond each factor of its limits, those being
            what the blocks that share no day with it set.
    """

    columns: tuple[str, ...]
    window: int
    whole: Mapping[str, NDArray[np.float64]]
    edges: Mapping[str, NDArray[np.float64]]
    limits: NDArray[np.float64]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, days: Sequence[DaySketch], columns: Sequence[str], *, window: int = 1) -> Scale:
        """Hold every run of `window` reference days against the others."""
        from scipy.stats import t

        whole = {name: mixture(days, name) for name in columns}
        edges = {name: _edges(whole[name]) for name in columns}
        starts = range(len(days) - window + 1)
        sizes = np.array(
            [
                [
                    _sizes(
                        mixture(days[start : start + window], name),
                        mixture([*days[:start], *days[start + window :]], name),
                        edges[name],
                    )
                    for name in columns
                ]
                for start in starts
            ]
        )
        # Runs that overlap are no further observations.
        quantile = float(t.ppf(1 - LEVEL / 2, len(days) / window - 1))
        is_apart = np.abs(np.subtract.outer(starts, starts)) >= window
        counts = [
            _beyond(_excess(own, _limits(sizes[others], quantile)))
            for own, others in zip(sizes, is_apart, strict=True)
        ]
        return cls(
            columns=tuple(columns),
            window=window,
            whole=whole,
            edges=edges,
            limits=_limits(sizes, quantile),
            counts=tuple(np.max(counts, axis=0).tolist()),
        )

    @property
    def wasserstein_limits(self) -> dict[str, float]:
        """That measure's limits, by column."""
        return dict(zip(self.columns, self.limits[:, 1].tolist(), strict=True))

    def effects(self, days: Sequence[DaySketch]) -> tuple[Effect, ...]:
        """Return how far these days as one lie from the reference, widest excess first.

        Columns that one of them lacks are left out.
        """
        names = [name for name in self.columns if all(name in day.points for day in days)]
        effects = []
        for name in names:
            sizes = _sizes(mixture(days, name), self.whole[name], self.edges[name])
            excess = _excess(sizes, self.limits[self.columns.index(name)])
            effects.append(_as_effect(name, sizes, float(excess)))
        return tuple(sorted(effects, key=lambda effect: -(effect.excess or 0.0)))

    def severity(self, effects: Sequence[Effect]) -> tuple[Severity, tuple[int, ...]]:
        """Return how bad these effects are, and how many columns lie beyond each factor."""
        beyond = _beyond(np.array([effect.excess for effect in effects], dtype=float))
        minimum = min(MINIMUM_COLUMNS, len(self.columns))
        reached = [
            step
            for step, (count, most) in enumerate(zip(beyond, self.counts, strict=True), start=1)
            if count > most and count >= minimum
        ]
        return SEVERITIES[max(reached, default=0)], beyond


@dataclass(frozen=True, eq=False)
class Reference:
    """The days that a model learnt from, and what is usual among them; made by `of`.

    Attributes:
        days: Those that are whole, in time order.
        insufficient: Why they are no measure for others; None where they are.
        daily: What is usual for a day's features.
        weekly: For seven days' features; None with less than 28 days.
        predictions: For a day's probabilities; None where not every day has them.
    """

    days: tuple[DaySketch, ...]
    insufficient: str | None
    daily: Scale | None = None
    weekly: Scale | None = None
    predictions: Scale | None = None

    @classmethod
    def of(cls, days: Sequence[DaySketch]) -> Reference:
        """Measure the reference days against each other; parts of days do not count."""
        usual = _usual_rows(days)
        whole = sorted((day for day in days if _is_whole(day, usual)), key=lambda day: day.day)
        if len(whole) < MINIMUM_DAYS:
            found = f"the reference has {len(whole)} whole days, {MINIMUM_DAYS} are needed"
            return cls(tuple(whole), found)
        known = [name for name in COLUMNS if all(name in day.points for day in whole)]
        if not known:
            return cls(tuple(whole), "the reference days have no feature in common")
        has_weeks = len(whole) >= MINIMUM_WINDOWS * WINDOW_DAYS
        has_predictions = all(PROBABILITY in day.points for day in whole)
        return cls(
            days=tuple(whole),
            insufficient=None,
            daily=Scale.of(whole, known),
            weekly=Scale.of(whole, known, window=WINDOW_DAYS) if has_weeks else None,
            predictions=Scale.of(whole, [PROBABILITY]) if has_predictions else None,
        )

    def judge(self, recent: Sequence[DaySketch]) -> Drift:
        """Hold the newest of these days against the reference, and the last seven as one.

        Args:
            recent: In time order; the last is the day that is judged. None is a reference day.

        Raises:
            ValueError: There is no day, or one of them is a reference day.
        """
        if not recent:
            raise ValueError("There is no day to judge.")
        known = {day.day for day in self.days} & {day.day for day in recent}
        if known:
            raise ValueError(f"{min(known)} is a reference day: it cannot be held against itself.")
        day, usual = recent[-1], _usual_rows(self.days)
        if self.daily is None:
            return Drift(day.day, self.insufficient, (), (), len(self.days))
        if not _is_whole(day, usual):
            reason = (
                f"{day.day} has {day.rows:,} rows, fewer than {MINIMUM_ROWS_SHARE:.0%} of a usual "
                f"day's {usual:,.0f}"
            )
            return Drift(day.day, reason, (), (), len(self.days))
        effects = self.daily.effects([day])
        findings = [
            _quality(day, self.days),
            _judge("features", f"On {day.day}", self.daily, effects),
        ]
        window = [other for other in recent if _is_whole(other, usual)][-WINDOW_DAYS:]
        if self.weekly is not None and len(window) == WINDOW_DAYS:
            when = f"Over {window[0].day} to {window[-1].day}"
            findings.append(_judge("window", when, self.weekly, self.weekly.effects(window)))
        if self.predictions is not None and PROBABILITY in day.points:
            predicted = self.predictions.effects([day])
            findings.append(_judge("predictions", f"On {day.day}", self.predictions, predicted))
            effects += predicted
        findings.sort(key=lambda found: -SEVERITIES.index(found.severity))
        return Drift(day.day, None, tuple(findings), effects, len(self.days))


def compare(first: Sequence[DaySketch], second: Sequence[DaySketch]) -> tuple[Effect, ...]:
    """Return how far the second days lie from the first, each as one, widest Wasserstein first.

    For test rows against training rows and late days against early ones. These are sizes without a
    limit, so no verdict: no two long stretches of a market are alike.
    """
    if not first or not second:
        return ()
    days = [*first, *second]
    effects = []
    for name in (*COLUMNS, PROBABILITY):
        if all(name in day.points for day in days):
            whole = mixture(first, name)
            effects.append(_as_effect(name, _sizes(mixture(second, name), whole, _edges(whole))))
    return tuple(sorted(effects, key=lambda effect: -effect.wasserstein))


def _usual_rows(days: Sequence[DaySketch]) -> float:
    return float(np.median([day.rows for day in days])) if days else 0.0


def _is_whole(day: DaySketch, usual: float) -> bool:
    return day.rows > 0 and day.rows >= MINIMUM_ROWS_SHARE * usual


def _edges(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(np.quantile(points, np.arange(1, _BINS) / _BINS))


def _sizes(
    points: NDArray[np.float64], others: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the root of PSI, normalized Wasserstein and Jensen-Shannon of two sorted samples."""
    shares, other_shares = _shares(points, edges), _shares(others, edges)
    # An empty bin counts as half a quantile's share: its logarithm has to be finite.
    floored, other_floored = (np.maximum(each, 0.5 / POINTS) for each in (shares, other_shares))
    psi = np.sum((floored - other_floored) * np.log(floored / other_floored))
    distance = np.abs(_thinned(points) - _thinned(others)).mean()
    deviation = max(float(others.std()), 1e-9)
    middle = (shares + other_shares) / 2
    divergence = (_entropy(shares, middle) + _entropy(other_shares, middle)) / 2
    return np.array([np.sqrt(psi), distance / deviation, np.sqrt(max(divergence, 0.0))])


def _as_effect(name: str, sizes: NDArray[np.float64], excess: float | None = None) -> Effect:
    root, wasserstein, jensen_shannon = sizes.tolist()
    return Effect(name, root**2, wasserstein, jensen_shannon, excess)


def _shares(points: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the bins; each edge is a bin of its own, for columns of few values."""
    bins = np.searchsorted(edges, points, "left") + np.searchsorted(edges, points, "right")
    shares: NDArray[np.float64] = np.bincount(bins, minlength=2 * len(edges) + 1) / len(points)
    return shares


def _entropy(share: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Relative entropy in bits."""
    held = share > 0
    return float(np.sum(share[held] * np.log2(share[held] / other[held])))


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """As many quantiles of days together as one day has."""
    thinned: NDArray[np.float64] = points.reshape(POINTS, -1).mean(axis=1)
    return thinned


def _limits(sizes: NDArray[np.float64], quantile: float) -> NDArray[np.float64]:
    """Limits from blocks' sizes, shape (blocks, columns, 3) to (columns, 3)."""
    least = np.array([np.sqrt(CONVENTION), CONVENTION, CONVENTION])
    limits: NDArray[np.float64] = np.maximum(quantile * np.sqrt((sizes**2).mean(axis=0)), least)
    return limits


def _excess(sizes: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    excess: NDArray[np.float64] = np.median(sizes / limits, axis=-1)
    return excess


def _beyond(excess: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int((excess > factor).sum()) for factor in FACTORS)


def _judge(subject: str, when: str, scale: Scale, effects: Sequence[Effect]) -> Finding:
    """Judge effects of features or predictions, and say it in a sentence."""
    severity, beyond = scale.severity(effects)
    excess = effects[0].excess if effects else 0.0
    if subject == "predictions":
        sentence = f"{when} the champion's probabilities lie at {excess:.1f} times their limit."
        return Finding(subject, severity, sentence, beyond)
    widest = f"{effects[0].column}, {excess:.1f} times its limit" if effects else "none"
    step = max(SEVERITIES.index(severity) - 1, 0)
    times = f"{FACTORS[step]:g} times " if step else ""
    most = (
        f"on no reference {'day' if scale.window == 1 else 'week'} more than {scale.counts[step]}"
    )
    found = f"{beyond[step]} of {len(effects)} features lie beyond {times}their limit ({most})"
    return Finding(subject, severity, f"{when} {found}; widest: {widest}.", beyond)


def _quality(day: DaySketch, reference: Sequence[DaySketch]) -> Finding:
    """Judge the shares of bad rows, and columns that stand still or are gone."""
    rises = {
        name: share - max(other.bad_shares.get(name, 0.0) for other in reference)
        for name, share in day.bad_shares.items()
    }
    worst = max(rises, key=lambda name: rises[name])
    step = sum(rises[worst] > rise for rise in RISES)
    stuck = sorted(
        name
        for name in day.constant - {BUSY_COLUMN}
        if not any(name in other.constant for other in reference)
    )
    if stuck:
        still = f"On {day.day} {', '.join(stuck)} had one value all day, as on no reference day."
        return Finding("quality", "high", still, (0, 0, len(stuck)))
    sentence = (
        f"On {day.day} the share of {worst} was {day.bad_shares[worst]:.0%}, "
        f"{100 * rises[worst]:.0f} points above its worst reference day."
        if step
        else f"On {day.day} no share of missing or faulty rows rose by more than "
        f"{100 * RISES[0]:.0f} points."
    )
    return Finding("quality", SEVERITIES[step], sentence, _beyond_rises(rises))


def _beyond_rises(rises: Mapping[str, float]) -> tuple[int, ...]:
    return tuple(sum(rise > least for rise in rises.values()) for least in RISES)
