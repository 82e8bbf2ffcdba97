"""Chronological splits: who may learn from a row and who is judged by it.

Only the roles are decided here; the rows come from `sql/50_splits.sql`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Policy = Literal["trailing", "training"]
ROLES = ("train", "validation", "test")
SHARES = (0.70, 0.85)
HORIZON_SECONDS = 60
EMBARGO_SECONDS = 300
TRAINING_STRIDE_SECONDS = 5
THRESHOLD_QUANTILE = 0.9


@dataclass(frozen=True)
class Split:
    """The roles of a product's rows.

    Attributes:
        role: Shape (n,), one of `ROLES`, or "" for a row that was dropped.
        threshold: Shape (n,), the volatility per second that makes a row a spike; NaN if unknown.
        is_spike: Shape (n,).
        dropped: How many rows were dropped, by reason.
        cuts: The times at which validation and test begin; none without a labelled row.
    """

    role: NDArray[np.str_]
    threshold: NDArray[np.float64]
    is_spike: NDArray[np.bool_]
    dropped: dict[str, int]
    cuts: tuple[np.datetime64, ...]


def split(
    ts: NDArray[np.datetime64],
    future_volatility: NDArray[np.float64],
    trailing_threshold: NDArray[np.float64],
    *,
    policy: Policy = "trailing",
    embargo_seconds: int = EMBARGO_SECONDS,
) -> Split:
    """Cuts rows at 70 % and 85 % by time, purged and embargoed (López de Prado 2018, ch. 7).

    Args:
        ts: Shape (n,), decision times in ascending order, whole seconds, in any unit.
        future_volatility: Shape (n,), of the 60 seconds after `ts`; NaN where unknown.
        trailing_threshold: Shape (n,), known at `ts`; NaN where unknown.
        policy: `trailing` judges a row by its own threshold, `training` by one constant, the
            90th percentile of the future volatility over the training rows alone.
        embargo_seconds: How much of its beginning a later role gives up.

    Returns:
        The split. No 60 seconds of an earlier role's row reach a later role's rows.
    """
    ts = ts.astype("datetime64[s]")  # in nanoseconds the years below would overflow
    has_future = ~np.isnan(future_volatility)
    has_threshold = ~np.isnan(trailing_threshold) | (policy == "training")
    is_labelled = has_future & has_threshold
    dropped = {
        "future_unknown": int(np.sum(~has_future)),
        "threshold_unknown": int(np.sum(has_future & ~has_threshold)),
    }
    labelled = ts[is_labelled]
    last = len(labelled) - 1
    cuts = [
        labelled[min(int(np.ceil(share * len(labelled))), last)] for share in SHARES if last >= 0
    ]
    place = np.searchsorted(np.array(cuts, dtype=ts.dtype), ts, side="right")
    # Each role lies between two bounds; a row's 60 seconds end within them, and a later role
    # leaves out the embargo.
    ends = np.array([*cuts, np.datetime64("9999-01-01")], dtype=ts.dtype)[place]
    starts = np.array([np.datetime64("0001-01-01"), *cuts], dtype=ts.dtype)[place]
    seconds = ts.astype(np.int64)
    taken = ~is_labelled
    for reason, is_out in {
        "purged": ts + np.timedelta64(HORIZON_SECONDS, "s") > ends,
        "embargoed": ts < starts + np.timedelta64(embargo_seconds, "s"),
        "thinned": (place == 0) & (seconds % TRAINING_STRIDE_SECONDS != 0),
    }.items():
        dropped[reason] = int(np.sum(is_out & ~taken))
        taken |= is_out
    role = np.where(taken, "", np.array(ROLES)[place])
    threshold = trailing_threshold
    if policy == "training":
        training = future_volatility[role == "train"]
        constant = np.quantile(training, THRESHOLD_QUANTILE) if len(training) else np.nan
        threshold = np.full(len(ts), constant)
    with np.errstate(invalid="ignore"):
        is_spike = (future_volatility >= threshold) & (future_volatility > 0)
    return Split(role, threshold, is_spike, dropped, tuple(cuts))
