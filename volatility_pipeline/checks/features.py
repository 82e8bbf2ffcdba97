"""Checks of the features stage."""

from datetime import timedelta

import dagster as dg

from volatility_pipeline.checks.bad_rows import check_days
from volatility_pipeline.resources.warehouse import Warehouse


@dg.asset_check(asset="features", blocking=True)
def features_span_no_silence(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every feature row stands on 301 bars of adjoining seconds."""
    return check_days(
        context,
        warehouse.lake,
        lambda day: warehouse.bad_days(
            "features_across_silence",
            {"features": [day], "bars": [day - timedelta(days=1), day]},
            day,
        ),
    )
