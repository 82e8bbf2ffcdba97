"""Dagster in this process: the jobs run against the instance that the UI shows."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.cli.console import ERRORS
from volatility_pipeline.domain.errors import RefusedError
from volatility_pipeline.domain.reach import ranges
from volatility_pipeline.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from volatility_pipeline.domain.splits import Policy
    from volatility_pipeline.resources.lake import Lake
    from volatility_pipeline.resources.training import Training
    from volatility_pipeline.resources.warehouse import Warehouse

INSTANCE_CONFIG = Path(__file__).parents[2] / "dagster.yaml"
KEPT_RUN_DAYS = 30
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
    def training(self) -> "Training":
        """The model stages."""
        return self.resources["training"]  # type: ignore[no-any-return]

    def stale_days(self) -> list[date]:
        """The days that a build has to look at: what is stale, and what that may change."""
        from volatility_pipeline.partitions import is_partition

        warehouse: Warehouse = self.resources["warehouse"]
        return warehouse.stale_days(is_partition)

    def prune_runs(self) -> None:
        """Deletes old runs that no partition's newest materialization comes from any more."""
        import dagster as dg

        before = datetime.now(UTC) - timedelta(days=KEPT_RUN_DAYS)
        old = self.instance.get_run_records(dg.RunsFilter(created_before=before))
        newest: set[str] = set()
        for key in self.definitions.resolve_asset_graph().get_all_asset_keys() if old else ():
            ids = self.instance.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            filtered = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(ids.values()))
            found = self.instance.fetch_materializations(filtered, limit=len(ids) or 1)
            newest |= {record.run_id for record in found.records}
        for record in old:
            if record.dagster_run.run_id not in newest and record.dagster_run.is_finished:
                self.instance.delete_run(record.dagster_run.run_id)

    def build(self, days: list[date], *, force: bool = False) -> None:
        """Materializes the data stages of some days, a run for each stretch of adjoining days."""
        from volatility_pipeline.partitions import build_tags

        ops = {op: {"config": {"force": force}} for op in DATA_OPS}
        for first, last in ranges(days):
            tags = build_tags(first, last)
            self._run("build", f"Building {first} to {last}", ops, tags=tags)

    def train(self, product: str, policy: "Policy") -> None:
        """Materializes the model stages of one product."""
        self.instance.add_dynamic_partitions("product", [product])
        ops = {"splits": {"config": {"threshold_policy": policy}}}
        self._run("train", f"Training {product}", ops, partition_key=product)

    def _run(self, job: str, title: str, ops: Mapping[str, Any], **arguments: Any) -> None:
        from dagster._core.errors import DagsterAssetCheckFailedError

        with ERRORS.status(title) as status:
            self.sink.show = lambda text: status.update(f"{title} · {text}")
            try:
                result = self.definitions.resolve_job_def(job).execute_in_process(
                    instance=self.instance,
                    run_config={"ops": ops, "loggers": {"console": {}}},
                    **arguments,
                )
            except DagsterAssetCheckFailedError as error:
                names = str(error).splitlines()[-1].strip()
                raise RefusedError(
                    f"A blocking check failed ({names}); `make ui` shows the rows at fault."
                ) from error
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

    # Features of Dagster that are still in beta are used knowingly.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
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
