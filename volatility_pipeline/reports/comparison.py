"""The comparison table of an evaluation, for a terminal and for the UI; the page is the report."""

from volatility_pipeline.domain.evaluation import Estimate, Evaluation
from volatility_pipeline.domain.ladder import LADDER

HEADINGS = (
    "model",
    "PR-AUC",
    "95 % interval",
    "base rate",
    "lift",
    "gain over HAR",
    "ROC-AUC",
    "Brier",
)


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One row a model in the order of the ladder, as text under `HEADINGS`."""
    return [
        (
            LADDER[model.name].title,
            _number(model.average_precision),
            _interval(model.average_precision),
            "–" if evaluation.base_rate is None else f"{evaluation.base_rate:.3f}",
            _number(model.lift, digits=2),
            f"{_number(model.gain)} {_interval(model.gain)}".strip("– ") or "–",
            "–" if model.roc_auc is None else f"{model.roc_auc:.3f}",
            "–" if model.brier is None else f"{model.brier:.4f}",
        )
        for model in evaluation.models
    ]


def markdown(evaluation: Evaluation) -> str:
    """The table as Markdown, the verdict above it."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows(evaluation)]
    return f"{evaluation.verdict}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(estimate: Estimate | None, digits: int = 3) -> str:
    return "–" if estimate is None else f"{estimate.value:.{digits}f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"
