"""From a WebSocket through Kafka to landed segments: how many messages a second, and who limits it.

`python -m benchmarks.feed` starts a broker, the stand-in exchange with 50 products, the recorder
and the lander as their users start them. First everything runs flat out, which shows the most that
gets through and which process is then busiest; then at a fixed rate for some minutes, which shows
that it holds and that memory stays flat. Every message has to be on disk at the end, once.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.unattended import processes
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import LANDED
from volatility_pipeline_tests.broker import Broker, free_port

PRODUCTS = 50
TARGET = 10_000.0
WARM_SECONDS = 5.0
LOOK_SECONDS = 5.0
START_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Load:
    """What the parts did in one run."""

    title: str
    seconds: float = 0.0
    messages: int = 0
    cores: dict[str, float] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)  # MB at each look

    @property
    def rate(self) -> float:
        """Messages per second that landed."""
        return self.messages / self.seconds


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def spans(lake: Lake) -> list[tuple[str, int, int]]:
    """(log, first, last) of all landed segments."""
    names = [path.name for day in lake.raw_days() for path in lake.segments(day)]
    found = [LANDED.fullmatch(name) for name in names]
    return [(one["log"], int(one["first"]), int(one["last"])) for one in found if one]


def run(title: str, pace: list[str], seconds: float) -> Load:
    """Runs the feed for some seconds after it has warmed up."""
    folder = Path(tempfile.mkdtemp(prefix="volatility-feed-"))
    broker = Broker(folder / "kafka")
    root = folder / "data"
    root.mkdir()
    port = str(free_port())
    products = ",".join(f"P{number}-USD" for number in range(PRODUCTS))
    environment = {"VOLATILITY_DATA": str(root), "KAFKA_BOOTSTRAP_SERVERS": broker.address}
    play = ["--products", products, "--port", port, *pace]
    listen = ["--products", products, "--url", f"ws://127.0.0.1:{port}"]
    commands = {
        "exchange": ["volatility", "exchange", *play],
        "land": ["volatility", "land", "--roll-seconds", "2"],
        "record": ["volatility", "record", *listen],
    }
    load = Load(title)
    lake = Lake(root)
    try:
        broker.start()
        assert broker.process is not None
        with processes(folder, commands, environment) as running:
            pids = {name: process.pid for name, process in running.items()}
            pids["kafka"] = broker.process.pid
            _wait_for_lines(lake)
            time.sleep(WARM_SECONDS)
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            landed, started = _landed(lake), time.monotonic()
            while time.monotonic() - started < seconds:
                time.sleep(LOOK_SECONDS)
                for name, pid in pids.items():
                    load.memory.setdefault(name, []).append(megabytes(pid))
            load.messages = _landed(lake) - landed
            load.seconds = time.monotonic() - started
            load.cores = {
                name: (cpu_seconds(pid) - before[name]) / load.seconds for name, pid in pids.items()
            }
            for name in ("record", "exchange"):
                running[name].send_signal(signal.SIGTERM)
                running[name].wait(timeout=30)
            _wait_until_still(lake)
        said = (folder / "record.log").read_text().splitlines()[-1]
        recorded = int(said.split(" messages")[0].split()[-1].replace(",", ""))
        if recorded != _landed(lake):
            raise SystemExit(f"{recorded:,} recorded, {_landed(lake):,} landed: {folder} is kept.")
    finally:
        broker.stop()
    shutil.rmtree(folder)
    return load


def _landed(lake: Lake) -> int:
    return sum(last - first + 1 for _, first, last in spans(lake))


def _wait_for_lines(lake: Lake) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _landed(lake):
        if time.monotonic() > deadline:
            raise SystemExit("Nothing has landed within a minute.")
        time.sleep(0.5)


def _wait_until_still(lake: Lake) -> None:
    """Waits until the lander has caught up."""
    before = -1
    while before != _landed(lake):
        before = _landed(lake)
        time.sleep(5)


def show(load: Load) -> None:
    """Prints a run's figures."""
    print(f"\n{load.title}: {load.rate:,.0f} messages/s landed over {load.seconds:.0f} s")
    for name, cores in load.cores.items():
        memory = load.memory[name]
        tenth = max(len(memory) // 10, 1)
        early, late = (sum(part) / tenth for part in (memory[:tenth], memory[-tenth:]))
        print(
            f"  {name:9} {cores:.2f} cores, {1e6 * cores / load.rate:5.1f} µs a message, "
            f"memory {early:,.0f} → {late:,.0f} MB"
        )


def main() -> int:
    """Both runs; the exit code is 1 if the sustained rate falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the run at a fixed rate")
    parser.add_argument("--rate", type=float, default=12_000.0, help="messages a second in it")
    chosen = parser.parse_args()
    flat_out = run(f"Flat out, {PRODUCTS} products", ["--speed", "0"], 30)
    show(flat_out)
    busiest = max(flat_out.cores, key=lambda name: flat_out.cores[name])
    print(f"  The limit is {busiest}, with {flat_out.cores[busiest]:.2f} of a core.")
    steady = run(
        f"{chosen.rate:,.0f} a second, {PRODUCTS} products",
        ["--rate", str(chosen.rate)],
        60 * chosen.minutes,
    )
    show(steady)
    is_met = steady.rate >= TARGET
    print(f"  Target {TARGET:,.0f}/s sustained: {'met' if is_met else 'not met'}.")
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
