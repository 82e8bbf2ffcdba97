"""Killing each process of the composed system at random, while somebody asks the API all the time.

`python -m benchmarks.kills --minutes 10 --plot data/kills.png` runs the demo of the compose file as
processes of this machine, each service by its very command and started again as Docker does. Every
10 to 20 seconds one of them is killed, stopped for a while or told to end. Three products are asked
for ten times a second meanwhile. Afterwards what landed is built anew and every answer is held
against it (`kills_verdict`). The exit code is 1 where an answer was stale or wrong, a probe was not
true, or something did not come back by itself.

The market is made up. What its models say of it matters to nobody: they are fitted at the start.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kills_verdict import (
    MAX_AGE,
    Kill,
    Poll,
    Run,
    Said,
    draw,
    judge,
    lines_of,
    said,
    show,
    wait_until_landed,
)
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline_tests.broker import Broker, missing_tools
from volatility_pipeline_tests.composed import Database, Machine, Service, missing_programs
from volatility_pipeline_tests.registered_models import appoint, register
from volatility_pipeline_tests.tick_lake import build_all

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
MODEL = "logistic_regression"  # in which every feature's last bit shows
HISTORY_HOURS = 3.0
# In the order of their start. Prometheus and Grafana only read; `seed` is done by now.
FEED = ("exchange", "record-demo")
REST = ("land", "api", "postgres", "mlflow", "code", "webserver", "daemon")

# Docker's: how long until a container is started again, doubled where it did not run for so long.
FIRST_DELAY, LONGEST_DELAY, SETTLED = 0.1, 60.0, 10.0

PAUSES = (10.0, 20.0)  # seconds between two kills
WAYS = {"SIGKILL": 0.6, "pause": 0.25, "SIGTERM": 0.15}
STOPS = (2.0, 14.0)  # seconds of a pause, on both sides of what an answer's age may be
ASK_SECONDS = 0.1
PATIENCE = 2.0  # seconds that an answer may take
CALM_SECONDS = 10.0  # of good answers that show that all is well again
RECOVERY_SECONDS = 420.0  # after a feed that was gone for long, features take five minutes


class Appending(Broker):
    """A broker that stamps messages with the time at which it got them."""

    def properties(self) -> dict[str, str]:
        """The tests', with the stamps that tell which events came late."""
        return super().properties() | {"log.message.timestamp.type": "LogAppendTime"}


class Grouped(Service):
    """A service whose process leads a group, which ends with it as a container's processes do."""

    def command(self) -> Sequence[str]:
        """The container's, in a session of its own."""
        return ["setsid", *super().command()]


class GroupedDatabase(Grouped, Database):
    """The same of PostgreSQL."""


@dataclass
class Kept:
    """A process that is started again whenever it ends, as `restart: unless-stopped` does.

    Attributes:
        name: The service's.
        start: Starts it, and returns it once it runs.
        is_at_work: Whether it does what it is for, by now; told since when it has to.
        farewell: The signal that asks it to end.
        starts: When it was started, epoch seconds.
    """

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    is_at_work: Callable[[float], bool]
    farewell: signal.Signals = signal.SIGTERM
    starts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._is_stopping = threading.Event()
        self._begin()
        self._keeper = threading.Thread(target=self._keep, name=self.name)
        self._keeper.start()

    @property
    def is_running(self) -> bool:
        """Whether there is a process now."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal: to all its processes, but the one that asks to end to the first alone."""
        if number is self.farewell:
            self.process.send_signal(number)
        else:
            self._signal_group(number)

    def stop(self) -> None:
        """Asks it to end, for good."""
        self._is_stopping.set()
        self.process.send_signal(self.farewell)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._signal_group(signal.SIGKILL)
        self._keeper.join()

    def _begin(self) -> None:
        self.starts.append(time.time())
        self.process = self.start()

    def _keep(self) -> None:
        delay = FIRST_DELAY
        while True:
            began = time.monotonic()
            self.process.wait()
            self._signal_group(signal.SIGKILL)
            has_settled = time.monotonic() - began > SETTLED
            delay = FIRST_DELAY if has_settled else min(2 * delay, LONGEST_DELAY)
            if self._is_stopping.wait(delay):
                return
            self._begin()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


# The system


