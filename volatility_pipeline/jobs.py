"""The jobs: which stages run together. What starts them is `sensors` and `schedules`, or a command.

A run says in its tag `volatility/reason` why it was started, where nobody asked for it by hand.
"""

import dagster as dg

DATA_GROUPS = ("raw", "ticks", "bars", "features", "labels")
MODEL_GROUPS = ("splits", "models", "evaluation")
REASON = "volatility/reason"

BUILD = dg.define_asset_job(
    "build",
    selection=dg.AssetSelection.groups(*DATA_GROUPS),
    description="Raw to labels for a range of days; what is current is left as it is.",
)
UPDATE = dg.define_asset_job(
    "update",
    selection=dg.AssetSelection.groups(*DATA_GROUPS, "predictions"),
    description="`build`, then what the champions say of the same days.",
)
TRAIN = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.groups(*MODEL_GROUPS),
    description="Splits, models, evaluation and champion of a product.",
)
PREDICT = dg.define_asset_job(
    "predict",
    selection=dg.AssetSelection.groups("predictions"),
    description="What the champions say of a range of days.",
)
WATCH = dg.define_asset_job(
    "watch",
    selection=dg.AssetSelection.groups("drift"),
    description="The newest finished day of a product against what its champion has seen.",
)
JOBS = (BUILD, UPDATE, TRAIN, PREDICT, WATCH)


def retraining(
    product: str, *, policy: str, reason: str, run_key: str | None = None
) -> dg.RunRequest:
    """A run of `train` that nobody asked for by hand.

    Args:
        product: The market.
        policy: Its labels' threshold policy.
        reason: Why, a clause that continues "Retraining BTC-USD: …".
        run_key: Asked for once alone under this name.
    """
    return dg.RunRequest(
        run_key,
        job_name=TRAIN.name,
        partition_key=product,
        run_config={"ops": {"splits": {"config": {"threshold_policy": policy}}}},
        tags={REASON: reason},
    )
