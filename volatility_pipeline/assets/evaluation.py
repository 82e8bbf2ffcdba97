"""The evaluation stage: the ladder fold by fold, then every model on the same test rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from volatility_pipeline.assets.days import OWNERS
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.evaluations import Evaluations

# By check, how the names of the controls begin that it speaks of, and what holds if it passes.
CONTROLS = {
    "permuted_labels_tell_nothing": (
        "permuted labels",
        "Trained on labels that stand at other times, no model ranks the test rows better than "
        "shifted labels would.",
    ),
    "result_is_believable": (
        "too good",
        "No result is better than the literature makes believable; on simulated data that is only "
        "doubted.",
    ),
    "cut_future_changes_nothing": (
        "future truncation",
        "With the data after an instant cut off, every feature and threshold up to it stays the "
        "same, and no row is lost.",
    ),
    "noise_holds_nothing": (
        "noise",
        "On simulated noise markets no model has more lift, on average, than a random ranking.",
    ),
}


@dg.asset(
    deps=[
        "splits",
        *(
            dg.AssetDep(stage, partition_mapping=dg.AllPartitionMapping())
            for stage in ("features", "labels")
        ),
    ],
    partitions_def=PRODUCTS,
    kinds={"sklearn", "xgboost"},
    owners=OWNERS,
    pool="evaluation",
)
def walk_forward(
    context: dg.AssetExecutionContext, evaluations: dg.ResourceParam[Evaluations]
) -> dg.MaterializeResult[None]:
    """The ladder fitted anew in five folds by time, each judged on rows later than it knew.

    Expanding windows, purged and embargoed. Hyperparameters are searched in the first fold alone.
    """
    product = context.partition_key
    policy = evaluations.training.split_record(product)["policy"]
    record = evaluations.walk_forward(product, policy, progress=context.log.info)
    metadata: dict[str, Any] = {"folds": record["rows"]}
    if record["result"]["shortage"]:
        metadata["shortage"] = record["result"]["shortage"]
    return dg.MaterializeResult(metadata=metadata)


@dg.asset(
    deps=["splits", "models", "walk_forward"],
    partitions_def=PRODUCTS,
    kinds={"python", "html"},
    owners=OWNERS,
    check_specs=[
        dg.AssetCheckSpec(name, asset="evaluation", description=description)
        for name, (_, description) in CONTROLS.items()
    ],
    pool="evaluation",
)
def evaluation(
    context: dg.AssetExecutionContext, evaluations: dg.ResourceParam[Evaluations]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """PR-AUC beside base rate, lift and interval of each model on the test rows, and the report.

    Test rows fit no model and choose no challenger: they are measured and analysed here, and
    `champion` reads them to decide on a promotion. The first line is the verdict, and it says
    `INSUFFICIENT` where the data cannot carry a claim. The controls stand beside it as checks.
    """
    product = context.partition_key
    record = evaluations.evaluate(product, progress=context.log.info)
    rows = [dict(row) for row in record["comparison"]]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    yield dg.MaterializeResult(
        metadata={
            "verdict": record["verdict"],
            "comparison": dg.MetadataValue.md("\n".join(f"| {' | '.join(row)} |" for row in lines)),
            "report": dg.MetadataValue.path(evaluations.report(product)),
        }
    )
    yield from _checks(record["controls"])


def _checks(controls: Sequence[Mapping[str, Any]]) -> Iterator[dg.AssetCheckResult]:
    """A check for each kind of control; where one could not be judged, it warns."""
    for name, (beginning, _) in CONTROLS.items():
        found = [control for control in controls if control["name"].startswith(beginning)]
        has_failed = any(control["passed"] is False for control in found)
        yield dg.AssetCheckResult(
            check_name=name,
            passed=all(control["passed"] for control in found),
            severity=(dg.AssetCheckSeverity.ERROR if has_failed else dg.AssetCheckSeverity.WARN),
            metadata={control["name"]: control["sentence"] for control in found},
        )
