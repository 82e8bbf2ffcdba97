"""Model tracking: dagster-mlflow's resource, made to fit one step, and models that run no code.

Runs, archives, and the registry's versions with their tags and aliases. Which version should be
the champion is decided in `champions`.

dagster-mlflow takes seconds to import and keeps an MLflow run open from one Dagster run to the
next; here it is imported on first use and ends with the step. Models are stored as skops archives,
and an archive is compared with its recorded hash before it is opened.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.models import (
    TRUSTED_TYPES,
    FittedModel,
    UntrustedModelError,
    load,
)

EXPERIMENT = "volatility"
ARCHIVE = "model.skops"
MOST_MODELS = 1000  # more are not asked for at once; there are not so many products
SQLITE = "sqlite:///"


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
class RegisteredVersion:
    """A version in the registry: its archive, what was noted of it, and when it was registered."""

    stored: StoredModel
    tags: Mapping[str, str]
    registered_at: datetime


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
        with self._client():
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
        noted = {
            "model": model.name,
            "sha256": sha256,
            "decision_threshold": repr(model.decision_threshold),
            "columns": json.dumps(list(inputs.columns)),
            **tags,
        }
        name = registered_name(product)
        version = self._register(name, info, run.info.run_id, noted)
        return StoredModel(run.info.run_id, info.model_uri, name, version, sha256)

    def _register(self, name: str, info: Any, run_id: str, tags: Mapping[str, str]) -> str:
        with self._client() as client:
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            made = client.create_model_version(
                name,
                info.model_uri,
                run_id,
                dict(tags),
                model_id=info.model_id,
                await_creation_for=0,
            )
        return str(made.version)

    def version(self, product: str, version: str) -> RegisteredVersion | None:
        """A version by its number; None where there is none."""
        return self._newest(product, f"version_number = {int(version)}")

    def archives(self, product: str) -> dict[str, str]:
        """The hashes of a product's archives by version: a deleted registry counts from 1 again."""
        if not self.is_there:
            return {}
        found: dict[str, str] = {}
        token: str | None = None
        with self._client() as client:
            while token != "":
                page = client.search_model_versions(
                    f"name = '{registered_name(product)}'", max_results=1_000, page_token=token
                )
                found |= {str(made.version): made.tags["sha256"] for made in page}
                token = page.token or ""
        return found

    def newest(self, product: str, rung: str) -> RegisteredVersion | None:
        """The newest version of a rung; None where there is none."""
        return self._newest(product, f"tags.model = '{rung}'")

    def _newest(self, product: str, condition: str) -> RegisteredVersion | None:
        if not self.is_there:
            return None
        with self._client() as client:
            found = client.search_model_versions(
                f"name = '{registered_name(product)}' and {condition}",
                max_results=1,
                order_by=["version_number DESC"],
            )
        if not found:
            return None
        (made,) = found
        stored = StoredModel(
            made.run_id, made.source, made.name, str(made.version), made.tags["sha256"]
        )
        at = datetime.fromtimestamp(made.creation_timestamp / 1000, UTC)
        return RegisteredVersion(stored, made.tags, at)

    def aliases(self, product: str) -> dict[str, str]:
        """The versions of a product that an alias names, by alias."""
        if not self.is_there:
            return {}
        with self._client() as client:
            found = client.search_registered_models(f"name = '{registered_name(product)}'")
        return {name: str(version) for model in found for name, version in model.aliases.items()}

    def all_aliases(self) -> dict[str, dict[str, str]]:
        """The aliases of every product that has any, by product, asked for once."""
        if not self.is_there:
            return {}
        with self._client() as client:
            found = client.search_registered_models(
                f"name LIKE '{registered_name('')}%'", max_results=MOST_MODELS
            )
        return {
            model.name.removeprefix(registered_name("")): {
                name: str(version) for name, version in model.aliases.items()
            }
            for model in found
        }

    def move_alias(self, product: str, alias: str, version: str | None) -> None:
        """Makes an alias name a version, or none."""
        name = registered_name(product)
        with self._client() as client:
            if version is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, version)

    def tag_version(self, product: str, version: str, tags: Mapping[str, str]) -> None:
        """Notes something of a version."""
        with self._client() as client:
            for key, value in tags.items():
                client.set_model_version_tag(registered_name(product), version, key, value)

    @property
    def is_there(self) -> bool:
        """Whether there is a store to ask; asking one of our own would make it."""
        return not self.uri.startswith(SQLITE) or Path(self.uri.removeprefix(SQLITE)).exists()

    def fetch(self, stored: StoredModel) -> Any:
        """The stored estimator.

        Raises:
            BadInputError: Its archive is gone, is not the one that was recorded, or holds types
                that are not trusted.
        """
        archive = self._archive(stored.uri)
        try:
            data = archive.read_bytes()
        except OSError as error:
            raise BadInputError(
                f"{archive}: the model cannot be read ({error.strerror}); train again."
            ) from error
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            raise BadInputError(
                f"{archive}: not the model that was recorded (its SHA-256 differs); train again."
            )
        try:
            return load(data)
        except UntrustedModelError as error:
            raise BadInputError(f"{archive}: {error}; train again.") from error

    def log_metrics(self, run_id: str, metrics: Mapping[str, float | None]) -> None:
        """Adds metrics to a finished run; what is None is left out."""
        with self._client() as client:
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

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """The store's client; what it refuses, or cannot answer, is told in a sentence.

        A store of our own is made with its own artifact folder.
        """
        mlflow = self._mlflow()
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self.uri.startswith(SQLITE):
                Path(self.uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
                if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                    mlflow.create_experiment(EXPERIMENT, Path(self.artifacts).as_uri())
            yield mlflow.MlflowClient()
        except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
            said = str(error).splitlines()[0][:300]
            raise BadInputError(
                f"{self.uri}: MLflow does not do what is asked ({said}); "
                "`volatility doctor` says more."
            ) from error

    def _mlflow(self) -> Any:
        """MLflow, pointed at the store."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # By default a server that is down is asked for minutes, longer than a sensor may take.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow
        import mlflow.sklearn

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(self.uri)
        return mlflow


def registered_name(product: str) -> str:
    """The name under which a product's versions are registered."""
    return f"volatility-{product}"


def requirements() -> list[str]:
    """What a stored model needs, pinned as installed."""
    versions = library_versions(("numpy", "scikit-learn", "skops", "xgboost"))
    return [f"{name}=={version}" for name, version in versions.items()]


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution name."""
    from importlib.metadata import version

    return {name: version(name) for name in names}
