"""Prometheus metrics of the API, in a registry of its own; the names are part of its interface.

What is counted as it happens is a counter or histogram here; what can be looked up is looked up at
the scrape. Labels are bounded: products are those served, paths those of the routes, days the last
two.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.live import LiveStatus
from volatility_pipeline.serving.predictor import LivePrediction, Predictor

Scope = MutableMapping[str, Any]

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PROBABILITY_BUCKETS = tuple(step / 20 for step in range(1, 21))
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
SEVERITIES = {"none": 0, "low": 1, "medium": 2, "high": 3}
NOT_JUDGED = -1


class Metrics:
    """What is counted of requests and predictions, and what is looked up at a scrape."""

    def __init__(
        self, predictor: Predictor, lake: Lake, status: Callable[[], LiveStatus | None]
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, of no use here
        self.registry = CollectorRegistry()
        self.answered = 0
        self.requests = Counter(
            "volatility_requests",
            "Answered requests; those refused before a route was found have the path "
            f"`{UNMATCHED}`.",
            ("path", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "volatility_request_seconds",
            "Seconds from a request to the beginning of its answer.",
            ("path",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.predictions = Counter(
            "volatility_predictions",
            "Rows that a champion was asked about, live ones included.",
            ("product", "model"),
            registry=self.registry,
        )
        self.probability = Histogram(
            "volatility_probability",
            "Probabilities answered for live rows.",
            ("product",),
            buckets=PROBABILITY_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Looked(predictor, lake, status))

    def count(self, answer: LivePrediction) -> None:
        """Counts an answer for a live row."""
        self.predictions.labels(answer.product, answer.model.model).inc()
        self.probability.labels(answer.product).observe(answer.probability)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)


class Measured:
    """Middleware that counts requests and how long they take."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Passes on, and counts when the answer begins."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def counted(message: Scope) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.answered += 1
        self.metrics.requests.labels(path, method, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)


class _Looked(Collector):
    """What predictor, live features and lake know of themselves."""

    def __init__(
        self, predictor: Predictor, lake: Lake, status: Callable[[], LiveStatus | None]
    ) -> None:
        self.predictor = predictor
        self.lake = lake
        self.status = status

    def describe(self) -> Iterator[Metric]:
        """Nothing: a registration asks no lake."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        yield from self._models()
        yield from self._live()
        yield from self._recorded()

    def _models(self) -> Iterator[Metric]:
        now = self.predictor.clock()
        loaded = _gauge("model_loaded", "1 where a champion answers.", "product")
        age = _gauge("champion_age_seconds", "Seconds since it was registered.", "product")
        feature_age = _gauge("feature_age_seconds", "Age of the newest live row.", "product")
        drift = _gauge(
            "drift_severity", "0 none, 1 low, 2 medium, 3 high, -1 not judged.", "product"
        )
        for product in self.predictor.products:
            champion = self.predictor.models(product).champion
            loaded.add_metric([product], float(champion is not None))
            if champion is not None:
                age.add_metric([product], champion.served.age(now).total_seconds())
            row_age = self.predictor.age_seconds(product)
            if row_age is not None:
                feature_age.add_metric([product], row_age)
            record = self.lake.record("drift", product)
            severity = record["verdict"]["severity"] if record else "unknown"
            drift.add_metric([product], SEVERITIES.get(severity, NOT_JUDGED))
        yield from (loaded, age, feature_age, drift)
        yield _counter(
            "reload_failures",
            "Looks for a new champion or challenger that failed.",
            self.predictor.reload_failures,
        )
        yield _counter(
            "answers_lost", "Live answers that the disk did not take.", self.predictor.log.lost
        )

    def _live(self) -> Iterator[Metric]:
        status = self.status()
        if status is None:
            return
        now = self.predictor.clock()
        feed_age = _gauge("feed_age_seconds", "Age of the newest tick.", "product")
        for product in self.predictor.products:
            if product in status.newest_event:
                age = (now - status.newest_event[product]).total_seconds()
                feed_age.add_metric([product], age)
        yield feed_age
        if status.lag is not None:
            lag = _gauge("consumer_lag", "Messages that Kafka holds and nobody has read yet.")
            lag.add_metric([], status.lag)
            yield lag
        yield _counter("messages", "Messages read from the feed.", status.messages)
        yield _counter("faulty_messages", "Lines or tickers of no use.", status.faulty)
        yield _counter("late_events", "Ticks that came after their row's grace.", status.late)

    def _recorded(self) -> Iterator[Metric]:
        """Gaps and reconnects as the manifests of today and the day before tell them, once built.

        Gauges: a late segment may close a gap, and a restart begins no new count.
        """
        gaps = _gauge("gaps", "A day's proven gap records; one hole may have several.", "day")
        reconnects = _gauge("reconnects", "A day's lost connections of the recorder.", "day")
        today = datetime.now(UTC).date()
        for day in (today - timedelta(days=1), today):
            manifest = self.lake.manifest(day) or {"gaps": []}
            proven = [gap for gap in manifest["gaps"] if not gap["is_hint"]]
            # A connection carries all products: each of them has the gap.
            broken = Tally(
                gap["subject"]
                for gap in proven
                if (gap.get("reason") or "").startswith("disconnected")
            )
            gaps.add_metric([str(day)], len(proven))
            reconnects.add_metric([str(day)], max(broken.values(), default=0))
        yield from (gaps, reconnects)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"volatility_{name}", about, labels=labels)


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"volatility_{name}", about, value=value)
