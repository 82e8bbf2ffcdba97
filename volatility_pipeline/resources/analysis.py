"""Feature and threshold analysis over the lake: what the report needs is read, and it is written.

What is measured is `domain/feature_analysis` and `domain/threshold_analysis`; how it looks is
`reports/analysis`. It describes the models that are there and makes none.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.feature_analysis import ANALYSED, FeatureAnalysis, analyse
from volatility_pipeline.domain.schemas import TABLES
from volatility_pipeline.domain.threshold_analysis import (
    DaySpikes,
    ThresholdAnalysis,
    analyse_thresholds,
)
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.tracking import StoredModel
from volatility_pipeline.resources.training import SEED, Training
from volatility_pipeline.resources.warehouse import Warehouse, connect, create_view, sql_text

REPORT = "analysis.html"


@dataclass(frozen=True)
class Analysis:
    """Analyses the features and thresholds of one product at a time.

    Attributes:
        lake: The partitions.
        warehouse: The SQL over them.
        training: The splits and models.
    """

    lake: Lake
    warehouse: Warehouse
    training: Training

    def report(self, product: str) -> Path:
        """Where the product's analysis lies; its numbers lie beside it, as JSON."""
        return self.lake.folder("evaluation", product) / REPORT

    def features(self, product: str) -> FeatureAnalysis:
        """What the product's features are worth to the models that are stored.

        Raises:
            BadInputError: It has no splits or no models.
        """
        models = self.lake.record("models", product)
        if models is None:
            raise BadInputError(f"{product}: no models; `volatility train` makes them.")
        stored = {name: StoredModel(**models["models"][name]["stored"]) for name in ANALYSED}
        return analyse(
            self.training.frame(product),
            {name: self.training.tracking.fetch(entry) for name, entry in stored.items()},
            product_id=product,
            policy=models["provenance"]["label_policy"],
            seed=SEED,
        )

    def thresholds(self, product: str) -> ThresholdAnalysis:
        """The product's spike rates by percentile and day, under both policies, over all rows."""
        import duckdb

        with connect(self.warehouse.threads) as connection:
            for stage in ("features", "labels"):
                create_view(connection, TABLES[stage], self.lake.files(stage))
            own = duckdb.ColumnExpression("product_id") == duckdb.ConstantExpression(product)
            query = connection.sql(sql_text("analysis/spike_rate_by_percentile.sql"))
            found = query.filter(own).fetchall()
            labels = connection.sql(
                "select ts, future_volatility_60s, trailing_threshold from labels "
                "where product_id = $product order by ts",
                params={"product": product},
            ).to_arrow_table()
        return analyse_thresholds(
            labels["ts"].to_numpy(),
            labels["future_volatility_60s"].to_numpy(),
            labels["trailing_threshold"].to_numpy(),
            [
                DaySpikes("trailing", percentile, f"{day}", rows, spikes)
                for _, day, percentile, rows, spikes, _ in found
            ],
            product_id=product,
        )

    def write(
        self, product: str, *, progress: Callable[[str], None] = lambda _: None
    ) -> FeatureAnalysis:
        """Writes the product's analysis as a page and as JSON; returns that of the features.

        Raises:
            BadInputError: It has no splits or no models.
        """
        from volatility_pipeline.reports.analysis import document
        from volatility_pipeline.reports.page import render

        progress(f"{product}: what its features are worth")
        features = self.features(product)
        progress(f"{product}: spike rates by threshold")
        thresholds = self.thresholds(product)
        record = self.training.split_record(product)
        page = document(features, thresholds, is_simulated=record["source"]["kind"] == "simulated")
        facts = {"features": features.to_dict(), "thresholds": thresholds.to_dict()}
        path = self.report(product)
        self.lake.write_text(path, render(page))
        self.lake.write_text(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
        return features
