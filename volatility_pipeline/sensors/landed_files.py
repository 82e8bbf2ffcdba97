"""The sensor that turns what has landed into runs of the data stages.

It compares what is on disk with what was materialized and asks for what is stale; how a day is
made, and whether it is stale, is said elsewhere.
"""

from datetime import date

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from volatility_pipeline.domain.reach import ranges
from volatility_pipeline.partitions import build_tags, is_covered, is_partition
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.settings import Settings

RUN_KEY = "dagster/run_key"
# One more attempt, of all stages: those that are current are left as they are.
RETRY_TAGS = {"dagster/max_retries": "1", "dagster/retry_strategy": "ALL_STEPS"}
# The daemon looks every five seconds: this is every ten, where 10 would often make it fifteen.
INTERVAL_SECONDS = 9


@dg.sensor(
    job_name="update",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultSensorStatus.STOPPED
    ),
)
def landed_files_sensor(
    context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.SensorResult:
    """Asks for a run of `update` for each stretch of days whose files are not what was built.

    Days that a run in flight covers wait for a later tick. A run that failed is asked for again
    once the days' files, the code or the settings are others. On with `VOLATILITY_UNATTENDED=true`.
    """
    # In this order: a run that ends in between may have left these days current.
    in_flight = context.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    stale = warehouse.stale_days(is_partition)
    waiting = [day for day in stale if any(is_covered(day, run.tags) for run in in_flight)]
    requests, reasons = [], []
    if waiting:
        reasons.append(f"a run in flight covers {_said(waiting)}")
    for first, last in ranges(set(stale) - set(waiting)):
        key = f"{first}/{last}/{warehouse.state(first, last)}"
        asked = context.instance.get_runs(dg.RunsFilter(tags={RUN_KEY: key}), limit=1)
        if asked:
            reasons.append(
                f"{first} to {last} has not changed since its run {asked[0].run_id[:8]} "
                f"({asked[0].status.value.lower()})"
            )
        else:
            requests.append(dg.RunRequest(key, tags=build_tags(first, last) | RETRY_TAGS))
    reason = "; ".join(reasons) or "Nothing has changed since the last build."
    return dg.SensorResult(requests, None if requests else reason)


def _said(days: list[date]) -> str:
    return ", ".join(f"{first} to {last}" for first, last in ranges(days))
