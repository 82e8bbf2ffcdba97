"""The recorder: Coinbase's messages as they arrive, and a line for each hole between them.

Where lines go belongs to `sinks`; what a message is, to `coinbase`; what is missing, to `gaps`.
"""

import asyncio
import contextlib
import random
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.uri import parse_uri

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.feed.coinbase import URLS, Feed, Read, read, subscriptions
from volatility_pipeline.feed.gaps import Books, event_time, utc_now
from volatility_pipeline.feed.lines import now, wrap

if TYPE_CHECKING:
    from volatility_pipeline.feed.kafka import Say
    from volatility_pipeline.feed.sinks import Inlet

LARGEST_FRAME = 2 << 20
QUEUED_FRAMES = 256
REVIEW_SECONDS = 1.0
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0
LAG_EVERY_SECONDS = 0.1
SKEW_SECONDS = 0.5
SLOW_SECONDS = 5.0
REPLAY_SECONDS = 3600.0
NO_PRODUCT = b"-"  # the key of what names none
_NO_SUCH_PRODUCT = re.compile(r"not a valid product|invalid product|unknown product", re.IGNORECASE)


class _RefusedError(Exception):
    """The exchange answered the subscription with an error."""


@dataclass
class _Link:
    """One connection: its name, its socket, and when it was last heard (the loop's time)."""

    name: str
    socket: ClientConnection
    alive: float
    sent: int = 0
    has_ticker: bool = False


