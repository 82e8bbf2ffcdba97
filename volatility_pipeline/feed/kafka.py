"""What the feed asks of Kafka: topics and their identity, and sending in order until acknowledged.

What the messages say belongs to `lines`; what is read back belongs to `land`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    ProducerClosed,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from volatility_pipeline.domain.errors import BadInputError

TICKS = "ticks.raw"
LARGEST_MESSAGE = 4 << 20  # bytes; a ticker has one thousandth of it
BATCH_BYTES = 512 << 10
REQUEST_SECONDS = 10.0
NUDGE_SECONDS = 5.0  # how long an answer may take before somebody is told

Say = Callable[[str], None]

_SILENCE = (
    ConnectionError,
    TimeoutError,
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
)

# aiokafka warns at every retry of an outage; what matters of it is said here once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Cluster:
    """Which Kafka, and how topics are made on it: as the settings have it."""

    bootstrap_servers: str = "localhost:9092"
    partitions: int = 3
    retention_hours: float = 168.0

    def __post_init__(self) -> None:
        for address in self.bootstrap_servers.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise BadInputError(
                    f"KAFKA_BOOTSTRAP_SERVERS: {address.strip()!r} is no host:port; "
                    "it should read like localhost:9092."
                )

    @property
    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is given."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "request_timeout_ms": int(1000 * REQUEST_SECONDS),
            # A topic that is deleted and made again is found as soon as that.
            "metadata_max_age_ms": 5000,
        }

    def in_words(self, error: BaseException) -> str:
        """What went wrong, and the mend: the disk, Kafka's silence, or what Kafka refused."""
        if isinstance(error, KafkaError) and not isinstance(error, _SILENCE):
            return f"Kafka at {self.bootstrap_servers} refused: {error}."
        if isinstance(error, OSError) and not isinstance(error, _SILENCE) and error.errno:
            return f"{error.filename or 'The data root'}: {error.strerror}; mend it."
        return (
            f"Kafka at {self.bootstrap_servers} does not answer ({type(error).__name__}); "
            "is it running (`make kafka`), and is KAFKA_BOOTSTRAP_SERVERS right?"
        )


async def create_topic(cluster: Cluster, topic: str) -> bool:
    """Creates a topic with the settings' partitions and retention; whether it was missing."""
    admin = AIOKafkaAdminClient(**cluster.options)
    try:
        await admin.start()
        if topic in await admin.list_topics():
            return False
        retention = int(cluster.retention_hours * 3_600_000)
        configs = {"retention.ms": str(retention), "max.message.bytes": str(LARGEST_MESSAGE)}
        new = NewTopic(topic, cluster.partitions, 1, topic_configs=configs)
        created = await admin.create_topics([new])
        for _, code, message in created.topic_errors:
            error = for_code(code)
            if error not in (for_code(0), TopicAlreadyExistsError):
                raise error(message)
        return True
    finally:
        await admin.close()


@dataclass(frozen=True)
class Identity:
    """Which topic it is that bears a name: its id changes when it is deleted and made again."""

    topic: str
    id: str  # hex
    partitions: tuple[int, ...]

    def log(self, partition: int) -> str:
        """The name of one partition of exactly this topic."""
        return f"{self.topic}-{self.id[:8]}-{partition}"


async def identify(client: AIOKafkaClient, topic: str) -> Identity | None:
    """Asks Kafka which topic bears a name; None if there is none."""
    answer = await client.send(client.get_random_node(), _MetadataRequest(topic))
    for code, _, identity, _, partitions, *_ in answer.topics:
        if code == 0:
            return Identity(topic, identity.hex(), tuple(sorted(one[1] for one in partitions)))
    return None


Record = tuple[bytes, int, bytes]  # key, epoch milliseconds, value


class UndeliveredError(KafkaError):  # type: ignore[misc]
    """A round of which some partitions' `records` were not acknowledged, for the given reason."""

    def __init__(self, records: list[Record], reason: BaseException) -> None:
        super().__init__(str(reason))
        self.records = records
        self.reason = reason


class OrderedProducer:
    """Sends records in rounds: one is acknowledged whole before the next is sent.

    Idempotent, with `acks=all`: within one producer's life a round is written once and in order,
    however often aiokafka has to repeat its requests. What a broken producer leaves in doubt is
    for the caller to send again.
    """

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.cluster = cluster
        self.topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._partitioner = DefaultPartitioner()
        self._partition_of: dict[bytes, int] = {}

    @property
    def is_started(self) -> bool:
        """Whether it can send."""
        return self._producer is not None

    @property
    def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise ProducerClosed
        return self._producer

    async def start(self) -> None:
        """Connects and creates the topic if it is missing. Raises KafkaError."""
        await create_topic(self.cluster, self.topic)
        producer = AIOKafkaProducer(
            **self.cluster.options,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_batch_size=BATCH_BYTES,
            max_request_size=2 * LARGEST_MESSAGE,
        )
        try:
            await producer.start()
        except BaseException:
            await within(1, producer.stop())
            raise
        self._producer = producer
        self._partition_of = {}

    async def send(self, records: Iterable[Record]) -> None:
        """Sends records and waits until all are acknowledged.

        Raises UndeliveredError with those that were not, or perhaps not, written.
        """
        producer = self._connected
        held: dict[int, list[Record]] = {}
        waiting: dict[int, list[Any]] = {}
        for record in records:
            key, timestamp, value = record
            partition = self._partition_of.get(key)
            if partition is None:
                partition = await self._choose(key)
            held.setdefault(partition, []).append(record)
            batches = waiting.setdefault(partition, [])
            said = {"timestamp": timestamp, "key": key, "value": value}
            if not batches or batches[-1].append(**said) is None:
                batches.append(producer.create_batch())
                batches[-1].append(**said)
        outcomes = await asyncio.gather(
            *(self._deliver(*queue) for queue in waiting.items()), return_exceptions=True
        )
        failed = {
            partition: outcome
            for partition, outcome in zip(waiting, outcomes, strict=True)
            if outcome is not None
        }
        if failed:
            left = [record for partition in failed for record in held[partition]]
            raise UndeliveredError(left, next(iter(failed.values())))

    async def _deliver(self, partition: int, batches: Sequence[Any]) -> None:
        for batch in batches:
            future = await self._connected.send_batch(batch, self.topic, partition=partition)
            await future

    async def _choose(self, key: bytes) -> int:
        partitions = sorted(await self._connected.partitions_for(self.topic))
        chosen: int = self._partitioner(key, partitions, partitions)
        self._partition_of[key] = chosen
        return chosen

    async def stop(self) -> None:
        """Disconnects at once; what is not acknowledged is given up."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            # Its own stop() would go on sending for as long as Kafka does not answer.
            producer._sender.sender_task.cancel()
            await within(1, producer.client.close())
            await within(1, producer.stop())


async def within(seconds: float, work: Coroutine[Any, Any, object]) -> None:
    """Waits so long for aiokafka to take its leave, whatever it makes of that.

    Its own tasks end with errors and cancellations that are not meant for the caller.
    """
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return bytes(data.read(16))


class _MetadataResponse(Response):  # type: ignore[misc]
    """Kafka's Metadata answer, version 12, the first of which names and ids may both be asked."""

    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataStruct]):  # type: ignore[misc]
    """Asks for one topic's metadata with its id, which aiokafka's own requests do not carry."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        return request_struct_class([(bytes(16), self.topic, {})], False, False, {})
