"""The recorder's books: what every product is known to have, and a gap line for what it lacks.

Which numbers prove a hole belongs to `continuity`; what a gap line looks like, to `lines`.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import orjson

from volatility_pipeline.domain.values import parse_time
from volatility_pipeline.feed.coinbase import Feed, Read
from volatility_pipeline.feed.continuity import Continuity, Hole
from volatility_pipeline.feed.lines import Gap

if TYPE_CHECKING:
    from volatility_pipeline.feed.kafka import Say
    from volatility_pipeline.feed.sinks import Inlet

GRACE_SECONDS = 2.0  # how late a number may come
FORGOTTEN = timedelta(days=1)  # a longer absence speaks for itself: the days have no data
_MICROSECOND = timedelta(microseconds=1)


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
class _Connection:
    """One connection's series, and what was heard over it."""

    name: str
    newest: object = None  # until when its messages are whole: an event time
    sequence: Continuity = field(default_factory=lambda: Continuity(grace=GRACE_SECONDS, first=0))
    heartbeats: Continuity = field(default_factory=lambda: Continuity(grace=GRACE_SECONDS))


class Books:
    """Follows all messages, connection after connection, and writes gap lines to the sink.

    Args:
        feed: Which of Coinbase's feeds.
        products: Which products are subscribed.
        sink: Where gap lines go.
        say: Told of each gap.
        memory: A file that says until when each product is whole, so that the next recorder knows
            what happened before it was not recorded.
    """

    def __init__(
        self,
        feed: Feed,
        products: Sequence[str],
        sink: "Inlet",
        say: "Say",
        *,
        memory: Path | None = None,
    ) -> None:
        self.feed = feed
        self.products = tuple(products)
        self.sink = sink
        self.say = say
        self.counts = Counts()
        self._trades = {product: Continuity(grace=GRACE_SECONDS) for product in products}
        self._lost: dict[str, datetime] = {}  # since when a product is not heard
        self._why = ""
        self._overflow: dict[str, tuple[datetime, int]] = {}
        self._link: _Connection | None = None
        self._memory = memory
        self._recall()

    @property
    def is_whole(self) -> bool:
        """Whether every product is being heard."""
        return self._link is not None and not self._lost

    def connected(self, name: str) -> None:
        """Begins a connection's books."""
        self._link = _Connection(name)
        self.counts.connections += 1

    def follow(self, message: Read) -> None:
        """Holds a message's numbers against those before, and ends what it shows to be over."""
        link = self._link
        if link is None:
            return
        if self._lost and message.kind in ("ticker", "heartbeat"):
            self._regained(link, message)
        loop_time = asyncio.get_running_loop().time()
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
        if is_mark or (link.newest is None and message.kind == "heartbeat"):
            link.newest = mark
        if message.kind == "heartbeat":
            self._confirm(link, message)

    def _confirm(self, link: _Connection, message: Read) -> None:
        """What a heartbeat says has come, has come: a quiet product's gap begins after it.

        Tickers that follow it may be stamped a little earlier, hence the grace.
        """
        beat = event_time(message.time)
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

    def review(self) -> None:
        """Tells the holes that stay open; to be called about once a second."""
        if self._link is not None:
            self._tell_holes(self._link, is_final=False)
        self._remember()

    def _tell_holes(self, link: _Connection, *, is_final: bool) -> None:
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
            end = event_time(after) or utc_now()
            for product in products or self.products:
                start = min(event_time(before) or end, end)
                reason = "numbers began anew"
                self._write(Gap("restart", product, start, end + _MICROSECOND, reason), connection)
            self.counts.holes += 1
            self.say("The exchange's numbers began anew: what they skipped is not known.")
        series.restarts.clear()

    def _tell(self, hole: Hole, kind: str, products: Sequence[str], connection: str) -> None:
        end = event_time(hole.after) or utc_now()
        start = event_time(hole.before) or end
        numbers = f"{hole.first}" if hole.missing == 1 else f"{hole.first} to {hole.last}"
        reason = f"{kind} {numbers} missing"
        for product in products:
            gap = Gap(kind, product, min(start, end), end + _MICROSECOND, reason, hole.missing)
            self._write(gap, connection)
        self.counts.holes += 1
        if kind != "heartbeat":
            self.counts.missing += hole.missing
        self.say(f"Gap: {reason} ({', '.join(products) if len(products) < 4 else 'all products'})")

    def disconnected(self, why: str) -> None:
        """Ends the connection's books; from its last sound message on all products are lost."""
        link, self._link = self._link, None
        if link is None:
            return
        self._tell_holes(link, is_final=True)
        self._why = f"disconnected: {why}"
        for product, since in self._newest(link).items():
            self._lost.setdefault(product, since)

    def forget(self, product: str) -> None:
        """A product is no longer subscribed: its gap has no end."""
        self.products = tuple(one for one in self.products if one != product)
        self._trades.pop(product)
        since = self._lost.pop(product, None)
        if since is not None:
            self._write(Gap("disconnect", product, since, None, self._why), "recorder")

    def _newest(self, link: _Connection) -> dict[str, datetime]:
        """Until when each product is known to be whole."""
        found = {}
        for product in self.products:
            mark = link.newest
            if self.feed is Feed.EXCHANGE:  # its heartbeats confirm product by product
                mark = self._trades[product].mark or mark
            since = event_time(mark)
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
            if since is not None and timedelta() < utc_now() - since < FORGOTTEN:
                self._lost[product] = since

    def _regained(self, link: _Connection, message: Read) -> None:
        """The first word of a product after a disconnect ends its gap."""
        end = event_time(message.time)
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

    def note_overflow(self, message: Read) -> None:
        """A message found no room, and is lost."""
        product = message.product_id
        if product is None:
            return
        self.counts.overflow += 1
        if not self._overflow:
            self.say("There is no room left for messages: from here on they are lost.")
        since, count = self._overflow.get(product, (event_time(message.time) or utc_now(), 0))
        self._overflow[product] = (since, count + 1)

    def end_overflow(self, message: Read | None) -> None:
        """There is room again for a message's product; None: there is nothing more to come."""
        if not self._overflow:
            return
        product = message.product_id if message is not None else None
        names = list(self._overflow) if message is None else [product]
        for name in names:
            if name in self._overflow:
                since, count = self._overflow.pop(name)
                end = (
                    None
                    if message is None
                    else (event_time(message.time) or utc_now()) + _MICROSECOND
                )
                reason = f"no room for {count} messages"
                self._write(Gap("no_room", name, since, end, reason, count), "recorder")
                self.counts.holes += 1

    def _write(self, gap: Gap, connection: str) -> None:
        for line in gap.lines(connection):
            self.sink.put(gap.product_id.encode(), int(time.time() * 1000), line, is_owed=True)

    def finish(self) -> None:
        """Writes what is known to be missing at the end: open holes, and gaps without an end."""
        if self._link is not None:
            self._tell_holes(self._link, is_final=True)
        if self._memory is None:  # else the next recorder knows more
            for product, since in self._lost.items():
                self._write(Gap("disconnect", product, since, None, self._why), "recorder")
        self.end_overflow(None)
        self._remember()


def event_time(mark: object) -> datetime | None:
    """A mark, which is a message's time as written or naive UTC already, as naive UTC."""
    return mark if isinstance(mark, datetime) else parse_time(mark)


def _later(mark: object, sure: datetime) -> object:
    """The later of a mark and a time."""
    known = event_time(mark)
    return sure if known is None or known < sure else mark


def utc_now() -> datetime:
    """This machine's clock, naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)
