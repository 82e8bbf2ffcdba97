"""What may be claimed from an evaluation: the rules of DESIGN §6, and the sentence put first.

The numbers come from `evaluation`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility_pipeline.domain.ladder import LADDER

if TYPE_CHECKING:
    from volatility_pipeline.domain.evaluation import DayRate, Estimate, ModelResult, RoleSummary

MINIMUM_SPIKES = 20
MINIMUM_EPISODES = 10
MAXIMUM_SKILL = 0.72
MAXIMUM_GAIN = 0.1
MAXIMUM_BASE_RATE_RATIO = 3
MINIMUM_DAY_ROWS = 3600


def shortages(roles: Sequence[RoleSummary]) -> tuple[str, ...]:
    """Return a reason for each role that knows too few spikes, or too few episodes of them."""
    return tuple(
        f"{role.role} has {_count(role.separate_spikes, 'non-overlapping spike')} in "
        f"{_count(role.episodes, 'episode')} ({MINIMUM_SPIKES} in {MINIMUM_EPISODES} are needed)"
        for role in roles
        if role.separate_spikes < MINIMUM_SPIKES or role.episodes < MINIMUM_EPISODES
    )


def lift_refusal(days: Sequence[DayRate]) -> str | None:
    """Return why no lift is pooled over the test days, or None.

    Days of less than an hour's rows do not count: their base rate says little.
    """
    rates = [d.base_rate for d in days if d.role == "test" and d.rows >= MINIMUM_DAY_ROWS]
    if not rates or max(rates) <= MAXIMUM_BASE_RATE_RATIO * min(rates):
        return None
    return (
        f"the base rate runs from {min(rates):.2f} to {max(rates):.2f} over the test days, "
        "more than threefold"
    )


def too_good(models: Sequence[ModelResult], reference: str) -> tuple[str, ...]:
    """Return a reason for each result that is better than the literature makes believable."""
    reasons = []
    for model in models:
        if model.skill is not None and model.skill > MAXIMUM_SKILL:
            reasons.append(
                f"{title(model.name)} covers {model.skill:.0%} of the way from the base rate to a "
                f"perfect PR-AUC ({MAXIMUM_SKILL:.0%} is the most that is believable)"
            )
        if model.gain and model.gain.low is not None and model.gain.low > MAXIMUM_GAIN:
            reasons.append(
                f"{title(model.name)} gains {_show(model.gain, '+.2f')} PR-AUC on "
                f"{title(reference)} (an interval above {MAXIMUM_GAIN} is not believable)"
            )
    return tuple(reasons)


def verdict(
    models: Sequence[ModelResult],
    reference: str,
    *,
    base_rate: float | None,
    refusal: str | None,
    insufficient: Sequence[str],
    suspicious: Sequence[str],
) -> str:
    """Return the sentence that comes first: what is missing, what smells, or what is claimed."""
    alarm = f"SUSPICIOUS: {'; '.join(suspicious)}. Look for a leak first." if suspicious else ""
    if insufficient:
        shortage = f"INSUFFICIENT: {'; '.join(insufficient)}. No skill is claimed."
        return f"{shortage} {alarm}".strip()
    return alarm or _claim(models, reference, base_rate=base_rate, refusal=refusal)


def title(name: str) -> str:
    """Return a model's name as a person reads it."""
    return LADDER[name].title if name in LADDER else name


def _claim(
    models: Sequence[ModelResult], reference: str, *, base_rate: float | None, refusal: str | None
) -> str:
    result = next(model for model in models if model.name == reference)
    name = title(reference)
    if result.average_precision is None or base_rate is None:
        return f"{name} has no PR-AUC: the test has no spike."
    lift = f" (lift {_show(result.lift, '.1f')})" if result.lift else ""
    precision = _show(result.average_precision, ".2f")
    claim = f"{name} has PR-AUC {precision} at base rate {base_rate:.2f}{lift}"
    if refusal:
        return f"{claim}; no interval and no comparison is shown, because {refusal}."
    if result.lift and result.lift.low is not None and result.lift.low <= 1:
        claim += ", which shows no skill"
    better = [f"{title(m.name)} ({_show(m.gain, '+.3f')})" for m in models if m.is_better]
    found = f"better: {', '.join(better)}" if better else f"nothing is better than {name}"
    return f"{claim}; {found}."


def _show(estimate: Estimate | None, style: str) -> str:
    if estimate is None:
        return "undefined"
    if estimate.low is None:
        return f"{estimate.value:{style}}"
    return f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
