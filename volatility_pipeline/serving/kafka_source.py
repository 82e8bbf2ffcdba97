"""The topic `ticks.raw` as a source of live features, from where the lake's ticks end.

It joins no group and commits nothing: every process that reads here reads all.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from volatility_pipeline.feed.kafka import TICKS, Cluster, create_topic, identify, within
from volatility_pipeline.resources.lake import COMPACTED, Lake, read_json, replaced
from volatility_pipeline.resources.segments import LANDED
from volatility_pipeline.serving.memory import LOOK_BACK, Line

RETRY_SECONDS = 1.0
IDENTITY_SECONDS = 15.0
MOST_RECORDS = 5000  # of one read


class KafkaSource:
    """All partitions of a topic, from the first message that the lake's ticks do not hold.

    Older messages than the memory can use are left out. A topic that was deleted and made again is
    read from its beginning.

    Args:
        cluster: Which Kafka.
        lake: Whose ticks need not be read again.
        topic: Which topic; it is created if it is missing.
        look_back: How long ago Kafka may have got the first message read. None of those that the
            memory can use is older where messages reach Kafka as they happen.
    """

    def __init__(
        self,
        cluster: Cluster,
        lake: Lake,
        topic: str = TICKS,
        *,
        look_back: timedelta = LOOK_BACK,
    ) -> None:
        self.cluster = cluster
        self.look_back = look_back
        self.lake = lake
        self.topic = topic
        self.trouble: str | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._client: AIOKafkaClient | None = None
        self._next: dict[str, int] = {}  # by log
        self._logs: dict[TopicPartition, str] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._checked = 0.0

    @property
    def name(self) -> str:
        """Where the messages come from, and what is wrong with it, in words."""
        where = f"Kafka topic {self.topic} at {self.cluster.bootstrap_servers}"
        return where if self.trouble is None else f"{where}: {self.trouble}"

    @property
    def is_caught_up(self) -> bool:
        """Whether all was read that was there when it connected, or at the last `note_end`."""
        return self._consumer is not None and all(
            self._next[self._logs[part]] >= end for part, end in self._ends.items()
        )

    @property
    def lag(self) -> int | None:
        """Messages that Kafka holds and nobody has read yet; None while it does not answer."""
        if self._consumer is None:
            return None
        return sum(
            max((self._consumer.highwater(part) or self._ends[part]) - self._next[log], 0)
            for part, log in self._logs.items()
        )

    @property
    def counts(self) -> None:
        """Nothing: the recorder's gap lines reach the manifests."""

    async def start(self) -> None:
        """Looks up where the lake's ticks end. To be called before these are read."""
        self._next = await asyncio.to_thread(ends_of_ticks, self.lake)

    async def read(self, seconds: float) -> list[Line]:
        """What came, after waiting so long for the first of it; nothing while Kafka is away."""
        try:
            if self._consumer is None:
                await self._connect()
            elif time.monotonic() - self._checked > IDENTITY_SECONDS:
                await self._check_identity()
            assert self._consumer is not None  # noqa: S101
            milliseconds = max(int(1000 * seconds), 0)
            found = await self._consumer.getmany(timeout_ms=milliseconds, max_records=MOST_RECORDS)
        except (KafkaError, OSError) as error:
            self.trouble = self.cluster.in_words(error)
            await self.close()
            await asyncio.sleep(min(seconds, RETRY_SECONDS))
            return []
        self.trouble = None
        lines = []
        for part, records in found.items():
            log = self._logs[part]
            for record in records:
                stamp = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                lines.append(Line(log, record.offset, record.value or b"", stamp))
            self._next[log] = records[-1].offset + 1
        return lines

    async def note_end(self) -> None:
        """Makes `is_caught_up` speak of all that Kafka holds by now."""
        if self._consumer is None:
            return
        try:
            self._ends = await self._consumer.end_offsets(list(self._logs))
        except (KafkaError, OSError) as error:
            self.trouble = self.cluster.in_words(error)
            await self.close()

    async def _connect(self) -> None:
        await create_topic(self.cluster, self.topic)
        self._client = AIOKafkaClient(**self.cluster.options)
        await self._client.bootstrap()
        identity = await identify(self._client, self.topic)
        if identity is None:
            raise KafkaError(f"{self.topic} is gone")
        consumer = AIOKafkaConsumer(
            **self.cluster.options, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            await consumer.start()
            parts = [TopicPartition(self.topic, number) for number in identity.partitions]
            consumer.assign(parts)
            begins = await consumer.beginning_offsets(parts)
            self._ends = await consumer.end_offsets(parts)
            since = int(1000 * (time.time() - self.look_back.total_seconds()))
            recent = await consumer.offsets_for_times(dict.fromkeys(parts, since))
            for part in parts:
                log = self._logs[part] = identity.log(part.partition)
                if log not in self._next or self._next[log] > self._ends[part]:
                    self._next[log] = begins[part]
                newest = recent[part].offset if recent[part] else self._ends[part]
                self._next[log] = max(self._next[log], begins[part], newest)
                consumer.seek(part, self._next[log])
        except BaseException:
            await within(3, consumer.stop())
            raise
        self._consumer = consumer
        self._checked = time.monotonic()

    async def _check_identity(self) -> None:
        assert self._client is not None  # noqa: S101
        identity = await identify(self._client, self.topic)
        self._checked = time.monotonic()
        named = set() if identity is None else set(map(identity.log, identity.partitions))
        if named != set(self._logs.values()):
            raise KafkaError(f"{self.topic} was made anew")

    async def close(self) -> None:
        """Disconnects; what was read stays read."""
        consumer, self._consumer = self._consumer, None
        client, self._client = self._client, None
        self._logs, self._ends = {}, {}
        if consumer is not None:
            await within(3, consumer.stop())
        if client is not None:
            await within(3, client.close())


def ends_of_ticks(lake: Lake) -> dict[str, int]:
    """For each Kafka log the first offset that the lake's ticks do not hold.

    Of the newest days that is read off the books of their ticks, since what has landed may not be
    built yet. Of older days nothing is needed: all that landed there counts.
    """
    newest = lake.days("ticks")[-2:]
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for day in lake.raw_days():
        names = _built(lake, day) if not newest or day >= newest[0] else lake.landed_names(day)
        for match in filter(None, map(LANDED.fullmatch, names)):
            spans[match["log"]].append((int(match["first"]), int(match["last"])))
    ends = {}
    for log, held in spans.items():
        end = min(held)[0]
        for first, last in sorted(held):
            if first > end:
                break
            end = max(end, last + 1)
        ends[log] = end
    return ends


def _built(lake: Lake, day: date) -> Iterator[str]:
    for book in (lake.record("ticks", day) or {}).get("books", ()):
        name = book["segment"]
        yield name
        if name.startswith(COMPACTED):
            yield from replaced(
                read_json(lake.raw_folder(day) / f"{name.split('.')[0]}.json") or {}
            )
