"""Controls: what has to hold before any number may be believed, each with its own sentence.

Only the judging is done here, and what of it needs models; building noise markets and cutting a
lake's future off is `resources/audit`. The flattering protocols are `leakage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from volatility_pipeline.domain.leakage import FOREST, LeakageRow, rank, title
from volatility_pipeline.domain.splits import (
    HORIZON_SECONDS,
    ROLES,
    TRAINING_STRIDE_SECONDS,
    Policy,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from volatility_pipeline.domain.fold_results import WalkForwardResult

STANDARD_ERRORS = 3.0
PERMUTED_STANDARD_ERRORS = 4.1
"""Of ten draws, whose seeds nobody has looked at, 4.1 are as rare as 3 of many (Student's t)."""

MINIMUM_DRAWS = 5
PERMUTATIONS = 10
PERMUTED_BLOCK_SECONDS = 1800
MINIMUM_PERMUTED_BLOCKS = 20
SHIFTS = 50
PERMUTED_MODELS = ("har_logistic", "xgboost", FOREST)
PERMUTED_ROWS = 12_000


@dataclass(frozen=True)
class Control:
    """What a control found.

    Attributes:
        name: Which control, and of what.
        passed: Whether it holds; None where there is too little to judge by.
        numbers: What it was judged by.
        sentence: The finding, for a person.
    """

    name: str
    passed: bool | None
    numbers: Mapping[str, float | int | str | None]
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """How one model ranked the test rows of one draw (a noise market, a permutation).

    Attributes:
        average_precision: Of rows chosen so that `expected` is known.
        base_rate: Share of spikes among them.
        expected: The average precision expected of a ranking that knows nothing.
        every_row: The average precision over all test rows, for comparison.
        spike_rate: Share of spikes among all test rows.
    """

    average_precision: float
    base_rate: float
    expected: float
    every_row: float
    spike_rate: float

    @property
    def lift(self) -> float:
        """Average precision over base rate."""
        return self.average_precision / self.base_rate

    @property
    def expected_lift(self) -> float:
        """The lift expected of a ranking that knows nothing: above 1, and the more so the fewer."""
        return self.expected / self.base_rate


@dataclass(frozen=True)
class PastRows:
    """What became of the rows up to an instant when what came later was cut off.

    Attributes:
        at: The instant.
        rows: Rows up to it, with the future there.
        lost: Those that are not there without it.
        invented: Rows that are there only without it.
        changed: Rows of which a value is another.
    """

    at: str
    rows: int
    lost: int
    invented: int
    changed: int


@dataclass(frozen=True)
class AuditSection:
    """What was found of one product, of simulated noise, or of the lake.

    Attributes:
        subject: Of which.
        is_simulated: Whether its data is made up.
        facts: What it was found on.
        controls: The controls.
        leakage: The leakage audit; empty where there is none.
        walks: The ladder over expanding and over rolling windows; empty where it was not run.
    """

    subject: str
    is_simulated: bool
    facts: Mapping[str, float | int | str | None]
    controls: tuple[Control, ...]
    leakage: tuple[LeakageRow, ...] = ()
    walks: tuple[WalkForwardResult, ...] = ()


def chance(positives: int, rows: int) -> float:
    """Return the average precision expected of a random order, which lies above the base rate.

    Bestgen, "Exact expected average precision of the random baseline" (Prague Bulletin of
    Mathematical Linguistics 103, 2015). It supposes that rows are exchangeable.
    """
    if rows < 2:
        return positives / rows if rows else math.nan
    harmonic = float(np.sum(1 / np.arange(1, rows + 1)))
    return ((positives - 1) / (rows - 1) * (rows - harmonic) + harmonic) / rows


def separate_rows(
    ts: NDArray[np.datetime64], target: NDArray[np.bool_], score: NDArray[np.float64]
) -> Outcome | None:
    """Judge a model on rows a whole minute apart, whose labels share no second.

    Overlapping labels are not exchangeable, and `chance` would not be theirs. So each of the sixty
    ways to take every sixtieth second is measured, and their mean taken; equal scores stand in
    random order.

    Args:
        ts: Decision times, whole seconds.
        target: Spikes.
        score: The model's.

    Returns:
        The outcome; None where no row is a spike.
    """
    if not target.any():
        return None
    order = _order(score)
    phase = ts.astype("datetime64[s]").astype(np.int64) % HORIZON_SECONDS
    measured = []
    for number in range(HORIZON_SECONDS):
        hits = target[order[phase[order] == number]]
        if hits.any():
            measured.append((_precision(hits), hits.mean(), chance(int(hits.sum()), len(hits))))
    precision, base_rate, expected = np.mean(measured, axis=0).tolist()
    every_row = _precision(target[order])
    return Outcome(precision, base_rate, expected, every_row, float(target.mean()))


def shifted_labels(target: NDArray[np.bool_], score: NDArray[np.float64]) -> Outcome | None:
    """Judge a model against the same labels, moved along in time until they tell nothing.

    What labels and scores owe to their own past stays in the comparison (circular shifts).

    Args:
        target: Spikes in time order.
        score: The model's.

    Returns:
        The outcome; None where no row is a spike.
    """
    if not target.any():
        return None
    order = _order(score)
    shifts = np.arange(1, SHIFTS + 1) * len(target) // (SHIFTS + 1)
    expected = float(np.mean([_precision(np.roll(target, shift)[order]) for shift in shifts]))
    precision, base_rate = _precision(target[order]), float(target.mean())
    return Outcome(precision, base_rate, expected, precision, base_rate)


def noise_control(model: str, outcomes: Sequence[Outcome]) -> Control:
    """Does a model find more in noise than a random ranking does, on average over fixed seeds?

    It fails above, not below: a model that averages the recent past ranks a minute after a spike
    high, and the spikes that are left are fewer for it. This bias (Marriott and Pope, Biometrika
    1954, for autocorrelations) is -0.2 of lift for an EWMA over a hundred minutes, and grows as
    they get fewer.
    """
    return _pooled(f"noise: {title(model)}", "noise markets", outcomes, allowed=STANDARD_ERRORS)


def permuted_labels(
    frame: pd.DataFrame,
    *,
    policy: Policy,
    models: Sequence[str] = PERMUTED_MODELS,
    roles: Sequence[str] = ROLES,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Control, ...]:
    """Does a model know the test's labels once all labels stand at other times?

    Half-hours of labels change places, over all roles at once: each keeps its inner order, and none
    its features. Then training and test go on as ever, and whatever is found above what shifted
    labels give comes of the protocol. (Permuting training labels alone would tell nothing: the fit
    then points anywhere, and by luck along the real effect.)

    Args:
        frame: Rows of every role in time order, `MODEL_INPUTS`, `ts`, `is_spike`, `role`; those at
            every fifth second are used, or rarer ones where that is more than `PERMUTED_ROWS`.
        policy: How the threshold was made.
        models: Rungs, or the deep forest of `leakage`.
        roles: The names of training, validation and test.
        seed: For the permutations.
        permutations: How many.
        progress: Told what begins.

    Returns:
        One control a model.
    """
    second = frame["ts"].to_numpy(dtype="datetime64[s]").astype(np.int64)
    stride = TRAINING_STRIDE_SECONDS
    stride *= max(1, math.ceil(np.sum(second % stride == 0) / PERMUTED_ROWS))
    frame = frame[second % stride == 0]
    target = frame["is_spike"].to_numpy(dtype=bool)
    block = PERMUTED_BLOCK_SECONDS // stride
    blocks = np.array_split(np.arange(len(frame)), max(len(frame) // block, 1))
    if len(blocks) < MINIMUM_PERMUTED_BLOCKS:
        reason = f"{len(blocks)} half-hours of rows are there, {MINIMUM_PERMUTED_BLOCKS} are needed"
        return tuple(_unjudged(f"permuted labels: {title(model)}", reason) for model in models)
    rng = np.random.default_rng(seed)
    found: dict[str, list[Outcome]] = {model: [] for model in models}
    for number in range(permutations):
        progress(f"permuted labels, {number + 1} of {permutations}")
        order = np.concatenate([blocks[index] for index in rng.permutation(len(blocks))])
        permuted = frame.assign(is_spike=target[order])
        train, validation, test = (permuted[permuted["role"] == role] for role in roles)
        labels = test["is_spike"].to_numpy(dtype=bool)
        for model in models:
            score = rank(model, train, validation, test, policy=policy, seed=seed)
            outcome = shifted_labels(labels, score)
            found[model] += [outcome] if outcome else []
    return tuple(
        _pooled(
            f"permuted labels: {title(model)}",
            "permutations",
            outcomes,
            allowed=PERMUTED_STANDARD_ERRORS,
        )
        for model, outcomes in found.items()
    )


def overlap(frame: pd.DataFrame, *, roles: Sequence[str] = ROLES) -> Control:
    """Does the label of a row share a second with the label of a row of a later role?

    Args:
        frame: Rows with `ts` and `role`; with `fold`, each fold is looked at by itself.
        roles: Their names, the earliest first.
    """
    folds = [part for _, part in frame.groupby("fold")] if "fold" in frame else [frame]
    counts: dict[str, int] = {}
    for fold in folds:
        second = fold["ts"].to_numpy(dtype="datetime64[s]").astype(np.int64)
        times = {role: np.sort(second[fold["role"] == role]) for role in roles}
        for place, earlier in enumerate(roles):
            for later in roles[place + 1 :]:
                name = f"{earlier} rows that reach into {later}"
                counts[name] = counts.get(name, 0) + _near(times[earlier], times[later])
    total = sum(counts.values())
    worst = max(counts, key=lambda name: counts[name])
    sentence = (
        f"No label interval of {len(frame):,} rows reaches into a later role."
        if not total
        else f"Labels overlap: {counts[worst]:,} {worst}, so the later role is no test."
    )
    return Control("train/test overlap", not total, counts, sentence)


def past_rows(whole: pd.DataFrame, cut: pd.DataFrame, at: np.datetime64) -> PastRows:
    """Compare the rows up to an instant, made with and without what came at it or later.

    Args:
        whole: Rows with `product_id` and `ts`, made from all data.
        cut: Likewise, with the same columns, made from the data before `at`.
        at: The instant; a row at it uses what was before it.
    """
    keys = ["product_id", "ts"]
    past, rebuilt = (rows[rows["ts"] <= at].set_index(keys) for rows in (whole, cut))
    both = past.index.intersection(rebuilt.index)
    before, after = past.loc[both], rebuilt.loc[both, list(past.columns)]
    is_same = (before == after) | (before.isna() & after.isna())
    return PastRows(
        at=str(at.astype("datetime64[s]")),
        rows=len(past),
        lost=len(past) - len(both),
        invented=len(rebuilt) - len(both),
        changed=int((~is_same.all(axis=1)).sum()),
    )


def future_truncation(cuts: Sequence[PastRows]) -> Control:
    """Do features up to an instant stay the same when the data after it is cut off?"""
    numbers: dict[str, float | int | str | None] = {
        "cuts": ", ".join(cut.at for cut in cuts),
        "rows": sum(cut.rows for cut in cuts),
        "lost": sum(cut.lost for cut in cuts),
        "invented": sum(cut.invented for cut in cuts),
        "changed": sum(cut.changed for cut in cuts),
    }
    if not numbers["rows"]:
        return _unjudged("future truncation", "there is no row of features")
    broken = next((cut for cut in cuts if cut.lost or cut.invented or cut.changed), None)
    sentence = (
        f"Cutting off the future at {len(cuts)} instants changed none of {numbers['rows']:,} rows "
        "of features and thresholds and lost none."
        if broken is None
        else f"Without the data after {broken.at}, {broken.changed:,} of {broken.rows:,} earlier "
        f"rows change, {broken.lost:,} are lost and {broken.invented:,} appear: they know the "
        "future."
    )
    return Control("future truncation", broken is None, numbers, sentence)


def too_good(suspicious: Sequence[str], *, is_simulated: bool) -> Control:
    """Is an evaluation's result believable? On simulated data a yes is only doubted.

    Args:
        suspicious: What `verdict.too_good` said of it.
        is_simulated: Whether the data is made up.
    """
    sentence = "No result is better than the literature makes believable."
    if suspicious:
        sentence = f"Too good: {'; '.join(suspicious)}."
    if suspicious and is_simulated:
        sentence = f"Simulated data, so only a warning. {sentence}"
    passed = is_simulated or not suspicious
    return Control("too good to be true", passed, {"alarms": len(suspicious)}, sentence)


def _pooled(name: str, draws: str, outcomes: Sequence[Outcome], *, allowed: float) -> Control:
    """Hold the mean lift of some draws against the mean that a random ranking would have.

    More is knowledge where there can be none; less is only luck, or the bias of `noise_control`.
    """
    if len(outcomes) < MINIMUM_DRAWS:
        return _unjudged(name, f"{len(outcomes)} {draws} hold a spike, {MINIMUM_DRAWS} are needed")
    precision, base_rate, chances, every_row, share = np.array(
        [
            (one.average_precision, one.base_rate, one.expected, one.every_row, one.spike_rate)
            for one in outcomes
        ]
    ).T
    # Over the mean base rate, not each over its own: one market with three spikes outweighs nine.
    excess = (precision - chances) / base_rate.mean()
    lift, expected = (float(values.mean() / base_rate.mean()) for values in (precision, chances))
    mean, error = float(excess.mean()), float(excess.std(ddof=1) / math.sqrt(len(excess)))
    margin = allowed * error
    return Control(
        name,
        mean <= margin,
        {
            "draws": len(outcomes),
            "base_rate": float(share.mean()),
            "mean_lift": lift,
            "expected_lift": expected,
            "excess": mean,
            "standard_error": error,
            "margin": margin,
            "mean_lift_every_row": float(every_row.mean() / share.mean()),
            "standard_errors_from_1": (lift - 1) / error if error else None,
        },
        f"Over {len(outcomes)} {draws} the mean lift is {lift:.2f} where knowing nothing gives "
        f"{expected:.2f} (not 1: the rows are few). That is {mean:+.2f} ± {error:.2f}; more than "
        f"{margin:+.2f}, {allowed:g} standard errors, would be noticed.",
    )


def _unjudged(name: str, reason: str) -> Control:
    return Control(name, None, {}, f"Not judged: {reason}.")


def _order(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows by falling score, equal ones in (seeded) random order."""
    ties = np.random.default_rng(0).permutation(len(score))
    return np.lexsort((ties, -score))


def _precision(hits: NDArray[np.bool_]) -> float:
    """Return the average precision of ranked labels, one of which is true at least."""
    return float(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))


def _near(earlier: NDArray[np.int64], later: NDArray[np.int64]) -> int:
    """Count the times that lie less than a horizon from one of the later ones, both sorted."""
    first = np.searchsorted(later, earlier - HORIZON_SECONDS, side="right")
    last = np.searchsorted(later, earlier + HORIZON_SECONDS, side="left")
    return int((last > first).sum())
