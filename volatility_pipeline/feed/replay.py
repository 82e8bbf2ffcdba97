"""Recordings into Kafka, line by line as they are: at their own pace, faster, or flat out."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.feed.kafka import OrderedProducer
from volatility_pipeline.resources.segments import Decoded

ROUND_LINES = 2000
LONGEST_PAUSE = 5.0  # seconds, between pieces of a recording
_PRODUCT = re.compile(rb'"(?:product_id|pair)\\?"\s*:\s*\\?"([^"\\]{1,64})')


async def replay(
    paths: Sequence[Path],
    producer: OrderedProducer,
    *,
    speed: float,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> int:
    """Sends the lines of some recordings and returns how many.

    Args:
        paths: The recordings, one after the other; `.gz` and `.zst` are decoded.
        producer: Started.
        speed: 1 keeps the lines' own pace, 20 is twenty times that, 0 is as fast as Kafka takes
            them. Pauses of more than five seconds are cut.
        progress: Told the lines and bytes of each round, once Kafka has acknowledged it.
    """
    sent = 0
    for due in _rounds(paths, speed):
        if due.wait > 0:
            await asyncio.sleep(due.wait)
        stamp = int(time.time() * 1000)
        await producer.send((_key(line), stamp, line) for line in due.lines)
        sent += len(due.lines)
        progress(len(due.lines), sum(map(len, due.lines)) + len(due.lines))
    return sent


class _Round:
    """Lines to be sent together, after a wait in seconds."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.lines: list[bytes] = []


def _rounds(paths: Sequence[Path], speed: float) -> Iterator[_Round]:
    lines = (line for path in paths for line in Decoded(path).lines())
    due = _Round(0)
    before: datetime | None = None
    clock = time.monotonic()
    for line in lines:
        at = read_line(line).time if speed else None
        if at is not None:
            pause = (at - before).total_seconds() / speed if before is not None else 0.0
            clock += min(max(pause, 0.0), LONGEST_PAUSE)
            before = at
        wait = clock - time.monotonic() if speed else 0.0
        if due.lines and (wait > 0 or len(due.lines) >= ROUND_LINES):
            yield due
            due = _Round(max(clock - time.monotonic(), 0.0) if speed else 0.0)
        due.lines.append(line)
    if due.lines:
        yield due


def _key(line: bytes) -> bytes:
    """The product, which decides the partition; lines without one go together."""
    found = _PRODUCT.search(line)
    return found[1] if found else b"-"