def restart(service: Service) -> "subprocess.Popen[bytes]":
    """Starts a service's process again; what it says is appended."""
    with service.log.open("ab") as log:
        service.process = subprocess.Popen(
            service.process.args,
            cwd=service.machine.app,
            env=service.environment,
            stdout=log,
            stderr=log,
            user=service.user,
        )
    return service.process


def is_newer(root: Path, pattern: str, since: float) -> bool:
    """Whether a file was written after a time."""
    with suppress(FileNotFoundError):  # replaced at this moment
        return any(path.stat().st_mtime > since for path in root.glob(pattern))
    return False


def keep_service(name: str, machine: Machine) -> Kept:
    """A service of the compose file, kept."""
    chosen = GroupedDatabase if name == "postgres" else Grouped
    service = chosen(name, machine, VOLATILITY_PRODUCTS=",".join(PRODUCTS))
    processes = itertools.chain([service.process], iter(lambda: restart(service), None))
    # Health checks that look minutes back say nothing here: what the service writes does.
    written = {"record-demo": "spool/*/*.records", "land": "raw/offsets.json"}

    def is_at_work(since: float) -> bool:
        if name in written:
            return is_newer(machine.root, written[name], since)
        if name == "daemon":
            return service.said.count("following daemons") >= len(kept.starts)
        return service.is_healthy

    farewell = signal.SIGINT if name == "postgres" else signal.SIGTERM  # as its image has it
    kept = Kept(name, partial(next, processes), is_at_work, farewell)
    return kept


def keep_broker(broker: Broker) -> Kept:
    """Kafka, kept."""

    def start() -> "subprocess.Popen[bytes]":
        broker.start()
        assert broker.process is not None
        return broker.process

    def is_listening(_: float) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", broker.port)) == 0

    return Kept("kafka", start, is_listening)


@contextmanager
def system(folder: Path) -> Iterator[tuple[Machine, dict[str, Kept]]]:
    """The demo, with a past that ends where its feed begins, and models fitted on it."""
    root = folder / "data"
    root.mkdir()
    broker = Appending(folder / "kafka")
    machine = Machine(root, broker.address)
    running: dict[str, Kept] = {}
    with ExitStack() as leave:
        leave.callback(shutil.rmtree, machine.socket)
        leave.callback(broker.stop)  # where it is interrupted while it starts

        def run(kept: Kept) -> None:
            leave.callback(kept.stop)
            running[kept.name] = kept

        run(keep_broker(broker))
        begun = datetime.now(UTC).replace(microsecond=0)
        for name in FEED:
            run(keep_service(name, machine))
            wait_until(lambda: running[name].is_at_work(0), name)  # noqa: B023 called at once
        start = begun - timedelta(hours=HISTORY_HOURS)
        past = Market(PRODUCTS, start, HISTORY_HOURS, is_noise=True)  # which is never silent
        land_simulation(Lake(root), past)
        build_all(Lake(root))
        for product in PRODUCTS:
            register(root, product, [MODEL])
            appoint(root, product, MODEL)
        for name in REST:
            run(keep_service(name, machine))
            wait_until(lambda: running[name].is_at_work(0), name)  # noqa: B023 called at once
        yield machine, running


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Waits; raises SystemExit where it takes too long."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not there after {seconds:g} s; --keep keeps its log.")
        time.sleep(0.2)


# Who asks


