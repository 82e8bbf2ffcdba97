"""From an event on the WebSocket to a probability of the API: how long, at which cost.

`python -m benchmarks.live_latency` starts the stand-in exchange, the recorder, a broker and the API
as their users start them, over a lake of two hours with a champion for each product, and asks
`GET /predict/{product}` for the first answer whose `ts` lies after an event. The clock starts at
the event's own time. The wait for the next whole second, half a second on average and a second at
most, and the grace of half a second are in it. It runs with ten products and with fifty, and with
ten straight from the exchange (`--source coinbase`). The exit code is 1 where ten products miss the
target.
"""

import argparse
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.feed import cpu_seconds, megabytes
from benchmarks.load import wait_until_ready
from benchmarks.unattended import processes
from volatility_pipeline.cli.console import quiet_dagster
from volatility_pipeline.feed.coinbase import Feed, subscriptions
from volatility_pipeline_tests.broker import Broker, free_port
from volatility_pipeline_tests.registered_models import appoint, register
from volatility_pipeline_tests.tick_lake import built_lake, walk

TARGET = 2.0  # seconds, p99 with ten products
GRACE = 0.5
HISTORY = timedelta(hours=2)
PREPARING, PREPARING_EACH = timedelta(minutes=5), timedelta(seconds=10)  # at most
TICK_SECONDS = 5.0  # between two ticks of the history
SETTLE_SECONDS = 10.0
ASK_SECONDS = 0.005  # between two questions while there is no answer
READY_SECONDS = 420.0  # a run that was broken needs five minutes for its first row
PERCENTILES = (50, 95, 99, 100)

Answer = tuple[str, float, float]  # a product, its `ts`, and when it was there: epoch seconds


@dataclass
class Measured:
    """One run: seconds from event to answer, and what the parts took meanwhile."""

    title: str
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)  # MB

    def at(self, percent: float) -> float:
        """A percentile of the latencies, the nearest one that was measured."""
        ranked = sorted(self.latencies)
        return ranked[min(int(len(ranked) * percent / 100), len(ranked) - 1)]


def prepare(root: Path, products: Sequence[str], model: str) -> None:
    """Makes a lake with a champion for each product, whose ticks reach beyond this work's end."""
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    length = HISTORY + PREPARING + len(products) * PREPARING_EACH
    ticks = [
        one
        for seed, name in enumerate(products)
        for one in walk(
            now - HISTORY,
            int(length.total_seconds()),
            step=TICK_SECONDS,
            seed=seed,
            product_id=name,
        )
    ]
    built_lake(root, ticks)
    quiet_dagster()
    for name in products:
        register(root, name, [model])
        appoint(root, name, model)


