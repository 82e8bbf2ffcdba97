"""Spikes and alerts as a person lives through them: episodes, warnings, false alarms, an hour.

Rows are one a second and most of them alike: what a spike of five minutes is in rows says little.
Here spikes become episodes and alerts become what somebody would have been told. Ranking and
probabilities are measured in `metrics`; nothing here knows of models.

- A row at t speaks of [t, t + 60 s): it is a spike if that minute is one, and an alert given at t
  is in force for that minute.
- An **episode** is a longest chain of spike rows, each at most 60 s after the one before: their
  minutes overlap or touch. Rows between them that are quiet or missing do not end it; more than
  60 s without a spike row do, and so does every gap in the recording (which costs more rows than
  that). It starts with its first spike row, S, and ends with its last, E.
- It is **caught** if an alert was in force at S or was given later, by E: a row of (S - 60 s, E].
- It is **warned of** if the first such alert was a new one: no row of the 60 s before it is an
  alert. The **lead time** is S minus that row's time: at most 59 s, negative where the alert came
  late. An alarm already on has no lead time, so one that is always on catches every episode and
  warns of none.
- Alerts are counted as a person is told: the first, then the next that is 60 s or more later. One
  that stays on is repeated each minute, so always alerting is 60 **alerts per hour**, and 60
  **false alarms per hour** wherever no episode is near: those are counted alike, among the alert
  rows that lie in no episode's (S - 60 s, E].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from volatility_pipeline.domain.metrics import count_apart, hours_covered
from volatility_pipeline.domain.splits import HORIZON_SECONDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLD = np.timedelta64(HORIZON_SECONDS, "s")
"""How long an alert is in force, and how far apart spikes of one episode may lie."""


@dataclass(frozen=True)
class Episodes:
    """Where spike episodes begin and end, in time order.

    Attributes:
        start: First spike row of each, shape (episodes,).
        end: Last spike row.
    """

    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class EpisodeResult:
    """One model's alerts against the episodes. What is not defined is None.

    Attributes:
        hours: What the rows cover, a row for each step between rows; gaps are left out.
        episodes: How many there are.
        caught: Those with an alert in force at their start or given within them.
        share_caught: Their share.
        warned: Those caught by a new alert.
        median_lead_seconds: Of those warned of, start minus alert; negative is late.
        alerts: How many, one that stays on repeated each minute.
        alerts_per_hour: At most 60, but for one more before each gap.
        false_alarms: Those far from any episode, counted likewise.
        false_alarms_per_hour: Likewise.
    """

    hours: float
    episodes: int
    caught: int
    share_caught: float | None
    warned: int
    median_lead_seconds: float | None
    alerts: int
    alerts_per_hour: float | None
    false_alarms: int
    false_alarms_per_hour: float | None


def find_episodes(ts: NDArray[np.datetime64], is_spike: NDArray[np.bool_]) -> Episodes:
    """Merge spike rows into episodes.

    Args:
        ts: Decision times, rising, shape (rows,).
        is_spike: Shape (rows,).
    """
    spikes = ts[is_spike]
    is_first = np.append(True, np.diff(spikes) > HOLD)[: len(spikes)]
    return Episodes(start=spikes[is_first], end=spikes[np.roll(is_first, -1)])


def lead_seconds(alerts: NDArray[np.datetime64], episodes: Episodes) -> NDArray[np.float64]:
    """Return how long before each episode's start its first alert came, shape (episodes,).

    Args:
        alerts: Times of the alert rows, rising.
        episodes: Of the same rows.

    Returns:
        Seconds; negative where the alert came late, infinite where an alarm was on already, NaN
        where the episode was not caught.
    """
    is_new = np.append(True, np.diff(alerts) > HOLD)[: len(alerts)]
    first = np.searchsorted(alerts, episodes.start - HOLD, side="right")
    is_caught = first < np.searchsorted(alerts, episodes.end, side="right")
    lead = np.full(len(episodes), np.nan)
    found = first[is_caught]
    seconds = (episodes.start[is_caught] - alerts[found]) / np.timedelta64(1, "s")
    lead[is_caught] = np.where(is_new[found], seconds, np.inf)
    return lead


def alerts_per_hour(ts: NDArray[np.datetime64], is_alert: NDArray[np.bool_]) -> float | None:
    """Return how often an hour somebody would be alerted: 60 is always; None without rows."""
    hours = hours_covered(ts)
    return count_apart(ts[is_alert], HORIZON_SECONDS) / hours if hours else None


def judge_alerts(
    ts: NDArray[np.datetime64], is_spike: NDArray[np.bool_], is_alert: NDArray[np.bool_]
) -> EpisodeResult:
    """Hold a model's alerts against the spike episodes.

    Args:
        ts: Decision times, rising, shape (rows,).
        is_spike: Shape (rows,).
        is_alert: Shape (rows,).
    """
    episodes, alerts = find_episodes(ts, is_spike), ts[is_alert]
    lead = lead_seconds(alerts, episodes)
    caught = int((~np.isnan(lead)).sum())
    warned = lead[np.isfinite(lead)]
    # Ends rise as starts do, so the first episode that ends at or after an alert is the nearest.
    nearest = np.searchsorted(episodes.end, alerts)
    starts = np.append(episodes.start, np.array(["NaT"], dtype=ts.dtype))[nearest]
    false = alerts[~(alerts > starts - HOLD)]
    hours = hours_covered(ts)
    told, untrue = count_apart(alerts, HORIZON_SECONDS), count_apart(false, HORIZON_SECONDS)
    return EpisodeResult(
        hours=hours,
        episodes=len(episodes),
        caught=caught,
        share_caught=caught / len(episodes) if len(episodes) else None,
        warned=len(warned),
        median_lead_seconds=float(np.median(warned)) if len(warned) else None,
        alerts=told,
        alerts_per_hour=told / hours if hours else None,
        false_alarms=untrue,
        false_alarms_per_hour=untrue / hours if hours else None,
    )
