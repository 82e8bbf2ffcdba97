"""Promotion: when a challenger becomes the champion, each rule with its own sentence.

Only deciding is done here, and the paired test; which versions there are, how fast they answer and
where a decision is recorded is `resources/champions`.

The interval of the difference is looked at once per week of new data: at every look a challenger
that is no better has one chance in forty, so daily looks would promote one within weeks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from volatility_pipeline.domain.evaluation import Estimate, evaluate
from volatility_pipeline.domain.ladder import REFERENCE
from volatility_pipeline.domain.latency import BUDGET_SECONDS
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS, ROLES, Policy
from volatility_pipeline.domain.verdict import title

if TYPE_CHECKING:
    import pandas as pd

    from volatility_pipeline.domain.models import Forecast

Outcome = Literal[
    "promoted", "refused", "deferred", "unchanged", "set by hand", "rolled back", "removed"
]

TIE = 0.001
"""Validation PR-AUCs that differ by less are equal: the reference is the simpler model."""

WEEK = timedelta(days=7)
NON_INFERIORITY = 0.02
LATENCY_BUDGET_MS = 1e3 * BUDGET_SECONDS[1]


@dataclass(frozen=True)
class Candidate:
    """A registered version, as the rules see it.

    Attributes:
        version: Its number in the registry.
        model: The rung.
        policy: How the threshold of its labels was made.
        columns: Its inputs, in order.
        fitted_until: Time of the last row that it knows anything of, ISO.
    """

    version: str
    model: str
    policy: Policy
    columns: tuple[str, ...]
    fitted_until: str

    @property
    def title(self) -> str:
        """The model as a person reads it."""
        return f"{title(self.model)} (version {self.version})"


@dataclass(frozen=True)
class Facts:
    """What is known before the test, and decides whether there is one.

    Attributes:
        product: The market.
        at: When this is decided, ISO.
        challenger: The best rung on validation.
        champion: The champion; None where there is none.
        is_simulated: Whether the data is made up.
        newest_row: Time of the newest test row, ISO; None without one.
        last_tested: That time at the last test; None before the first.
        insufficient: Why the data can carry no claim; empty where it can.
        suspicious: What of the evaluation is too good to be true; empty where nothing is.
        failed_controls: Sentences of the controls that fail.
        unjudged_controls: Names of the controls that could not be judged; they stop nothing.
        fault: Why one of the models cannot be loaded; None where both can.
        latency_ms: Processor time of the challenger for one row, mean milliseconds; None where it
            is not to be loaded.
        base_rate: Share of spikes among the challenger's test rows; None without rows.
        average_precision: The challenger's on them; None without a spike.
        lift: Likewise, over the base rate; None where none is shown. Where the test is too short
            for an interval, that of the same rung over the folds of the walk-forward.
        lift_judged_on: Which of the two.
        lift_refusal: Why no lift, or no interval of it, is shown.
        weaknesses: Why the champion gives way to a challenger that is only not inferior (stale, in
            drift), one clause each; empty where it does not.
    """

    product: str
    at: str
    challenger: Candidate
    champion: Candidate | None
    is_simulated: bool
    newest_row: str | None
    last_tested: str | None = None
    insufficient: tuple[str, ...] = ()
    suspicious: tuple[str, ...] = ()
    failed_controls: tuple[str, ...] = ()
    unjudged_controls: tuple[str, ...] = ()
    fault: str | None = None
    latency_ms: float | None = None
    base_rate: float | None = None
    average_precision: Estimate | None = None
    lift: Estimate | None = None
    lift_judged_on: str = "the test"
    lift_refusal: str | None = None
    weaknesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion on the same rows, later than all that either knows.

    Attributes:
        rows: How many.
        start: Time of the first, ISO; None without rows.
        end: Time of the last.
        base_rate: Share of spikes.
        blocks: Blocks that the resamples were drawn from.
        block_seconds: Their length.
        refusal: Why there is no interval; None where there is one.
        challenger: The challenger's average precision.
        champion: The champion's.
        difference: Challenger minus champion, on the same resamples.
        champion_lift: The champion's average precision over the base rate.
        persistence_gain: Persistence minus champion, on the same resamples.
    """

    rows: int
    start: str | None
    end: str | None
    base_rate: float | None
    blocks: int
    block_seconds: int
    refusal: str | None
    challenger: Estimate | None
    champion: Estimate | None
    difference: Estimate | None
    champion_lift: Estimate | None
    persistence_gain: Estimate | None

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Why the champion is below its floor, one clause each; empty where it is not."""
        found = []
        lift, gain = self.champion_lift, self.persistence_gain
        if lift and lift.high is not None and lift.high < 1:
            found.append(f"is below its floor: its lift is {show(lift, '.2f')}, below 1")
        if gain and gain.low is not None and gain.low > 0:
            found.append(f"is below its floor: persistence gains {show(gain, '+.3f')} PR-AUC on it")
        return tuple(found)


@dataclass(frozen=True)
class Decision:
    """What was decided, why, and by which numbers.

    Attributes:
        product: The market.
        at: When, ISO.
        outcome: What became of it; `refused` and `deferred` leave things as they were.
        reason: One sentence; a person's own words where it was done by hand.
        challenger: The challenger's version; None by hand.
        challenger_model: Its rung.
        champion: The champion's version from now on; None where there is none.
        champion_model: Its rung.
        numbers: What it was decided by, as plain JSON. Where there was a test, `tested_until` is
            the time of its newest row, and `challenger` and `champion` are average precisions.
        archives: SHA-256 of the models it names, by version: a number alone names another model
            once the registry was made anew.
    """

    product: str
    at: str
    outcome: Outcome
    reason: str
    challenger: str | None
    challenger_model: str | None
    champion: str | None
    champion_model: str | None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    archives: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a test found of a version: PR-AUC, base rate, and the time of the newest row, ISO."""

    average_precision: Estimate
    base_rate: float
    tested_until: str


