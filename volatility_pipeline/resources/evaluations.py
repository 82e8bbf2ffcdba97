"""The evaluation stage over the lake: the walk-forward, the controls, the test rows, the report.

How folds are cut, results measured and controls judged is `domain/`; how they look is `reports/`.
Splitting rows and fitting the models that are kept is `training`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.models import FittedModel, Forecast, fit, probabilities, scores
from volatility_pipeline.domain.splits import ROLES
from volatility_pipeline.resources import live_answers
from volatility_pipeline.resources.analysis import Analysis
from volatility_pipeline.resources.audit import Audit
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import read_json
from volatility_pipeline.resources.tracking import StoredModel
from volatility_pipeline.resources.training import (
    CODE,
    SEED,
    Training,
    evaluated_models,
    models_of_splits,
)

if TYPE_CHECKING:
    import pandas as pd

    from volatility_pipeline.domain.controls import AuditSection, Control
    from volatility_pipeline.domain.evaluation import Evaluation, ModelResult
    from volatility_pipeline.domain.fold_results import FoldScore, WalkForwardResult
    from volatility_pipeline.domain.promotion import Decision
    from volatility_pipeline.domain.splits import Policy
    from volatility_pipeline.domain.walk_forward import Window
    from volatility_pipeline.reports.evaluation import Context
    from volatility_pipeline.resources.served_model import ServedModel

REPORT = "report.html"
RESULT = "evaluation.json"
WINDOWS: tuple["Window", ...] = ("expanding", "rolling")


@dataclass(frozen=True)
class Evaluations:
    """Judges the models of one product at a time.

    Attributes:
        training: The stages before.
        audit: The controls.
        analysis: What the features are worth.
    """

    training: Training
    audit: Audit
    analysis: Analysis

    def is_current(self, product: str, policy: "Policy") -> bool:
        """Whether every model stage is there, made from what is there now."""
        for stage in CODE:
            record = self.training.lake.record(stage, product)
            if record is None or record["made_from"] != self._made_from(stage, product, policy):
                return False
        return self.training.are_registered(product) and self.report(product).exists()

    def _made_from(self, stage: str, product: str, policy: "Policy") -> dict[str, Any]:
        """All that decides a model stage's partition; of the evaluation, the controls too."""
        made_from = self.training.made_from(stage, product, policy)
        if stage == "evaluation":
            made_from["noise_markets"] = self.audit.noise_markets
        return made_from

    def report(self, product: str) -> Path:
        """Where the product's evaluation report lies."""
        return self.training.lake.folder("evaluation", product) / REPORT

    def walk_forward(
        self, product: str, policy: "Policy", *, progress: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Judges the ladder fold by fold, each fold knowing its past alone; returns the record."""
        made_from = self._made_from("walk_forward", product, policy)
        result = self.run_folds(product, policy, progress=progress)
        facts = result.to_dict()
        record = {
            "rows": len(result.folds),
            "bytes": None,
            "sha256": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
            "made_from": made_from,
            "result": facts,
        }
        self.training.lake.write_record("walk_forward", product, record)
        return record

    def run_folds(
        self,
        product: str,
        policy: "Policy",
        *,
        window: "Window" = "expanding",
        progress: Callable[[str], None] = lambda _: None,
    ) -> "WalkForwardResult":
        """A walk-forward of the whole ladder over a product's labelled rows.

        Hyperparameters are searched in the first fold; the later ones take what it found.
        """
        from volatility_pipeline.domain.fold_results import judge_folds
        from volatility_pipeline.domain.walk_forward import run_folds, walk_forward

        rows: pd.DataFrame = self.training.warehouse.labelled_rows(product).to_pandas()
        walk = walk_forward(
            rows["ts"].to_numpy(),
            rows["future_volatility_60s"].to_numpy(dtype=float),
            rows["trailing_threshold"].to_numpy(dtype=float),
            policy=policy,
            window=window,
        )
        found: dict[str, Mapping[str, Any]] = {}

        def fit_in_fold(
            name: str, train: "pd.DataFrame", validation: "pd.DataFrame"
        ) -> FittedModel:
            model = fit(
                name,
                train,
                validation,
                policy=policy,
                seed=SEED,
                search_seconds=self.training.search_seconds,
                parameters=found.get(name),
            )
            found.setdefault(name, model.parameters)
            return model

        runs = run_folds(
            rows,
            walk.folds,
            tuple(LADDER),
            fit=fit_in_fold,
            forecast=FittedModel.forecast,
            progress=lambda text: progress(f"{product}: {window} {text}"),
        )
        return judge_folds(walk, runs, policy=policy, seed=SEED)

    def audit_product(
        self, product: str, *, progress: Callable[[str], None] = lambda _: None
    ) -> "AuditSection":
        """The audit of a product, and the ladder over expanding and over rolling windows."""
        section = self.audit.product(product, progress=progress)
        policy = self.training.split_record(product)["policy"]
        walks = [
            self.run_folds(product, policy, window=window, progress=progress) for window in WINDOWS
        ]
        return replace(section, walks=tuple(walks))

    def evaluate(
        self, product: str, *, progress: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Evaluates a product's models on its test rows, writes the report, and the record.

        Raises:
            BadInputError: Splits, models and walk-forward are not all there, of the same rows.
        """
        from volatility_pipeline.domain.evaluation import evaluate
        from volatility_pipeline.domain.timeline import compared_models, timeline
        from volatility_pipeline.reports import page, pdf
        from volatility_pipeline.reports.evaluation import comparison, document

        training = self.training
        models = models_of_splits(training.lake, product)
        policy = models["provenance"]["label_policy"]
        made_from = self._made_from("evaluation", product, policy)
        context = self._context(product, models)
        frame = training.frame(product)
        test = frame[frame["role"] == ROLES[-1]]
        progress(f"{product}: asking {len(models['models'])} models about {len(test):,} rows")
        forecasts = [self._forecast(name, entry, test) for name, entry in models["models"].items()]
        result = evaluate(frame, forecasts, product_id=product, policy=policy, seed=SEED)
        controls = self._controls(
            frame, result, is_simulated=context.is_simulated, progress=progress
        )
        analysis = self.analysis.write(product, progress=progress)
        shadow = live_answers.shadow(Champions(training.lake, training.tracking), product)
        shown = compared_models(result.models, result.reference)
        progress(f"{product}: drawing the report")
        report = document(
            result,
            replace(
                context,
                controls=controls,
                importances=analysis.importances,
                shadow=shadow if shadow and shadow.rows.rows else None,
                timeline=timeline(
                    test["ts"].to_numpy(),
                    test["future_volatility_60s"].to_numpy(dtype=float),
                    test["threshold"].to_numpy(dtype=float),
                    [forecast for forecast in forecasts if forecast.name in shown],
                ),
            ),
        )
        path, lake = self.report(product), training.lake
        lake.write_text(path, page.render(report))
        lake.write_bytes(path.with_suffix(".pdf"), pdf.render(report))
        plain = json.dumps(result.to_dict(), indent=1)
        lake.write_text(path.with_name(RESULT), plain)
        folds = context.folds
        pooled = (
            {score.name: score for score in folds.pooled.models} if folds and folds.pooled else {}
        )
        for model in result.models:
            run_id = models["models"][model.name]["stored"]["run_id"]
            training.tracking.log_metrics(run_id, _metrics(model, pooled.get(model.name)))
        record = {
            "rows": len(result.models),
            "bytes": None,
            "sha256": hashlib.sha256(plain.encode()).hexdigest(),
            "made_from": made_from,
            "verdict": result.verdict,
            "comparison": [list(row.items()) for row in comparison(result)],
            "controls": [asdict(control) for control in controls],
        }
        lake.write_record("evaluation", product, record)
        return record

    def introduce(
        self, product: str, decision: "Decision", champion: Callable[[str], "ServedModel | None"]
    ) -> None:
        """Writes the model card, the selection rationale and the comparison over products.

        Args:
            product: The market that was decided about.
            decision: What became of its challenger.
            champion: What serves a product.

        Raises:
            BadInputError: Splits, models and evaluation are not all there, of each other.
        """
        from pydantic import TypeAdapter

        from volatility_pipeline.domain.evaluation import Evaluation
        from volatility_pipeline.reports import model_card, products, selection

        lake = self.training.lake
        models = evaluated_models(lake, product)
        folder = self.report(product).parent
        result = TypeAdapter(Evaluation).validate_json((folder / RESULT).read_bytes())
        context = self._context(product, models)
        validation = {
            name: entry["validation_average_precision"] for name, entry in models["models"].items()
        }
        served = champion(product)
        registered = (
            model_card.Registered(served.decision_threshold, served.provenance) if served else None
        )
        lake.write_text(
            folder / "model_card.html", model_card.render(result, context, decision, registered)
        )
        lake.write_text(
            folder / "selection.html", selection.render(result, context, decision, validation)
        )
        found = []
        for path in sorted(folder.parent.glob(f"product=*/{RESULT}")):
            facts = read_json(path)
            name = path.parent.name.removeprefix("product=")
            source, served = lake.record("splits", name), champion(name)
            if facts is not None and source is not None:
                found.append(
                    products.product(
                        facts,
                        is_simulated=source["source"]["kind"] == "simulated",
                        champion=served.title if served else None,
                        report=f"{quote(path.parent.name)}/{REPORT}",
                    )
                )
        lake.write_text(folder.parent / "index.html", products.render(found))

    def _context(self, product: str, models: Mapping[str, Any]) -> "Context":
        """What every report of a product says beside its results."""
        from volatility_pipeline.reports.evaluation import Context

        def by_model(fact: str) -> dict[str, Any]:
            return {name: entry[fact] for name, entry in models["models"].items()}

        return Context(
            is_simulated=models["provenance"]["source"] == "simulated",
            dropped=self.training.split_record(product)["dropped"],
            provenance=models["provenance"],
            notes=by_model("notes"),
            dropped_columns=by_model("dropped_columns"),
            parameters=by_model("parameters"),
            versions={name: stored["version"] for name, stored in by_model("stored").items()},
            folds=self.folds(product),
        )

    def folds(self, product: str) -> "WalkForwardResult":
        """The product's walk-forward as it was recorded.

        Raises:
            BadInputError: There is none, or it is of other rows than the splits.
        """
        from pydantic import TypeAdapter

        from volatility_pipeline.domain.fold_results import WalkForwardResult

        record = self.training.lake.record("walk_forward", product)
        if record is None:
            raise BadInputError(f"{product}: no walk-forward; `volatility train` makes it.")
        made_from, splits = record["made_from"], self.training.split_record(product)["made_from"]
        if any(made_from[fact] != splits[fact] for fact in ("inputs", "policy")):
            raise BadInputError(
                f"{product}: the walk-forward was made from other rows than the splits; "
                "`volatility train` makes it anew."
            )
        return TypeAdapter(WalkForwardResult).validate_python(record["result"])

    def _controls(
        self,
        frame: "pd.DataFrame",
        result: "Evaluation",
        *,
        is_simulated: bool,
        progress: Callable[[str], None],
    ) -> tuple["Control", ...]:
        """Every control: of the product's splits and result, of the code, and of the lake."""
        from volatility_pipeline.domain import controls

        def say(text: str) -> None:
            progress(f"{result.product_id}: {text}")

        say("controls")
        return (
            controls.overlap(frame),
            *controls.permuted_labels(frame, policy=result.policy, seed=SEED, progress=say),
            controls.too_good(result.suspicious, is_simulated=is_simulated),
            self.audit.known_truncation(progress=say),
            *self.audit.known_noise(progress=say),
        )

    def _forecast(self, name: str, entry: Mapping[str, Any], test: "pd.DataFrame") -> Forecast:
        estimator = self.training.tracking.fetch(StoredModel(**entry["stored"]))
        return Forecast(
            name,
            scores(estimator, test),
            probabilities(estimator, test),
            entry["decision_threshold"],
        )


def _metrics(model: "ModelResult", pooled: "FoldScore | None") -> dict[str, float | None]:
    """A model's metrics, on the test rows and over all folds, under MLflow's names."""
    metrics: dict[str, float | None] = {
        f"test_{name}": getattr(model, name)
        for name in ("roc_auc", "brier", "brier_skill", "f1", "precision", "recall", "skill")
    }
    for name in ("alerts_per_hour", "false_alarms_per_hour", "median_lead_seconds", "share_caught"):
        metrics[f"test_{name}"] = getattr(model.episodes, name)
    for prefix, result in {"test": model, "walk_forward": pooled}.items():
        for name in ("average_precision", "lift", "gain"):
            estimate = getattr(result, name, None)
            if estimate is not None:
                metrics |= {
                    f"{prefix}_{name}": estimate.value,
                    f"{prefix}_{name}_low": estimate.low,
                    f"{prefix}_{name}_high": estimate.high,
                }
    return metrics
