"""The schedules: retraining by the week, or by the day for who wants that."""

from collections.abc import Iterator

import dagster as dg

from volatility_pipeline import timing
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.jobs import TRAIN, retraining
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.settings import Settings


def _retrain(champions: Champions, how_often: str) -> Iterator[dg.RunRequest]:
    """A run for each product that was trained before, under its champion's policy.

    Without a champion that can be found, under that of the last training.
    """
    for product in champions.lake.products("splits"):
        record = champions.lake.record("splits", product)
        try:
            served = champions.find(product)
        except BadInputError:
            served = None
        if record is not None:
            policy = served.policy if served else record["policy"]
            yield retraining(product, policy=policy, reason=f"the {how_often} schedule")


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
    champions: dg.ResourceParam[Champions],
) -> list[dg.RunRequest]:
    """Trains every product anew on Sundays. On with `VOLATILITY_UNATTENDED=true`."""
    return list(_retrain(champions, "weekly"))


@dg.schedule(
    job=TRAIN,
    cron_schedule=timing.RETRAIN_DAILY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def retrain_daily(
    context: dg.ScheduleEvaluationContext,  # noqa: ARG001
    champions: dg.ResourceParam[Champions],
) -> list[dg.RunRequest]:
    """Trains every product anew each day, in the weekly schedule's place; switched on by hand."""
    return list(_retrain(champions, "daily"))
