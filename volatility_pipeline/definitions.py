"""The table of contents: every stage with its assets, in the order of the flow."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg

from volatility_pipeline import timing
from volatility_pipeline.assets.bars import bars
from volatility_pipeline.assets.champion import champion
from volatility_pipeline.assets.drift import drift
from volatility_pipeline.assets.evaluation import evaluation, walk_forward
from volatility_pipeline.assets.features import features
from volatility_pipeline.assets.labels import labels
from volatility_pipeline.assets.models import models
from volatility_pipeline.assets.predictions import predictions
from volatility_pipeline.assets.raw import raw_ticks
from volatility_pipeline.assets.splits import splits
from volatility_pipeline.assets.ticks import ticks_and_quarantine
from volatility_pipeline.checks.features import features_span_no_silence
from volatility_pipeline.checks.labels import labels_horizon_complete
from volatility_pipeline.checks.quality import (
    EXPECTATIONS,
    features_know_the_past_alone,
    labels_are_of_feature_rows,
)
from volatility_pipeline.checks.splits import splits_do_not_overlap
from volatility_pipeline.checks.ticks import ticks_are_recent, ticks_books_balance
from volatility_pipeline.jobs import JOBS
from volatility_pipeline.resources.alert_channels import Channel, Log, Webhook
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.analysis import Analysis
from volatility_pipeline.resources.audit import Audit
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.drift import DriftWatch
from volatility_pipeline.resources.evaluations import Evaluations
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.predictions import Predictions
from volatility_pipeline.resources.quality import Quality
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.schedules import retrain_daily, retrain_weekly
from volatility_pipeline.sensors.drift import drift_sensor
from volatility_pipeline.sensors.landed_files import landed_files_sensor
from volatility_pipeline.sensors.run_failures import run_failures_sensor
from volatility_pipeline.sensors.upkeep import upkeep_sensor
from volatility_pipeline.settings import Settings

STAGES = {
    "raw": [raw_ticks],
    "ticks": [ticks_and_quarantine],
    "bars": [bars],
    "features": [features],
    "labels": [labels],
    "splits": [splits],
    "models": [models],
    "evaluation": [walk_forward, evaluation, champion],
    "predictions": [predictions],
    "drift": [drift],
}
CHECKS = [
    ticks_books_balance,
    ticks_are_recent,
    features_span_no_silence,
    labels_horizon_complete,
    splits_do_not_overlap,
    features_know_the_past_alone,
    labels_are_of_feature_rows,
    *EXPECTATIONS.values(),
]

# Of "the pipeline ran at all"; how old the data is says `ticks_are_recent`.
FRESHNESS = (
    dg.FreshnessPolicy.time_window(fail_window=timing.RUN_AGE)
    if Settings().volatility_unattended
    else None
)


def resources(settings: Settings) -> dict[str, Any]:
    """The outside things, as the settings place them."""
    lake = Lake(settings.data)
    warehouse = Warehouse(lake, settings.volatility_max_gap_seconds)
    tracking = Tracking(settings.tracking_uri, str(settings.data / "mlflow" / "artifacts"))
    champions = Champions(lake, tracking, settings.volatility_model_days)
    training = Training(lake, warehouse, tracking, settings.volatility_search_seconds)
    audit = Audit(lake, warehouse, settings.volatility_noise_markets)
    return {
        "lake": lake,
        "warehouse": warehouse,
        "ingest": Ingest(lake, warehouse),
        "quality": Quality(lake, warehouse),
        "training": training,
        "evaluations": Evaluations(training, audit, Analysis(lake, warehouse, training)),
        "champions": champions,
        "predictions": Predictions(lake, warehouse, champions),
        "drift_watch": DriftWatch(lake, warehouse, champions),
        "alerts": alerts(settings),
        "tracking": tracking,
    }


def alerts(settings: Settings) -> Alerts:
    """Where alerts go: the log, and the webhook and the Kafka topic that the settings name."""
    channels: list[Channel] = [Log()]
    url = settings.alert_webhook_url
    if url is not None and url.get_secret_value():
        channels.append(Webhook(url.get_secret_value(), settings.alert_webhook_format))
    if settings.alert_kafka:
        from volatility_pipeline.feed.alert_topic import AlertTopic
        from volatility_pipeline.feed.kafka import Cluster

        servers, hours = settings.kafka_bootstrap_servers, settings.volatility_topic_retention_hours
        channels.append(AlertTopic(Cluster(servers, retention_hours=hours)))
    return Alerts(settings.data, tuple(channels), settings.dagster_url)


def build_defs(
    resources: Mapping[str, Any], loggers: Mapping[str, dg.LoggerDefinition] | None = None
) -> dg.Definitions:
    """The code location over the given resources; `loggers` replace Dagster's console logger."""
    assets: list[dg.AssetsDefinition] = []
    for group, stage_assets in STAGES.items():
        in_group = partial(
            dg.AssetSpec.replace_attributes,
            group_name=group,
            freshness_policy=FRESHNESS if group in timing.FRESH_GROUPS else None,
        )
        assets += [asset.map_asset_specs(in_group) for asset in stage_assets]
    return dg.Definitions(
        assets=assets,
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=[retrain_weekly, retrain_daily],
        sensors=[landed_files_sensor, drift_sensor, upkeep_sensor, run_failures_sensor],
        resources=dict(resources),
        executor=dg.in_process_executor,
        loggers=dict(loggers or {}) or None,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location as the environment sets it."""
    return build_defs(resources(Settings()))
