"""Day sketches: a product's day reduced to what drift needs to know of it.

Columns are taken on the scale that models see (`estimators.MarketInputs`: log volatilities, log
basis points), so that a distance is a ratio and the price level drops out. How far days lie apart,
and what is unusual, is `drift`; keeping sketches is `resources/drift`. scikit-learn is imported
where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.schemas import FEATURE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = tuple(
    name for name in FEATURE_COLUMNS if name not in ("mid", "time_of_day_sin", "time_of_day_cos")
)
"""What is compared: not the price level, which names the day, and not the clock."""

PROBABILITY = "probability"
"""What the champion said, as log-odds: most of it lies near 0, where a step means little else."""

POINTS = 100
"""Quantiles kept of a column's day."""

_LEVELS = (np.arange(POINTS) + 0.5) / POINTS
_LOG_ODDS_CLIP = 1e-4


@dataclass(frozen=True, eq=False)
class DaySketch:
    """All that drift needs to know of a product's day: 3,000 numbers instead of two million.

    Attributes:
        day: UTC, ISO.
        rows: Feature rows.
        points: Per column, quantiles at 0.5 %, 1.5 %, … of what is not null, on the models' scale,
            shape (100,); columns without a value are left out.
        bad_shares: Share of the day's rows, by what is bad about them: `missing <column>`, and
            what else was given.
        constant: Columns with one value all day.
    """

    day: str
    rows: int
    points: Mapping[str, NDArray[np.float64]]
    bad_shares: Mapping[str, float]
    constant: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "day": self.day,
            "rows": self.rows,
            "points": {name: values.tolist() for name, values in self.points.items()},
            "bad_shares": dict(self.bad_shares),
            "constant": sorted(self.constant),
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> DaySketch:
        """Return the sketch that `to_dict` wrote."""
        return cls(
            day=facts["day"],
            rows=facts["rows"],
            points={name: np.array(values) for name, values in facts["points"].items()},
            bad_shares=dict(facts["bad_shares"]),
            constant=frozenset(facts["constant"]),
        )


def sketch(
    day: str,
    rows: pd.DataFrame,
    *,
    probability: NDArray[np.float64] | None = None,
    bad_shares: Mapping[str, float] | None = None,
) -> DaySketch:
    """Reduce a product's day to its sketch.

    Args:
        day: UTC, ISO.
        rows: Its feature rows, with `FEATURE_COLUMNS`.
        probability: What the champion said, NaN where nothing, shape (predicted rows,).
        bad_shares: Data-quality shares, 0 to 1: of faulty lines, of the day that is missing.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    if len(rows):
        columns |= model_scale(rows)
    if probability is not None and len(probability):
        clipped = np.clip(probability, _LOG_ODDS_CLIP, 1 - _LOG_ODDS_CLIP)
        columns[PROBABILITY] = np.log(clipped / (1 - clipped))
    known = {name: values[~np.isnan(values)] for name, values in columns.items()}
    known = {name: values for name, values in known.items() if len(values)}
    missing = {
        f"missing {name}": 1 - len(known.get(name, ())) / len(rows) for name in COLUMNS if len(rows)
    }
    return DaySketch(
        day=day,
        rows=len(rows),
        points={name: np.quantile(values, _LEVELS) for name, values in known.items()},
        bad_shares={**missing, **(bad_shares or {})},
        constant=frozenset(name for name, values in known.items() if np.ptp(values) == 0),
    )


def model_scale(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the compared columns as models see them, missing values NaN; those all null left out.

    Args:
        rows: Feature rows, with `FEATURE_COLUMNS`.
    """
    from volatility_pipeline.domain.estimators import MarketInputs, NoInputsError

    inputs = MarketInputs(COLUMNS)
    try:
        matrix = inputs.fit(rows).transform(rows)
    except NoInputsError:
        return {}
    return dict(zip(inputs.kept_, matrix.T, strict=True))


def mixture(days: Sequence[DaySketch], name: str) -> NDArray[np.float64]:
    """Return a column's points of some days as one sorted sample: every day counts alike.

    Args:
        days: One or more, each with the column.
        name: The column.

    Returns:
        Shape (100 times as many as there are days,).
    """
    return np.sort(np.concatenate([day.points[name] for day in days]))
