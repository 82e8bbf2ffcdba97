"""How the stages are cut: data stages by UTC day, model stages by product.

Here belong partition definitions and mappings, and the tags by which a run names its partitions;
how far a stage reaches is `domain/reach.py`.
"""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from volatility_pipeline.domain.reach import REACH
from volatility_pipeline.settings import Settings

PRODUCTS = dg.DynamicPartitionsDefinition(name="product")
# All data stages share one policy: a range of days is one run, and the UI joins the stages in it.
ONE_RUN = dg.BackfillPolicy.single_run()
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
# A run whose process was killed stays "started" and holds its days and its place in the queue,
# until Dagster's monitoring gives it up: no build of so many days takes longer than this.
LONGEST_BUILD_SECONDS = 120
LONGEST_DAY_SECONDS = 60


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


def build_tags(first: date, last: date) -> dict[str, str]:
    """The tags of a `build` run of a range of days, both ends included."""
    days_in_range = (last - first).days + 1
    return {
        RANGE_START: first.isoformat(),
        RANGE_END: last.isoformat(),
        "dagster/max_runtime": str(LONGEST_BUILD_SECONDS + LONGEST_DAY_SECONDS * days_in_range),
    }


def is_covered(day: date, tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags makes a day, alone or in a range."""
    one = tags.get("dagster/partition", "")
    return tags.get(RANGE_START, one) <= day.isoformat() <= tags.get(RANGE_END, one)