def choose_challenger(validation: Mapping[str, float | None]) -> str:
    """Return the rung that ranks validation rows best; the reference wins ties.

    Args:
        validation: Average precision on the validation rows by rung, the reference among them;
            None where there is no spike.
    """
    known = {name: value for name, value in validation.items() if value is not None}
    if not known or max(known.values()) - known.get(REFERENCE, -np.inf) < TIE:
        return REFERENCE
    return max(known, key=lambda name: known[name])


def decide(facts: Facts, compare: Callable[[], Comparison]) -> Decision:
    """Return what becomes of a challenger: the first rule that speaks decides.

    Args:
        facts: What is known before the test.
        compare: The test; called only if one may be made, and there is a champion.
    """
    challenger, champion = facts.challenger, facts.champion
    if champion and champion.version == challenger.version:
        return _decision(facts, "unchanged", f"{challenger.title} is the champion already.")
    if obstacle := _obstacle(facts):
        return _decision(facts, "refused", obstacle)
    if facts.suspicious and not facts.is_simulated:
        return _decision(facts, "deferred", _waits_for_a_person(facts))
    if waiting := _too_soon(facts):
        return _decision(facts, "deferred", waiting)
    return _against(facts, champion, compare()) if champion else _first(facts)


def last_tested(history: Sequence[Decision]) -> str | None:
    """Return the time of the newest row that a test has seen, ISO; None before the first."""
    times = [decision.numbers.get("tested_until") for decision in history]
    return max((time for time in times if time), default=None)


def last_measured(history: Sequence[Decision], version: str) -> Measured | None:
    """Return what the newest test that a version took part in found of it; None without one."""
    for decision in reversed(history):
        numbers = decision.numbers
        roles = {"challenger": decision.challenger, "champion": numbers.get("replaced")}
        for role, named in roles.items():
            if "tested_until" in numbers and named == version and numbers.get(role):
                return Measured(
                    Estimate(**numbers[role]), numbers["base_rate"], numbers["tested_until"]
                )
    return None


def champion_before(history: Sequence[Decision], champion: str | None) -> str | None:
    """Return the version that a roll-back leads to: each goes one champion further back.

    Args:
        history: All decisions, the oldest first.
        champion: The champion now; None where there is none.
    """
    line: list[str | None] = []
    for decision in history:
        if decision.outcome in ("promoted", "set by hand"):
            line.append(decision.champion)
        elif decision.outcome == "rolled back":
            while line and line[-1] != decision.champion:
                line.pop()
    while line and line[-1] == champion:
        line.pop()
    return line[-1] if line else None


