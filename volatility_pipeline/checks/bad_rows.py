"""What the data checks share: over the run's days, a query that returns the rows at fault."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from volatility_pipeline.resources.lake import Lake

SHOWN = 5


def check_days(
    context: dg.AssetCheckExecutionContext,
    lake: Lake,
    bad_rows: Callable[[date], list[dict[str, Any]]],
) -> dg.AssetCheckResult:
    """Passes when no day of the run has a bad row; the first few become metadata."""
    days = run_days(context.run.tags, lake)
    found = {day.isoformat(): rows for day in days if (rows := bad_rows(day))}
    first = [f"{day}: {row}" for day, rows in found.items() for row in rows[:SHOWN]][:SHOWN]
    return dg.AssetCheckResult(
        passed=not found,
        metadata={
            "days": len(days),
            "bad_rows": sum(map(len, found.values())),
            **(
                {"first": dg.MetadataValue.md("\n".join(f"- `{row}`" for row in first))}
                if first
                else {}
            ),
        },
    )


def run_days(tags: Mapping[str, str], lake: Lake) -> list[date]:
    """The days of a run, by its tags; a run of the check alone looks at every day there is.

    A check is not partitioned itself: the UI would then count it as passed only once it had run
    on every day since the first.
    """
    if PARTITION_NAME_TAG in tags:
        return [date.fromisoformat(tags[PARTITION_NAME_TAG])]
    if ASSET_PARTITION_RANGE_START_TAG not in tags:
        return lake.days("ticks")
    first = date.fromisoformat(tags[ASSET_PARTITION_RANGE_START_TAG])
    last = date.fromisoformat(tags[ASSET_PARTITION_RANGE_END_TAG])
    return [first + timedelta(days=count) for count in range((last - first).days + 1)]
