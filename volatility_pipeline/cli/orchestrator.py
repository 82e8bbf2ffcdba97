"""Dagster in this process: the jobs run against the instance that the UI shows."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from volatility_pipeline.cli.console import ERRORS, quiet_dagster
from volatility_pipeline.domain.errors import RefusedError
from volatility_pipeline.domain.reach import ranges
from volatility_pipeline.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from volatility_pipeline.domain.splits import Policy
    from volatility_pipeline.resources.champions import Champions
    from volatility_pipeline.resources.evaluations import Evaluations
    from volatility_pipeline.resources.lake import Lake
    from volatility_pipeline.resources.predictions import Predictions
    from volatility_pipeline.resources.training import Training
    from volatility_pipeline.resources.warehouse import Warehouse

INSTANCE_CONFIG = Path(__file__).parents[2] / "dagster.yaml"
DATA_OPS = ("raw_ticks", "ticks_and_quarantine", "bars", "features", "labels")


@dataclass(frozen=True)
class Orchestrator:
    """Runs the code location's jobs on one instance."""

    definitions: "dg.Definitions"
    instance: "dg.DagsterInstance"
    resources: Mapping[str, Any]
    sink: "Sink"

    @property
    def lake(self) -> "Lake":
        """The files."""
        return self.resources["lake"]  # type: ignore[no-any-return]

    @property
    def champions(self) -> "Champions":
        """Which models serve."""
        return self.resources["champions"]  # type: ignore[no-any-return]

    @property
    def predictions(self) -> "Predictions":
        """What the champions say."""
        return self.resources["predictions"]  # type: ignore[no-any-return]

    @property
    def training(self) -> "Training":
        """The model stages."""
        return self.resources["training"]  # type: ignore[no-any-return]

    @property
    def evaluations(self) -> "Evaluations":
        """The evaluation stage."""
        return self.resources["evaluations"]  # type: ignore[no-any-return]

    def stale_days(self) -> list[date]:
        """The days that a build has to look at: what is stale, and what that may change."""
        from volatility_pipeline.partitions import is_partition

        warehouse: Warehouse = self.resources["warehouse"]
        return warehouse.stale_days(is_partition)

    def prune_runs(self) -> None:
        """Deletes old runs that nobody needs any more."""
        from volatility_pipeline.sensors.upkeep import prune_runs

        prune_runs(self.instance)

    def build(self, days: list[date], *, force: bool = False) -> None:
        """Materializes the data stages of some days, a run for each stretch of adjoining days."""
        from volatility_pipeline.partitions import build_tags

        ops = {op: {"config": {"force": force}} for op in DATA_OPS}
        for first, last in ranges(days):
            tags = build_tags(first, last)
            self._run("build", f"Building {first} to {last}", ops, tags=tags)

    def is_trained(self, product: str, policy: "Policy") -> bool:
        """Whether a product's model stages are current, the decision on its champion included."""
        from volatility_pipeline.domain.controls import Control

        record = self.lake.record("evaluation", product)
        if record is None or not self.evaluations.is_current(product, policy):
            return False
        controls = [Control(**control) for control in record["controls"]]
        return self.champions.is_current(product, controls=controls)

    def train(self, product: str, policy: "Policy") -> None:
        """Materializes the model stages of one product."""
        self.instance.add_dynamic_partitions("product", [product])
        ops = {"splits": {"config": {"threshold_policy": policy}}}
        self._run("train", f"Training {product}", ops, partition_key=product)

    def predict(
        self,
        days: list[date],
        *,
        model: str | None = None,
        products: Sequence[str] = (),
        force: bool = False,
    ) -> None:
        """Materializes the predictions of some days, a run for each stretch of adjoining days."""
        from volatility_pipeline.partitions import build_tags

        config = {"model": model, "products": list(products), "force": force}
        for first, last in ranges(days):
            tags = build_tags(first, last)
            ops = {"predictions": {"config": config}}
            self._run("predict", f"Predicting {first} to {last}", ops, tags=tags)

    def _run(
        self,
        job: str,
        title: str,
        ops: Mapping[str, Any],
        *,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
    ) -> None:
        """Runs a job, and tells the alerts what became of it, as the daemon's sensor would."""
        from dagster._core.errors import DagsterAssetCheckFailedError

        from volatility_pipeline.sensors.run_failures import BY_COMMAND, tell

        run_id = str(uuid4())
        with ERRORS.status(title) as status:
            self.sink.show = lambda text: status.update(f"{title} · {text}")
            try:
                result = self.definitions.resolve_job_def(job).execute_in_process(
                    instance=self.instance,
                    run_id=run_id,
                    run_config={"ops": ops, "loggers": {"console": {}}},
                    tags={**(tags or {}), **BY_COMMAND},
                    partition_key=partition_key,
                )
            except DagsterAssetCheckFailedError as error:
                names = str(error).splitlines()[-1].strip()
                raise RefusedError(
                    f"A blocking check failed ({names}); `make ui` shows the rows at fault."
                ) from error
            finally:
                record = self.instance.get_run_record_by_id(run_id)
                if record is not None:
                    tell(self.instance, self.resources["alerts"], record)
        if not result.success:
            raise RefusedError(f"The run {result.run_id} failed; `make ui` shows why.")


class Sink(logging.Handler):
    """Where the running assets' log goes: to the command's status line."""

    show: Callable[[str], None] = staticmethod(lambda _: None)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows an asset's own message; Dagster's events are the UI's to show."""
        if record.levelno == logging.INFO:
            self.show(record.getMessage().rsplit(" - ", 1)[-1])


@contextmanager
def orchestrator(settings: Settings) -> Iterator[Orchestrator]:
    """The code location on the instance under the data root."""
    os.environ["VOLATILITY_DATA"] = str(settings.data)
    import dagster as dg

    quiet_dagster()
    from volatility_pipeline.definitions import build_defs, resources

    home = instance_home(settings)
    made = resources(settings)
    sink = Sink()

    @dg.logger
    def status_line(_: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("volatility", logging.INFO)
        logger.addHandler(sink)
        return logger

    definitions = build_defs(made, {"console": status_line})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield Orchestrator(definitions, instance, made, sink)


def instance_home(settings: Settings) -> Path:
    """DAGSTER_HOME under the data root, with the project's instance configuration in it."""
    home = settings.data / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    config = INSTANCE_CONFIG.read_text()
    placed = home / INSTANCE_CONFIG.name
    if not placed.exists() or placed.read_text() != config:
        placed.write_text(config)
    return home


def days_between(first: date, last: date) -> list[date]:
    """All days from the first to the last, both included."""
    return [first + timedelta(days=count) for count in range((last - first).days + 1)]
