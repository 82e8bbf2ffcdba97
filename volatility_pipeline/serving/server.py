"""The HTTP server under the API: uvicorn with limited heads and no signals of its own.

What a body or a client may do is `limits`; starting and stopping belongs to the command.
"""

import asyncio
import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from volatility_pipeline.serving.limits import Application

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10.0
STALL_SECONDS = 30.0
CONNECTIONS = 800
MOST_CONNECTIONS = 900
"""From the one on they are answered with 503, beyond the other closed unheard: a process may
commonly open 1,024 files, and needs some for itself."""

STOP_SECONDS = 5
TOO_LONG = f"A head may have {HEAD_BYTES:,} bytes."


class Server(uvicorn.Server):
    """Stops when `should_exit` is set; signals are the command's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def settle() -> None:
    """Takes what was loaded so far out of garbage collection; to be called once all is loaded.

    A full collection looks at all objects, half a million of them MLflow's and scikit-learn's: a
    fifth of a second in which nobody is answered, now and then.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # DuckDB complains at the end of what is never collected


def make_server(app: Application) -> Server:
    """A server for an application; it says nothing of itself, and believes no proxy."""
    return Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_level="error",  # whoever sends rubbish fills no log
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which waits for a head for ever and holds one of any size; this one does not.

    Nor does it wait for ever for a client that reads nothing.
    """

    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _head = 0
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Gives the first head its time, where there is room."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_SECONDS, transport.close)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Gives each further head its own, from its first byte.

        The parser tells of a header once that is whole, and holds it until then: what came since
        it last told of anything is counted here.
        """
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > HEAD_BYTES:
            self.send_400_response(TOO_LONG)
        elif self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        """Begins to count."""
        super().on_message_begin()
        self._head = 0

    def on_url(self, url: bytes) -> None:
        """Counts the bytes of the address."""
        self._hold(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts the bytes of the headers."""
        self._hold(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head came in time."""
        self._rest()
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The body goes on; how long and how large it may be is not said here."""
        self._unread = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        """Gives a client that does not read some time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._rest()
        self.resume_writing()
        super().connection_lost(exc)

    def _hold(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError(TOO_LONG)  # answered with 400

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
