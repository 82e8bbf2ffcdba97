"""What the API refuses before it looks at it: strangers, too much, too often, too slowly.

Middleware around the whole application. What a request may say is the application's to judge; heads
of requests are limited in `server`.
"""

import asyncio
import hmac
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

BODY_BYTES = 4 << 20
BODY_SECONDS = 10.0
HELD_BYTES = 32 << 20
"""Of all bodies that are read or answered together; what is made of them takes several times it."""

TOO_LARGE = f"A body may have {BODY_BYTES:,} bytes."
CLOSE = {"connection": "close"}
RATE = 1000.0
MOST_CLIENTS = 10_000
OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json"})
"""What needs no key: whether it lives, and pages that hold no data."""

PRIVATE = frozenset({"internal", "local", "localhost"})
"""Top-level domains that nobody can register."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class TokenBuckets:
    """A bucket for each client: it holds a second's worth, and fills at the rate."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.room = max(1.0, rate)
        self.clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Takes a token; returns 0, or after how many seconds there will be one."""
        now = self.clock()
        level, then = self._levels.pop(client, (self.room, now))
        level = min(self.room, level + (now - then) * self.rate)
        is_there = level >= 1
        self._levels[client] = (level - is_there, now)
        if len(self._levels) > MOST_CLIENTS:
            self._levels.popitem(last=False)
        return 0.0 if is_there else (1 - level) / self.rate


class Limits:
    """Middleware: key, rate, and a body that is read whole, in time, before it is passed on.

    Without a key, a page of anybody's could have its own name point here (DNS rebinding), and the
    browser would let it read: then only names that no page on the internet can have are answered.
    """

    def __init__(self, app: Application, *, key: str | None = None, rate: float = RATE) -> None:
        """Wraps an application.

        Args:
            app: What is protected.
            key: What a request must carry, as `X-API-Key` or as a bearer token; None for nothing.
            rate: Requests a second and client; 0 for any number.
        """
        self.app = app
        self.key = key.encode() if key else None
        self.buckets = TokenBuckets(rate) if rate else None
        self._held = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes on what is within the limits; answers the rest itself."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.encode() not in said
                    ),
                ]
            await send(message)

        client = scope["client"][0] if scope.get("client") else ""
        wait = self.buckets.wait(client) if self.buckets else 0.0
        headers = dict(scope["headers"])
        if wait:
            said = f"At most {self.buckets.rate:g} requests a second." if self.buckets else ""
            await _refuse(sealed, 429, said, {"retry-after": str(math.ceil(wait))})
        elif not self._knows(scope["path"], headers):
            said = "The header X-API-Key lacks or is wrong."
            await _refuse(sealed, 401, said, {"www-authenticate": "Bearer"})
        elif self.key is None and not _is_private(headers.get(b"host", b"").decode("latin-1")):
            said = "Under a public name an API key is needed: VOLATILITY_API_KEY."
            await _refuse(sealed, 421, said, {})
        elif _has_body(headers):
            await self._with_body(scope, headers, receive, sealed)
        else:
            await self.app(scope, receive, sealed)

    def _knows(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        if self.key is None or path in OPEN_PATHS:
            return True
        given = headers.get(b"x-api-key")
        if given is None:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        return hmac.compare_digest(given, self.key)

    async def _with_body(
        self, scope: Message, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > BODY_BYTES:
            await _refuse(send, 413, TOO_LARGE, CLOSE)
            return
        body = bytearray()
        try:
            fault = await self._read(receive, body)
            if fault is not None:
                await _refuse(send, *fault)
                return
            whole = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

            async def replay() -> Message:
                message = next(whole, None)
                return await receive() if message is None else message

            await self.app(scope, replay, send)
        finally:
            self._held -= len(body)

    async def _read(
        self, receive: Receive, body: bytearray
    ) -> tuple[int, str, Mapping[str, str]] | None:
        """Reads a body to its end; returns what it is refused with, if it is."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                is_more = True
                while is_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 400, "The body was cut off.", CLOSE  # nobody hears it
                    piece = message.get("body", b"")
                    body += piece
                    self._held += len(piece)
                    is_more = message.get("more_body", False)
                    if len(body) > BODY_BYTES:
                        return 413, TOO_LARGE, CLOSE
                    if self._held > HELD_BYTES:
                        return 503, "Too many large bodies at once.", {**CLOSE, "retry-after": "1"}
        except TimeoutError:
            return 408, f"The body did not come within {BODY_SECONDS:g} s.", CLOSE
        return None


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _is_private(host: str) -> bool:
    """Whether the host that was asked for is an address, or a name without a public one's domain.

    A request without any is no browser's.
    """
    name = re.sub(r":\d*$", "", host).lower()
    last = name.rpartition(".")[2]
    return name == last or name.startswith("[") or last.isdigit() or last in PRIVATE


async def _refuse(send: Send, status: int, said: str, headers: Mapping[str, str]) -> None:
    body = json.dumps({"detail": said}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
