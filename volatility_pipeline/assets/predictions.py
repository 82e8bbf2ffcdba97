"""The predictions stage: what each product's champion says of a day, and what then happened."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from volatility_pipeline.assets.days import OWNERS, DayConfig, column_metadata, make_days
from volatility_pipeline.domain.schemas import PREDICTIONS
from volatility_pipeline.partitions import ONE_RUN, days
from volatility_pipeline.resources.alerts import Alerts, end_spikes, raise_spikes
from volatility_pipeline.resources.predictions import (
    Predictions,
    predictions_code,
    unserved,
)

SPIKES_SINCE = timedelta(hours=1)
"""How far back spike alerts look: further than an episode lasts."""


class PredictConfig(DayConfig):
    """Which model answers for which products; by default each product's champion for all."""

    model: str | None = None
    products: list[str] = Field(default_factory=list)


@dg.asset(
    deps=[
        "features",
        "labels",
        dg.AssetDep("champion", partition_mapping=dg.AllPartitionMapping()),
    ],
    partitions_def=days(),
    backfill_policy=ONE_RUN,
    kinds={"sklearn", "duckdb", "parquet"},
    owners=OWNERS,
    code_version=predictions_code(),
    metadata=column_metadata(PREDICTIONS),
    pool="predictions",
)
def predictions(
    context: dg.AssetExecutionContext,
    config: PredictConfig,
    predictions: dg.ResourceParam[Predictions],
    alerts: dg.ResourceParam[Alerts],
) -> dg.MaterializeResult[None]:
    """Calibrated probabilities of a day from each product's champion (`sql/60_predictions.sql`).

    Grain: one row per product and decision time whose threshold is known; a product without a
    champion has none. A promotion does not rewrite history: a day keeps its rows until its features
    or labels change, and then the model that made them; today's, and days asked for with `force`,
    get the present champion, or the named `model`. Performance counts the rows that are
    `out_of_sample`. Where today's newest rows expect a spike, one alert an episode is raised.
    """
    make_days(
        context,
        config,
        predictions.is_current,
        lambda day: predictions.predict(
            day, model=config.model, products=config.products, force=config.force
        ),
        lambda day: predictions.lake.record("predictions", day) or {},
        lambda _, record: {"predictions": _facts(predictions, record)},
    )
    now = datetime.now(UTC)
    today = predictions.lake.record("predictions", now.date())
    if str(now.date()) in context.partition_keys and today is not None:
        for product, rows in predictions.newest_answers(now - SPIKES_SINCE).items():
            raise_spikes(alerts, product, rows, now=now, is_simulated=today["is_simulated"])
    end_spikes(alerts, now=now)
    return dg.MaterializeResult()


def _facts(predictions: Predictions, record: dict[str, Any]) -> dict[str, Any]:
    """What the asset's page says of a day: how much, by which models, and how well."""
    products = record.get("products", {})
    heads = (
        "model",
        "version",
        "rows",
        "threshold_unknown",
        "alerts",
        "out_of_sample_rows",
        "judged_rows",
        "base_rate",
        "average_precision",
        "brier",
    )
    lines = [
        f"| product | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
        *(
            f"| {product} | {' | '.join(_cell(found[head]) for head in heads)} |"
            for product, found in products.items()
        ),
    ]
    return {
        "dagster/row_count": record.get("rows", 0),
        "bytes": record.get("bytes") or 0,
        "is_simulated": record.get("is_simulated", False),
        "products": dg.MetadataValue.md("\n".join(lines)),
        "unserved": " ".join(map(predictions.no_champion, unserved(record))) if record else "",
    }


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
