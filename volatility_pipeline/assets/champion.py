"""The champion: which of a product's registered models serves, and why."""

from datetime import UTC, datetime

import dagster as dg

from volatility_pipeline.assets.days import OWNERS
from volatility_pipeline.domain.controls import Control
from volatility_pipeline.jobs import REASON
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.drift import DriftWatch
from volatility_pipeline.resources.evaluations import Evaluations


@dg.asset(
    deps=["splits", "models", "evaluation"],
    partitions_def=PRODUCTS,
    kinds={"python", "mlflow"},
    owners=OWNERS,
    pool="champion",
)
def champion(
    context: dg.AssetExecutionContext,
    champions: dg.ResourceParam[Champions],
    evaluations: dg.ResourceParam[Evaluations],
    drift_watch: dg.ResourceParam[DriftWatch],
    alerts: dg.ResourceParam[Alerts],
) -> dg.MaterializeResult[None]:
    """The registered version that serves a product: the registry's alias `champion`.

    The best rung on validation challenges it. What became of that stands here with its reason and
    its numbers, and in `champion/product=…/decisions.jsonl` with all that went before.
    """
    product = context.partition_key
    evaluation = champions.lake.record("evaluation", product) or {}
    now = datetime.now(UTC)
    decision = champions.decide(
        product,
        now=now,
        controls=[Control(**control) for control in evaluation.get("controls", ())],
        drift=drift_watch.in_drift(product),
    )
    reason = context.run.tags.get(REASON, "by hand")
    title = f"Models were trained anew ({reason}): {decision.outcome}. {decision.reason}"
    link = alerts.run_link(context.run.run_id)
    alerts.recover("retraining", product, "", at=datetime.now(UTC), title=title, link=link)
    evaluations.introduce(product, decision, champions.find)
    return dg.MaterializeResult(
        metadata={
            "trained_because": reason,
            "outcome": decision.outcome,
            "reason": decision.reason,
            "champion": champions.describe(product, now),
            "challenger": f"{decision.challenger_model} (version {decision.challenger})"
            if decision.challenger
            else "none: done by hand",
            "numbers": dg.MetadataValue.json(dict(decision.numbers)),
        }
    )
