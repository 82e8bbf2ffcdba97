"""Average precision over a walk-forward: fold by fold, and pooled, for every model.

Folds are cut and run in `walk_forward`; one fold's other measures are `evaluation.evaluate`'s.

Each fold ranks its own rows: two folds' models score on two scales, and to know which fold is the
stormier is no skill. **Pooled** average precision is therefore the mean of the folds', weighted by
their test rows; weighted alike, their base rates give the plain share of spikes, so that who always
says the same has lift 1. A fold without a spike adds 0 to both.

Intervals come from moving blocks drawn within each fold, the same rows for all models, the n-th
draws of all folds together being the n-th draw of the whole. One block length serves all: the one
that all test rows together ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain import verdict as claims
from volatility_pipeline.domain.bootstrap import (
    Blocks,
    Ranking,
    Resamples,
    choose_blocks,
    count_blocks,
    no_resamples,
    resample,
)
from volatility_pipeline.domain.evaluation import (
    Estimate,
    RoleSummary,
    day_rates,
    estimates,
    plain,
    require_fitting,
    role_summary,
)
from volatility_pipeline.domain.ladder import REFERENCE
from volatility_pipeline.domain.splits import ROLES, Policy, require_honest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from volatility_pipeline.domain.models import Forecast
    from volatility_pipeline.domain.walk_forward import FoldForecasts, WalkForward


@dataclass(frozen=True)
class FoldScore:
    """One model on one fold's test rows, or on those of all folds.

    Attributes:
        name: The rung.
        average_precision: PR-AUC, on uncalibrated scores; None without a spike.
        lift: PR-AUC over base rate.
        gain: PR-AUC minus the reference's, on the same resamples; None for the reference itself.
        is_better: Whether the gain's interval lies above zero, on sufficient data.
    """

    name: str
    average_precision: Estimate | None
    lift: Estimate | None
    gain: Estimate | None
    is_better: bool


@dataclass(frozen=True)
class FoldResult:
    """Every model on the same test rows.

    Attributes:
        number: The fold's; None where all are pooled.
        base_rate: Share of spikes.
        insufficient: Why nothing may be claimed; empty where there is enough.
        lift_refusal: Why no lift is shown; None where it is.
        blocks: How the test falls into blocks.
        roles: How much each role knows; pooled, the test alone.
        models: In the order of the forecasts.
    """

    number: int | None
    base_rate: float
    insufficient: tuple[str, ...]
    lift_refusal: str | None
    blocks: Blocks
    roles: tuple[RoleSummary, ...]
    models: tuple[FoldScore, ...]


@dataclass(frozen=True)
class WalkForwardResult:
    """A walk-forward's results.

    Attributes:
        window: `expanding` or `rolling`.
        shortage: Why there are fewer folds than were asked for; None where there are not.
        policy: How the labels' threshold was made.
        reference: The rung that others must beat.
        seed: What the resamples were drawn from.
        resamples: How many were drawn.
        folds: In time order.
        pooled: All folds; None where there is none.
    """

    window: str
    shortage: str | None
    policy: Policy
    reference: str
    seed: int
    resamples: int
    folds: tuple[FoldResult, ...]
    pooled: FoldResult | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: no NaN and no infinity, None instead."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts


class _Test:
    """One fold's test rows, ranked by every model."""

    def __init__(self, run: FoldForecasts, reference: str) -> None:
        require_honest(run.rows["role"].unique())
        rows = run.rows[run.rows["role"] == ROLES[-1]]
        self.rows = rows
        self.ts = rows["ts"].to_numpy(dtype="datetime64[us]")
        self.target = rows["is_spike"].to_numpy(dtype=bool)
        require_fitting(self.ts, run.forecasts, reference)
        self.rankings = [Ranking(forecast.score, self.target) for forecast in run.forecasts]

    def observed(self) -> Resamples:
        """What the rows themselves give, as one draw."""
        once = np.ones(len(self.target), int)
        precision = [ranking.average_precision(once) for ranking in self.rankings]
        return Resamples(np.array([precision]), np.array([self.target.mean()]))

    def drawn(self, blocks: Blocks, *, resamples: int, seed: int) -> Resamples:
        """What blocks of the rows give."""
        return resample(
            self.rankings, self.target, block_rows=blocks.rows, resamples=resamples, seed=seed
        )


