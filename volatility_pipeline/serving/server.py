"""The HTTP server under the API: uvicorn with limited heads and no signals of its own.

What a body or a client may do is `limits`; starting and stopping belongs to the command.
"""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from volatility_pipeline.serving.limits import Application

HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10.0
CONNECTIONS = 1000
STOP_SECONDS = 5


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


def make_server(app: Application) -> Server:
    """A server for an application; it says nothing of itself, and believes no proxy."""
    return Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, which waits for a head for ever and holds one of any size; this one does not."""

    _waiting: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Gives the first head its time."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Gives each further head its own."""
        super().on_message_begin()
        self._head = 0
        self._wait()

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
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._rest()
        super().connection_lost(exc)

    def _hold(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError(f"A head may have {HEAD_BYTES:,} bytes.")  # answered with 400

    def _wait(self) -> None:
        self._rest()
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
