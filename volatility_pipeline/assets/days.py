"""What all data stages share: a run covers a range of days, and only what is stale is made again.

No stage's own work belongs here.
"""

from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg

from volatility_pipeline.domain.schemas import TABLES, Table
from volatility_pipeline.partitions import ONE_RUN, data_deps, days
from volatility_pipeline.reports.sparkline import sparkline
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import OUTLINES, Warehouse, code_hash

OWNERS = ["team:volatility"]


class DayConfig(dg.Config):
    """How a run treats days that are current already."""

    force: bool = False


def column_metadata(table: Table) -> dict[str, Any]:
    """A table's columns, types and comments for its asset's page."""
    columns = [dg.TableColumn(column.name, column.type, column.comment) for column in table.columns]
    return {"dagster/column_schema": dg.TableSchema(columns)}


def make_days(
    context: dg.AssetExecutionContext,
    config: DayConfig,
    is_current: Callable[[date], bool],
    make: Callable[[date], dict[str, Any]],
    recorded: Callable[[date], dict[str, Any]],
    describe: Callable[[date, dict[str, Any]], dict[str, dict[str, Any]]],
) -> None:
    """Makes the run's days that are not current and notes each day's metadata on its partition.

    Args:
        context: The asset's context; its run may cover one day or a range.
        config: Whether current days are made again too.
        is_current: Whether a day is there already, made from what is there now.
        make: Makes a day and returns its record.
        recorded: The record of a day that is current.
        describe: From a day and its record, the metadata per asset key.
    """
    for key in context.partition_keys:
        day = date.fromisoformat(key)
        is_unchanged = not config.force and is_current(day)
        record = recorded(day) if is_unchanged else make(day)
        context.log.info("%s: %s", key, "unchanged" if is_unchanged else "made")
        for asset_key, metadata in describe(day, record).items():
            context.add_asset_metadata(
                metadata | {"is_unchanged": is_unchanged}, asset_key=asset_key, partition_key=key
            )


def table_asset(
    stage: str, description: str, after: Callable[[Lake], object] = lambda _: None
) -> dg.AssetsDefinition:
    """The asset of a data stage that is one SQL file over the partitions of earlier stages.

    Args:
        stage: Its stage and name.
        description: What the UI says of it.
        after: Called once a run's days are made.
    """

    @dg.asset(
        name=stage,
        deps=data_deps(stage),
        description=description,
        partitions_def=days(),
        backfill_policy=ONE_RUN,
        kinds={"duckdb", "parquet"},
        owners=OWNERS,
        code_version=code_hash(stage),
        metadata=column_metadata(TABLES[stage]),
        pool=stage,
    )
    def table(
        context: dg.AssetExecutionContext, config: DayConfig, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult[None]:
        make_days(
            context,
            config,
            lambda day: warehouse.is_current(stage, day),
            lambda day: warehouse.build(stage, day),
            lambda day: warehouse.lake.record(stage, day) or {},
            lambda day, _: {stage: day_metadata(warehouse, stage, day)},
        )
        after(warehouse.lake)
        return dg.MaterializeResult()

    return table


def day_metadata(warehouse: Warehouse, stage: str, day: date) -> dict[str, Any]:
    """What an asset's page says of a day's table: rows, bytes, time range, and a look at it."""
    facts = warehouse.describe(stage, day)
    drawn = {
        f"plot_{product}": dg.MetadataValue.md(
            f"![{product}]({sparkline(values)})\n\n{OUTLINES[stage]} in ten-minute means, "
            f"{min(values):.4g} to {max(values):.4g}"
        )
        for product, values in warehouse.outline(stage, day).items()
    }
    return facts | drawn
