"""Coinbase itself as a source of live features, without Kafka: the recorder's lines as they come.

Here belongs what lies between the recorder and the live features: a bounded queue. Subscribing,
reconnecting, heartbeats and gaps belong to `feed/recorder.py`, starting warm to the memory.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

from volatility_pipeline.feed.coinbase import Feed
from volatility_pipeline.feed.gaps import Counts
from volatility_pipeline.feed.kafka import Say
from volatility_pipeline.feed.recorder import Recorder
from volatility_pipeline.serving.memory import Line

MOST_HELD = 100_000  # lines, below 1 KB each
LOOK_SECONDS = 0.01
SETTLE_SECONDS = 0.2


class WebSocketSource:
    """What the exchange sends from now on; what it sent before, only the lake can tell.

    Lines are those that a recorder writes, in the order of arrival: of ticks that are alike in time
    and sequence the one that came last counts as the newest, as where a recorder's lines have
    landed. Rows equal the batch's over the lake and these lines. They equal those of a recorder
    beside it from the first row whose windows lie within what both heard: on Advanced Trade a
    connection's first message of each product is a snapshot, which either counts as a tick.

    No row is made while it is not connected, or a product is not heard again yet; those of an
    outage are made once it is over, of what came before and after it.

    Args:
        feed: Which of Coinbase's feeds.
        products: Which products.
        say: Told in words what a person should know.
        url: The feed's address, if not Coinbase's own.
        silence: Seconds without a ticker or a heartbeat after which a connection counts as dead.
        most_held: Lines beyond which no more are taken in; what finds no room is counted, and
            becomes a gap.
    """

    def __init__(
        self,
        feed: Feed,
        products: Sequence[str],
        say: Say,
        *,
        url: str | None = None,
        silence: float = 10.0,
        most_held: int = MOST_HELD,
    ) -> None:
        self.most_held = most_held
        self._recorder = Recorder(feed, products, self, say, url=url, silence=silence)
        self._recording: asyncio.Task[None] | None = None
        self._log = f"websocket-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        self._taken = 0
        self._held: deque[Line] = deque()

    @property
    def name(self) -> str:
        """Which feed, and whether it is connected, in words."""
        return f"Coinbase's feed {self._recorder.feed} at {self._recorder.url}: {self._state}"

    @property
    def _state(self) -> str:
        lost = self.counts.overflow
        return self._recorder.state + (f", {lost:,} messages found no room" if lost else "")

    @property
    def is_caught_up(self) -> bool:
        """Whether every product is heard."""
        return self._recorder.books.is_whole

    @property
    def lag(self) -> int | None:
        """Lines that wait to be read; None while it is not connected."""
        return len(self._held) if self.is_caught_up else None

    @property
    def counts(self) -> Counts:
        """The recorder's: gaps, connections, messages that found no room."""
        return self._recorder.counts

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:  # noqa: ARG002
        """Takes a line of the recorder in; False where there is no room for it."""
        if len(self._held) >= self.most_held and not is_owed:
            return False
        stamp = datetime.fromtimestamp(timestamp / 1000, UTC)
        self._held.append(Line(self._log, self._taken, line, stamp))
        self._taken += 1
        return True

    async def start(self) -> None:
        """Begins to listen, so that what comes while the lake is read waits."""
        self._recording = asyncio.create_task(self._recorder.run())

    async def read(self, seconds: float) -> list[Line]:
        """What came, after waiting so long for the first of it.

        Raises:
            BadInputError: The exchange does not know a product.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._held and (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))
        if self._recording is not None and self._recording.done():
            self._recording.result()
        lines = list(self._held)
        self._held.clear()
        return lines

    async def note_end(self) -> None:
        """Lets the recorder read what has come by now."""
        await asyncio.sleep(SETTLE_SECONDS)

    async def close(self) -> None:
        """Disconnects."""
        if self._recording is not None:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)  # `read` says what it was
