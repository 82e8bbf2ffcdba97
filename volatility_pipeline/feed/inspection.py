"""A look at a topic: how much is in it, how far it has landed, and what its newest messages say."""

from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient

from volatility_pipeline.feed.kafka import Cluster, identify
from volatility_pipeline.feed.offsets import Offsets

SAMPLE = 3
SAMPLE_MILLISECONDS = 5000


@dataclass(frozen=True)
class Partition:
    """One partition: offsets `[begin, end)` are in Kafka, those before `landed` on this disk."""

    number: int
    begin: int
    end: int
    landed: int | None

    @property
    def messages(self) -> int:
        """How many messages Kafka holds."""
        return self.end - self.begin

    @property
    def lag(self) -> int:
        """How many of them have not landed under this data root."""
        return self.end - max(self.landed or 0, self.begin)


@dataclass(frozen=True)
class Look:
    """What a topic holds; `sample` are its newest messages, each with its Kafka time."""

    partitions: list[Partition]
    sample: list[tuple[datetime, bytes]]

    @property
    def messages(self) -> int:
        """How many messages Kafka holds."""
        return sum(partition.messages for partition in self.partitions)


async def look(cluster: Cluster, topic: str, offsets: Offsets) -> Look | None:
    """Looks at a topic; None if there is none of that name. Raises KafkaError."""
    client = AIOKafkaClient(**cluster.options)
    consumer = AIOKafkaConsumer(**cluster.options, enable_auto_commit=False)
    try:
        await client.bootstrap()
        identity = await identify(client, topic)
        if identity is None:
            return None
        await consumer.start()
        parts = [TopicPartition(topic, number) for number in identity.partitions]
        begins = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        found = []
        for part in parts:
            landed = offsets.logs(topic, part.partition).get(identity.log(part.partition))
            found.append(
                Partition(part.partition, begins[part], ends[part], landed.next if landed else None)
            )
        return Look(found, await _newest(consumer, parts, begins, ends))
    finally:
        await consumer.stop()
        await client.close()


async def _newest(
    consumer: AIOKafkaConsumer,
    parts: list[TopicPartition],
    begins: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
) -> list[tuple[datetime, bytes]]:
    filled = [part for part in parts if ends[part] > begins[part]]
    if not filled:
        return []
    consumer.assign(filled)
    for part in filled:
        consumer.seek(part, max(begins[part], ends[part] - SAMPLE))
    left = {part: min(SAMPLE, ends[part] - begins[part]) for part in filled}
    found = []
    while any(count > 0 for count in left.values()):
        polled = await consumer.getmany(timeout_ms=SAMPLE_MILLISECONDS)
        if not polled:
            break
        for part, records in polled.items():
            left[part] -= len(records)
            found += [(record.timestamp, record.value or b"") for record in records]
    found.sort(key=lambda one: one[0])
    return [(datetime.fromtimestamp(at / 1000, UTC), value) for at, value in found[-SAMPLE:]]
