"""The stages splits and models over the lake, and what every model stage is made from.

How rows are split and models fitted is `domain/`; this reads and writes, and keeps the record of
what each was made from. Walk-forward and evaluation are made in `evaluations`.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import FittedModel, fit, scores
from volatility_pipeline.domain.schemas import TABLES
from volatility_pipeline.domain.search import Trial
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS, ROLES, Policy, split
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.tracking import Tracking, library_versions
from volatility_pipeline.resources.warehouse import (
    DOMAIN,
    STAGE_SQL,
    Warehouse,
    code_hash,
    connect,
    create_view,
    sql_text,
)

if TYPE_CHECKING:
    import pandas as pd

_SPLITTING = ("splits.py",)
_FITTING = (
    "decisions.py",
    "episodes.py",
    "estimators.py",
    "ladder.py",
    "metrics.py",
    "models.py",
    "search.py",
)
_JUDGING = ("bootstrap.py", "episodes.py", "evaluation.py", "metrics.py", "verdict.py")
CODE = {
    "splits": _SPLITTING,
    "models": _FITTING,
    "walk_forward": (*_SPLITTING, *_FITTING, *_JUDGING, "fold_results.py", "walk_forward.py"),
    "evaluation": (
        *_JUDGING,
        "controls.py",
        "ablation.py",
        "feature_analysis.py",
        "importance.py",
        "leakage.py",
        "threshold_analysis.py",
        "timeline.py",
    ),
}
"""The files of `domain/` that decide what a stage holds."""

SOURCES = {"models": ("splits",), "evaluation": ("models", "walk_forward")}
"""The model stages that a stage is made from; the others are made from the labelled rows."""

LIBRARIES = ("duckdb", "numpy", "pandas", "scikit-learn", "scipy", "skops", "xgboost")
SEED = 0
SEARCH_SECONDS = 60.0
"""A rung's search, which sees at most `search.SEARCH_ROWS` rows, takes a tenth of it."""


