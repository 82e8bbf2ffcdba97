"""Checks of the splits stage."""

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from volatility_pipeline.domain.controls import overlap
from volatility_pipeline.resources.training import Training


@dg.asset_check(asset="splits", blocking=True)
def splits_do_not_overlap(
    context: dg.AssetCheckExecutionContext, training: dg.ResourceParam[Training]
) -> dg.AssetCheckResult:
    """No label of a row shares a second with the label of a row of a later role."""
    product = context.run.tags.get(PARTITION_NAME_TAG)
    products = training.lake.products("splits") if product is None else [product]
    found = {name: overlap(training.frame(name)) for name in products}
    return dg.AssetCheckResult(
        passed=all(control.passed for control in found.values()),
        metadata={name: control.sentence for name, control in found.items()},
    )
