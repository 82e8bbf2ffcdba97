"""Splits: who may learn from a row and who is judged by it.

Only the roles are decided here; the rows come from `sql/50_splits.sql`, and where a walk-forward's
folds are cut is said in `walk_forward`. One split leaks, for the audit, and its roles say so.
"""

from collections.abc import Iterable, Sequence
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
FIRST_TIME, LAST_TIME = np.datetime64("0001-01-01", "s"), np.datetime64("9999-01-01", "s")

LEAKY_LABEL = "LEAKY"
LEAKY_PROTOCOL = "stratified-random"
LEAKY_ROLES = tuple(f"{LEAKY_LABEL} {role}" for role in ROLES)


class LeakyRowsError(ValueError):
    """Rows of the audit's leaky split came where only honest ones may; the message says which."""


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


@dataclass(frozen=True)
class LeakySplit:
    """A split whose later roles know the earlier ones' answers: for the audit, and nothing else.

    Its roles are none of `ROLES` and carry the label, so what is honest refuses such rows, even
    after they were stored and read again.

    Attributes:
        role: Shape (n,), one of `LEAKY_ROLES`, or "" for a row without a label.
        protocol: What was done.
        label: To stand beside every number that comes of it.
        is_leaky: Always.
    """

    role: NDArray[np.str_]
    protocol: str = LEAKY_PROTOCOL
    label: str = LEAKY_LABEL
    is_leaky: Literal[True] = True


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
    is_labelled = has_label(future_volatility, trailing_threshold, policy)
    labelled = ts[is_labelled].astype("datetime64[s]")
    last = len(labelled) - 1
    cuts = [
        labelled[min(int(np.ceil(share * len(labelled))), last)] for share in SHARES if last >= 0
    ]
    return split_at(
        ts,
        future_volatility,
        trailing_threshold,
        cuts=cuts,
        policy=policy,
        embargo_seconds=embargo_seconds,
    )


def split_at(
    ts: NDArray[np.datetime64],
    future_volatility: NDArray[np.float64],
    trailing_threshold: NDArray[np.float64],
    *,
    cuts: Sequence[np.datetime64],
    start: np.datetime64 = FIRST_TIME,
    end: np.datetime64 = LAST_TIME,
    policy: Policy = "trailing",
    embargo_seconds: int = EMBARGO_SECONDS,
) -> Split:
    """Cuts rows at given times, purged and embargoed; see `split`.

    Args:
        ts: As for `split`.
        future_volatility: As for `split`.
        trailing_threshold: As for `split`.
        cuts: When validation and test begin; none where no row is labelled.
        start: Rows before it have no role and are not counted as dropped.
        end: Likewise for rows at or after it; no test row's 60 seconds reach beyond.
        policy: As for `split`.
        embargo_seconds: As for `split`.
    """
    ts = ts.astype("datetime64[s]")  # in nanoseconds the years of the bounds would overflow
    has_future = ~np.isnan(future_volatility)
    is_labelled = has_label(future_volatility, trailing_threshold, policy)
    place = np.searchsorted(np.array(cuts, dtype=ts.dtype), ts, side="right")
    # Each role lies between two bounds; a row's 60 seconds end within them, and a later role
    # leaves out the embargo.
    starts = np.array([start, *cuts], dtype=ts.dtype)[place]
    ends = np.array([*cuts, end], dtype=ts.dtype)[place]
    seconds = ts.astype(np.int64)
    dropped: dict[str, int] = {}
    taken = (ts < start) | (ts >= end)
    for reason, is_out in {
        "future_unknown": ~has_future,
        "threshold_unknown": ~is_labelled,
        "purged": ts + np.timedelta64(HORIZON_SECONDS, "s") > ends,
        "embargoed": (place > 0) & (ts < starts + np.timedelta64(embargo_seconds, "s")),
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


def has_label(
    future_volatility: NDArray[np.float64],
    trailing_threshold: NDArray[np.float64],
    policy: Policy,
) -> NDArray[np.bool_]:
    """Whether a row has all that its label takes, shape (n,)."""
    known = ~np.isnan(future_volatility)
    return known if policy == "training" else known & ~np.isnan(trailing_threshold)


def stratified_random(
    is_spike: NDArray[np.bool_], is_labelled: NDArray[np.bool_], *, seed: int
) -> LeakySplit:
    """Shuffles rows 70/15/15, each role with the same share of spikes: the LEAKY protocol.

    Neighbouring rows share most of their 60 seconds, so a test row's answer stands in the training
    rows beside it. Nothing is purged, embargoed or thinned, as where this is offered in earnest.

    Args:
        is_spike: Shape (n,).
        is_labelled: Shape (n,); the other rows have no role.
        seed: For the shuffle.
    """
    rng = np.random.default_rng(seed)
    role = np.full(len(is_spike), "", dtype=np.array(LEAKY_ROLES).dtype)
    for stratum in (is_labelled & is_spike, is_labelled & ~is_spike):
        rows = rng.permutation(np.flatnonzero(stratum))
        ends = [round(share * len(rows)) for share in SHARES]
        for name, part in zip(LEAKY_ROLES, np.split(rows, ends), strict=True):
            role[part] = name
    return LeakySplit(role)


def require_honest(roles: Iterable[str]) -> None:
    """Refuses rows of a leaky split.

    Raises:
        LeakyRowsError: A role is not one of `ROLES`.
    """
    if foreign := sorted(set(roles) - set(ROLES)):
        raise LeakyRowsError(
            f"Rows of role {', '.join(foreign)} are for the leakage audit alone: nothing learnt "
            "or measured from them is a result."
        )