@dataclass(frozen=True)
class Training:
    """Builds splits, models and evaluation of one product at a time.

    Attributes:
        lake: The partitions.
        warehouse: The SQL over them.
        tracking: Where models are stored.
        search_seconds: Time budget of each rung's hyperparameter search; 0 for none.
    """

    lake: Lake
    warehouse: Warehouse
    tracking: Tracking
    search_seconds: float = SEARCH_SECONDS

    def made_from(self, stage: str, product: str, policy: Policy) -> dict[str, Any]:
        """All that decides a model stage's partition: inputs, code, policy, seed."""
        made_from: dict[str, Any] = {"code": code_digest(CODE[stage]), "policy": policy}
        if stage in SOURCES:
            made_from["inputs"] = _contents(self.lake, stage, product)
        else:
            made_from["code"] += code_hash("splits")
            days = (
                self.lake.content(source, day)
                for source in ("features", "labels")
                for day in self.lake.days(source)
            )
            rows = _rows_content(self.warehouse, product, tuple(days))
            made_from["inputs"] = {"labelled_rows": rows}
        if stage != "splits":
            made_from["seed"] = SEED
            made_from["search_seconds"] = self.search_seconds
            made_from["libraries"] = library_versions(LIBRARIES)
        return made_from

    def are_registered(self, product: str) -> bool:
        """Whether the models that the record names are in the registry, the very same."""
        record = self.lake.record("models", product) or {"models": {}}
        stored = [entry["stored"] for entry in record["models"].values()]
        named = {entry["version"]: entry["sha256"] for entry in stored}
        return named.items() <= self.tracking.archives(product).items()

    def split(self, product: str, policy: Policy) -> dict[str, Any]:
        """Writes a product's splits and returns their record."""
        import pyarrow as pa
        import pyarrow.compute as pc

        made_from = self.made_from("splits", product, policy)
        rows = self.warehouse.labelled_rows(product)
        made = split(
            rows["ts"].to_numpy(),
            rows["future_volatility_60s"].to_numpy(),
            rows["trailing_threshold"].to_numpy(),
            policy=policy,
        )
        rows = rows.append_column("threshold", pa.array(made.threshold))
        rows = rows.append_column("is_spike", pa.array(made.is_spike))
        rows = rows.append_column("role", pa.array(made.role))
        rows = rows.filter(pc.not_equal(rows["role"], ""))
        days = sorted({str(day) for day in rows["ts"].to_numpy().astype("datetime64[D]")})
        facts = {
            "policy": policy,
            "dropped": made.dropped,
            "cuts": [str(cut) for cut in made.cuts],
            "roles": {
                role: {
                    "rows": int((made.role == role).sum()),
                    "spikes": int(made.is_spike[made.role == role].sum()),
                }
                for role in ROLES
            },
            "source": self._source(days),
            "days": days,
        }
        return self.warehouse.write_rows("splits", product, rows, made_from, facts)

    def _source(self, days: list[str]) -> dict[str, Any]:
        """Where the days' raw lines came from: `simulated` as soon as one segment is."""
        manifests = [self.lake.manifest(date.fromisoformat(day)) for day in days]
        segments = [entry for found in manifests if found for entry in found["segments"]]
        is_simulated = any(entry["is_simulated"] for entry in segments)
        return {"kind": "simulated" if is_simulated else "recorded", "segments": len(segments)}

    def frame(self, product: str) -> "pd.DataFrame":
        """A product's splits, in time order.

        Raises:
            BadInputError: There are none.
        """
        import pandas as pd

        path = self.lake.file("splits", product)
        if not self.split_record(product)["rows"]:
            raise BadInputError(
                f"{product}: no row has both its features and a label, so there is nothing to "
                "train on; import or simulate more data (301 s before a row and 60 s after it, "
                "and under the trailing policy an hour of volatilities before)."
            )
        return pd.read_parquet(path)

    def split_record(self, product: str) -> dict[str, Any]:
        """The record of a product's splits.

        Raises:
            BadInputError: There are none.
        """
        record = self.lake.record("splits", product)
        if record is None:
            raise BadInputError(f"{product}: no splits; `volatility train` makes them.")
        return record

    def provenance(self, product: str, frame: "pd.DataFrame") -> dict[str, Any]:
        """What a model or report is made from (the record that using it checks)."""
        record = self.split_record(product)
        train, validation = (frame[frame["role"] == role] for role in ROLES[:2])
        is_constant = record["policy"] == "training" and len(train)
        hashes = {stage: code_hash(stage) for stage in STAGE_SQL}
        return {
            "product": product,
            "source": record["source"]["kind"],
            "segments": record["source"]["segments"],
            "days": f"{record['days'][0]} to {record['days'][-1]}",
            "data_fingerprint": record["sha256"],
            "sql_hashes": hashes,
            "label_policy": record["policy"],
            "label_horizon_seconds": HORIZON_SECONDS,
            "embargo_seconds": EMBARGO_SECONDS,
            "constant_threshold": float(train["threshold"].iloc[0]) if is_constant else None,
            "trained_from": str(train["ts"].min()) if len(train) else None,
            "trained_until": str(train["ts"].max()) if len(train) else None,
            "fitted_until": str(validation["ts"].max()) if len(validation) else None,
            "seen_from": str(frame["ts"].min()) if len(frame) else None,
            "seen_until": str(frame["ts"].max()) if len(frame) else None,
            "seed": SEED,
            "search_seconds": self.search_seconds,
            "code": code_digest(CODE["models"]),
            "python": platform.python_version(),
            "libraries": library_versions(LIBRARIES),
        }

    def fit(
        self,
        product: str,
        frame: "pd.DataFrame",
        *,
        progress: Callable[[str], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Fits every rung, stores and registers it, and writes the models' record.

        The caller has opened the tracking's step.
        """
        provenance = self.provenance(product, frame)
        policy = provenance["label_policy"]
        made_from = self.made_from("models", product, policy)
        train, validation = (frame[frame["role"] == role] for role in ROLES[:2])
        models: dict[str, dict[str, Any]] = {}
        for name in LADDER:
            progress(f"{product}: fitting {LADDER[name].title}")
            model = fit(
                name,
                train,
                validation,
                policy=policy,
                seed=SEED,
                search_seconds=self.search_seconds,
            )
            stored = self.tracking.store(
                model,
                product=product,
                inputs=frame[list(MODEL_INPUTS)].head(3).astype(float),
                params=_parameters(model),
                tags={
                    "provenance": json.dumps(provenance),
                    "source": provenance["source"],
                    "data_fingerprint": provenance["data_fingerprint"],
                },
            )
            models[name] = {
                "stored": asdict(stored),
                "decision_threshold": model.decision_threshold,
                "validation_average_precision": average_precision(model, validation),
                "parameters": dict(model.parameters),
                "dropped_columns": list(model.dropped_columns),
                "notes": list(model.notes),
                "seconds": round(model.seconds, 3),
            }
        hashes = [entry["stored"]["sha256"] for entry in models.values()]
        record = {
            "rows": len(models),
            "bytes": None,
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "made_from": made_from,
            "provenance": provenance,
            "models": models,
        }
        self.lake.write_record("models", product, record)
        return record


def average_precision(model: FittedModel, rows: "pd.DataFrame") -> float | None:
    """A model's average precision on rows with their answers; None without a spike."""
    from sklearn.metrics import average_precision_score

    target = rows["is_spike"].to_numpy(dtype=bool)
    if not target.any():
        return None
    return float(average_precision_score(target, scores(model.estimator, rows)))


def code_digest(files: Iterable[str | Path]) -> str:
    """Hash of code by which a thing is made: files of `domain/` by name, others by path."""
    digest = hashlib.sha256()
    for name in files:
        digest.update((DOMAIN / name).read_bytes())
    return digest.hexdigest()[:16]


def models_of_splits(lake: Lake, product: str) -> dict[str, Any]:
    """The record of a product's models, if they were made from the splits that are there.

    Asked about rows of other splits, a model may have been trained on what it is judged by.

    Raises:
        BadInputError: There are none, or they were not.
    """
    record = lake.record("models", product)
    if record is None:
        raise BadInputError(f"{product}: no models; `volatility train` makes them.")
    if record["provenance"]["data_fingerprint"] != lake.content("splits", product):
        raise BadInputError(
            f"{product}: the models were made from other splits; `volatility train` makes them "
            "anew."
        )
    return record


def evaluated_models(lake: Lake, product: str) -> dict[str, Any]:
    """The record of a product's models, if splits and evaluation that are there are theirs.

    Raises:
        BadInputError: There are none, or they are not.
    """
    models = models_of_splits(lake, product)
    evaluation = lake.record("evaluation", product)
    if evaluation is None:
        raise BadInputError(f"{product}: no evaluated models; `volatility train` makes them.")
    if evaluation["made_from"]["inputs"] != _contents(lake, "evaluation", product):
        raise BadInputError(
            f"{product}: the evaluation was made from other models or another walk-forward; "
            "`volatility train` makes it anew."
        )
    return models


def _contents(lake: Lake, stage: str, product: str) -> dict[str, str | None]:
    """What the model stages hold that a stage is made from."""
    return {source: lake.content(source, product) for source in SOURCES[stage]}


@lru_cache(maxsize=64)
def _rows_content(warehouse: Warehouse, product: str, days: tuple[str | None, ...]) -> str:  # noqa: ARG001
    """A product's labelled rows as a hash, whatever else its days hold.

    Args:
        warehouse: The SQL over the lake.
        product: The market.
        days: The contents of all days of all products: as long as they stay, so do the rows.
    """
    with connect(warehouse.threads) as connection:
        for stage in ("features", "labels"):
            create_view(connection, TABLES[stage], warehouse.lake.files(stage))
        rows = connection.sql(sql_text("50_splits.sql"), params={"product": product})
        hashed = "count(*), sum(hash(own)), bit_xor(hash(own))"
        (found,) = rows.set_alias("own").aggregate(hashed).fetchall()
    return "-".join(map(str, found))


def _parameters(model: FittedModel) -> dict[str, Any]:
    """What an MLflow run notes of a model: the classifier's own parameters, ours, the search."""
    last = model.estimator
    while hasattr(last, "estimator"):
        last = last.estimator
    own = {
        f"model__{name}": value
        for name, value in last[-1].get_params(deep=False).items()
        if value is not None
    }
    return {
        "rung": model.name,
        "policy": model.policy,
        "seed": model.seed,
        "training_rows": model.training_rows,
        "validation_rows": model.validation_rows,
        "decision_threshold": model.decision_threshold,
        "dropped_columns": ", ".join(model.dropped_columns),
        "chosen": json.dumps(dict(model.parameters)),
        "tried": json.dumps([_trial(trial) for trial in model.trials]),
        **own,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    """A trial in short: MLflow cuts a parameter at 6,000 characters."""
    precision = round(trial.average_precision, 4)
    return {**trial.parameters, "average_precision": precision, "on": trial.judged_on}
