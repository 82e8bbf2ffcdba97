"""The Kafka topic `ticks.features`: each live row as a message of JSON, keyed by its product."""

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Sequence

from aiokafka.errors import KafkaError

from volatility_pipeline.feed.kafka import Cluster, OrderedProducer, Record, UndeliveredError
from volatility_pipeline.serving.memory import FeatureRow

TOPIC = "ticks.features"
RETRY_SECONDS = 1.0
MOST_HELD = 60  # seconds of rows, while Kafka is away


class FeatureTopic:
    """Sends rows in order, and keeps those of the last minute while Kafka does not answer.

    A row that Kafka did not acknowledge is sent again, so that a reader may see it twice.

    Args:
        cluster: Which Kafka.
        topic: The topic; it is created where it is missing.
    """

    def __init__(self, cluster: Cluster, topic: str = TOPIC) -> None:
        self.cluster = cluster
        self.topic = topic
        self.sent = 0
        self.dropped = 0
        self.trouble: str | None = None
        self._held: deque[list[Record]] = deque()
        self._has_more = asyncio.Event()
        self._is_closing = False

    def put(self, rows: Sequence[FeatureRow]) -> None:
        """Hands over the rows of a second; never waits."""
        if len(self._held) >= MOST_HELD:
            self.dropped += len(self._held.popleft())
        self._held.append(list(records(rows)))
        self._has_more.set()

    def finish(self) -> None:
        """Makes `run` return once all that is held was sent, or at the first trouble."""
        self._is_closing = True
        self._has_more.set()

    async def run(self) -> None:
        """Sends what is put until finished or cancelled."""
        producer = OrderedProducer(self.cluster, self.topic)
        try:
            while True:
                self._has_more.clear()
                try:
                    if not producer.is_started:
                        await producer.start()
                    while self._held:
                        round_ = self._held[0]
                        await producer.send(round_)
                        if self._held and self._held[0] is round_:
                            self._held.popleft()
                        self.sent += len(round_)
                        self.trouble = None
                except (KafkaError, OSError) as error:
                    reason = error.reason if isinstance(error, UndeliveredError) else error
                    self.trouble = self.cluster.in_words(reason)
                    await producer.stop()
                    if self._is_closing:
                        return
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if self._is_closing:
                    return
                await self._has_more.wait()
        finally:
            await producer.stop()


def records(rows: Sequence[FeatureRow]) -> Iterator[Record]:
    """The messages of some rows; their doubles read back as the same bits."""
    for row in rows:
        value = {
            "product_id": row.product,
            "ts": _text(row.ts.isoformat()),
            **row.features,
            "trailing_threshold": row.trailing_threshold,
            "is_threshold_whole": row.is_threshold_whole,
            "published_at": _text(row.published_at.isoformat(timespec="microseconds")),
        }
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        yield row.product.encode(), int(1000 * row.ts.timestamp()), text.encode()


def _text(time: str) -> str:
    return time.replace("+00:00", "Z")