class Asker:
    """Asks the API for everything, ten times a second, and keeps every answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.polls: list[Poll] = []
        self.history: set[Said] = set()
        self._is_stopping = threading.Event()
        paths = [f"/predict/{product}" for product in PRODUCTS]
        paths += ["/ready", "/health"]
        rounds = [[path] for path in paths]
        rounds.append([f"/history/{product}?minutes=1" for product in PRODUCTS])
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in rounds]

    def start(self) -> None:
        """Begins to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Asks no more."""
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()

    def is_calm(self, seconds: float) -> bool:
        """Whether all that was asked in the last seconds was answered well."""
        since = time.time() - seconds
        recent = list(itertools.takewhile(lambda one: one.sent > since, reversed(self.polls)))
        return bool(recent) and all(one.status == 200 for one in recent)

    def _ask(self, paths: Sequence[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        for path in itertools.cycle(paths):
            sent = time.time()
            status: int | None = None
            body: Any = None
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body, status = json.loads(answer.read()), answer.status
            except (OSError, http.client.HTTPException) as error:
                body = type(error).__name__
                connection.close()
            poll = Poll(path, sent, time.time(), status, body)
            if path.startswith("/history/") and status == 200:
                self.history.update(said(poll))
                poll = poll._replace(body=None)
            self.polls.append(poll)
            if self._is_stopping.wait(max(sent + ASK_SECONDS - time.time(), 0)):
                break
        connection.close()


# Who kills


def kill_at_random(running: dict[str, Kept], seconds: float, rng: random.Random) -> list[Kill]:
    """Kills one process after the other for so long, all of them in turns of a random order."""
    kills: list[Kill] = []
    watches: list[threading.Thread] = []
    left: list[str] = []
    end = time.monotonic() + seconds
    while (pause := rng.uniform(*PAUSES)) + time.monotonic() < end:
        time.sleep(pause)
        stopped = {one.service for one in kills if one.until > time.time()}
        left = left or rng.sample(list(running), len(running))
        there = [name for name in left if running[name].is_running and name not in stopped]
        if not there:
            continue
        left.remove(there[0])
        chosen = running[there[0]]
        (how,) = rng.choices(list(WAYS), list(WAYS.values()))
        now = time.time()
        kill = Kill(chosen.name, how, now, now + (rng.uniform(*STOPS) if how == "pause" else 0))
        kills.append(kill)
        print(
            f"{datetime.now(UTC):%H:%M:%S} {kill.service:11} {how}"
            + (f" for {kill.until - kill.at:.0f} s" if how == "pause" else ""),
            flush=True,
        )
        watches.append(threading.Thread(target=carry_out, args=(kill, chosen)))
        watches[-1].start()
    for watch in watches:
        watch.join()
    return kills


def carry_out(kill: Kill, kept: Kept) -> None:
    """Sends the signals, and waits until the process does its work again."""
    starts = len(kept.starts)
    if kill.how == "pause":
        paused = kept.process.pid
        os.killpg(paused, signal.SIGSTOP)
        time.sleep(max(kill.until - time.time(), 0))
        with suppress(ProcessLookupError):
            os.killpg(paused, signal.SIGCONT)
    else:
        kept.send(signal.SIGKILL if kill.how == "SIGKILL" else kept.farewell)
    end = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < end:
        is_again = kill.how == "pause" or len(kept.starts) > starts
        if is_again and kept.is_at_work(max(kill.until, kept.starts[-1])):
            kill.healthy_at = time.time()
            return
        time.sleep(0.2)


def main() -> int:
    """Runs it all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of kills")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, when and how")
    parser.add_argument("--plot", type=Path, help="draw the timeline here")
    parser.add_argument("--keep", action="store_true", help="keep the data root and all logs")
    chosen = parser.parse_args()
    missing = missing_programs() or missing_tools()
    if missing:
        raise SystemExit(missing)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="volatility-kills-"))
    try:
        with system(folder) as (machine, running):
            asker = Asker(int(machine.ports["8000"]))
            asker.start()
            try:
                wait_until(lambda: asker.is_calm(CALM_SECONDS), "good answers", RECOVERY_SECONDS)
                begun = time.time()
                kills = kill_at_random(running, 60 * chosen.minutes, random.Random(chosen.seed))
                killed_until = time.time()
                time.sleep(MAX_AGE + CALM_SECONDS)  # what the last ones did shows by then
                with suppress(SystemExit):  # what did not come back is for the verdict to say
                    wait_until(lambda: asker.is_calm(CALM_SECONDS), "", RECOVERY_SECONDS)
                is_well = asker.is_calm(CALM_SECONDS)
            finally:
                asker.stop()
            for name in reversed(FEED):
                running[name].stop()
            lines = asyncio.run(lines_of(f"127.0.0.1:{machine.ports['19092']}"))
            missing = wait_until_landed(Lake(machine.root), len(lines))
            running["api"].stop()
            run = Run(
                products=PRODUCTS,
                begun=begun,
                killed_until=killed_until,
                kills=kills,
                polls=asker.polls,
                history=asker.history,
                starts={name: kept.starts for name, kept in running.items()},
                is_well=is_well,
            )
        found = judge(run, machine.root, folder / "batch", lines)
        found.faults += [missing] if missing else []
        show(run, found)
        if chosen.plot:
            draw(run, found, chosen.plot)
            print(f"The timeline: {chosen.plot}")
        return int(bool(found.faults))
    finally:
        if chosen.keep:
            print(f"Kept: {folder}")
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
