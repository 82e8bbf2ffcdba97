"""A small lake with champions, and its own feature rows as live ones, for tests of the serving.

What belongs here: making them once, and a predictor over a copy. What does not: how live rows come
about (`test_live`), and what any model ought to say.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.resources.champions import CHALLENGER
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.live import FeatureRow
from volatility_pipeline.serving.predictor import Predictor
from volatility_pipeline_tests.registered_models import appoint, champions, register
from volatility_pipeline_tests.tick_lake import built_lake, walk

BTC, ETH = "BTC-USD", "ETH-USD"
PERSISTENCE, EWMA = "1", "2"


def make(root: Path) -> Path:
    """Two hours and a half of BTC, with a champion and a challenger; ETH has neither."""
    built_lake(root, walk("2026-04-04 21:20", 9000, step=5))
    register(root, BTC, ["persistence", "ewma"])
    appoint(root, BTC, PERSISTENCE)
    champions(root).tracking.move_alias(BTC, CHALLENGER, EWMA)
    return root


def copied(root: Path, to: Path) -> Path:
    """A copy to be changed; its registry names the original's archives."""
    return shutil.copytree(root, to, ignore=shutil.ignore_patterns("artifacts"))


def asked(root: Path) -> pd.DataFrame:
    """The features of BTC beside its labels, where the threshold is known, in time order."""
    tables = [
        pd.concat([pd.read_parquet(path) for path in Lake(root).files(stage)])
        for stage in ("features", "labels")
    ]
    both = tables[0].merge(tables[1], on=["product_id", "ts"])
    return both.dropna(subset=["trailing_threshold"]).sort_values("ts", ignore_index=True)


def live(row: Any, **changed: Any) -> FeatureRow:
    """A row of `asked`, as `itertuples` gives it, as a live one."""
    ts = changed.pop("ts", row.ts.to_pydatetime().replace(tzinfo=UTC))
    values = {name: getattr(row, name) for name in FEATURE_COLUMNS}
    return FeatureRow(
        product=changed.pop("product", row.product_id),
        ts=ts,
        features={name: None if value != value else float(value) for name, value in values.items()},
        trailing_threshold=changed.pop("trailing_threshold", row.trailing_threshold),
        published_at=ts + timedelta(seconds=0.5),
        **changed,
    )


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def predictor(
    root: Path,
    clock: Clock,
    *,
    said: list[str] | None = None,
    products: Sequence[str] | None = (BTC, ETH),
) -> Predictor:
    """A predictor over a data root, its models loaded; nothing follows the aliases by itself."""
    say = [].append if said is None else said.append
    log = AnswerLog(Lake(root), say)
    made = Predictor(champions(root), log, say, products=products, clock=clock)
    made.refresh()
    return made
