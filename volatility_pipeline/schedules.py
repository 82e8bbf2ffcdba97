"""The schedules: retraining by the week, or by the day for who wants that."""

from collections.abc import Iterator

import dagster as dg

from volatility_pipeline import timing
from volatility_pipeline.jobs import TRAIN, retraining
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.settings import Settings


def _retrain(lake: Lake, how_often: str) -> Iterator[dg.RunRequest]:
    """A run for each product that was trained before, under its own policy."""
    for product in lake.products("splits"):
        record = lake.record("splits", product)
        if record is not None:
            reason = f"the {how_often} schedule"
            yield retraining(product, policy=record["policy"], reason=reason)


@dg.schedule(
    job=TRAIN,
    cron_schedule=timing.RETRAIN_WEEKLY,
    execution_timezone="UTC",
    default_status=(
        dg.DefaultScheduleStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultScheduleStatus.STOPPED
    ),
)
def retrain_weekly(
    context: dg.ScheduleEvaluationContext,  # noqa: ARG001
    lake: dg.ResourceParam[Lake],
) -> list[dg.RunRequest]:
    """Trains every product anew on Sundays. On with `VOLATILITY_UNATTENDED=true`."""
    return list(_retrain(lake, "weekly"))


@dg.schedule(
    job=TRAIN,
    cron_schedule=timing.RETRAIN_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def retrain_daily(
    context: dg.ScheduleEvaluationContext,  # noqa: ARG001
    lake: dg.ResourceParam[Lake],
) -> list[dg.RunRequest]:
    """Trains every product anew each day, in the weekly schedule's place; switched on by hand."""
    return list(_retrain(lake, "daily"))
