"""What the data checks share: over the run's days, a query that returns the rows at fault."""

from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg

SHOWN = 5


def check_days(
    context: dg.AssetCheckExecutionContext, bad_rows: Callable[[date], list[dict[str, Any]]]
) -> dg.AssetCheckResult:
    """Passes when no day of the run has a bad row; the first few become metadata."""
    days = [date.fromisoformat(key) for key in context.partition_keys]
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
