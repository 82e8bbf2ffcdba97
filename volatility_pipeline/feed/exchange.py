"""A stand-in for Coinbase on this machine: a WebSocket server that speaks both public protocols.

Here belongs what a server does: answering subscriptions, playing, heartbeats, slow clients. What is
played and how a ticker reads belongs to `market_source`, what goes wrong on purpose to `faults`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.feed.faults import ENDING, Event, Faults, Wire
from volatility_pipeline.feed.market_source import EPOCH, Play, Tick, written

SUBSCRIBE_WITHIN = 5.0  # seconds, as Coinbase has it
PATIENCE = 5.0  # seconds that the play waits for a client that takes nothing
STALL = 1.0  # seconds
WRITE_BUFFER = 64 << 10  # bytes that a client has not taken beyond which the play waits for it
_RESOLUTION = 0.001  # seconds: what is due sooner is sent at once
_BATCH = 500  # tickers read, or sent, before others have their turn
_REFUSALS = {
    "refuse": "The server accepts no subscriptions at the moment",
    "throttle": "Rate limit exceeded: too many requests, try again later",
}


class RequestError(Exception):
    """What a client asked for and does not get, in the exchange's words."""


class ExchangeWords:
    """What one connection has subscribed to, and how that is said in the Exchange's protocol."""

    heartbeat = "heartbeat"
    of_products = frozenset({"ticker", "heartbeat"})

    def __init__(self) -> None:
        self.subscribed: dict[str, set[str]] = {"ticker": set(), self.heartbeat: set()}
        self.sequence_num: int | None = None  # of the last message, where messages have one

    def asked(self, request: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
        """Yields a request's channels, each with its products."""
        common = request.get("product_ids") or []
        for channel in request["channels"]:
            if isinstance(channel, dict):
                yield channel.get("name"), channel.get("product_ids") or common
            else:
                yield channel, common

    def subscriptions(self, _: str) -> dict[str, Any]:
        """The answer to a request: all that is subscribed to by now."""
        channels = [
            {"name": name, "product_ids": sorted(products), "account_ids": None}
            for name, products in self.subscribed.items()
            if products
        ]
        return {"type": "subscriptions", "channels": channels}

    def error(self, reason: str) -> dict[str, Any]:
        """The answer to a request that fails."""
        return {"type": "error", "message": "Failed to subscribe", "reason": reason}

    def ticker(self, tick: Tick, time: str) -> str:
        """A ticker's message."""
        return tick.quote.in_exchange(time, sequence=tick.sequence, trade_id=tick.trade_id)

    def heartbeats(
        self, time: str, last: Mapping[str, tuple[int, int]]
    ) -> Iterator[dict[str, Any]]:
        """The messages of one heartbeat; `last` has each product's last sequence and trade id."""
        for product in sorted(self.subscribed[self.heartbeat]):
            sequence, trade_id = last[product]
            yield {
                "type": "heartbeat",
                "sequence": sequence,
                "last_trade_id": trade_id,
                "product_id": product,
                "time": time,
            }


class AdvancedWords(ExchangeWords):
    """The same in Advanced Trade's, which numbers a connection's messages over all channels."""

    heartbeat = "heartbeats"
    of_products = frozenset({"ticker"})

    def __init__(self) -> None:
        super().__init__()
        self._beats = 0
        self._seen: set[str] = set()

    def asked(self, request: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
        """Yields the request's one channel; that of heartbeats stands for its own product."""
        channel = request["channel"]
        yield channel, [channel] if channel == self.heartbeat else request.get("product_ids") or []

    def subscriptions(self, time: str) -> dict[str, Any]:
        """The answer to a request: all that is subscribed to by now."""
        channels = {name: sorted(of) for name, of in self.subscribed.items() if of}
        return self._envelope("subscriptions", time, {"subscriptions": channels})

    def error(self, reason: str) -> dict[str, Any]:
        """The answer to a request that fails; it has no number."""
        return {"type": "error", "message": reason}

    def ticker(self, tick: Tick, time: str) -> str:
        """A ticker's message; a product's first one is called a snapshot."""
        product = tick.quote.product_id
        kind = "update" if product in self._seen else "snapshot"
        self._seen.add(product)
        return tick.quote.in_advanced(time, sequence_num=self._number(), kind=kind)

    def heartbeats(self, time: str, _: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """The message of one heartbeat."""
        if self.subscribed[self.heartbeat]:
            event = {"current_time": time, "heartbeat_counter": self._beats}
            self._beats += 1
            yield self._envelope("heartbeats", time, event)

    def _envelope(self, channel: str, time: str, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "channel": channel,
            "client_id": "",
            "timestamp": time,
            "sequence_num": self._number(),
            "events": [event],
        }

    def _number(self) -> int:
        self.sequence_num = 0 if self.sequence_num is None else self.sequence_num + 1
        return self.sequence_num


class _Client(NamedTuple):
    """A connection that has sent a request."""

    wire: Wire
    words: ExchangeWords


class StandIn:
    """The stand-in exchange. The play begins with the first subscription to tickers.

    Args:
        play: What to play, and how.
        faults: What goes wrong on purpose. The answers to requests are exempt.
        observe: Told what became of each message; of a ticker once per subscriber.

    `outcomes` counts what became of messages.
    """

    def __init__(
        self,
        play: Play,
        *,
        faults: Faults | None = None,
        observe: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.play = play
        self.outcomes: Counter[str] = Counter()
        self._faults = faults or Faults()
        self._observe = observe
        self._mark = {"source": "simulated"} if play.source.is_simulated else {}
        self._clients: set[_Client] = set()
        self._connections = 0
        self._frozen: int | None = None  # the connection, if nobody has subscribed since it froze
        self._refusals: list[str] = []
        self._stalled_until = 0.0  # by the event loop's clock
        self._begun = asyncio.Event()
        self._playing: asyncio.Task[None] | None = None
        self._last = {name: play.source.numbers_before(name) for name in play.source.firsts}
        self._last_time: int | None = None  # of a ticker, in microseconds since 1970 …
        self._last_sent = 0.0  # … and when it was sent, by the event loop's clock

    @property
    def clients(self) -> int:
        """How many connections are subscribed and not frozen."""
        return len(self._clients)

    async def played(self) -> None:
        """Waits until the last ticker of the play has been sent; raises what ended it early."""
        if self._playing is not None:
            await asyncio.shield(self._playing)

    @contextlib.asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Listens, plays and sends heartbeats while the context lasts; port 0 is any free one.

        Yields:
            The URL.

        Raises:
            BadInputError: The address cannot be listened on.
        """
        try:
            server = await serve(
                self._talk, host, port, compression=None, ping_interval=None, close_timeout=1
            )
        except OSError as error:
            reason = str(error.strerror).split(": ")[-1]
            raise BadInputError(
                f"{host}:{port} cannot be listened on ({reason}); choose another --port or --host."
            ) from error
        self._playing = asyncio.create_task(self._play())
        tasks = [self._playing, asyncio.create_task(self._beat())]
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"ws://{shown}:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            server.close()
            await server.wait_closed()
        for task in tasks:
            if not task.cancelled():
                task.result()  # raises what ended it early

    async def _talk(self, ws: ServerConnection) -> None:
        """One connection, from its first message to its end."""
        wire = Wire(ws, self._connections, self._faults, self._note)
        self._connections += 1
        client = None
        try:
            async with asyncio.timeout(SUBSCRIBE_WITHIN) as limit:
                async for text in ws:
                    client = self._answer(client, wire, text)
                    if client in self._clients:
                        limit.reschedule(None)
        except TimeoutError:
            await ws.close(1008, f"no subscription within {SUBSCRIBE_WITHIN:g} s")
        except ConnectionClosed:
            pass
        finally:
            if client is not None:
                self._forget(client)

    def _answer(self, client: _Client | None, wire: Wire, text: str | bytes) -> _Client | None:
        """Does what a client asks for, and says so; its first request tells its protocol."""
        try:
            request = _read_request(text)
        except RequestError as error:
            words = client.words if client else ExchangeWords()
            wire.write(orjson.dumps(words.error(str(error))))
            return client
        is_advanced = "channel" in request
        client = client or _Client(wire, AdvancedWords() if is_advanced else ExchangeWords())
        words = client.words
        try:
            if is_advanced is not isinstance(words, AdvancedWords):
                raise RequestError("This connection speaks the other protocol")
            if request["type"] == "subscribe" and self._refusals:
                raise RequestError(_REFUSALS[self._refusals.pop(0)])
            self._subscribe(words, request)
        except RequestError as error:
            answer = words.error(str(error))
        else:
            answer = words.subscriptions(written(self._clock())) | self._mark
            self._clients.add(client)
            self._frozen = None
        wire.write(orjson.dumps(answer))
        if words.subscribed["ticker"]:
            self._begun.set()
        return client

    def _subscribe(self, words: ExchangeWords, request: Mapping[str, Any]) -> None:
        """Changes what a connection is subscribed to: all that is asked for, or nothing."""
        is_adding = request["type"] == "subscribe"
        changes: list[tuple[set[str], set[str]]] = []
        for channel, products in words.asked(request):
            if not isinstance(channel, str) or channel not in words.subscribed:
                raise RequestError(f"{channel} is not a valid channel")
            if not isinstance(products, list):
                raise RequestError("product_ids is not a list")
            if channel in words.of_products:
                if is_adding and not products:
                    raise RequestError(f"You need to specify a product ID for channel {channel}")
                for product in products:
                    if not isinstance(product, str) or product not in self.play.source.firsts:
                        raise RequestError(f"{product} is not a valid product")
            changes.append((words.subscribed[channel], set(products)))
        for subscribed, products in changes:
            if is_adding:
                subscribed |= products
            else:
                subscribed -= products or set(subscribed)

    def _clock(self) -> int:
        """The market's time, in microseconds since 1970: it goes on between tickers, and after."""
        if self._last_time is None:
            return self.play.start
        elapsed = asyncio.get_running_loop().time() - self._last_sent
        return self._last_time + round(elapsed * 1e6 * self.play.clock_speed)

    async def _play(self) -> None:
        await self._begun.wait()
        loop = asyncio.get_running_loop()
        ticks = self.play.ticks()
        due = loop.time()
        # Reading may take long, and the others shall have their turn meanwhile.
        while batch := await asyncio.to_thread(lambda: list(islice(ticks, _BATCH))):
            for tick in batch:
                due += tick.pause
                if (wait := due - loop.time()) > _RESOLUTION:
                    await asyncio.sleep(wait)
                await self._stalled()
                await self._room()
                self._send(tick)
        for client in self._clients:
            client.wire.release(is_last=True)

    async def _stalled(self) -> None:
        while (wait := self._stalled_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(wait)

    async def _room(self) -> None:
        """Waits for clients that are slow; who takes nothing for too long is cut off."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while slow := [one for one in self._clients if one.wire.waiting > WRITE_BUFFER]:
            if loop.time() > deadline:
                for client in slow:
                    client.wire.cut()
                    self._forget(client)
            await asyncio.sleep(2 * _RESOLUTION)

    def _send(self, tick: Tick) -> None:
        """Sends a ticker to all who have subscribed to its product."""
        product = tick.quote.product_id
        self._last[product] = tick.sequence, tick.trade_id
        self._last_time, self._last_sent = tick.time, asyncio.get_running_loop().time()
        at, time = EPOCH + timedelta(microseconds=tick.time), written(tick.time)
        subscribers = [one for one in self._clients if product in one.words.subscribed["ticker"]]
        for client in subscribers:
            message = client.words.ticker(tick, time).encode()
            number, sequence_num = client.wire.number, client.words.sequence_num
            event = Event(tick.place, product, at, number, tick.trade_id, sequence_num, "sent")
            self._offer(client, message, event)
        if not subscribers:
            outcome = "unheard" if self._frozen is None else "frozen"
            self._note(Event(tick.place, product, at, self._frozen, tick.trade_id, None, outcome))

    async def _beat(self) -> None:
        """Sends heartbeats each second of the wall's clock; not to who has long taken nothing."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1
            await asyncio.sleep(due - loop.time())
            await self._stalled()
            clock = self._clock()
            at, time = EPOCH + timedelta(microseconds=clock), written(clock)
            for client in list(self._clients):
                if client.wire.waiting > 2 * WRITE_BUFFER:
                    continue
                for message in client.words.heartbeats(time, self._last):
                    product, trade_id = message.get("product_id"), message.get("last_trade_id")
                    number, sequence_num = client.wire.number, client.words.sequence_num
                    event = Event(None, product, at, number, trade_id, sequence_num, "sent")
                    self._offer(client, orjson.dumps(message | self._mark), event)

    def _offer(self, client: _Client, message: bytes, event: Event) -> None:
        """Sends a message through its connection's faults, and does what these do to the rest."""
        outcome = client.wire.offer(message, event)
        if outcome == "stall":
            self._stalled_until = asyncio.get_running_loop().time() + STALL
        elif outcome in ENDING:
            self._forget(client)
            self._frozen = client.wire.number if outcome == "freeze" else None
            self._refusals += [outcome] if outcome in _REFUSALS else []

    def _forget(self, client: _Client) -> None:
        self._clients.discard(client)
        client.wire.end()

    def _note(self, event: Event) -> None:
        self.outcomes[event.outcome] += 1
        self._observe(event)


def _read_request(text: str | bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestError("Malformed JSON") from None
    if not isinstance(request, dict) or request.get("type") not in ("subscribe", "unsubscribe"):
        raise RequestError("The type of a request is subscribe or unsubscribe")
    if ("channel" in request) is isinstance(request.get("channels"), list):
        raise RequestError("A request has a list of channels, or one channel in Advanced Trade")
    return request
