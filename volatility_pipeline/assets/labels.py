"""The labels stage: what happened in the 60 seconds after a decision time."""

from volatility_pipeline.assets.days import table_asset
from volatility_pipeline.resources.feature_store import publish

labels = table_asset(
    "labels",
    """\
Realized volatility of the next 60 seconds, and the trailing threshold (`sql/40_labels.sql`).

Grain: the features' rows again. `future_volatility_60s` is null until all of the 60 seconds are
known; `trailing_threshold` is known at `ts`. A spike is a future volatility at or above the
threshold and above zero. As the last table of a build, it publishes the feature store.""",
    after=publish,
)
