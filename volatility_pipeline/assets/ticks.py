"""The ticks stage: sound ticker updates in total order, and the quarantine beside them."""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from volatility_pipeline.assets.days import (
    OWNERS,
    DayConfig,
    column_metadata,
    day_metadata,
    make_days,
)
from volatility_pipeline.domain.schemas import QUARANTINE, TICKS
from volatility_pipeline.partitions import ONE_RUN, PRODUCTS, data_deps, days
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.warehouse import code_hash

TICKS_DESCRIPTION = """\
Ticker updates of a day without duplicates, in total order (`sql/10_ticks.sql`).

Grain: one row per ticker update; prices in dollars, times in UTC. The books per segment (lines,
messages, other, tickers, ticks, duplicates, quarantined) stand in the metadata and must balance.
Products seen for the first time become partitions of the model stages."""

QUARANTINE_DESCRIPTION = """\
Lines and tickers of a day that could not be used, with the reason and the original bytes.

Grain: one row per faulty line, or per faulty ticker of a sound line (`item`)."""


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "ticks",
            deps=data_deps("ticks"),
            description=TICKS_DESCRIPTION,
            kinds={"duckdb", "parquet"},
            owners=OWNERS,
            code_version=code_hash("ticks"),
            metadata=column_metadata(TICKS),
        ),
        dg.AssetSpec(
            "quarantine",
            deps=data_deps("ticks"),
            description=QUARANTINE_DESCRIPTION,
            kinds={"duckdb", "parquet"},
            owners=OWNERS,
            code_version=code_hash("ticks"),
            metadata=column_metadata(QUARANTINE),
        ),
    ],
    partitions_def=days(),
    backfill_policy=ONE_RUN,
    pool="ticks",
)
def ticks_and_quarantine(
    context: dg.AssetExecutionContext, config: DayConfig, ingest: dg.ResourceParam[Ingest]
) -> Iterator[dg.MaterializeResult[None]]:
    """Reads a day's raw lines into ticks and quarantine."""

    def describe(day: date, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
        books: Counter[str] = Counter()
        for book in record.get("books", []):
            books.update({name: count for name, count in book.items() if name != "segment"})
        facts = day_metadata(ingest.warehouse, "ticks", day)
        reasons = ingest.warehouse.reasons(day)
        return {
            "ticks": {**facts, **books},
            "quarantine": {"dagster/row_count": sum(reasons.values()), **reasons},
        }

    make_days(
        context,
        config,
        lambda day: ingest.warehouse.is_current("ticks", day),
        ingest.build_ticks,
        lambda day: ingest.lake.record("ticks", day) or {},
        describe,
    )
    products = ingest.warehouse.products(
        [date.fromisoformat(key) for key in context.partition_keys]
    )
    context.instance.add_dynamic_partitions(str(PRODUCTS.name), products)
    yield dg.MaterializeResult("ticks")
    yield dg.MaterializeResult("quarantine")
