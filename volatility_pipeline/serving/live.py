"""Live features: the newest lines of a source become feature rows, a second at a time.

Here belongs when what is read, computed and handed on. What is computed belongs to `memory`, where
the lines come from to the source.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from volatility_pipeline.feed.gaps import Counts
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.serving.feature_topic import FeatureTopic
from volatility_pipeline.serving.memory import SECOND, Line, Memory
from volatility_pipeline.serving.memory import FeatureRow as FeatureRow

HandOn = Callable[[Sequence[FeatureRow]], Awaitable[None]]

LONGEST_WAIT = 0.2  # seconds for which a stop may go unnoticed
LONGEST_STALL = timedelta(minutes=1)  # older rows than that help nobody any more


class Source(Protocol):
    """Where lines come from: `kafka_source.KafkaSource`, `websocket_source.WebSocketSource`."""

    @property
    def name(self) -> str:
        """What it is and what is wrong with it, in words."""

    @property
    def is_caught_up(self) -> bool:
        """Whether it has given all that it held when it connected, or at the last `note_end`."""

    @property
    def lag(self) -> int | None:
        """Lines that it holds and has not given yet; None where it cannot tell."""

    @property
    def counts(self) -> Counts | None:
        """What has happened on its own connection to the exchange; None where it has none."""

    async def start(self) -> None:
        """Called once, before the lake is read."""

    async def read(self, seconds: float) -> list[Line]:
        """What came, after waiting so long for the first of it; raises nothing in an outage."""

    async def note_end(self) -> None:
        """Makes `is_caught_up` speak of all that has come by now; for who has not read a while."""

    async def close(self) -> None:
        """Called once, at the end."""


@dataclass(frozen=True)
class LiveStatus:
    """How the live features are doing.

    Attributes:
        newest_event: For each product the event time of its newest tick, UTC.
        late: Ticks that arrived after the grace of the first row that they belong to.
        messages: Lines read from the source since the start.
        faulty: Lines, and tickers of lines, that the batch would quarantine.
        lag: Lines that the source holds and nobody has read yet; None where it cannot tell.
        source: Where the lines come from, and what is wrong, in words.
        running_since: When `run` was called, UTC.
        counts: Gaps, connections, messages without room, where the source talks to the exchange.
        hole: From when to when, UTC, minutes behind the thresholds are not known, though there may
            have been some: the batch, once it is built that far, has other thresholds.
    """

    newest_event: Mapping[str, datetime]
    late: int
    messages: int
    faulty: int
    lag: int | None
    source: str
    running_since: datetime
    counts: Counts | None = None
    hole: tuple[datetime, datetime] | None = None


class LiveFeatures:
    """Feature rows of each product, every second.

    A row for `ts` is made at `ts` plus the grace, and equals the batch's, bit for bit, for the
    events that had arrived by then. What arrives later is counted, and known to later rows.

    Args:
        lake: Whose newest ticks and features it starts from.
        warehouse: The settings of the batch: the longest gap, and DuckDB's threads.
        source: Where the lines come from.
        grace_seconds: How long a row waits for the events before it.
        products: Of which products; None for all that appear.
        publish: Where rows are sent beside being handed on.
        is_replay: The clock is the lines' own: a line arrives when it was sent. For recordings,
            which then run as fast as they can be read; rows come for every second between lines.
    """

    def __init__(
        self,
        lake: Lake,
        warehouse: Warehouse,
        source: Source,
        *,
        grace_seconds: float = 0.5,
        products: Sequence[str] | None = None,
        publish: FeatureTopic | None = None,
        is_replay: bool = False,
    ) -> None:
        self.lake = lake
        self.source = source
        self.publish = publish
        self.grace = timedelta(seconds=grace_seconds)
        self.is_replay = is_replay
        self.memory = Memory(
            max_gap_seconds=warehouse.max_gap_seconds,
            products=None if products is None else frozenset(products),
            threads=warehouse.threads,
        )
        self._running_since = datetime.now(UTC)
        self._is_stopping = False

    async def run(self, on_rows: Callable[[Sequence[FeatureRow]], None]) -> None:
        """Hands on the rows of each second, all products' at once, until stopped or cancelled.

        Before the first rows it reads the lake, and all that its source holds beyond that.
        """
        self._running_since = datetime.now(UTC)
        publishing = None if self.publish is None else asyncio.create_task(self.publish.run())

        async def hand_on(rows: Sequence[FeatureRow]) -> None:
            if rows:
                await asyncio.to_thread(on_rows, rows)  # the source is heard meanwhile
                if self.publish is not None:
                    self.publish.put(rows)
            await asyncio.to_thread(self.memory.tidy)

        try:
            with self.memory as memory:
                await self.source.start()
                await asyncio.to_thread(memory.load, self.lake, None if self.is_replay else _now())
                await (self._replay(hand_on) if self.is_replay else self._follow(hand_on))
            if self.publish is not None and publishing is not None:
                self.publish.finish()
                await publishing
        finally:
            await self.source.close()
            if publishing is not None:
                publishing.cancel()
                with suppress(asyncio.CancelledError):
                    await publishing

    async def _follow(self, hand_on: HandOn) -> None:
        noted: datetime | None = None
        while not self._is_stopping:
            until, made = self._due(_now()), self.memory.until
            if made is not None and made != noted and until - made > SECOND:
                noted = made
                await self.source.note_end()  # it stalled: what came meanwhile is read first
            if self.source.is_caught_up and (made is None or until > made):
                self._take(await self.source.read(0))  # what arrived within the grace
                rows = await asyncio.to_thread(self.memory.advance, until)
                oldest = (until - LONGEST_STALL).replace(tzinfo=UTC)
                await hand_on([row for row in rows if row.ts > oldest])
                continue
            left = (until + SECOND + self.grace - _now()).total_seconds()
            self._take(await self.source.read(min(max(left, 0), LONGEST_WAIT)))

    async def _replay(self, hand_on: HandOn) -> None:
        while not self._is_stopping:
            for line in await self.source.read(LONGEST_WAIT):
                at = line.stamp.replace(tzinfo=None)
                until = self._due(at)
                if self.memory.until is None or until > self.memory.until:
                    await hand_on(await asyncio.to_thread(self.memory.advance, until))
                self.memory.add(line, at)

    def _take(self, lines: Sequence[Line]) -> None:
        at = _now()
        for line in lines:
            self.memory.add(line, at)

    def _due(self, now: datetime) -> datetime:
        """The newest decision time whose grace is over."""
        return (now - self.grace).replace(microsecond=0)

    def status(self) -> LiveStatus:
        """What it is doing; may be asked at any time, from any thread."""
        memory = self.memory
        newest = {name: time.replace(tzinfo=UTC) for name, time in memory.newest.copy().items()}
        hole, source = memory.hole, self.source.name
        if hole is not None:
            begun, ended = (f"{time:%Y-%m-%d %H:%M}" for time in hole)
            source += f"; trailing thresholds lack the minutes from {begun} to {ended} UTC"
        return LiveStatus(
            newest,
            memory.late,
            memory.messages,
            memory.faulty,
            self.source.lag,
            source,
            self._running_since,
            self.source.counts,
            None if hole is None else (hole[0].replace(tzinfo=UTC), hole[1].replace(tzinfo=UTC)),
        )

    def stop(self) -> None:
        """Makes `run` return, once the second in hand is handed on."""
        self._is_stopping = True


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
