"""The lander: a topic's messages become raw segments, each message exactly once.

A segment is a contiguous range of a partition's offsets, of one event day. Where to go on is read
off the disk (`offsets`), never off what Kafka was told: those commits only let Kafka's own tools
show the lag.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import read_day
from volatility_pipeline.feed.kafka import Cluster, Say, create_topic, identify, within
from volatility_pipeline.feed.offsets import Offsets, member_name
from volatility_pipeline.feed.segment_files import OpenSegment
from volatility_pipeline.resources.lake import Lake

POLL_MILLISECONDS = 200
MOST_RECORDS = 5000  # of one poll
RETRY_SECONDS = 1.0
IDENTITY_SECONDS = 15.0
SESSION_MILLISECONDS = 6_000


@dataclass
class _Part:
    """A partition in hand: the offset expected next, and the segment being written, if any."""

    log: str
    next: int
    day: date | None
    suspect: int | None = None  # the offset that came instead of `next`, before the last seek
    first: int = 0
    segment: OpenSegment | None = None


class Lander(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lands a topic until cancelled. Several of one data root share its partitions.

    Args:
        lake: Where to.
        cluster: From which Kafka.
        topic: Which topic; it is created if it is missing.
        say: Told in words what a person should know.
        first_day: The first daily partition; earlier lines land, and are told of.
        roll_seconds: A segment's greatest age.
        roll_bytes: Its size.
    """

    def __init__(
        self,
        lake: Lake,
        cluster: Cluster,
        topic: str,
        say: Say,
        *,
        first_day: date,
        roll_seconds: float,
        roll_bytes: int,
    ) -> None:
        self.lake = lake
        self.cluster = cluster
        self.topic = topic
        self.say = say
        self.first_day = first_day
        self.roll_seconds = roll_seconds
        self.roll_bytes = roll_bytes
        self.offsets = Offsets(lake)
        self._landing = self.offsets.folder / ".landing"
        self.lines = 0
        self.segments = 0
        self._parts: dict[TopicPartition, _Part] = {}
        self._leave = contextlib.ExitStack()
        self._notes: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._client: AIOKafkaClient | None = None
        self._outage: float | None = None
        self._has_trouble = False
        self._fatal: BadInputError | None = None
        self._told: set[str] = set()

    async def run(self) -> None:
        """Lands, and reconnects where Kafka went away.

        Raises BadInputError where the topic holds less than was landed of it.
        """
        try:
            name = self._leave.enter_context(member_name(self.offsets.folder))
        except OSError as error:
            raise BadInputError(
                f"{self.offsets.folder}: cannot be written ({error.strerror}); mend it or name "
                "another data root with --data."
            ) from error
        while True:
            try:
                await self._consume(name)
            except (KafkaError, OSError) as error:
                self._note_outage(error)
                await self._stop()
                await asyncio.sleep(RETRY_SECONDS)

    async def _consume(self, name: str) -> None:
        await create_topic(self.cluster, self.topic)
        self._client = AIOKafkaClient(**self.cluster.options)
        await self._client.bootstrap()
        self._consumer = consumer = AIOKafkaConsumer(
            **self.cluster.options,
            group_id=self.offsets.group(),
            group_instance_id=name,
            session_timeout_ms=SESSION_MILLISECONDS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # where that leads is noticed by the offsets themselves
            fetch_max_bytes=16 << 20,
        )
        await consumer.start()
        consumer.subscribe([self.topic], listener=self)
        checked = time.monotonic()
        while True:
            found = await consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=MOST_RECORDS)
            if found and self._outage is not None:
                self.say(f"Kafka is back after {time.monotonic() - self._outage:.0f} s.")
                self._outage = None
            if self._fatal is not None:
                raise self._fatal
            async with self._lock:
                for partition, records in found.items():
                    await self._guarded(partition, self._land(partition, records))
                for partition in consumer.assignment() - self._parts.keys():
                    await self._guarded(partition, self._resume(partition))
                await self._roll()
                if time.monotonic() - checked > IDENTITY_SECONDS:
                    checked = time.monotonic()
                    await self._check_identity()
            # A tight loop of full polls would keep the group's heartbeats waiting.
            await asyncio.sleep(0)

    async def _guarded(self, partition: TopicPartition, work: Coroutine[Any, Any, object]) -> None:
        """Works on a partition; where the disk takes nothing, Kafka keeps it for a while."""
        try:
            await work
        except OSError as error:
            self._drop(partition)
            if error.errno is None:  # not the disk: a timeout of aiokafka's
                raise
            if not self._has_trouble:
                where = self.lake.root / "raw"
                self.say(f"{where}: {error.strerror}; mend it, the messages wait in Kafka.")
            self._has_trouble = True
            await asyncio.sleep(RETRY_SECONDS)

    async def _land(self, partition: TopicPartition, records: list[Any]) -> None:
        part = self._parts.get(partition)
        if part is None:
            await self._resume(partition)
            return  # what was fetched before is fetched again from where the disk ends
        lines: list[bytes] = []
        latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
        for record in records:
            if record.offset != part.next:
                self._write(part, lines)
                if record.offset < part.next or record.offset != part.suspect:
                    # Another topic of this name, or a hole, which counts when it is seen again.
                    if await self._finish(partition, part):
                        self._drop(partition)
                        (await self._resume(partition)).suspect = record.offset
                    return
                if not await self._finish(partition, part):
                    return
                self._lose(part, record.offset, "Kafka no longer has them")
            value = record.value or b""
            day = read_day(value, latest=latest) or part.day
            if day is None:
                day = datetime.fromtimestamp(record.timestamp / 1000, UTC).date()
            if part.segment is None or day != part.day:
                self._write(part, lines)
                if not await self._finish(partition, part):
                    return
                self._open(part, day)
            lines.append(value.replace(b"\n", b" ") if b"\n" in value else value)
            part.next += 1
        self._write(part, lines)
        if part.segment is not None and part.segment.bytes >= self.roll_bytes:
            await self._finish(partition, part)

    def _open(self, part: _Part, day: date) -> None:
        if day < self.first_day:
            self._tell(
                f"Lines of {day} lie before the first day, {self.first_day}; they land, and "
                f"VOLATILITY_FIRST_DAY={day} lets `build` see them."
            )
        part.day = day
        part.first = part.next
        name = f".{part.log}.{part.next}.{uuid.uuid4().hex[:8]}.tmp"
        part.segment = OpenSegment(self._landing / name)

    def _write(self, part: _Part, lines: list[bytes]) -> None:
        if lines:
            assert part.segment is not None  # noqa: S101
            part.segment.write(b"\n".join(lines) + b"\n")
            lines.clear()

    async def _finish(self, partition: TopicPartition, part: _Part) -> bool:
        """Commits the open segment to disk.

        Returns:
            False where another lander was faster; the partition is no longer in hand then.
        """
        if part.segment is None or part.day is None:
            return True
        if not self.offsets.commit(part.segment, part.log, part.day, part.first, part.next):
            self._drop(partition)
            self.say(f"{part.log}: another lander has landed offset {part.first}; going on there.")
            return False
        part.segment = None
        self.lines += part.next - part.first
        self.segments += 1
        if self._has_trouble:
            self._has_trouble = False
            self.say("The disk takes segments again.")
        if self._consumer is not None and self._outage is None:
            # Only for the lag to show: nobody waits for it.
            note = asyncio.create_task(within(2, self._consumer.commit({partition: part.next})))
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)
        return True

    async def _roll(self) -> None:
        for partition, part in list(self._parts.items()):
            segment = part.segment
            if segment is not None and time.monotonic() - segment.opened >= self.roll_seconds:
                await self._guarded(partition, self._finish(partition, part))

    def _drop(self, partition: TopicPartition) -> None:
        """Lets a partition go without committing; what it held is still in Kafka."""
        part = self._parts.pop(partition, None)
        if part is not None and part.segment is not None:
            part.segment.discard()

    async def _resume(self, partition: TopicPartition) -> _Part:
        """Looks up where a partition stands on disk and in Kafka, and goes there."""
        assert self._consumer is not None and self._client is not None  # noqa: S101, PT018
        identity = await identify(self._client, self.topic)
        if identity is None:
            raise KafkaError(f"{self.topic} is gone")
        log = identity.log(partition.partition)
        await asyncio.to_thread(self.offsets.recover)
        landed = self.offsets.logs(self.topic, partition.partition)
        begin = (await self._consumer.beginning_offsets([partition]))[partition]
        end = (await self._consumer.end_offsets([partition]))[partition]
        known = landed.get(log)
        part = _Part(log, begin if known is None else known.next, known.day if known else None)
        if known is None:
            for other, last in landed.items():
                self._tell(
                    f"{self.topic} was made anew: {other} ended at offset {last.next}, and what it "
                    f"held after that is gone; {log} is landed from offset {begin}."
                )
            if begin:
                self._tell(f"{log} begins at offset {begin}: what was before is gone from Kafka.")
        elif end < known.next:
            raise BadInputError(
                f"{log} ends at offset {end} in Kafka, and {known.next} were landed: the broker "
                "has lost messages; delete the topic, and it is made and landed anew."
            )
        elif begin > known.next:
            self._lose(part, begin, "Kafka's retention deleted them before they were landed")
        for stale in self._landing.glob(f".{log}.*.tmp"):
            stale.unlink(missing_ok=True)
        self._consumer.seek(partition, part.next)
        self._parts[partition] = part
        return part

    def _lose(self, part: _Part, after: int, why: str) -> None:
        count = after - part.next
        self.say(f"{part.log}: {count:,} messages, {part.next} to {after - 1}, are lost: {why}.")
        day = part.day or datetime.now(UTC).date()
        self.offsets.skip(part.log, part.next, after, day, why)
        part.next = after

    async def _check_identity(self) -> None:
        """A topic that was deleted and made again under way counts as another one."""
        assert self._client is not None  # noqa: S101
        identity = await identify(self._client, self.topic)
        if identity is None:
            await create_topic(self.cluster, self.topic)
            return
        for partition, part in list(self._parts.items()):
            if part.log != identity.log(partition.partition):
                await self._guarded(partition, self._finish(partition, part))
                self._drop(partition)
                await self._resume(partition)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commits what is in hand of partitions that go to another lander."""
        async with self._lock:
            for partition in revoked:
                part = self._parts.get(partition)
                if part is not None:
                    with contextlib.suppress(OSError):
                        await self._finish(partition, part)
                    self._drop(partition)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Goes on where the disk says. What fails here is tried again with the first records."""
        async with self._lock:
            for partition in assigned:
                try:
                    await self._resume(partition)
                except BadInputError as error:  # aiokafka would only log it
                    self._fatal = error

    def _tell(self, text: str) -> None:
        """Says something once."""
        if text not in self._told:
            self._told.add(text)
            self.say(text)

    def _note_outage(self, error: BaseException) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            self.say(f"{self.cluster.in_words(error)} Trying again.")

    async def _stop(self) -> None:
        for partition, part in list(self._parts.items()):
            with contextlib.suppress(OSError):
                await self._finish(partition, part)
            self._drop(partition)
        consumer, self._consumer = self._consumer, None
        client, self._client = self._client, None
        if consumer is not None:
            await within(3, consumer.stop())
        if client is not None:
            await within(3, client.close())

    async def close(self) -> None:
        """Commits what is in hand and disconnects."""
        async with self._lock:
            await self._stop()
        self._leave.close()

    @property
    def partitions(self) -> int:
        """How many partitions are in hand; other landers may have the others."""
        return len(self._parts)

    @property
    def lag(self) -> int:
        """Messages in Kafka that were not read yet, of the partitions in hand."""
        if self._consumer is None:
            return 0
        return sum(
            max((self._consumer.highwater(partition) or 0) - part.next, 0)
            for partition, part in self._parts.items()
        )
