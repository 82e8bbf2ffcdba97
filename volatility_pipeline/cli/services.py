"""What the long-running commands share: signals, an end on time, words and a status line."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from volatility_pipeline.cli.console import ERRORS

PLAIN_SECONDS = 30.0
LIVE_SECONDS = 0.5
MOST_NAMES = 5


def say(text: str) -> None:
    """Tells a person something, with the time."""
    ERRORS.print(
        f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False, soft_wrap=True, markup=False
    )


def listed(products: Sequence[str]) -> str:
    """Products by name, or how many there are of them where that is too long."""
    return ", ".join(products) if len(products) <= MOST_NAMES else f"{len(products)} products"


class Rate:
    """How fast a count grows, per second, between two looks that are a second or more apart."""

    def __init__(self) -> None:
        self._then = (time.monotonic(), 0)
        self._rate = 0.0

    def __call__(self, count: int) -> float:
        """The rate, told what the count is now."""
        at, before = self._then
        now = time.monotonic()
        if now - at > 1:
            self._rate = (count - before) / (now - at)
            self._then = (now, count)
        return self._rate


def serve(
    work: Callable[[], Awaitable[None]],
    *,
    status: Callable[[], str],
    close: Callable[[], Awaitable[None]] | None = None,
    minutes: float | None = None,
) -> None:
    """Runs a service until it ends, its time is over, or SIGINT or SIGTERM comes.

    Args:
        work: Runs for as long as it may; it is cancelled.
        status: One line about how it goes, shown live on a terminal, else every 30 seconds, and
            last of all.
        close: Flushes and disconnects, whatever ended the work.
        minutes: When to stop.
    """
    asyncio.run(_serve(work, status, close, minutes))


async def _serve(
    work: Callable[[], Awaitable[None]],
    status: Callable[[], str],
    close: Callable[[], Awaitable[None]] | None,
    minutes: float | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if minutes is not None:
        loop.call_later(60 * minutes, stop.set)
    working = asyncio.ensure_future(work())
    stopping = asyncio.create_task(stop.wait())
    showing = asyncio.create_task(_show(status))
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        stopping.cancel()
        working.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await working
        finally:
            if close is not None:
                await close()
    say(f"Stopped. {status()}.")


async def _show(status: Callable[[], str]) -> None:
    if not ERRORS.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_SECONDS)
            say(status())
    with ERRORS.status(status()) as shown:
        while True:
            await asyncio.sleep(LIVE_SECONDS)
            shown.update(status())
