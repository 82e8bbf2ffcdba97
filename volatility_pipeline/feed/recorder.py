"""The recorder: Coinbase's messages as they arrive, and a line for each hole between them.

Where lines go belongs to `sinks`; what a message is, to `coinbase`; which numbers prove a hole, to
`continuity`.
"""

import asyncio
import contextlib
import random
import re
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.uri import parse_uri

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.values import parse_time
from volatility_pipeline.feed.coinbase import URLS, Feed, Read, read, subscriptions
from volatility_pipeline.feed.continuity import Continuity, Hole
from volatility_pipeline.feed.lines import Gap, now, wrap

if TYPE_CHECKING:
    from volatility_pipeline.feed.kafka import Say
    from volatility_pipeline.feed.sinks import Sink

LARGEST_FRAME = 2 << 20
QUEUED_FRAMES = 256
GRACE_SECONDS = 2.0  # how late a number may come
FIRST_DELAY, LONGEST_DELAY = 0.25, 30.0
LAG_EVERY_SECONDS = 0.1
SKEW_SECONDS = 0.5
SLOW_SECONDS = 5.0
REPLAY_SECONDS = 3600.0
FORGOTTEN = timedelta(days=1)  # a longer absence speaks for itself: the days have no data
NO_PRODUCT = b"-"  # the key of what names none
_MICROSECOND = timedelta(microseconds=1)
_NO_SUCH_PRODUCT = re.compile(r"not a valid product|invalid product|unknown product", re.IGNORECASE)


class _RefusedError(Exception):
    """The exchange answered the subscription with an error."""


@dataclass
class Counts:
    """What has happened since the start."""

    messages: int = 0
    tickers: int = 0
    rubbish: int = 0
    holes: int = 0
    missing: int = 0
    repeats: int = 0
    late: int = 0
    connections: int = 0
    overflow: int = 0
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=600))

    @property
    def lag(self) -> float | None:
        """Median capture time minus event time of the last minute, in seconds."""
        return median(self.lags) if self.lags else None


