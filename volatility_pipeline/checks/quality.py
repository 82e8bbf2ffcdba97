"""The suites of Great Expectations as asset checks, one a table, and what SQL alone can say.

A suite's check fails with the severity of the worst that it found: what is critical stops the
stages behind, a warning is shown and stops nothing. Which is which is `domain/expectations.py`.
"""

from datetime import timedelta

import dagster as dg

from volatility_pipeline.checks.bad_rows import SHOWN, check_days, run_days
from volatility_pipeline.domain.expectations import SUITES, Suite
from volatility_pipeline.resources.quality import Quality
from volatility_pipeline.resources.warehouse import Warehouse


def expectations_check(suite: Suite) -> dg.AssetChecksDefinition:
    """The check that a table's suite holds on each day of the run."""

    @dg.asset_check(
        asset=suite.table,
        name=f"{suite.table}_expectations",
        blocking=any(each.severity == "critical" for each in suite.expectations),
        description=(
            f"Great Expectations on the profile of {suite.table} (`sql/quality/{suite.table}.sql`)"
            f": {', '.join(each.name for each in suite.expectations)}. A day is looked at anew "
            "where it has changed; today at most every ten minutes."
        ),
    )
    def check(
        context: dg.AssetCheckExecutionContext, quality: dg.ResourceParam[Quality]
    ) -> dg.AssetCheckResult:
        found = quality.validate_days(suite.table, run_days(context.run.tags, quality.lake))
        failures = [(each.day, failure) for each in found for failure in each.failures]
        lines = [
            f"- {day}, **{failure.name}** ({failure.severity}): {said}"
            for day, failure in failures
            for said in failure.first
        ]
        is_critical = any(failure.severity == "critical" for _, failure in failures)
        return dg.AssetCheckResult(
            passed=not failures,
            severity=(dg.AssetCheckSeverity.ERROR if is_critical else dg.AssetCheckSeverity.WARN),
            metadata={
                "days": len(found),
                "failed": ", ".join(dict.fromkeys(failure.name for _, failure in failures)),
                **({"first": dg.MetadataValue.md("\n".join(lines[: 2 * SHOWN]))} if lines else {}),
                "page": dg.MetadataValue.path(quality.page),
            },
        )

    return check


EXPECTATIONS = {table: expectations_check(suite) for table, suite in SUITES.items()}


@dg.asset_check(asset="features", blocking=True)
def features_know_the_past_alone(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every feature row says what the bars before its decision time say, told anew from them."""
    return check_days(
        context,
        warehouse.lake,
        lambda day: warehouse.bad_days(
            "features_look_ahead",
            {"features": [day], "bars": [day - timedelta(days=1), day]},
            day,
        ),
    )


@dg.asset_check(asset="labels", blocking=True)
def labels_are_of_feature_rows(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Every label is of a feature row, and every feature row has its label."""
    return check_days(
        context,
        warehouse.lake,
        lambda day: warehouse.bad_rows(
            "labels_without_features", {"labels": [day], "features": [day]}
        ),
    )
