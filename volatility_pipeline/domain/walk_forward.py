"""Walk-forward: folds by time, and models fitted and asked fold by fold.

Who is who within a fold (purge, embargo, thinning) is `splits`; what came out of the folds is
measured in `fold_results`. No model is known here: fitting and asking one are given as functions.

The labelled rows are cut into folds + 2 pieces of equally many rows. Fold k is judged on piece
k + 2, calibrated on the piece before it, and trained on what lies before that: on all of it
(expanding), or on the last few pieces (rolling). Both windows judge the same test rows.

    piece        1      2      3      4      5      6      7
    fold 1     train  valid.  test
    fold 2     train  train  valid.  test
    fold 5     train  train  train  train  train  valid.  test
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from volatility_pipeline.domain.splits import (
    EMBARGO_SECONDS,
    HORIZON_SECONDS,
    ROLES,
    Policy,
    Split,
    has_label,
    split_at,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from volatility_pipeline.domain.models import Forecast

Window = Literal["expanding", "rolling"]
FOLDS = 5
ROLLING_PIECES = 2
MINIMUM_PIECE_ROWS = 3600
"""An hour of seconds: shorter pieces would lose a good part of theirs to embargo and purge."""

ANSWERS = ("future_volatility_60s", "is_spike", "role")
"""The columns of a test row that no model is shown."""

Model = TypeVar("Model")


@dataclass(frozen=True)
class Fold:
    """One fold over all of a product's rows.

    Attributes:
        number: From 1, in time order.
        start: When its training begins; earlier rows have no role.
        end: When its test ends, exclusive; later rows have none.
        split: The roles, labels and cuts; `dropped` counts rows from `start` to `end`.
    """

    number: int
    start: np.datetime64
    end: np.datetime64
    split: Split


@dataclass(frozen=True)
class WalkForward:
    """The folds that the data allow.

    Attributes:
        window: Whether training keeps all of the past, or the last few pieces.
        asked: How many folds were asked for.
        folds: Those there are, in time order.
        shortage: Why there are fewer; None where there are not.
    """

    window: Window
    asked: int
    folds: tuple[Fold, ...]
    shortage: str | None


@dataclass(frozen=True)
class FoldForecasts:
    """What the models of one fold said about its test rows.

    Attributes:
        number: The fold's.
        rows: `ts`, `is_spike` and `role` of the fold's rows of every role, in time order.
        forecasts: One a model, for the rows of role `test`.
    """

    number: int
    rows: pd.DataFrame
    forecasts: tuple[Forecast, ...]


def walk_forward(
    ts: NDArray[np.datetime64],
    future_volatility: NDArray[np.float64],
    trailing_threshold: NDArray[np.float64],
    *,
    policy: Policy = "trailing",
    window: Window = "expanding",
    folds: int = FOLDS,
    rolling_pieces: int = ROLLING_PIECES,
    embargo_seconds: int = EMBARGO_SECONDS,
    minimum_piece_rows: int = MINIMUM_PIECE_ROWS,
) -> WalkForward:
    """Cuts rows into folds, each with its own training, validation and test rows.

    Too little data is no error: there are fewer folds, or none, and `shortage` says why.

    Args:
        ts: As for `splits.split`, and likewise the next two.
        future_volatility: Shape (n,).
        trailing_threshold: Shape (n,).
        policy: Under `training` each fold has its own threshold, of its own training rows.
        window: What a fold trains on.
        folds: How many are asked for.
        rolling_pieces: How many pieces a rolling window holds; the first folds have fewer.
        embargo_seconds: How much of its beginning a later role gives up.
        minimum_piece_rows: How many labelled rows a piece must have.

    Raises:
        ValueError: Fewer than one fold, piece or row is asked for.
    """
    if min(folds, rolling_pieces, minimum_piece_rows) < 1:
        raise ValueError("A walk-forward takes at least one fold, one piece and one row a piece.")
    is_labelled = has_label(future_volatility, trailing_threshold, policy)
    labelled = ts[is_labelled].astype("datetime64[s]")
    count = max(0, min(folds, len(labelled) // minimum_piece_rows - 2))
    made: list[Fold] = []
    if count:
        pieces = count + 2
        bounds = [labelled[-(-piece * len(labelled) // pieces)] for piece in range(pieces)]
        bounds.append(labelled[-1] + np.timedelta64(HORIZON_SECONDS, "s"))
        for number in range(1, count + 1):
            first = 0 if window == "expanding" else max(0, number - rolling_pieces)
            start, *cuts, end = (bounds[piece] for piece in (first, number, number + 1, number + 2))
            split = split_at(
                ts,
                future_volatility,
                trailing_threshold,
                cuts=cuts,
                start=start,
                end=end,
                policy=policy,
                embargo_seconds=embargo_seconds,
            )
            if set(ROLES) <= set(split.role.tolist()):
                made.append(Fold(len(made) + 1, start, end, split))
    shortage = None
    if len(made) < folds:
        shortage = f"{len(made)} of {folds} folds: " + (
            f"{len(labelled):,} rows are labelled, {(folds + 2) * minimum_piece_rows:,} are needed"
            if count < folds
            else "purge and embargo leave nothing of a role in the others"
        )
    return WalkForward(window, folds, tuple(made), shortage)


def fold_frames(rows: pd.DataFrame, fold: Fold) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return a fold's training, validation and test rows, with its threshold, labels and roles.

    Args:
        rows: The rows that the fold was cut from.
        fold: One of `walk_forward`'s.

    Raises:
        ValueError: The fold is of other rows.
    """
    split = fold.split
    if len(rows) != len(split.role):
        raise ValueError(f"The fold was cut from {len(split.role)} rows, not from {len(rows)}.")
    frames = []
    for role in ROLES:
        chosen = np.flatnonzero(split.role == role)
        frames.append(
            rows.iloc[chosen].assign(
                threshold=split.threshold[chosen], is_spike=split.is_spike[chosen], role=role
            )
        )
    return frames[0], frames[1], frames[2]


def run_folds(
    rows: pd.DataFrame,
    folds: Sequence[Fold],
    names: Sequence[str],
    *,
    fit: Callable[[str, pd.DataFrame, pd.DataFrame], Model],
    forecast: Callable[[Model, pd.DataFrame], Forecast],
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[FoldForecasts, ...]:
    """Fits every model anew in every fold, and asks it about the fold's test rows.

    Args:
        rows: The rows that the folds were cut from, with `ts` and the models' inputs.
        folds: Those of `walk_forward`.
        names: The models.
        fit: Takes a name, training rows and validation rows; asked fold by fold in time order, so
            that what one found can serve the later ones.
        forecast: Takes what `fit` returned, and test rows without their answers.
        progress: Told of each fit before it begins, one line each.
    """
    runs = []
    for fold in folds:
        train, validation, test = fold_frames(rows, fold)
        asked = test.drop(columns=[column for column in ANSWERS if column in test])
        forecasts = []
        for name in names:
            progress(f"fold {fold.number} of {len(folds)}: {name}")
            forecasts.append(forecast(fit(name, train, validation), asked))
        labels = [part[["ts", "is_spike", "role"]] for part in (train, validation, test)]
        runs.append(FoldForecasts(fold.number, _joined(labels), tuple(forecasts)))
    return tuple(runs)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)
