"""Champion and challenger on what both answered live, as the challenger's answers were logged.

What belongs here: which logged rows count, and the paired comparison over them. What does not: the
measures and the rules of claims (`evaluation`, `verdict`, `bootstrap`), promotion, which asks test
rows alone (`promotion`), and reading the log (`resources/live_answers`).

The log holds calibrated probabilities, no scores. Calibration is a sigmoid of the score, so both
rank rows alike but where a probability is rounded to the same number; such ties lower average
precision a little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from volatility_pipeline.domain.evaluation import (
    Estimate,
    ModelResult,
    RoleSummary,
    evaluate,
    role_summary,
)
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.splits import ROLES, Policy
from volatility_pipeline.domain.verdict import shortages

if TYPE_CHECKING:
    import pandas as pd

    from volatility_pipeline.domain.bootstrap import Blocks

STEP_SECONDS = 5
"""How far the rows lie apart: a week of every second would take a minute to resample."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Shadow:
    """What champion and challenger answered live, compared; None where it is not defined.

    Attributes:
        champion: The champion as a person reads it.
        challenger: Likewise.
        rows: How much the rows know that both answered and whose label is known.
        missed: Rows with a label, from the first to the last of those, that one of the two did not
            answer: the service was down, or started before the challenger was named.
        other_questions: Rows that both answered under different thresholds; they are left out.
        agreement: Share of rows on which both alert, or neither does.
        insufficient: Why nothing may be claimed; empty where there is enough.
        blocks: How the rows fall into blocks.
        results: The champion's and the challenger's measures, without intervals where there is too
            little data for them; the challenger's gain is on the champion.
    """

    champion: str
    challenger: str
    rows: RoleSummary
    missed: int
    other_questions: int
    agreement: float | None
    insufficient: tuple[str, ...]
    blocks: Blocks
    results: tuple[ModelResult, ModelResult]

    @property
    def difference(self) -> Estimate | None:
        """Challenger's PR-AUC minus the champion's, on the same resamples; None without a spike."""
        return self.results[1].gain

    @property
    def verdict(self) -> str:
        """One sentence: what is missing, or which of the two ranked better live."""
        if not self.rows.rows:
            if self.other_questions:
                return "Their answers are not to one question: they name different thresholds."
            return "There is no row yet that both answered live and whose label is known."
        if self.insufficient:
            return f"INSUFFICIENT: {'; '.join(self.insufficient)}. Nothing is claimed of either."
        gain = self.difference
        if gain is None or gain.low is None or gain.high is None:
            return f"They cannot be told apart: {self.blocks.refusal or 'there is no spike'}."
        found = "is not shown to be better than"
        if gain.low > 0:
            found = "was better than"
        elif gain.high < 0:
            found = "was worse than"
        shown = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] PR-AUC"
        return f"{self.challenger} {found} {self.champion}: {shown}."


def compare(
    rows: pd.DataFrame,
    *,
    champion: str,
    challenger: str,
    decision_thresholds: tuple[float, float],
    product: str,
    policy: Policy,
    seed: int,
) -> Shadow:
    """Compare what two models answered live on the rows that both answered.

    Args:
        rows: In time order, one for each label known: `ts`, `champion` and `challenger`, their
            probabilities or NaN, `is_same_question`, whether both named the same threshold, and
            `is_spike` under it; later than all that either model knows.
        champion: The champion as a person reads it.
        challenger: Likewise.
        decision_thresholds: From which probability on each alerts, in that order.
        product: The market.
        policy: How the labels' threshold was made.
        seed: For the resamples.
    """
    is_answered = rows["champion"].notna() & rows["challenger"].notna()
    places = is_answered.to_numpy().nonzero()[0]
    span = places[-1] - places[0] + 1 if len(places) else 0
    asked = rows[is_answered]
    judged = asked[asked["is_same_question"].astype(bool)].assign(role=ROLES[-1])
    summary = role_summary(judged, ROLES[-1])
    insufficient = shortages([replace(summary, role="the live log")])
    forecasts = []
    for name, threshold in zip(("champion", "challenger"), decision_thresholds, strict=True):
        answers = judged[name].to_numpy(dtype=float)
        forecasts.append(Forecast(name, answers, answers, threshold))
    result = evaluate(
        judged,
        forecasts,
        product_id=product,
        policy=policy,
        seed=seed,
        resamples=0 if insufficient else RESAMPLES,
        reference="champion",
    )
    alerts = [forecast.probability >= forecast.decision_threshold for forecast in forecasts]
    first, second = result.models
    return Shadow(
        champion=champion,
        challenger=challenger,
        rows=summary,
        missed=int(span - len(places)),
        other_questions=len(asked) - len(judged),
        agreement=float((alerts[0] == alerts[1]).mean()) if len(judged) else None,
        insufficient=insufficient,
        blocks=result.blocks,
        results=(first, second),
    )
