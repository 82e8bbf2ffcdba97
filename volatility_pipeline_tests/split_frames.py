"""Split frames of a made-up market, straight to features, for tests of models and evaluation.

Log volatility wanders over minutes and, more slowly, over half-hours; or it is constant.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.splits import Policy

START = pd.Timestamp("2026-03-01")


def split_frame(
    seconds: int, *, seed: int, policy: Policy = "trailing", is_noise: bool = False
) -> pd.DataFrame:
    """Return rows of every role of one product, `seconds` of market long.

    Args:
        seconds: How long the market runs; its first hour gives no rows (no threshold yet).
        seed: What it is made from.
        policy: How the threshold is made.
        is_noise: Constant volatility: nothing can be predicted.
    """
    rows = market_rows(seconds, seed=seed, is_noise=is_noise)
    return _labelled(_with_roles(rows), policy)


def market_rows(seconds: int, *, seed: int, is_noise: bool = False) -> pd.DataFrame:
    """Return a product's rows of every second, with `threshold` as known at each; see above."""
    rng = np.random.default_rng(seed)
    log_sigma = np.zeros(seconds)
    if not is_noise:
        log_sigma = _wander(rng, seconds, hold=1800, scale=0.25)
        log_sigma += _wander(rng, seconds, hold=60, scale=0.45)
    returns = 2e-5 * np.exp(log_sigma) * rng.normal(size=seconds)
    mid = 1e5 * np.exp(np.cumsum(returns))
    ticks = rng.poisson(3 * np.exp(log_sigma)).astype(float)
    imbalance = np.clip(rng.normal(0.5, 0.2, size=seconds), 0, 1)
    spread = np.where(rng.random(seconds) < 0.8, 0.01, rng.exponential(1.0, size=seconds))

    ts = START + pd.to_timedelta(np.arange(seconds), unit="s")
    columns: dict[str, Any] = {"product_id": "BTC-USD", "ts": ts.astype("datetime64[us]")}
    for window in (30, 60, 300):
        columns |= {
            f"log_return_{window}s": _before(_sum(returns, window)),
            f"realized_volatility_{window}s": _before(_deviation(returns, window)),
            f"price_velocity_{window}s": _before(
                _sum(np.abs(np.diff(mid, prepend=np.nan)), window) / window
            ),
            f"spread_mean_{window}s": _before(_sum(spread, window) / window),
            f"order_book_imbalance_{window}s": _before(_sum(imbalance, window) / window),
            f"trade_intensity_{window}s": _before(_sum(ticks, window)),
            f"volume_velocity_{window}s": np.full(seconds, np.nan),
        }
    angle = 2 * np.pi * (np.arange(seconds) % 86400) / 86400
    columns |= {
        "mid": _before(mid),
        "realized_volatility_900s": _before(_deviation(returns, 900)),
        "realized_volatility_3600s": _before(_deviation(returns, 3600)),
        "spread_bps": _before(1e4 * spread / mid),
        "microprice_gap_bps": np.where(
            rng.random(seconds) < 0.01, np.nan, rng.normal(size=seconds)
        ),
        "seconds_since_tick": _before((ticks == 0).astype(float)),
        "time_of_day_sin": np.sin(angle),
        "time_of_day_cos": np.cos(angle),
        "future_volatility_60s": np.append(_deviation(returns, 60)[59:], np.full(59, np.nan)),
    }
    frame = pd.DataFrame(columns)
    minutes = frame["realized_volatility_60s"].where(np.arange(seconds) % 60 == 0)
    trailing = minutes.dropna().rolling(1440, min_periods=60).quantile(0.9)
    frame["threshold"] = trailing.reindex(frame.index).ffill()
    return frame.dropna(subset=["future_volatility_60s", "threshold"]).reset_index(drop=True)


def role(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one role."""
    return frame[frame["role"] == name].reset_index(drop=True)


def tiny(frame: pd.DataFrame, name: str, rows: int, spikes: int) -> pd.DataFrame:
    """Return a few rows of a role, the given number of them spikes, nothing missing."""
    part = role(frame, name).dropna(subset=["microprice_gap_bps", "realized_volatility_3600s"])
    return part.head(rows).assign(is_spike=np.arange(rows) < spikes).reset_index(drop=True)


def _with_roles(frame: pd.DataFrame) -> pd.DataFrame:
    ts, second = frame["ts"], pd.Timedelta("1s")
    first, last = ts.iloc[int(0.7 * len(frame))], ts.iloc[int(0.85 * len(frame))]
    roles = np.select(
        [
            (ts + 60 * second <= first) & (ts.dt.second % 5 == 0),
            (ts >= first + 300 * second) & (ts + 60 * second <= last),
            ts >= last + 300 * second,
        ],
        ["train", "validation", "test"],
        default="dropped",
    )
    frame = frame.assign(role=roles)
    return frame[frame["role"] != "dropped"].reset_index(drop=True)


def _labelled(frame: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    future = frame["future_volatility_60s"]
    if policy == "training":
        frame = frame.assign(threshold=future[frame["role"] == "train"].quantile(0.9))
    frame = frame.assign(is_spike=(future >= frame["threshold"]) & (future > 0))
    labels = ["future_volatility_60s", "threshold", "is_spike", "role"]
    return frame[["product_id", "ts", *MODEL_INPUTS[:-1], *labels]]


def _wander(rng: np.random.Generator, seconds: int, *, hold: float, scale: float) -> np.ndarray:
    """An Ornstein-Uhlenbeck process that forgets over `hold` seconds."""
    decay = np.exp(-1 / hold)
    shocks = rng.normal(scale=scale * np.sqrt(1 - decay**2), size=seconds)
    return lfilter([1], [1, -decay], shocks)


def _sum(values: np.ndarray, window: int) -> np.ndarray:
    total = np.cumsum(np.nan_to_num(values))
    return np.append(np.full(window, np.nan), total[window:] - total[:-window])


def _deviation(returns: np.ndarray, window: int) -> np.ndarray:
    squares, total = _sum(1e10 * returns**2, window), _sum(1e5 * returns, window)
    return 1e-5 * np.sqrt((window * squares - total**2) / (window * (window - 1)))


def _before(values: np.ndarray) -> np.ndarray:
    """Shift by one second: what is known at `ts` ends with the second before it."""
    return np.append(np.nan, values[:-1])
