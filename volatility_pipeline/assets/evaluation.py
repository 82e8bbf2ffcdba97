"""The evaluation stage: every model of a product on the same test rows, and what may be claimed."""

import dagster as dg

from volatility_pipeline.assets.days import OWNERS
from volatility_pipeline.partitions import PRODUCTS
from volatility_pipeline.resources.training import Training


@dg.asset(
    deps=["splits", "models"],
    partitions_def=PRODUCTS,
    kinds={"python", "html"},
    owners=OWNERS,
    pool="evaluation",
)
def evaluation(
    context: dg.AssetExecutionContext, training: dg.ResourceParam[Training]
) -> dg.MaterializeResult[None]:
    """PR-AUC beside base rate, lift and interval of each model on the test rows, and the report.

    The test rows are read here and nowhere else. The first line is the verdict, and it says
    `INSUFFICIENT` where the data cannot carry a claim.
    """
    product = context.partition_key
    record = training.evaluate(product)
    rows = [dict(row) for row in record["comparison"]]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return dg.MaterializeResult(
        metadata={
            "verdict": record["verdict"],
            "comparison": dg.MetadataValue.md("\n".join(f"| {' | '.join(row)} |" for row in lines)),
            "report": dg.MetadataValue.path(training.report(product)),
        }
    )
