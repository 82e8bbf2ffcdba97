"""The models stage: the ladder of models of a product, fitted, calibrated, stored, registered."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from volatility_pipeline.assets.days import OWNERS
from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.jobs import REASON
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.training import Training


@dg.asset(
    deps=["splits"],
    partitions_def=PRODUCTS,
    kinds={"sklearn", "xgboost", "mlflow"},
    owners=OWNERS,
    pool="models",
)
def models(
    context: dg.AssetExecutionContext,
    training: dg.ResourceParam[Training],
    tracking: dg.ResourceParam[Tracking],
    alerts: dg.ResourceParam[Alerts],
) -> dg.MaterializeResult[None]:
    """Every rung of the ladder for a product, from the base rate to boosted trees.

    Fitted on training rows, calibrated and thresholded on validation rows; one MLflow run a model
    under one parent run, stored as skops archives that run no code when they are loaded.
    """
    product = context.partition_key
    frame = training.frame(product)
    reason = context.run.tags.get(REASON)
    if reason is not None:
        unfinished = "The training before did not come to its end."
        alerts.recover("retraining", product, "", at=datetime.now(UTC), title=unfinished)
        alerts.raise_(
            Alert(
                "retraining",
                product,
                "",
                title=f"Models are trained anew: {reason}.",
                since=datetime.now(UTC),
                link=alerts.run_link(context.run.run_id),
            )
        )
    tags = {"product": product, "reason": reason or "by hand"}
    with tracking.step(context, f"{product} ladder", tags):
        record = training.fit(product, frame, progress=context.log.info)
    lines = [
        f"| {LADDER[name].title} | {entry['stored']['version']} | {entry['seconds']:.1f} | "
        f"{entry['decision_threshold']:.3f} | {_settings(entry['parameters'])} | "
        f"{' '.join(entry['notes'])} |"
        for name, entry in record["models"].items()
    ]
    table = (
        "| model | version | seconds | decision threshold | chosen | notes |\n"
        "|---|---|---|---|---|---|\n"
    )
    return dg.MaterializeResult(
        metadata={
            "models": dg.MetadataValue.md(table + "\n".join(lines)),
            "provenance": dg.MetadataValue.json(record["provenance"]),
        }
    )


def _settings(parameters: Mapping[str, Any]) -> str:
    """What was chosen for a rung, without the pipeline's steps."""
    return ", ".join(f"{name.split('__')[-1]} {value}" for name, value in parameters.items())
