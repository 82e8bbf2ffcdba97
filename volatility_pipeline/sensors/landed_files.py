"""The sensor that turns what has landed into runs of the data stages.

It compares what is on disk with what was materialized and asks for what is stale; how a day is
made, and whether it is stale, is said elsewhere.
"""

from collections.abc import Collection
from datetime import date

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from volatility_pipeline.domain.reach import ranges
from volatility_pipeline.jobs import PREDICT, UPDATE
from volatility_pipeline.partitions import build_tags, is_covered, is_partition
from volatility_pipeline.resources.predictions import Predictions
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.settings import Settings

RUN_KEY = "dagster/run_key"
# One more attempt, of all stages: those that are current are left as they are.
RETRY_TAGS = {"dagster/max_retries": "1", "dagster/retry_strategy": "ALL_STEPS"}
# The daemon looks every five seconds: this is every ten, where 10 would often make it fifteen.
INTERVAL_SECONDS = 9


@dg.sensor(
    jobs=[UPDATE, PREDICT],
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultSensorStatus.STOPPED
    ),
)
def landed_files_sensor(
    context: dg.SensorEvaluationContext,
    warehouse: dg.ResourceParam[Warehouse],
    predictions: dg.ResourceParam[Predictions],
) -> dg.SensorResult:
    """Asks for a run of `update` for each stretch of days whose files are not what was built.

    And for a run of `predict` for each stretch of built days that no champion has answered for.
    Days that a run in flight covers wait for a later tick. A run that failed is asked for again
    once the days' files, the code, the settings or the champions are others. On with
    `VOLATILITY_UNATTENDED=true`.
    """
    # In this order: a run that ends in between may have left these days current.
    in_flight = context.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    stale = set(warehouse.stale_days(is_partition))
    # Without a champion nobody could answer for a day, and there is nothing to catch up with.
    candidates = predictions.days(is_partition) if predictions.serving() else []
    unanswered = {day for day in candidates if not predictions.is_current(day)} - stale
    waiting = {
        day for day in stale | unanswered if any(is_covered(day, run.tags) for run in in_flight)
    }
    requests, reasons = [], []
    if waiting:
        reasons.append(f"a run in flight covers {_said(waiting)}")
    wanted = [
        *((UPDATE, warehouse.state(*ends), ends) for ends in ranges(stale - waiting)),
        *((PREDICT, predictions.state(*ends), ends) for ends in ranges(unanswered - waiting)),
    ]
    for job, state, (first, last) in wanted:
        key = f"{first}/{last}/{state}"
        asked = context.instance.get_runs(dg.RunsFilter(tags={RUN_KEY: key}), limit=1)
        if asked:
            reasons.append(
                f"{first} to {last} has not changed since its run {asked[0].run_id[:8]} "
                f"({asked[0].status.value.lower()})"
            )
        else:
            tags = build_tags(first, last) | RETRY_TAGS
            requests.append(dg.RunRequest(key, job_name=job.name, tags=tags))
    reason = "; ".join(reasons) or "Nothing has changed since the last build."
    return dg.SensorResult(requests, None if requests else reason)


def _said(days: Collection[date]) -> str:
    return ", ".join(f"{first} to {last}" for first, last in ranges(days))
