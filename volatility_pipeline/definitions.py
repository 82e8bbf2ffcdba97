"""The table of contents: every stage with its assets, in the order of the flow."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg

from volatility_pipeline.assets.bars import bars
from volatility_pipeline.assets.evaluation import evaluation
from volatility_pipeline.assets.features import features
from volatility_pipeline.assets.labels import labels
from volatility_pipeline.assets.models import models
from volatility_pipeline.assets.raw import raw_ticks
from volatility_pipeline.assets.splits import splits
from volatility_pipeline.assets.ticks import ticks_and_quarantine
from volatility_pipeline.checks.features import features_span_no_silence
from volatility_pipeline.checks.labels import labels_horizon_complete
from volatility_pipeline.checks.ticks import ticks_books_balance
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.sensors.landed_files import landed_files_sensor
from volatility_pipeline.settings import Settings

STAGES = {
    "raw": [raw_ticks],
    "ticks": [ticks_and_quarantine],
    "bars": [bars],
    "features": [features],
    "labels": [labels],
    "splits": [splits],
    "models": [models],
    "evaluation": [evaluation],
}
CHECKS = [ticks_books_balance, features_span_no_silence, labels_horizon_complete]
DATA_GROUPS = ("raw", "ticks", "bars", "features", "labels")
MODEL_GROUPS = ("splits", "models", "evaluation")


def resources(settings: Settings) -> dict[str, Any]:
    """The outside things, as the settings place them."""
    lake = Lake(settings.data)
    warehouse = Warehouse(lake, settings.volatility_max_gap_seconds)
    tracking = Tracking(settings.tracking_uri, str(settings.data / "mlflow" / "artifacts"))
    return {
        "lake": lake,
        "warehouse": warehouse,
        "ingest": Ingest(lake, warehouse),
        "training": Training(lake, warehouse, tracking, settings.volatility_search_seconds),
        "tracking": tracking,
    }


def build_defs(
    resources: Mapping[str, Any], loggers: Mapping[str, dg.LoggerDefinition] | None = None
) -> dg.Definitions:
    """The code location over the given resources; `loggers` replace Dagster's console logger."""
    assets: list[dg.AssetsDefinition] = []
    for group, stage_assets in STAGES.items():
        in_group = partial(dg.AssetSpec.replace_attributes, group_name=group)
        assets += [asset.map_asset_specs(in_group) for asset in stage_assets]
    return dg.Definitions(
        assets=assets,
        asset_checks=CHECKS,
        jobs=[
            dg.define_asset_job(
                "build",
                selection=dg.AssetSelection.groups(*DATA_GROUPS),
                description="Raw to labels for a range of days; what is current is left as it is.",
            ),
            dg.define_asset_job(
                "train",
                selection=dg.AssetSelection.groups(*MODEL_GROUPS),
                description="Splits, models and evaluation of a product.",
            ),
        ],
        sensors=[landed_files_sensor],
        resources=dict(resources),
        executor=dg.in_process_executor,
        loggers=dict(loggers or {}) or None,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location as the environment sets it."""
    return build_defs(resources(Settings()))
