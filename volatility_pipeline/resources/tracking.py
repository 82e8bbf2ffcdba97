"""Model tracking: dagster-mlflow's resource, made to fit one step, and models that run no code.

dagster-mlflow takes seconds to import and keeps an MLflow run open from one Dagster run to the
next; here it is imported on first use and ends with the step. Models are stored as skops archives,
and an archive is compared with its recorded hash before it is opened.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.models import TRUSTED_TYPES, FittedModel, load

EXPERIMENT = "volatility"
ARCHIVE = "model.skops"


class StepContext(Protocol):
    """What of a Dagster step's context is needed here."""

    @property
    def log(self) -> Any:
        """The step's logger."""

    @property
    def run(self) -> Any:
        """The Dagster run."""


@dataclass(frozen=True)
class StoredModel:
    """Where a fitted model is stored, and the hash its archive must have."""

    run_id: str
    uri: str
    registered_name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Tracking:
    """An MLflow store: where it is, and where a store of our own keeps its artifacts."""

    uri: str
    artifacts: str

    @contextmanager
    def step(self, context: StepContext, name: str, tags: Mapping[str, str]) -> Iterator[None]:
        """One parent MLflow run for a Dagster step; it ends with the step, failed if that fails.

        Raises:
            RuntimeError: An MLflow run is active already, so that ours would nest under it.
        """
        mlflow = self._mlflow()
        from dagster_mlflow.resources import MlFlow

        if mlflow.active_run() is not None:
            raise RuntimeError(f"MLflow run {mlflow.active_run().info.run_id} is still active.")
        # dagster-mlflow wants a resource's init context; a step's says the same under other names.
        MlFlow(  # type: ignore[no-untyped-call]
            SimpleNamespace(
                log=context.log,
                dagster_run=SimpleNamespace(job_name=name),
                run_id=context.run.run_id,
                resource_config={
                    "experiment_name": EXPERIMENT,
                    "mlflow_tracking_uri": self.uri,
                    "extra_tags": dict(tags),
                },
            )
        )
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            mlflow.end_run(status)

    def store(
        self,
        model: FittedModel,
        *,
        product: str,
        inputs: Any,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> StoredModel:
        """Stores a model in a child run of the step's run and registers it.

        Args:
            model: The model.
            product: Its product; its versions are registered under it.
            inputs: A few rows that it can be asked about, as the input example.
            params: Parameters to note.
            tags: Where it came from.
        """
        mlflow = self._mlflow()
        from mlflow.models import infer_signature

        registered_name = f"volatility-{product}"
        with mlflow.start_run(nested=True, run_name=f"{product} {model.name}") as run:
            mlflow.log_params(dict(params))
            mlflow.set_tags({"product": product, "model": model.name, **tags})
            info = mlflow.sklearn.log_model(
                model.estimator,
                name=model.name,
                signature=infer_signature(inputs, model.estimator.predict_proba(inputs)),
                input_example=inputs,
                serialization_format="skops",
                skops_trusted_types=list(TRUSTED_TYPES),
                pyfunc_predict_fn="predict_proba",
                pip_requirements=requirements(),
                tags={"model": model.name, **tags},
            )
            archive = self._archive(info.model_uri)
            sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
            mlflow.set_tag("model_sha256", sha256)
        version = self._register(registered_name, info, run.info.run_id, model.name, sha256)
        return StoredModel(run.info.run_id, info.model_uri, registered_name, version, sha256)

    def _register(self, name: str, info: Any, run_id: str, rung: str, sha256: str) -> str:
        client = self._mlflow().MlflowClient()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        tags = {"model": rung, "sha256": sha256}
        made = client.create_model_version(
            name, info.model_uri, run_id, tags, model_id=info.model_id, await_creation_for=0
        )
        return str(made.version)

    def fetch(self, stored: StoredModel) -> Any:
        """The stored estimator.

        Raises:
            BadInputError: Its archive is gone, is not the one that was recorded, or holds types
                that are not trusted.
        """
        archive = self._archive(stored.uri)
        data = archive.read_bytes()
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise BadInputError(
                f"{archive}: not the model that was recorded (its SHA-256 differs); train again."
            )
        return load(data)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Adds metrics to a finished run; what is None is left out."""
        client = self._mlflow().MlflowClient()
        for name, value in metrics.items():
            if value is not None:
                client.log_metric(run_id, name, value)

    def _archive(self, uri: str) -> Path:
        mlflow = self._mlflow()
        try:
            return Path(mlflow.artifacts.download_artifacts(uri)) / ARCHIVE
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise BadInputError(
                f"The model {uri} is not to be had ({error}); train again."
            ) from error

    def _mlflow(self) -> Any:
        """MLflow, pointed at the store; a store of our own is made with its own artifact folder."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow
        import mlflow.sklearn

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self.uri)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                mlflow.create_experiment(EXPERIMENT, Path(self.artifacts).as_uri())
        return mlflow


def requirements() -> list[str]:
    """What a stored model needs, pinned as installed."""
    versions = library_versions(("numpy", "scikit-learn", "skops", "xgboost"))
    return [f"{name}=={version}" for name, version in versions.items()]


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution name."""
    from importlib.metadata import version

    return {name: version(name) for name in names}