class Recorder:
    """Records tickers and heartbeats of some products, for ever, over one connection at a time.

    Args:
        feed: Which of Coinbase's feeds.
        products: Which products; they are subscribed together.
        sink: Where lines go.
        say: Told in words what a person should know.
        url: The feed's address, if not Coinbase's own.
        silence: Seconds without a ticker or a heartbeat after which a connection counts as dead.
        memory: A file that says when each product was heard last, so that the next recorder knows
            what happened before it was not recorded.
    """

    def __init__(
        self,
        feed: Feed,
        products: Sequence[str],
        sink: "Inlet",
        say: "Say",
        *,
        url: str | None = None,
        silence: float = 10.0,
        memory: Path | None = None,
    ) -> None:
        self.feed = feed
        self.sink = sink
        self.say = say
        self.url = url or URLS[feed]
        try:
            parse_uri(self.url)
        except (InvalidURI, ValueError) as error:
            raise BadInputError(f"--url {self.url}: no WebSocket address ({error}).") from error
        self.silence = silence
        self.books = Books(feed, products, sink, say, memory=memory)
        self.counts = self.books.counts
        self._keys = {product: product.encode() for product in products}
        self._delay = FIRST_DELAY
        self._lag_at = 0.0
        self._skew_said = 0.0
        self._has_heard = False

    async def run(self) -> None:
        """Connects, subscribes and listens, again and again, until cancelled.

        Raises BadInputError where the exchange does not know a product from the start.
        """
        while True:
            try:
                await self._connect()
            except _RefusedError as error:
                if _NO_SUCH_PRODUCT.search(str(error)):
                    self._drop_product(error)
                why = f"the exchange refused the subscription ({error})"
            except TimeoutError as error:
                why = str(error) or "no answer in time"
            except (OSError, WebSocketException) as error:
                why = _in_words(error)
            self.books.disconnected(why)
            delay = self._delay * random.uniform(0.5, 1)  # noqa: S311
            self._delay = min(2 * self._delay, LONGEST_DELAY)
            self.say(f"{self.url}: {why}; connecting again in {delay:.1f} s.")
            await asyncio.sleep(delay)

    def _drop_product(self, error: _RefusedError) -> None:
        """A product that the exchange no longer has must not silence the others."""
        products = self.books.products
        named = [product for product in products if product in str(error)]
        if not self._has_heard or len(named) != 1 or len(products) == 1:
            raise BadInputError(
                f"{self.url} refused the subscription: {error}; name the products that it has "
                "with --products."
            ) from error
        self.books.forget(named[0])
        self.say(f"{named[0]} is no longer recorded: the exchange does not know it any more.")

    async def _connect(self) -> None:
        async with connect(
            self.url,
            compression=None,
            max_size=LARGEST_FRAME,
            max_queue=QUEUED_FRAMES,
            open_timeout=self.silence,
            close_timeout=0.5,
            ping_interval=None,  # the watchdog is what notices a dead connection
        ) as socket:
            name = f"{self.feed}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
            link = _Link(name, socket, asyncio.get_running_loop().time())
            self.books.connected(name)
            for message in subscriptions(self.feed, self.books.products):
                await socket.send(message)
            watchdog = asyncio.create_task(self._watch(link))
            try:
                while True:
                    self._receive(link, await socket.recv(decode=False))
            except WebSocketException:
                if watchdog.done():
                    raise TimeoutError(
                        f"no ticker and no heartbeat for {self.silence:g} s"
                    ) from None
                raise
            finally:
                watchdog.cancel()

    async def _watch(self, link: _Link) -> None:
        """Cuts a connection that is silent, half-open ones too; tells holes that stay open."""
        loop = asyncio.get_running_loop()
        while (left := link.alive + self.silence - loop.time()) > 0:
            await asyncio.sleep(min(left, REVIEW_SECONDS))
            self.books.review()
        link.socket.transport.abort()

    def _receive(self, link: _Link, frame: bytes) -> None:
        message = read(frame)
        received_at = now()
        line = wrap(frame, received_at, link.name, link.sent, is_json=message.kind != "rubbish")
        link.sent += 1
        self.counts.messages += 1
        self.books.follow(message)
        if message.kind in ("ticker", "heartbeat"):
            link.alive = asyncio.get_running_loop().time()
            if message.kind == "ticker":
                self.counts.tickers += 1
                link.has_ticker = self._has_heard = True
                self._delay = FIRST_DELAY
                if link.alive >= self._lag_at:
                    self._lag_at = link.alive + LAG_EVERY_SECONDS
                    self._measure_lag(message)
        elif message.kind == "rubbish":
            self.counts.rubbish += 1
            if self.counts.rubbish == 1:
                self.say(f"A message is no JSON; it is kept as it is: {frame[:60]!r}")
        key = self._keys.get(message.product_id or "", NO_PRODUCT)
        if self.sink.put(key, int(time.time() * 1000), line):
            self.books.end_overflow(message)
        else:
            self.books.note_overflow(message)
        if message.kind == "error":
            if not link.has_ticker:
                raise _RefusedError(message.text or "no reason given")
            self.say(f"The exchange says: {message.text}")

    def _measure_lag(self, message: Read) -> None:
        event = event_time(message.time)
        if event is None:
            return
        self.counts.lags.append((utc_now() - event).total_seconds())
        lag = self.counts.lag
        at = time.monotonic()
        is_due = len(self.counts.lags) >= 20 and (
            at - self._skew_said > REPLAY_SECONDS or not self._skew_said
        )
        if lag is None or not is_due:
            return
        if lag < -SKEW_SECONDS:
            said = f"This machine's clock is {-lag:.1f} s behind the exchange's: set it (NTP)."
        elif lag > REPLAY_SECONDS:
            said = f"Event times lie {lag / 86400:.1f} days back: this is a replay."
        elif lag > SLOW_SECONDS:
            said = (
                f"Messages arrive {lag:.1f} s after their event time: this machine's clock is "
                "ahead, or it does not keep up."
            )
        else:
            return
        self._skew_said = at
        self.say(said)

    @property
    def state(self) -> str:
        """Whether it is connected."""
        return "connected" if self.books.is_whole else "not connected"


def _in_words(error: Exception) -> str:
    with contextlib.suppress(AttributeError):
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
    return str(error) or type(error).__name__
