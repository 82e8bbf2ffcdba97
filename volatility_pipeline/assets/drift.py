"""The drift stage: the newest finished day of a product against what its champion has seen."""

from datetime import UTC, datetime

import dagster as dg

from volatility_pipeline.assets.days import OWNERS, column_metadata
from volatility_pipeline.domain.schemas import DRIFT
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.drift import DriftWatch


@dg.asset(
    deps=[
        dg.AssetDep("features", partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep("predictions", partition_mapping=dg.AllPartitionMapping()),
        "champion",
    ],
    partitions_def=PRODUCTS,
    kinds={"python", "html"},
    owners=OWNERS,
    metadata=column_metadata(DRIFT),
    pool="drift",
)
def drift(
    context: dg.AssetExecutionContext, drift_watch: dg.ResourceParam[DriftWatch]
) -> dg.MaterializeResult[None]:
    """How unusual the newest finished day is, how the champion did on it, and what to do.

    Judged by effect size over whole days, against all days that the champion was made from; with
    fewer than 14 of them the verdict is `insufficient`. The history is the table `drift`.
    """
    product = context.partition_key
    today = datetime.now(UTC).date()
    record = drift_watch.judge(product, today=today, progress=context.log.info)
    verdict = record["verdict"]
    return dg.MaterializeResult(
        metadata={
            "day": verdict["day"],
            "severity": verdict["severity"],
            "performance": verdict["performance"],
            "action": verdict["action"],
            "reasons": verdict["reasons"],
            "numbers": dg.MetadataValue.json(
                {name: value for name, value in verdict.items() if isinstance(value, int | float)}
            ),
            "page": dg.MetadataValue.path(drift_watch.page(product)),
        }
    )
