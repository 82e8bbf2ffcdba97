"""How long a model takes to answer: batches of rows, timed, and the budget that they must keep.

Timed is what a service does with a row: columns of numbers become a frame, the frame is asked, and
the probability is compared with the decision threshold. Loading a model is not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.models import probabilities

if TYPE_CHECKING:
    import pandas as pd

BUDGET_SECONDS: Mapping[int, float] = {1: 0.010, 1000: 1.0}
"""By rows in a call: what 99 of 100 calls may take."""

BATCHES = (1, 10, 100, 1_000, 10_000)
LEAST_CALLS = 5


@dataclass(frozen=True)
class Latency:
    """How long calls of one size took.

    Attributes:
        rows: Rows in a call.
        calls: Calls that were timed, after one that was not.
        p50: Median seconds of a call.
        p95: What 95 of 100 calls took at most.
        p99: What 99 of 100 took at most.
        cpu: Processor seconds of a call, the mean; other work on the machine hardly adds to it.
        rows_per_second: Rows over the time of all calls, one after the other.
        budget: Seconds that p99 may reach; None where there is no budget.
    """

    rows: int
    calls: int
    p50: float
    p95: float
    p99: float
    cpu: float
    rows_per_second: float
    budget: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the budget is kept; None where there is none."""
        return None if self.budget is None else self.p99 < self.budget


def latency(
    estimator: Any, frame: pd.DataFrame, *, rows: int, seconds: float, decision_threshold: float
) -> Latency:
    """Time calls of so many rows, one after the other.

    Args:
        estimator: What is asked.
        frame: Rows of `MODEL_INPUTS` to ask about, at least one; taken in turn, again from the
            start after the last.
        rows: Rows in a call.
        seconds: For how long; at least five calls are timed.
        decision_threshold: With what the probabilities are compared.
    """
    import pandas as pd

    columns = {name: frame[name].to_numpy(dtype=float) for name in MODEL_INPUTS}
    taken: list[float] = []
    worked: list[float] = []
    first, end = 0, time.perf_counter() + seconds
    while len(taken) <= LEAST_CALLS or time.perf_counter() < end:
        place = np.arange(first, first + rows) % len(frame)
        batch = {name: values[place] for name, values in columns.items()}
        start, start_cpu = time.perf_counter(), time.process_time()
        _ = probabilities(estimator, pd.DataFrame(batch)) >= decision_threshold
        taken.append(time.perf_counter() - start)
        worked.append(time.process_time() - start_cpu)
        first += rows
    del taken[0], worked[0]  # the first call fills caches
    return Latency(
        rows=rows,
        calls=len(taken),
        p50=float(np.quantile(taken, 0.5)),
        p95=float(np.quantile(taken, 0.95)),
        p99=float(np.quantile(taken, 0.99)),
        cpu=sum(worked) / len(worked),
        rows_per_second=rows * len(taken) / sum(taken),
        budget=BUDGET_SECONDS.get(rows),
    )
