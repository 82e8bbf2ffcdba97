"""The sensor that looks after what ages: champions, the feed, the pipeline itself, old runs."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from volatility_pipeline import timing
from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.jobs import BUILD, PREDICT, TRAIN, UPDATE
from volatility_pipeline.resources.alerts import Alerts, end_spikes
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.settings import Settings


@dg.sensor(
    minimum_interval_seconds=timing.WATCH_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultSensorStatus.STOPPED
    ),
)
def upkeep_sensor(
    context: dg.SensorEvaluationContext,
    alerts: dg.ResourceParam[Alerts],
    champions: dg.ResourceParam[Champions],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.SkipReason:
    """Raises an alert for a silent feed, a pipeline that does not run and a stale champion.

    Each is over once it is, and so is a spike alert that nothing speaks of any more. Once a day it
    deletes the runs that nobody needs any more. On with `VOLATILITY_UNATTENDED=true`.
    """
    now, settings = datetime.now(UTC), Settings()
    news = sum(
        _feed(alerts, warehouse, product, now, settings.volatility_feed_minutes)
        for product in settings.volatility_products
    )
    news += _runs(alerts, context.instance, now) + end_spikes(alerts, now=now)
    if context.cursor != str(now.date()):
        prune_runs(context.instance)
        context.update_cursor(str(now.date()))
    # Last: a registry that is broken, or slow to say that it is, keeps nothing else waiting.
    for product in warehouse.lake.products("splits"):
        try:
            news += _champion(alerts, champions, product, now)
        except BadInputError as error:
            context.log.warning("%s", error)
    delivered = alerts.deliver()
    return dg.SkipReason(f"{news} alerts and recoveries were news; {delivered} came late.")


def _champion(alerts: Alerts, champions: Champions, product: str, now: datetime) -> int:
    served = champions.find(product)
    if served is None or not champions.is_stale(served, now):
        return alerts.recover("stale_champion", product, "", at=now)
    since = now - served.age(now) + timedelta(days=champions.model_days)
    title = f"The champion is {champions.describe(product, now)}."
    return alerts.raise_(
        Alert("stale_champion", product, "", title=title, since=since, noticed_at=now)
    )


def _feed(alerts: Alerts, warehouse: Warehouse, product: str, now: datetime, minutes: float) -> int:
    newest = warehouse.newest_tick(product)
    if newest is None:  # never recorded: nothing has stopped
        return 0
    age = now - newest
    if age <= timedelta(minutes=minutes):
        return alerts.recover("stale_feed", product, "", at=now)
    title = f"The newest tick is of {newest:%Y-%m-%d %H:%M:%S} UTC; {minutes:g} minutes are usual."
    return alerts.raise_(
        Alert("stale_feed", product, "", title=title, since=newest, noticed_at=now)
    )


def _runs(alerts: Alerts, instance: dg.DagsterInstance, now: datetime) -> int:
    """Whether a run that makes something has succeeded of late; before the first none is missed."""
    newest = [
        record.update_timestamp
        for job in (BUILD, UPDATE, TRAIN, PREDICT)
        for record in instance.get_run_records(
            dg.RunsFilter(job_name=job.name, statuses=[dg.DagsterRunStatus.SUCCESS]),
            limit=1,
            order_by="update_timestamp",
        )
    ]
    if not newest:
        return 0
    at = max(newest).astimezone(UTC)
    if now - at <= timing.RUN_AGE:
        return alerts.recover("no_run", "", "", at=now)
    title = f"Nothing was built, trained or predicted since {at:%Y-%m-%d %H:%M} UTC."
    return alerts.raise_(Alert("no_run", "", "", title=title, since=at, noticed_at=now))


def prune_runs(instance: dg.DagsterInstance) -> None:
    """Deletes old runs that no partition's newest materialization comes from any more."""
    before = datetime.now(UTC) - timing.KEPT_RUNS
    old = instance.get_run_records(dg.RunsFilter(created_before=before))
    newest: set[str] = set()
    for key in instance.get_asset_keys() if old else ():
        ids = instance.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        filtered = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(ids.values()))
        found = instance.fetch_materializations(filtered, limit=len(ids) or 1)
        newest |= {record.run_id for record in found.records}
    for record in old:
        if record.dagster_run.run_id not in newest and record.dagster_run.is_finished:
            instance.delete_run(record.dagster_run.run_id)
