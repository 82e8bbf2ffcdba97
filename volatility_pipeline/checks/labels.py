"""Checks of the labels stage."""

from datetime import timedelta

import dagster as dg

from volatility_pipeline.checks.bad_rows import check_days
from volatility_pipeline.resources.warehouse import Warehouse


@dg.asset_check(asset="labels", blocking=True)
def labels_horizon_complete(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every known future volatility stands on the bars of all of its 60 seconds."""
    return check_days(
        context,
        warehouse.lake,
        lambda day: warehouse.bad_days(
            "labels_incomplete_horizon",
            {"labels": [day], "bars": [day, day + timedelta(days=1)]},
            day,
        ),
    )