@dataclass
class _Link:
    """One connection: its name, its series, and when it was last heard."""

    name: str
    socket: ClientConnection
    alive: float
    sent: int = 0
    newest: object = None  # the newest ticker's event time, as written
    has_ticker: bool = False
    sequence: Continuity = field(default_factory=lambda: Continuity(grace=GRACE_SECONDS, first=0))
    heartbeats: Continuity = field(default_factory=lambda: Continuity(grace=GRACE_SECONDS))


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
        sink: "Sink",
        say: "Say",
        *,
        url: str | None = None,
        silence: float = 10.0,
        memory: Path | None = None,
    ) -> None:
        self.feed = feed
        self.products = tuple(products)
        self.sink = sink
        self.say = say
        self.url = url or URLS[feed]
        try:
            parse_uri(self.url)
        except (InvalidURI, ValueError) as error:
            raise BadInputError(f"--url {self.url}: no WebSocket address ({error}).") from error
        self.silence = silence
        self.counts = Counts()
        self._trades = {product: Continuity(grace=GRACE_SECONDS) for product in products}
        self._lost: dict[str, datetime] = {}  # since when a product is not heard
        self._why = ""
        self._overflow: dict[str, tuple[datetime, int]] = {}
        self._link: _Link | None = None
        self._delay = FIRST_DELAY
        self._lag_at = 0.0
        self._skew_said = 0.0
        self._has_heard = False
        self._memory = memory
        self._recall()

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
            except InvalidURI as error:
                raise BadInputError(
                    f"--url {self.url}: no WebSocket address; {error.msg}."
                ) from error
            except TimeoutError as error:
                why = str(error) or "no answer in time"
            except (OSError, WebSocketException) as error:
                why = _in_words(error)
            self._disconnected(why)
            delay = self._delay * random.uniform(0.5, 1)  # noqa: S311
            self._delay = min(2 * self._delay, LONGEST_DELAY)
            self.say(f"{self.url}: {why}; connecting again in {delay:.1f} s.")
            await asyncio.sleep(delay)

    def _drop_product(self, error: _RefusedError) -> None:
        """A product that the exchange no longer has must not silence the others."""
        named = [product for product in self.products if product in str(error)]
        if not self._has_heard or len(named) != 1 or len(self.products) == 1:
            raise BadInputError(
                f"{self.url} refused the subscription: {error}; name the products that it has "
                "with --products."
            ) from error
        self.products = tuple(product for product in self.products if product not in named)
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
            self._link = link = _Link(name, socket, asyncio.get_running_loop().time())
            self.counts.connections += 1
            for message in subscriptions(self.feed, self.products):
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
            await asyncio.sleep(min(left, GRACE_SECONDS / 2))
            self._tell_holes(link, is_final=False)
            self._remember()
        link.socket.transport.abort()

    def _receive(self, link: _Link, frame: bytes) -> None:
        message = read(frame)
        received_at = now()
        line = wrap(frame, received_at, link.name, link.sent, is_json=message.kind != "rubbish")
        link.sent += 1
        self.counts.messages += 1
        loop_time = asyncio.get_running_loop().time()
        if message.kind in ("ticker", "heartbeat"):
            if self._lost:
                self._regained(link, message)
            self._follow(link, message, loop_time)
            link.alive = loop_time
            if message.kind == "ticker":
                self.counts.tickers += 1
                link.has_ticker = self._has_heard = True
                self._delay = FIRST_DELAY
                if loop_time >= self._lag_at:
                    self._lag_at = loop_time + LAG_EVERY_SECONDS
                    self._measure_lag(message)
        elif message.sequence_num is not None:
            self._follow(link, message, loop_time)
        elif message.kind == "rubbish":
            self.counts.rubbish += 1
            if self.counts.rubbish == 1:
                self.say(f"A message is no JSON; it is kept as it is: {frame[:60]!r}")
        product = message.product_id
        key = product.encode() if product is not None and product in self._trades else NO_PRODUCT
        if not self.sink.put(key, int(time.time() * 1000), line):
            self._note_overflow(message)
        elif self._overflow:
            self._end_overflow(message)
        if message.kind == "error":
            if not link.has_ticker:
                raise _RefusedError(message.text or "no reason given")
            self.say(f"The exchange says: {message.text}")

    def _follow(self, link: _Link, message: Read, loop_time: float) -> None:
        """Holds the message's numbers against those before."""
        mark = message.time
        # A heartbeat may be stamped later than tickers that follow it: it only bounds from above.
        is_mark = message.kind == "ticker"
        if message.sequence_num is not None:
            link.sequence.see(message.sequence_num, mark, loop_time, is_mark=is_mark)
        if message.heartbeat_counter is not None:
            link.heartbeats.see(message.heartbeat_counter, mark, loop_time)
        trades = self._trades.get(message.product_id or "")
        if trades is not None:
            if message.trade_id is not None:
                trades.see(message.trade_id, mark, loop_time)
            elif message.last_trade_id is not None:
                trades.expect(message.last_trade_id, mark, loop_time)
        if is_mark or link.newest is None:
            link.newest = mark
        if message.kind == "heartbeat":
            self._confirm(link, message)

    def _confirm(self, link: _Link, message: Read) -> None:
        """What a heartbeat says has come, has come: a quiet product's gap begins after it.

        Tickers that follow it may be stamped a little earlier, hence the grace.
        """
        beat = _time(message.time)
        if beat is None:
            return
        sure = beat - timedelta(seconds=GRACE_SECONDS)
        if self.feed is Feed.ADVANCED:
            link.newest = _later(link.newest, sure)
            link.sequence.mark = _later(link.sequence.mark, sure)
            link.heartbeats.mark = _later(link.heartbeats.mark, sure)
        elif message.product_id in self._trades:
            trades = self._trades[message.product_id]
            if trades.next is not None and (message.last_trade_id or 0) < trades.next:
                trades.mark = _later(trades.mark, sure)

    def _tell_holes(self, link: _Link, *, is_final: bool) -> None:
        at = asyncio.get_running_loop().time()

        def left(series: Continuity) -> list[Hole]:
            return series.close() if is_final else series.overdue(at)

        for hole in left(link.sequence):
            self._tell(hole, "sequence_num", self.products, link.name)
        for hole in left(link.heartbeats):
            self._tell(hole, "heartbeat", self.products, link.name)
        for product, series in self._trades.items():
            for hole in left(series):
                self._tell(hole, "trade_id", (product,), link.name)
        everything = (link.sequence, link.heartbeats, *self._trades.values())
        for series in everything:
            self._tell_restarts(series, link.name)
        self.counts.repeats += sum(series.repeats for series in everything)
        self.counts.late += sum(series.late for series in everything)
        for series in everything:
            series.repeats = series.late = 0

    def _tell_restarts(self, series: Continuity, connection: str) -> None:
        products = [name for name, trades in self._trades.items() if trades is series]
        for before, after in series.restarts:
            end = _time(after) or _now()
            for product in products or self.products:
                start = min(_time(before) or end, end)
                reason = "numbers began anew"
                self._write(Gap("restart", product, start, end + _MICROSECOND, reason), connection)
            self.counts.holes += 1
            self.say("The exchange's numbers began anew: what they skipped is not known.")
        series.restarts.clear()

    def _tell(self, hole: Hole, kind: str, products: Sequence[str], connection: str) -> None:
        end = _time(hole.after) or _now()
        start = _time(hole.before) or end
        numbers = f"{hole.first}" if hole.missing == 1 else f"{hole.first} to {hole.last}"
        reason = f"{kind} {numbers} missing"
        for product in products:
            gap = Gap(kind, product, min(start, end), end + _MICROSECOND, reason, hole.missing)
            self._write(gap, connection)
        self.counts.holes += 1
        if kind != "heartbeat":
            self.counts.missing += hole.missing
        self.say(f"Gap: {reason} ({', '.join(products) if len(products) < 4 else 'all products'})")

    def _disconnected(self, why: str) -> None:
        """Ends the connection's books; from its last sound message on all products are lost."""
        link, self._link = self._link, None
        if link is None:
            return
        self._tell_holes(link, is_final=True)
        self._why = f"disconnected: {why}"
        for product, since in self._newest(link).items():
            self._lost.setdefault(product, since)

    def _newest(self, link: _Link) -> dict[str, datetime]:
        """Until when each product is known to be whole."""
        found = {}
        for product in self.products:
            mark = link.newest
            if self.feed is Feed.EXCHANGE:  # its heartbeats confirm product by product
                mark = self._trades[product].mark or mark
            since = _time(mark)
            if since is not None:
                found[product] = since
        return found

    def _remember(self) -> None:
        """Notes until when products are whole, for the recorder that comes after this one."""
        if self._memory is None:
            return
        heard = self._lost | (self._newest(self._link) if self._link and not self._lost else {})
        if heard:
            texts = {product: since.isoformat() for product, since in heard.items()}
            with contextlib.suppress(OSError):  # the sinks say what the disk does not take
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._memory.with_suffix(".tmp")
                temporary.write_bytes(orjson.dumps(texts))
                temporary.replace(self._memory)

    def _recall(self) -> None:
        """Takes up what the recorder before this one noted."""
        if self._memory is None or not self._memory.exists():
            return
        try:
            noted = orjson.loads(self._memory.read_bytes())
        except orjson.JSONDecodeError:
            return
        self._why = "the recorder was not running"
        for product in self.products:
            since = parse_time(noted.get(product))
            if since is not None and timedelta() < _now() - since < FORGOTTEN:
                self._lost[product] = since

    def _regained(self, link: _Link, message: Read) -> None:
        """The first word of a product after a disconnect ends its gap."""
        end = _time(message.time)
        if end is None:
            return
        heard = (message.product_id,) if self.feed is Feed.EXCHANGE else tuple(self._lost)
        for product in heard:
            if product in self._lost:
                start = self._lost.pop(product)
                end_of = max(start, end) + _MICROSECOND
                self._write(Gap("disconnect", product, start, end_of, self._why), link.name)
                if not self._lost:
                    self.counts.holes += 1

    def _note_overflow(self, message: Read) -> None:
        product = message.product_id
        if product is None:
            return
        self.counts.overflow += 1
        if not self._overflow:
            self.say("There is no room left for messages: from here on they are lost.")
        since, count = self._overflow.get(product, (_time(message.time) or _now(), 0))
        self._overflow[product] = (since, count + 1)

    def _end_overflow(self, message: Read | None) -> None:
        product = message.product_id if message is not None else None
        names = list(self._overflow) if message is None else [product]
        for name in names:
            if name in self._overflow:
                since, count = self._overflow.pop(name)
                end = None if message is None else (_time(message.time) or _now()) + _MICROSECOND
                reason = f"no room for {count} messages"
                self._write(Gap("no_room", name, since, end, reason, count), "recorder")
                self.counts.holes += 1

    def _write(self, gap: Gap, connection: str) -> None:
        for line in gap.lines(connection):
            self.sink.put(gap.product_id.encode(), int(time.time() * 1000), line, is_owed=True)

    def _measure_lag(self, message: Read) -> None:
        event = _time(message.time)
        if event is None:
            return
        self.counts.lags.append((_now() - event).total_seconds())
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

    def finish(self) -> None:
        """Writes what is known to be missing at the end: open holes, and gaps without an end."""
        if self._link is not None:
            self._tell_holes(self._link, is_final=True)
        if self._memory is None:  # else the next recorder knows more
            for product, since in self._lost.items():
                self._write(Gap("disconnect", product, since, None, self._why), "recorder")
        if self._overflow:
            self._end_overflow(None)
        self._remember()

    @property
    def state(self) -> str:
        """Whether it is connected."""
        return "connected" if self._link is not None and not self._lost else "not connected"


def _time(mark: object) -> datetime | None:
    """A mark, which is a message's time as written or naive UTC already, as naive UTC."""
    return mark if isinstance(mark, datetime) else parse_time(mark)


def _later(mark: object, sure: datetime) -> object:
    """The later of a mark and a time."""
    known = _time(mark)
    return sure if known is None or known < sure else mark


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _in_words(error: Exception) -> str:
    with contextlib.suppress(AttributeError):
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
    return str(error) or type(error).__name__
