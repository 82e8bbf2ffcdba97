"""The splits stage: a product's labelled rows, each with its role."""

from typing import Any, Literal

import dagster as dg

from volatility_pipeline.assets.days import OWNERS, column_metadata
from volatility_pipeline.domain.schemas import SPLITS
from volatility_pipeline.domain.splits import ROLES
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.training import Training


class SplitConfig(dg.Config):
    """What counts as unusual: against the last day, or against the training rows."""

    threshold_policy: Literal["trailing", "training"] = "trailing"


@dg.asset(
    deps=[
        dg.AssetDep(stage, partition_mapping=dg.AllPartitionMapping())
        for stage in ("features", "labels")
    ],
    partitions_def=PRODUCTS,
    kinds={"duckdb", "parquet"},
    owners=OWNERS,
    metadata=column_metadata(SPLITS),
    pool="splits",
)
def splits(
    context: dg.AssetExecutionContext, config: SplitConfig, training: dg.ResourceParam[Training]
) -> dg.MaterializeResult[None]:
    """Labelled rows of a product in time order, each train, validation or test.

    Grain: one row per decision time. Cut at 70 % and 85 % by time, never shuffled; the earlier
    role is purged of rows whose 60 seconds cross the cut, the later one loses an embargo of 300 s.
    """
    record = training.split(context.partition_key, config.threshold_policy)
    metadata: dict[str, Any] = {
        "dagster/row_count": record["rows"],
        "threshold_policy": record["policy"],
        "cuts": ", ".join(record["cuts"]),
        "dropped": record["dropped"],
    }
    for role in ROLES:
        metadata[f"{role}_rows"] = record["roles"][role]["rows"]
        metadata[f"{role}_spikes"] = record["roles"][role]["spikes"]
    return dg.MaterializeResult(metadata=metadata)
