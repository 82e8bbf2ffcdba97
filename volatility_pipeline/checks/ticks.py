"""Checks of the ticks stage."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from volatility_pipeline.checks.bad_rows import check_days, run_days
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.settings import Settings


@dg.asset_check(asset="ticks", blocking=True)
def ticks_books_balance(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every line and every ticker of every segment is a tick, a duplicate, other or quarantined.

    Per segment: lines = ticker messages + other + quarantined lines, tickers = ticks + duplicates
    + quarantined tickers, and the lines are the manifest's.
    """

    def bad_rows(day: date) -> list[dict[str, Any]]:
        books = (warehouse.lake.record("ticks", day) or {"books": []})["books"]
        manifest = warehouse.lake.manifest(day) or {"segments": []}
        landed = [
            {"segment": segment["name"], "lines": segment["lines"]}
            for segment in manifest["segments"]
        ]
        if not landed or not books:
            return books or landed
        return warehouse.bad_rows(
            "ticks_books_unbalanced", {}, {"books": books, "manifest": landed}
        )

    return check_days(context, warehouse.lake, bad_rows)


@dg.asset_check(asset="ticks")
def ticks_are_recent(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The newest tick of each recorded product is a few minutes old at most.

    A run without the present day says nothing of the feed.
    """
    settings, now = Settings(), datetime.now(UTC)
    found = {
        product: newest
        for product in settings.volatility_products
        if now.date() in run_days(context.run.tags, warehouse.lake)
        and (newest := warehouse.newest_tick(product)) is not None
    }
    limit = timedelta(minutes=settings.volatility_feed_minutes)
    return dg.AssetCheckResult(
        passed=all(now - newest <= limit for newest in found.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"newest {product}": str(newest) for product, newest in found.items()},
    )
