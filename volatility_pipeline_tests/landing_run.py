"""Numbered messages into Kafka and landers to be killed: what is on disk in the end."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from volatility_pipeline.feed.kafka import Cluster, OrderedProducer
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import LANDED

KEYS = 7
DAYS = 3


def message(number: int, total: int) -> tuple[bytes, int, bytes]:
    """One record: a recorder's line that carries its number, over three event days."""
    at = f"2026-04-0{1 + number * DAYS // total}T12:00:00.000000Z"
    raw = {"type": "ticker", "time": at, "number": number}
    line = {"received_at": at, "connection": "c", "sent": number, "raw": raw}
    return b"P%d-USD" % (number % KEYS), int(time.time() * 1000), json.dumps(line).encode()


async def produce(
    address: str, topic: str, total: int, *, pause: float, round_: int = 1000
) -> None:
    """Sends numbered messages, a round at a time."""
    producer = OrderedProducer(Cluster(address), topic)
    await producer.start()
    for start in range(0, total, round_):
        await producer.send(message(n, total) for n in range(start, min(start + round_, total)))
        await asyncio.sleep(pause)
    await producer.stop()


@dataclass
class Landers:
    """Processes of `volatility land` over one data root."""

    root: Path
    address: str
    topic: str
    roll_seconds: float = 0.5
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts one more; what it says goes to `land.log`."""
        command = ["land", "--topic", self.topic, "--roll-seconds", str(self.roll_seconds)]
        environment = os.environ | {
            "VOLATILITY_DATA": str(self.root),
            "KAFKA_BOOTSTRAP_SERVERS": self.address,
        }
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "land.log").open("ab") as log:
            started = subprocess.Popen(
                [str(Path(sys.executable).with_name("volatility")), *command],
                env=environment,
                stderr=log,
            )
        self.running.append(started)
        return started

    async def start_and_wait(self) -> subprocess.Popen[bytes]:
        """Starts one more and waits until it is at work, so that a signal meets its handler."""
        before = self.said.count("Landing ")
        started = self.start()
        while self.said.count("Landing ") == before:
            await asyncio.sleep(0.1)
        return started

    def end(self, process: subprocess.Popen[bytes], number: int) -> int:
        """Sends a signal to one and waits for its end."""
        process.send_signal(number)
        code = process.wait(timeout=30)
        self.running.remove(process)
        return code

    def end_all(self) -> None:
        """Leaves none behind."""
        for process in list(self.running):
            self.end(process, 9)

    @property
    def said(self) -> str:
        """All that landers said so far."""
        return (self.root / "land.log").read_text()

    def spans(self) -> Iterator[tuple[str, int, int, Path]]:
        """(log, first, last, segment) of everything that landed."""
        lake = Lake(self.root)
        for day in lake.raw_days():
            for path in lake.segments(day):
                match = LANDED.fullmatch(path.name)
                assert match, path
                yield match["log"], int(match["first"]), int(match["last"]), path

    def count(self) -> int:
        """How many offsets landed."""
        return sum(last - first + 1 for _, first, last, _ in self.spans())

    async def wait_for(self, total: int, *, seconds: float = 60) -> None:
        """Waits until so many offsets have landed."""
        deadline = time.monotonic() + seconds
        while self.count() < total:
            assert time.monotonic() < deadline, f"{self.count()} of {total} landed: {self.said}"
            await asyncio.sleep(0.2)

    def check(self, total: int) -> None:
        """Asserts that each number landed once, on its day, at contiguous offsets from 0."""
        numbers = []
        logs: dict[str, list[tuple[int, int]]] = {}
        for log, first, last, path in self.spans():
            lines = path.read_bytes().splitlines()
            assert len(lines) == last - first + 1, path
            logs.setdefault(log, []).append((first, last))
            for line in lines:
                raw = json.loads(line)["raw"]
                assert path.parent.name == f"date={raw['time'][:10]}"
                numbers.append(raw["number"])
        assert len(numbers) == total
        assert sorted(numbers) == list(range(total)), "lost or doubled"
        for spans in logs.values():
            expected = 0
            for first, last in sorted(spans):
                assert first == expected
                expected = last + 1
        assert not list((self.root / "raw").glob(".landing/.*.tmp")), "left behind"
