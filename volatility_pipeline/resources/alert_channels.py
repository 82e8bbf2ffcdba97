"""Channels of alerts: where one is delivered to, and one attempt at it.

Which alerts there are, and when what failed is tried again, is `alerts`; what one says is
`domain/alerts.py`. The Kafka channel, like all that knows Kafka, is `feed/alert_topic.py`.
"""

import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from volatility_pipeline.domain.alerts import Alert, as_json, as_slack, sentence
from volatility_pipeline.domain.errors import BadInputError

WEBHOOK_SECONDS = 2.0
REJECTIONS = (400, 413, 422)
"""HTTP answers that speak of the message, not of the recipient."""

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
LOG_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}

LOGGER = logging.getLogger("volatility.alerts")


class Rejected(str):
    """Why a channel does not take one alert, however often it is tried."""

    __slots__ = ()


class Channel(Protocol):
    """Where alerts are delivered to."""

    @property
    def name(self) -> str:
        """Its name in the ledger."""

    @property
    def seconds(self) -> float | None:
        """How long an attempt may take; None for one that waits for nobody."""

    def send(self, alert: Alert) -> str | None:
        """Delivers an alert; returns why it could not, in words without a secret.

        `Rejected` says that this alert will never be taken, and others may be.
        """


@dataclass(frozen=True)
class Log:
    """The log `volatility.alerts`."""

    name: str = "log"
    seconds: None = None

    def send(self, alert: Alert) -> None:
        """Logs one line at the severity's level."""
        level = logging.INFO if alert.is_recovery else LOG_LEVELS[alert.severity]
        LOGGER.log(level, "%s What to do: %s", sentence(alert), alert.runbook)


@dataclass(frozen=True)
class Webhook:
    """An HTTP address that takes alerts as JSON, or as messages in Slack's format.

    The address is a secret: it is in no message, no log and no ledger.

    Attributes:
        url: The address.
        format: `json` or `slack`; None: Slack's where the address is Slack's.
        seconds: How long an attempt may take, the name's resolution included.
    """

    url: str = field(repr=False)
    format: Literal["json", "slack"] | None = None
    seconds: float = WEBHOOK_SECONDS
    name: str = "webhook"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_sound = False
        if not is_sound or not self.url.isascii() or any(c.isspace() for c in self.url):
            raise BadInputError(
                "ALERT_WEBHOOK_URL: no address of a webhook; it should read like "
                "https://hooks.example.com/…, and is not shown here because it is a secret."
            )

    def send(self, alert: Alert) -> str | None:
        """Posts an alert; any answer but a 2xx is a failure, and redirects are not followed."""
        host = urlsplit(self.url).hostname
        is_slack = self.format == "slack" or (self.format is None and host in SLACK_HOSTS)
        body = json.dumps(as_slack(alert) if is_slack else as_json(alert), allow_nan=False)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "volatility-pipeline",
            "Idempotency-Key": alert.id,
        }
        # The scheme was looked at above.
        request = urllib.request.Request(self.url, body.encode(), headers, method="POST")  # noqa: S310
        try:
            with _OPENER.open(request, timeout=self.seconds):
                return None
        except urllib.error.HTTPError as error:
            with error:
                reason = f"it answered {error.code}"
                return Rejected(reason) if error.code in REJECTIONS else reason
        except (OSError, HTTPException, UnicodeError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                return _too_long(self.seconds)
            return f"it does not answer ({getattr(cause, 'strerror', '') or type(cause).__name__})"


def attempt(channel: Channel, alert: Alert) -> str | None:
    """Sends an alert within the channel's time; returns why it could not, as `send` does.

    In a thread, since no timeout covers names and trickles. It ends by itself later, and may still
    deliver then: the alert is sent again, under the id that stays the same.
    """
    seconds = channel.seconds
    if seconds is None:
        return channel.send(alert)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(channel.send(alert)), daemon=True).start()
    try:
        return answers.get(timeout=seconds + 0.5)
    except queue.Empty:
        return _too_long(seconds)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error that it is here: a POST elsewhere was not asked for."""

    def redirect_request(self, *_: Any) -> None:
        """Follows none."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _too_long(seconds: float) -> str:
    return f"it does not answer within {seconds:g} s"
