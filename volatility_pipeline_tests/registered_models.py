"""Models fitted on a lake's own rows and registered, for tests of what is done with them.

What belongs here: a data root's registry, as much of the model stages as makes versions in it, and
appointing a champion. What does not: walk-forward, evaluation, and whether a promotion is earned.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.splits import Policy
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse

NOW = datetime(2026, 3, 3, tzinfo=UTC)
STEP = SimpleNamespace(log=logging.getLogger("test"), run=SimpleNamespace(run_id="0" * 8))
"""As much of a Dagster step as the tracking reads."""


def tracking(root: Path) -> Tracking:
    """The MLflow store of a data root, where the commands look for it."""
    store = root / "mlflow"
    return Tracking(f"sqlite:///{store / 'mlflow.db'}", str(store / "artifacts"))


def champions(root: Path) -> Champions:
    """The registry of a data root."""
    return Champions(Lake(root), tracking(root))


def register(
    root: Path, product: str, rungs: Sequence[str], *, policy: Policy = "trailing"
) -> list[ServedModel]:
    """Splits a product's rows, fits some rungs on them, and returns their versions, in order."""
    registry = champions(root)
    training = Training(registry.lake, Warehouse(registry.lake), registry.tracking, 0)
    training.split(product, policy)
    chosen = {name: LADDER[name] for name in rungs}
    with (
        patch("volatility_pipeline.resources.training.LADDER", chosen),
        registry.tracking.step(STEP, "test", {}),
    ):
        training.fit(product, training.frame(product))
    found = [registry.find(product, name) for name in rungs]
    return [served for served in found if served is not None]


def appoint(root: Path, product: str, name: str) -> None:
    """Makes a rung's newest version, or a version, the champion."""
    champions(root).appoint(product, name, reason="a test wants it", now=NOW)
