"""Alerts: what a person is told, how bad it is, and in which words.

The kinds, one alert, its renderings, and which spike alerts predictions amount to belong here.
Keeping and delivering them is `resources/alerts.py`; raising them belongs to whoever notices.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from volatility_pipeline.domain.episodes import HOLD, find_episodes
from volatility_pipeline.domain.splits import HORIZON_SECONDS

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
DRIFT_SEVERITY: Mapping[str, Severity] = {"low": "info", "medium": "warning", "high": "critical"}
"""What a drift verdict is worth as an alert."""

Number = float | int | str | None
_UNSAID: Any = None
RUNBOOK = "docs/runbook.md"
FRESH = timedelta(minutes=10)
"""An alert row further from now raises nothing: what is predicted of past days is no news."""

SLACK_TEXT = 2900  # characters; Slack refuses 3,000
SLACK_FIELDS = 10
SLACK_FIELD = 1900


@dataclass(frozen=True)
class Kind:
    """What a kind of alert means, how bad it is unless it says otherwise, and what to do."""

    meaning: str
    severity: Severity
    anchor: str

    @property
    def runbook(self) -> str:
        """The section of the runbook that says what to do."""
        return f"{RUNBOOK}#{self.anchor}"


KINDS: Mapping[str, Kind] = {
    "run_failed": Kind(
        "A run failed and will not be retried by itself.", "critical", "a-run-failed"
    ),
    "check_failed": Kind(
        "A blocking check found bad rows and stopped the run.", "critical", "a-check-failed"
    ),
    "drift": Kind("New data differ from what the model was trained on.", "warning", "data-drifted"),
    "performance": Kind(
        "The champion ranks worse than persistence or than chance.",
        "warning",
        "the-champion-does-worse",
    ),
    "stale_champion": Kind(
        "The champion is older than models may be.", "warning", "the-champion-is-stale"
    ),
    "stale_feed": Kind("No new ticks arrive.", "critical", "the-feed-is-stale"),
    "no_run": Kind("What should run by itself has not run.", "warning", "nothing-has-run"),
    "spike": Kind(
        "The champion expects unusual volatility within the horizon.",
        "warning",
        "a-spike-is-predicted",
    ),
    "retraining": Kind("Models are being trained anew.", "info", "models-are-retrained"),
}


@dataclass(frozen=True)
class Alert:
    """One thing to tell a person, or that it is over.

    Attributes:
        kind: One of `KINDS`.
        product: Its product; empty where it is of none.
        partition: What else tells it from others of its kind: a day, a step and its days.
        title: What is wrong, in one sentence.
        since: From when on it has been so.
        noticed_at: When it was found: a run's end, a report's time; `since` unless given. By it
            the ledger tells news from repetition, so it rises from one event of a key to the next.
        severity: The kind's own, unless given.
        numbers: What a person would ask next, in the order to show it. A number that is not
            finite becomes None.
        link: To the run or report; empty where there is none.
        recovered_at: When it was over; None while it is not.
    """

    kind: str
    product: str
    partition: str
    title: str
    since: datetime
    noticed_at: datetime = _UNSAID
    severity: Severity = _UNSAID
    numbers: Mapping[str, Number] = field(default_factory=dict)
    link: str = ""
    recovered_at: datetime | None = None

    def __post_init__(self) -> None:
        given = vars(self)  # which is how a frozen instance can be completed
        given["since"] = _utc(self.since)
        given["noticed_at"] = _utc(given["noticed_at"] or self.since)
        given["severity"] = given["severity"] or KINDS[self.kind].severity
        given["numbers"] = {name: _plain(value) for name, value in self.numbers.items()}
        given["recovered_at"] = self.recovered_at and _utc(self.recovered_at)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is deduplicated by: kind, product, partition."""
        return self.kind, self.product, self.partition

    @property
    def is_recovery(self) -> bool:
        """Whether it says that it is over."""
        return self.recovered_at is not None

    @property
    def id(self) -> str:
        """Its name wherever it goes: the same for the same alert, however often it is sent."""
        told = [*self.key, self.severity, _text(self.noticed_at), _text(self.recovered_at)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def runbook(self) -> str:
        """Where it is said what to do."""
        return KINDS[self.kind].runbook


def recovery(
    alert: Alert,
    at: datetime,
    *,
    title: str | None = None,
    numbers: Mapping[str, Number] | None = None,
    link: str | None = None,
) -> Alert:
    """Return the alert that says that another is over; what is not given stays as it was."""
    return replace(
        alert,
        recovered_at=at,
        title=alert.title if title is None else title,
        numbers=alert.numbers if numbers is None else numbers,
        link=alert.link if link is None else link,
    )


def sentence(alert: Alert) -> str:
    """Return the alert as one line: how bad, where, what."""
    how_bad = alert.severity.upper()
    if alert.recovered_at is not None:
        how_bad = f"RECOVERED after {duration(alert.recovered_at - alert.since)}"
    return f"{how_bad}: {', '.join(part for part in alert.key if part)}: {alert.title}"


def as_json(alert: Alert) -> dict[str, Any]:
    """Return the alert as the object that the generic webhook and the Kafka topic carry.

    Times are ISO 8601 in UTC; `id` is the same each time this alert is sent.
    """
    return {
        "id": alert.id,
        "is_recovery": alert.is_recovery,
        **{each.name: getattr(alert, each.name) for each in fields(alert)},
        "since": _text(alert.since),
        "noticed_at": _text(alert.noticed_at),
        "recovered_at": _text(alert.recovered_at),
        "meaning": KINDS[alert.kind].meaning,
        "runbook": alert.runbook,
    }


def from_json(loaded: Mapping[str, Any]) -> Alert:
    """Return the alert that `as_json` was given."""
    times = {
        name: loaded[name] and datetime.fromisoformat(loaded[name])
        for name in ("since", "noticed_at", "recovered_at")
    }
    return Alert(**{each.name: loaded[each.name] for each in fields(Alert)} | times)


def as_slack(alert: Alert) -> dict[str, Any]:
    """Return the alert as a message for Slack's incoming webhooks, within Slack's limits.

    Source: Slack's Block Kit reference, blocks `section` and `context`.
    """
    said = sentence(alert)
    linked = [f"<{_escaped(alert.link)}|run or report>"] if alert.link else []
    foot = [f"since {alert.since:%Y-%m-%d %H:%M:%S} UTC", *linked, f"what to do: {alert.runbook}"]
    numbers = [
        _markdown(f"*{_escaped(name)}*\n{_escaped(shown(value))}", SLACK_FIELD)
        for name, value in list(alert.numbers.items())[:SLACK_FIELDS]
    ]
    return {
        "text": _escaped(said)[:SLACK_TEXT],
        "blocks": [
            {"type": "section", "text": _markdown(_escaped(said), SLACK_TEXT)},
            *([{"type": "section", "fields": numbers}] if numbers else []),
            {"type": "context", "elements": [_markdown(" · ".join(foot), SLACK_FIELD)]},
        ],
    }


def shown(value: Number) -> str:
    """Return a number as a person reads it."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(time: timedelta) -> str:
    """Return how long, in the largest whole unit of seconds, minutes, hours and days."""
    seconds = max(time.total_seconds(), 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def spike_alerts(
    product: str,
    rows: pd.DataFrame,
    told: Alert | None,
    *,
    now: datetime,
    is_simulated: bool = False,
) -> list[Alert]:
    """Return what the newest predictions have to tell of spikes: one alert an episode, and its end.

    An alert row more than 60 s after the one before begins an episode. It is over at 60 s after
    its last alert row, once a later row shows it, or none came for `FRESH`.

    Args:
        product: The product.
        rows: Its newest predictions, in time order: `ts` (UTC), `probability`, `is_alert`,
            `decision_threshold`, `model_name`, `model_version`.
        told: The newest spike alert of the product that was told, `noticed_at` its last alert row.
        now: The present time; alert rows further than `FRESH` from it raise nothing.
        is_simulated: Whether the market is made up, which the alert then says.

    Returns:
        Alerts and recoveries in time order. An episode that goes on is told again with a later
        `noticed_at`, which tells a person nothing new.
    """
    events: list[Alert] = []
    ts = rows["ts"].to_numpy("datetime64[us]")
    episodes = find_episodes(ts, rows["is_alert"].to_numpy(bool))
    for first, last in zip(episodes.start, episodes.end, strict=True):
        start, end = _time(first), _time(last)
        is_known = told is not None and start <= spike_end(told)
        if is_known and told is not None:
            if told.is_recovery and end <= spike_end(told):
                continue
            start, end = told.since, max(end, told.noticed_at)
        elif abs(now - end) > FRESH:
            continue
        elif told is not None and not told.is_recovery:
            events.append(recovery(told, spike_end(told)))
        row = rows[(ts >= first) & (ts <= last) & rows["is_alert"].to_numpy(bool)].iloc[-1]
        told = Alert(
            kind="spike",
            product=product,
            partition=f"{start:%Y-%m-%dT%H:%M:%SZ}",
            title=(
                f"{'SIMULATED market: ' if is_simulated else ''}unusual volatility within "
                f"{HORIZON_SECONDS} s has probability {row['probability']:.2f} "
                f"(alerts from {row['decision_threshold']:.2f} on)."
            ),
            since=start,
            noticed_at=end,
            numbers={
                "probability": float(row["probability"]),
                "decision_threshold": float(row["decision_threshold"]),
                "horizon_seconds": HORIZON_SECONDS,
                "model": f"{row['model_name']} {row['model_version']}",
            },
        )
        events.append(told)
    known_to = max([now - FRESH, *([_time(ts[-1])] if len(ts) else [])])
    if told is not None and not told.is_recovery and known_to > spike_end(told):
        events.append(recovery(told, spike_end(told)))
    return events


def spike_end(told: Alert) -> datetime:
    """Return up to when an alert row belongs to a spike alert that was told."""
    return told.recovered_at or told.noticed_at + HOLD.item()


def _time(instant: Any) -> datetime:
    when: datetime = instant.item()
    return when.replace(tzinfo=UTC)


def _utc(when: datetime) -> datetime:
    """The time in UTC; one without a zone is UTC."""
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="microseconds")


def _plain(value: Any) -> Number:
    """The value as JSON has it: numpy's scalars are numbers, and what is not finite is None."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else str(value)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text: str, most: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text if len(text) <= most else f"{text[: most - 1]}…"}
