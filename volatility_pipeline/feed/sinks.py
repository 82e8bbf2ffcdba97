"""Where recorded lines go: to Kafka, through a journal on disk; to files see `segment_files`."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from aiokafka.errors import KafkaError

from volatility_pipeline.feed.journal import Journal
from volatility_pipeline.feed.kafka import (
    NUDGE_SECONDS,
    OrderedProducer,
    Record,
    Say,
    UndeliveredError,
)

ROUND_BYTES = 4 << 20
GATHER_SECONDS = 0.02  # how long records may gather for one round
RETRY_SECONDS = 1.0
DRAIN_SECONDS = 3.0


class Inlet(Protocol):
    """What takes lines in, in order."""

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:
        """Takes a line in (its time in epoch milliseconds); False where there is no room for it.

        What is owed, a line that says what is missing, is taken in all the same.
        """


class Sink(Inlet, Protocol):
    """A place that lines go to, which is opened and closed."""

    @property
    def state(self) -> str:
        """What a person should know of it, in few words."""

    async def run(self) -> None:
        """Carries lines on until cancelled."""

    async def close(self) -> None:
        """Carries on what it can within three seconds, and keeps the rest for the next start."""


class KafkaSink:
    """Lines go to a topic; while Kafka does not answer they wait in the journal."""

    def __init__(self, journal: Journal, producer: OrderedProducer, say: Say) -> None:
        self.journal = journal
        self.producer = producer
        self.say = say
        self.delivered = 0
        self._is_closing = False
        self._left: list[Record] = []  # of a round that was delivered in part
        self._outage: float | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:
        """Takes a line in, into the journal."""
        return self.journal.append(key, timestamp, line, is_owed=is_owed)

    @property
    def state(self) -> str:
        """The backlog, if there is one worth a word, and its trouble."""
        trouble = f", disk: {self.journal.trouble}" if self.journal.trouble else ""
        waits = f"spool {self.journal.backlog_bytes / 1e6:.1f} MB" if self._outage else "kafka ok"
        return waits + trouble

    async def run(self) -> None:
        """Sends round after round, each until it is acknowledged."""
        self._task = asyncio.current_task()
        while not (self._is_closing and not self.journal.backlog_bytes):
            try:
                if not self.producer.is_started:
                    with self._nudging():
                        await self.producer.start()
                await self._send_rounds()
            except (KafkaError, OSError) as error:
                self._note_outage(getattr(error, "reason", error))
                await self.producer.stop()
                await asyncio.sleep(RETRY_SECONDS)

    async def _send_rounds(self) -> None:
        while True:
            records = self._left or self.journal.take(ROUND_BYTES)
            if not records:
                if self._is_closing:
                    return
                await self.journal.appended.wait()
                await asyncio.sleep(GATHER_SECONDS)
                continue
            try:
                with self._nudging():
                    await self.producer.send(records)
            except UndeliveredError as error:
                self.delivered += len(records) - len(error.records)
                self._left = error.records
                raise
            self._left = []
            self.journal.acknowledge()
            self.delivered += len(records)
            if self._outage is not None:
                self.say(f"Kafka is back after {time.monotonic() - self._outage:.0f} s; draining.")
                self._outage = None

    @contextlib.contextmanager
    def _nudging(self) -> Iterator[None]:
        """Says so once where an answer takes long."""
        loop = asyncio.get_running_loop()
        handle = loop.call_later(NUDGE_SECONDS, self._note_outage, TimeoutError())
        try:
            yield
        finally:
            handle.cancel()

    def _note_outage(self, error: BaseException) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            self.say(f"{self.producer.cluster.in_words(error)} Messages wait on disk.")

    async def close(self) -> None:
        """Sends what it can within three seconds; the rest stays in the journal."""
        self._is_closing = True
        self.journal.flush()
        self.journal.appended.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=DRAIN_SECONDS)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.producer.stop()
        self.journal.release()
        self.journal.close()
        waiting = self.journal.backlog_bytes
        if waiting:
            self.say(
                f"{waiting / 1e6:.1f} MB that Kafka has not taken stay in {self.journal.folder}; "
                "the next `volatility record` sends them first."
            )


class TeeSink:
    """Lines go to several places; there is room for one only where all have it."""

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = sinks

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:
        """Takes a line in, everywhere."""
        taken = [sink.put(key, timestamp, line, is_owed=is_owed) for sink in self.sinks]
        return all(taken)

    @property
    def state(self) -> str:
        """All their states."""
        return ", ".join(sink.state for sink in self.sinks)

    async def run(self) -> None:
        """Runs all."""
        await asyncio.gather(*(sink.run() for sink in self.sinks))

    async def close(self) -> None:
        """Closes all."""
        await asyncio.gather(*(sink.close() for sink in self.sinks))