def judge_folds(
    walk: WalkForward,
    runs: Sequence[FoldForecasts],
    *,
    policy: Policy,
    seed: int,
    resamples: int = 1000,
    reference: str = REFERENCE,
) -> WalkForwardResult:
    """Measure every model in every fold, and over all of them.

    Args:
        walk: The folds.
        runs: What `walk_forward.run_folds` made of them, the same models in each.
        policy: How the labels' threshold was made.
        seed: For the resamples; each fold draws from its own.
        resamples: How many to draw.
        reference: The model that others are compared with.

    Raises:
        ValueError: A forecast that does not fit its rows, other models in another fold, or no
            reference.
        LeakyRowsError: Rows of a leaky split.
    """
    tests = [_Test(run, reference) for run in runs]
    names = [forecast.name for forecast in runs[0].forecasts] if runs else []
    if any([forecast.name for forecast in run.forecasts] != names for run in runs):
        raise ValueError("The folds were not run with the same models.")
    if any(later.ts[0] <= earlier.ts[-1] for earlier, later in pairwise(tests)):
        raise ValueError("The folds' test rows overlap, or are not in time order.")
    folds: list[FoldResult] = []
    pooled = None
    if runs:
        blocks = _pooled_blocks(runs, tests)
        nothing = no_resamples(len(names))
        draws = [
            test.drawn(blocks, resamples=resamples, seed=seed + run.number)
            if blocks.refusal is None
            else nothing
            for run, test in zip(runs, tests, strict=True)
        ]
        observed = [test.observed() for test in tests]
        judge = partial(_result, names=names, policy=policy, reference=reference)
        for run, test, seen, drawn in zip(runs, tests, observed, draws, strict=True):
            own = count_blocks([test.target], rows=blocks.rows, seconds=blocks.seconds)
            shown = drawn if own.refusal is None else nothing
            folds.append(judge(run.number, run.rows, ROLES, own, seen, shown))
        weights = np.array([len(test.target) for test in tests], dtype=float)
        weights /= weights.sum()
        pooled = judge(
            None,
            _joined([test.rows for test in tests]),
            ROLES[-1:],
            blocks,
            _mean(observed, weights),
            _mean(draws, weights),
        )
    return WalkForwardResult(
        window=walk.window,
        shortage=walk.shortage,
        policy=policy,
        reference=reference,
        seed=seed,
        resamples=resamples,
        folds=tuple(folds),
        pooled=pooled,
    )


def _pooled_blocks(runs: Sequence[FoldForecasts], tests: Sequence[_Test]) -> Blocks:
    """Return the blocks of all folds, none across two of them."""
    target = np.concatenate([test.target for test in tests])
    by_model: Sequence[Sequence[Forecast]] = list(
        zip(*(run.forecasts for run in runs), strict=True)
    )
    residuals = [
        target - np.concatenate([forecast.probability for forecast in forecasts])
        for forecasts in by_model
    ]
    long = choose_blocks(np.concatenate([test.ts for test in tests]), target, residuals)
    blocks = count_blocks([test.target for test in tests], rows=long.rows, seconds=long.seconds)
    shortest = min(len(test.target) for test in tests)
    if blocks.refusal is None and shortest < long.rows:
        return replace(blocks, refusal=f"a fold is shorter than a block of {long.seconds} s")
    return blocks


def _mean(parts: Sequence[Resamples], weights: NDArray[np.float64]) -> Resamples:
    """Return the folds' mean, draw by draw; NaN where no fold has a spike."""
    base_rate = np.tensordot(weights, [part.base_rate for part in parts], axes=1)
    precision = np.tensordot(weights, [np.nan_to_num(p.average_precision) for p in parts], axes=1)
    precision[base_rate == 0] = np.nan
    return Resamples(precision, base_rate)


def _result(
    number: int | None,
    rows: pd.DataFrame,
    known_roles: Sequence[str],
    blocks: Blocks,
    observed: Resamples,
    drawn: Resamples,
    *,
    names: Sequence[str],
    policy: Policy,
    reference: str,
) -> FoldResult:
    seen, draws = observed.average_precision[0], drawn.average_precision
    base_rate = float(observed.base_rate[0])
    compared = names.index(reference)
    roles = tuple(role_summary(rows, role) for role in known_roles)
    insufficient = claims.shortages(roles)
    lift_refusal = claims.lift_refusal(day_rates(rows)) if policy == "training" else None
    with np.errstate(divide="ignore", invalid="ignore"):
        highest = float(np.divide(1.0, base_rate))
        lifts = estimates(
            seen / base_rate, draws / drawn.base_rate[:, None], blocks, highest=highest
        )
    precisions = estimates(seen, draws, blocks, highest=1.0)
    gains = estimates(seen - seen[compared], draws - draws[:, [compared]], blocks)
    models = tuple(
        FoldScore(
            name=name,
            average_precision=precisions[index],
            lift=lifts[index] if lift_refusal is None else None,
            gain=gain if index != compared else None,
            is_better=not insufficient
            and gain is not None
            and gain.low is not None
            and gain.low > 0,
        )
        for index, (name, gain) in enumerate(zip(names, gains, strict=True))
    )
    return FoldResult(
        number=number,
        base_rate=base_rate,
        insufficient=insufficient,
        lift_refusal=lift_refusal,
        blocks=blocks,
        roles=roles,
        models=models,
    )


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)