def unknown_to(fitted_until: Sequence[str], frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those of role `test` that one of the models may know something of.

    Args:
        fitted_until: Per model, the time of the last row that it knows, ISO.
        frame: Rows of every role with `ts` and `role`.
    """
    known = max(np.datetime64(time, "s") for time in fitted_until)
    start = known + np.timedelta64(HORIZON_SECONDS + EMBARGO_SECONDS, "s")
    return frame[(frame["role"] != ROLES[-1]) | (frame["ts"] >= start)]


def compare(
    frame: pd.DataFrame,
    *,
    challenger: Forecast,
    champion: Forecast,
    persistence: Forecast,
    product: str,
    policy: Policy,
    seed: int,
) -> Comparison:
    """Measure challenger, champion and persistence on the same test rows and resamples.

    Args:
        frame: Rows of every role, of the test those alone that neither model knows (`unknown_to`).
        challenger: For the rows of role `test`, in their order.
        champion: Likewise.
        persistence: Likewise; the champion's floor.
        product: The market.
        policy: How the labels' threshold was made.
        seed: For the resamples.
    """
    result = evaluate(
        frame,
        [
            replace(forecast, name=name)
            for name, forecast in {
                "champion": champion,
                "challenger": challenger,
                "persistence": persistence,
            }.items()
        ],
        product_id=product,
        policy=policy,
        seed=seed,
        reference="champion",
    )
    standing, candidate, floor = result.models
    test = result.roles[-1]
    return Comparison(
        rows=test.rows,
        start=test.start,
        end=test.end,
        base_rate=result.base_rate,
        blocks=result.blocks.count,
        block_seconds=result.blocks.seconds,
        refusal="; ".join(result.insufficient) or result.blocks.refusal,
        challenger=candidate.average_precision,
        champion=standing.average_precision,
        difference=candidate.gain,
        champion_lift=standing.lift,
        persistence_gain=floor.gain,
    )


def show(estimate: Estimate, style: str) -> str:
    """Return a number with its interval, if it has one."""
    if estimate.low is None:
        return f"{estimate.value:{style}}"
    return f"{estimate.value:{style}} [{estimate.low:{style}}, {estimate.high:{style}}]"


def _obstacle(facts: Facts) -> str | None:
    """Return why the challenger cannot be tested whatever its numbers; None where it can."""
    challenger, champion = facts.challenger, facts.champion
    by_hand = f"`volatility champion {facts.product} --set {challenger.version} --reason …`"
    if facts.insufficient:
        return f"The data is insufficient: {'; '.join(facts.insufficient)}."
    if facts.failed_controls:
        return f"A control failed: {' '.join(facts.failed_controls)}"
    if champion and champion.policy != challenger.policy:
        return (
            f"The label's policy was {champion.policy} for the champion and is {challenger.policy} "
            f"for the challenger, so their answers are not to one question; {by_hand} replaces it."
        )
    if champion and champion.columns != challenger.columns:
        others = sorted({*champion.columns} ^ {*challenger.columns}) or ["their order"]
        return (
            f"The inputs' schema changed since the champion was trained ({', '.join(others)}), so "
            f"it cannot be asked about today's rows; {by_hand} replaces it."
        )
    if facts.fault:
        return facts.fault
    if facts.latency_ms is not None and facts.latency_ms > LATENCY_BUDGET_MS:
        return (
            f"{challenger.title} takes {facts.latency_ms:.1f} ms of processor time for a row; "
            f"{LATENCY_BUDGET_MS:g} ms are allowed."
        )
    return None


def _waits_for_a_person(facts: Facts) -> str:
    return (
        f"Suspicious: {'; '.join(facts.suspicious)}. Look for a leak; where there is none, "
        f"`volatility champion {facts.product} --set {facts.challenger.version} --reason …` "
        "promotes it."
    )


def _too_soon(facts: Facts) -> str | None:
    if facts.last_tested is None or facts.newest_row is None:
        return None
    due = datetime.fromisoformat(facts.last_tested) + WEEK
    if datetime.fromisoformat(facts.newest_row) >= due:
        return None
    return (
        f"The last test saw rows up to {facts.last_tested}; the next may be made once there are "
        f"test rows from {due.isoformat()} on, since testing daily would promote by chance."
    )


def _first(facts: Facts) -> Decision:
    """Decide on a challenger where there is no champion: it has to have skill."""
    lift, name = facts.lift, facts.challenger.title
    if lift is None or lift.low is None:
        why = facts.lift_refusal or "the test has no spike"
        return _decision(facts, "refused", f"No lift interval of {name} is shown: {why}.")
    numbers = {
        "base_rate": facts.base_rate,
        "challenger": asdict(facts.average_precision) if facts.average_precision else None,
        "lift": asdict(lift),
        "lift_judged_on": facts.lift_judged_on,
        "tested_until": facts.newest_row,
    }
    shown = f"{name} has lift {show(lift, '.2f')} on {facts.lift_judged_on}"
    if lift.low > 1:
        reason = f"There was no champion; {shown}, an interval above 1."
        return _decision(facts, "promoted", reason, numbers)
    reason = f"{shown}; the first champion needs an interval above 1."
    return _decision(facts, "refused", reason, numbers)


def _against(facts: Facts, champion: Candidate, found: Comparison) -> Decision:
    """Decide by the paired interval: above zero, or above the margin of non-inferiority."""
    name = facts.challenger.title
    weaknesses = (*facts.weaknesses, *found.weaknesses)
    margin = -NON_INFERIORITY if weaknesses else 0.0
    numbers: dict[str, Any] = {"margin": margin, "weaknesses": list(weaknesses), **asdict(found)}
    difference = found.difference
    if found.refusal or difference is None or difference.low is None or difference.high is None:
        reason = (
            f"{name} and the champion, {champion.title}, cannot be told apart on the "
            f"{found.rows:,} test rows that neither knows: {found.refusal or 'there is no spike'}."
        )
        return _decision(facts, "refused", reason, numbers)
    numbers["tested_until"] = found.end
    shown = f"{show(difference, '+.3f')} PR-AUC on {found.rows:,} rows that neither knows"
    if weaknesses:
        whose = f"The champion, {champion.title}, {' and '.join(weaknesses)}."
        if difference.low > margin:
            reason = f"{whose} {name} is not inferior to it: {shown}, an interval above {margin}."
            return _decision(facts, "promoted", reason, numbers)
        reason = f"{whose} {name} may still be inferior: {shown}; the interval has to lie above "
        return _decision(facts, "refused", f"{reason}{margin}.", numbers)
    if difference.low > 0:
        reason = f"{name} is better than the champion, {champion.title}: {shown}."
        return _decision(facts, "promoted", reason, numbers)
    found_to_be = "is worse than" if difference.high < 0 else "is not shown to be better than"
    reason = f"{name} {found_to_be} the champion, {champion.title}: {shown}."
    return _decision(facts, "refused", reason, numbers)


def _decision(
    facts: Facts, outcome: Outcome, reason: str, numbers: Mapping[str, Any] | None = None
) -> Decision:
    standing = facts.challenger if outcome == "promoted" else facts.champion
    if outcome == "promoted" and facts.suspicious:
        reason += f" On simulated data only a warning: {'; '.join(facts.suspicious)}."
    if outcome == "promoted" and facts.unjudged_controls:
        reason += f" Controls that could not be judged: {', '.join(facts.unjudged_controls)}."
    return Decision(
        product=facts.product,
        at=facts.at,
        outcome=outcome,
        reason=reason,
        challenger=facts.challenger.version,
        challenger_model=facts.challenger.model,
        champion=standing.version if standing else None,
        champion_model=standing.model if standing else None,
        numbers={
            "replaced": facts.champion.version if facts.champion else None,
            "newest_row": facts.newest_row,
            "latency_ms": facts.latency_ms,
            "controls_not_judged": list(facts.unjudged_controls),
            **(numbers or {}),
        },
    )
