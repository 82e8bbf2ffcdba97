"""The opponent in Python: features tick by tick, as most published pipelines compute them.

Running sums over deques, one parse and no search per tick: about the best that plain Python does.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from math import log, sqrt
from pathlib import Path

import orjson

WINDOWS = (30.0, 60.0, 300.0)
EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001  (naive UTC, as in the file)


def count_features(source: str, lines: int) -> int:
    """Features of the first lines of a file; returns how many ticks had some."""
    with Path(source).open("rb") as file:
        return sum(1 for _ in featurize(islice(file, lines)))


def featurize(lines: Iterable[bytes]) -> Iterator[list[tuple[float, ...]]]:
    """For each tick, by window: return, volatility, velocity, spread, imbalance, ticks."""
    windows = [(seconds, deque[tuple[float, ...]](), [0.0] * 5) for seconds in WINDOWS]
    last_mid = 0.0
    for line in lines:
        message = orjson.loads(line)
        raw = message["raw"]
        time = (datetime.fromisoformat(message["timestamp"]) - EPOCH).total_seconds()
        bid, ask = float(message["best_bid"]), float(message["best_ask"])
        bid_size, ask_size = float(raw["best_bid_quantity"]), float(raw["best_ask_quantity"])
        mid, spread, imbalance = (bid + ask) / 2, ask - bid, bid_size / (bid_size + ask_size)
        move = log(mid / last_mid) if last_mid else 0.0
        step, square = abs(mid - last_mid) if last_mid else 0.0, move * move
        last_mid = mid
        tick = (time, mid, move, square, step, spread, imbalance)
        features: list[tuple[float, ...]] = []
        for seconds, ticks, sums in windows:
            ticks.append(tick)
            moves, squares, steps, spreads, imbalances = sums
            moves, squares, steps = moves + move, squares + square, steps + step
            spreads, imbalances = spreads + spread, imbalances + imbalance
            while ticks[0][0] <= time - seconds:
                _, _, old_move, old_square, old_step, old_spread, old_imbalance = ticks.popleft()
                moves, squares, steps = moves - old_move, squares - old_square, steps - old_step
                spreads, imbalances = spreads - old_spread, imbalances - old_imbalance
            sums[:] = moves, squares, steps, spreads, imbalances
            n = len(ticks)
            volatility = sqrt(max(squares - moves * moves / n, 0.0) / (n - 1)) if n > 1 else 0.0
            means = steps / n, spreads / n, imbalances / n
            features.append((log(mid / ticks[0][1]), volatility, *means, n))
        yield features
