"""How the stages are cut: data stages by UTC day, model stages by product.

Here belong partition definitions and mappings; how far a stage reaches is `domain/reach.py`.
"""

from datetime import date

import dagster as dg

from volatility_pipeline.domain.reach import REACH
from volatility_pipeline.settings import Settings

PRODUCTS = dg.DynamicPartitionsDefinition(name="product")
# All data stages share one policy: a range of days is one run, and the UI joins the stages in it.
ONE_RUN = dg.BackfillPolicy.single_run()


def days() -> dg.DailyPartitionsDefinition:
    """The days from the first to today, the unfinished one included."""
    first = Settings().volatility_first_day
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_offset=1, timezone="UTC")


def data_deps(stage: str) -> list[dg.AssetDep]:
    """What a data stage reads, with its look-back and look-ahead as the lineage shows it."""
    return [
        dg.AssetDep(
            ASSETS[source],
            partition_mapping=dg.TimeWindowPartitionMapping(
                start_offset=min(offsets),
                end_offset=max(offsets),
                allow_nonexistent_upstream_partitions=True,
            ),
        )
        for source, offsets in REACH[stage].offsets.items()
    ]


# The data stages' assets: named as the stage, but for the raw lines.
ASSETS = {stage: "raw_ticks" if stage == "raw" else stage for stage in REACH}


def is_partition(day: date) -> bool:
    """Whether a day is a partition."""
    return days().has_partition_key(day.isoformat())
