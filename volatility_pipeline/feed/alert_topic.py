"""The Kafka topic `alerts`: one of the channels of `resources/alert_channels.py`."""

import asyncio
import json
from dataclasses import dataclass, replace

from aiokafka.errors import KafkaError

from volatility_pipeline.domain.alerts import Alert, as_json
from volatility_pipeline.feed.kafka import Cluster, OrderedProducer, UndeliveredError

TOPIC = "alerts"


@dataclass(frozen=True)
class AlertTopic:
    """Each alert is a message of JSON, keyed by its product; one partition keeps them in order.

    Attributes:
        cluster: Which Kafka.
        topic: The topic; it is created where it is missing.
        seconds: How long an attempt may take, connecting included.
    """

    cluster: Cluster
    topic: str = TOPIC
    seconds: float = 5.0
    name: str = "kafka"

    def send(self, alert: Alert) -> str | None:
        """Sends an alert and waits until Kafka has it; returns why it has not."""
        try:
            asyncio.run(self._send(alert))
        except UndeliveredError as error:
            return self.cluster.in_words(error.reason).rstrip(".")
        except (KafkaError, OSError) as error:
            return self.cluster.in_words(error).rstrip(".")
        return None

    async def _send(self, alert: Alert) -> None:
        producer = OrderedProducer(replace(self.cluster, partitions=1), self.topic)
        await producer.start()
        try:
            told = alert.recovered_at or alert.noticed_at
            value = json.dumps(as_json(alert), allow_nan=False).encode()
            await producer.send([(alert.product.encode(), int(1000 * told.timestamp()), value)])
        finally:
            await producer.stop()