class Observer(threading.Thread):
    """Hears the exchange as anybody does, and notes when what happened."""

    def __init__(self, url: str, products: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.products = products
        self.events: dict[str, list[float]] = defaultdict(list)  # by product, seconds since 1970

    def run(self) -> None:
        """Listens until the exchange goes."""
        with connect(self.url) as socket:
            for message in subscriptions(Feed.EXCHANGE, self.products):
                socket.send(message)
            try:
                for text in socket:
                    message = orjson.loads(text)
                    if message["type"] == "ticker":
                        at = datetime.fromisoformat(message["time"]).timestamp()
                        self.events[message["product_id"]].append(at)
            except ConnectionClosed:
                return


def answers(port: int, products: Sequence[str], seconds: float) -> Iterator[Answer]:
    """Each product's new answers for some seconds.

    One product is asked at a time, until its row is there: rows come in the order of their names.
    Who waited longest is asked first; who is refused an answer is left for the next second.
    """
    api = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    newest = dict.fromkeys(sorted(products), 0.0)
    end = time.time() + seconds
    while time.time() < end:
        due = int(time.time() - GRACE)
        waiting = [name for name, ts in newest.items() if ts < due]
        for product in sorted(waiting, key=newest.__getitem__):
            while True:
                api.request("GET", f"/predict/{product}")
                answer = api.getresponse()
                body, at = json.loads(answer.read()), time.time()
                if answer.status != 200:
                    print(body["detail"])
                    break
                ts = datetime.fromisoformat(body["ts"]).timestamp()
                if ts > newest[product]:
                    newest[product] = ts
                    yield product, ts, at
                if ts >= due or at > due + 1 + GRACE:
                    break
                time.sleep(ASK_SECONDS)
        time.sleep(max(due + 1 + GRACE - time.time(), 0))


@contextmanager
def kafka(folder: Path) -> Iterator[Broker]:
    """A broker while the context lasts."""
    broker = Broker(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def run(title: str, count: int, source: str, chosen: argparse.Namespace) -> Measured:
    """Runs the whole path for some minutes after it has settled."""
    folder = Path(tempfile.mkdtemp(prefix="volatility-latency-"))
    products = [f"P{number}-USD" for number in range(count)]
    named = ["--products", ",".join(products)]
    print(f"{title}: preparing {count} products", flush=True)
    prepare(folder / "data", products, chosen.model)
    exchange, api = free_port(), free_port()
    url = f"ws://127.0.0.1:{exchange}"
    pace = ["--rate", str(chosen.rate * count)]
    serve = ["serve", *named, "--port", str(api), "--source", source]
    commands = {
        "exchange": ["volatility", "exchange", *named, "--port", str(exchange), *pace],
        "record": ["volatility", "record", *named, "--url", url],
        "serve": ["volatility", *serve],
    }
    if source == "coinbase":
        del commands["record"]
        commands["serve"] += ["--url", url]
    measured = Measured(title)
    with kafka(folder / "kafka") as broker:
        assert broker.process is not None
        environment = {
            "VOLATILITY_DATA": str(folder / "data"),
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "VOLATILITY_RATE_LIMIT": "0",
        }
        with processes(folder, commands, environment) as running:
            pids = {name: process.pid for name, process in running.items()}
            if source == "kafka":
                pids["kafka"] = broker.process.pid
            wait_until_ready(f"http://127.0.0.1:{api}", READY_SECONDS)
            observer = Observer(url, products)
            observer.start()
            for _ in answers(api, products, SETTLE_SECONDS):
                pass
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            started = time.monotonic()
            found = list(answers(api, products, 60 * chosen.minutes))
            measured.seconds = time.monotonic() - started
            for name, pid in pids.items():
                measured.cores[name] = (cpu_seconds(pid) - before[name]) / measured.seconds
                measured.memory[name] = megabytes(pid)
    measured.latencies = latencies(observer.events, found)
    shutil.rmtree(folder)
    return measured


def latencies(events: dict[str, list[float]], found: Sequence[Answer]) -> list[float]:
    """For each event after a product's first answer, how long until an answer knew it."""
    made: list[float] = []
    known: dict[str, int] = {}
    for product, ts, at in found:
        times = events[product]
        upto = bisect_left(times, ts)
        made += [at - time for time in times[known.get(product, upto) : upto]]
        known[product] = upto
    return made


def show(measured: Measured) -> None:
    """Prints a run's figures."""
    shown = "  ".join(
        f"{'max' if percent == 100 else f'p{percent}'} {measured.at(percent):.2f}"
        for percent in PERCENTILES
    )
    events = len(measured.latencies)
    print(
        f"{measured.title:24} {events:8,} events, {events / measured.seconds:5.0f}/s   {shown} s   "
        f"mean {statistics.mean(measured.latencies):.2f} s"
    )
    for name, cores in measured.cores.items():
        print(f"    {name:9} {cores:5.2f} cores  {measured.memory[name]:6,.0f} MB")


def draw(runs: Sequence[Measured], path: Path) -> None:
    """The shares of events that are answered for within a time, as a picture."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for one in runs:
        ranked = sorted(one.latencies)
        shares = [100 * (place + 1) / len(ranked) for place in range(len(ranked))]
        axes.plot(ranked, shares, label=f"{one.title}: p99 {one.at(99):.2f} s")
    axes.axvline(TARGET, color="#888888", linestyle="--", label="target of p99, ten products")
    axes.set(
        title="From an event to a probability that knows it (simulated market)",
        xlabel="seconds",
        ylabel="% of events",
        xlim=(0, None),
    )
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    """The three runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run")
    parser.add_argument("--rate", type=float, default=5.0, help="tickers a second and product")
    parser.add_argument("--model", default="har_logistic", help="the champions' rung")
    parser.add_argument("--only", type=int, help="products of the one run, through Kafka")
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    chosen = parser.parse_args()
    wanted = [(10, "kafka"), (50, "kafka"), (10, "coinbase")]
    if chosen.only:
        wanted = [(chosen.only, "kafka")]
    runs = []
    for count, source in wanted:
        way = "Kafka" if source == "kafka" else "without Kafka"
        runs.append(run(f"{count} products, {way}", count, source, chosen))
        show(runs[-1])
    print(f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    is_met = all(one.at(99) < TARGET for one in runs if one.title.startswith("10 "))
    print(f"p99 under {TARGET:g} s with ten products: {'met' if is_met else 'not met'}.")
    if chosen.plot:
        draw(runs, chosen.plot)
        print(f"The curves: {chosen.plot}")
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
