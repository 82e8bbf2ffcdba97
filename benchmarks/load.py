"""How much the API answers, and how fast: `python -m benchmarks.load --data DIR --seconds 300`.

It serves the champions of a built and trained data root, its newest feature rows played each second
as if they were live, and loads that with wrk (Debian's package): first as many requests as a number
of connections can make, then a mixed load at a given rate for the given time, with the server's
memory watched. A connection sends its next request after the answer and a pause; at the given rate
there are enough of them that a slow answer holds few others back. Exit code 1 where a target is not
met. `--address` loads a service that runs already.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.api import Service, create_app
from volatility_pipeline.serving.live import FeatureRow
from volatility_pipeline.serving.predictor import Predictor
from volatility_pipeline.serving.server import make_server, settle

SCRIPT = Path(__file__).with_name("load.lua")
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
PAUSE_MS = 100
RATES = {"GET": 550, "POST": 220}
"""Requests a second of the mixed load; each a tenth above its target."""

TARGETS = {"GET": 500, "POST": 200}
P95_SECONDS = 0.020
BATCH_ROWS = 1000
BATCH_SECONDS = 0.100
GROWTH = 0.05  # of memory, from the second quarter of the time to the last
WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class Load:
    """What wrk measured: seconds at percentiles, by name."""

    requests: int
    seconds: float
    errors: int
    latency: dict[str, float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    def __str__(self) -> str:
        shown = " ".join(f"{1e3 * self.latency[share]:8.2f}" for share in ("50", "95", "99", "100"))
        return f"{self.rate:8,.0f}/s {shown} ms {self.errors:6} errors"


def wrk(
    address: str, *, connections: int, seconds: int, body: Path | None = None, pause: int = 0
) -> "subprocess.Popen[str]":
    """Starts a load; `measured` waits for its end."""
    environment = {**os.environ, "LOAD_PAUSE": str(pause)}
    if body is not None:
        environment["LOAD_BODY"] = str(body)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    return subprocess.Popen(
        [*command, "-s", SCRIPT, address], env=environment, stdout=subprocess.PIPE, text=True
    )


def measured(process: "subprocess.Popen[str]") -> Load:
    """What a load came to."""
    out, _ = process.communicate()
    return Load(**json.loads(out.splitlines()[-1]))


# The service


def newest_rows(lake: Lake, count: int) -> pd.DataFrame:
    """The newest feature rows of each product whose threshold is known, in time order."""
    found = []
    for features, labels in zip(lake.files("features"), lake.files("labels"), strict=True):
        both = pd.read_parquet(features).merge(pd.read_parquet(labels), on=["product_id", "ts"])
        found.append(both.dropna(subset=["trailing_threshold"]))
    return pd.concat(found).sort_values("ts").groupby("product_id").tail(count)


def features_of(row: Any) -> dict[str, float | None]:
    """A row's features, None where there is none."""
    values = {name: getattr(row, name) for name in FEATURE_COLUMNS}
    return {name: None if value != value else float(value) for name, value in values.items()}


def play(predictor: Predictor, rows: pd.DataFrame, stopping: threading.Event) -> None:
    """Gives each product a row a second, as if it were of now."""
    played = [list(found.itertuples()) for _, found in rows.groupby("product_id")]
    second = 0
    while not stopping.wait(1 - time.time() % 1):
        now = datetime.now(UTC)
        ts = now.replace(microsecond=0)
        predictor.take(
            [
                FeatureRow(row.product_id, ts, features_of(row), row.trailing_threshold, now)
                for row in (own[second % len(own)] for own in played)
            ]
        )
        second += 1


def serve(root: Path, listener: socket.socket) -> None:
    """Serves until SIGTERM."""
    lake, store = Lake(root), root / "mlflow"
    tracking = Tracking(f"sqlite:///{store / 'mlflow.db'}", str(store / "artifacts"))
    with tempfile.TemporaryDirectory() as scratch:
        log = AnswerLog(Lake(Path(scratch)), print)
        predictor = Predictor(Champions(lake, tracking), log, print)
        predictor.start()
        settle()
        stopping = threading.Event()
        service = Service(predictor, lake, stopping=stopping)
        server = make_server(create_app(service, rate=0))

        async def run() -> None:
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGTERM, lambda: setattr(server, "should_exit", True)
            )
            await server.serve(sockets=[listener])

        playing = threading.Thread(target=play, args=(predictor, newest_rows(lake, 600), stopping))
        playing.start()
        asyncio.run(run())
        stopping.set()
        playing.join()
        predictor.stop()


@contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """A service in a process of its own: its address and process id."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        process = os.fork()
        if not process:
            serve(root, listener)
            os._exit(0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_until_ready(address)
        yield address, process
    finally:
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)


def wait_until_ready(address: str, seconds: float = 120) -> None:
    """Waits until predictions are to be had. Raises SystemExit where they never are."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=seconds) as answer:
                if json.load(answer)["data_fresh"]:
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{address}/ready: not ready within {seconds:g} s.")


def resident_bytes(process: int) -> int:
    """The memory that a process holds now."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0]) << 10


# The measurements


def climb(address: str, seconds: int, body: Path | None = None) -> dict[int, Load]:
    """As many requests as numbers of connections can make."""
    found = {}
    for connections in CONNECTIONS:
        found[connections] = measured(
            wrk(address, connections=connections, seconds=seconds, body=body)
        )
        print(f"  {connections:3} connections {found[connections]}", flush=True)
    return found


def endure(
    address: str, product: str, seconds: int, body: Path, process: int | None
) -> tuple[dict[str, Load], list[tuple[float, int]]]:
    """GET and POST at their rates together; also the server's memory over time."""
    started = {
        "GET": wrk(
            f"{address}/predict/{product}",
            connections=RATES["GET"] * PAUSE_MS // 1000,
            seconds=seconds,
            pause=PAUSE_MS,
        ),
        "POST": wrk(
            f"{address}/predict",
            connections=RATES["POST"] * PAUSE_MS // 1000,
            seconds=seconds,
            body=body,
            pause=PAUSE_MS,
        ),
    }
    start, memory = time.monotonic(), []
    while any(load.poll() is None for load in started.values()):
        if process is not None:
            memory.append((time.monotonic() - start, resident_bytes(process)))
        time.sleep(WATCH_SECONDS)
    return {name: measured(load) for name, load in started.items()}, memory


def growth(memory: Sequence[tuple[float, int]]) -> float:
    """By what share memory grew from the second quarter of the time to the last."""
    quarter = len(memory) // 4
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    if not early:
        return 0.0
    return sum(size for _, size in late) / sum(size for _, size in early) * len(early) / quarter - 1


def draw(
    climbs: dict[str, dict[int, Load]],
    mixed: dict[str, Load],
    memory: Sequence[tuple[float, int]],
    path: Path,
) -> None:
    """The curves as a picture."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, loads in climbs.items():
        rates = [load.rate for load in loads.values()]
        for share, style in (("50", ":"), ("95", "-")):
            milliseconds = [1e3 * load.latency[share] for load in loads.values()]
            left.plot(rates, milliseconds, style, marker="o", label=f"{name}, p{share}")
    left.set(
        title=f"Flat out, {CONNECTIONS[0]} to {CONNECTIONS[-1]} connections",
        xlabel="answers a second",
        ylabel="ms",
        yscale="log",
    )
    for name, load in mixed.items():
        shares = [share for share in load.latency if share != "100"]
        odds = [100 / (100 - float(share)) for share in shares]
        milliseconds = [1e3 * load.latency[share] for share in shares]
        middle.plot(odds, milliseconds, marker="o", label=f"{name}, {load.rate:,.0f}/s")
    middle.axhline(1e3 * P95_SECONDS, color="#888888", linestyle="--", label="p95 target")
    ticks = {"50": 2, "90": 10, "95": 20, "99": 100, "99.9": 1000, "99.99": 10_000}
    middle.set(title="GET and POST together, at their rates", ylabel="ms", yscale="log")
    middle.set_xscale("log")
    middle.set_xticks(list(ticks.values()), [f"p{share}" for share in ticks])
    sizes = [size / 2**20 for _, size in memory]
    right.plot([at for at, _ in memory], sizes)
    right.set(title="The server's memory meanwhile", xlabel="s", ylabel="MiB")
    right.set_ylim(0, 1.2 * max(sizes, default=1))
    for axes in (left, middle):
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def run(address: str, product: str, chosen: argparse.Namespace, process: int | None) -> bool:
    """Measures, prints, draws; whether all targets were met."""
    rows = newest_rows(Lake(chosen.data), BATCH_ROWS)
    bodies = [
        {"product": product, **features_of(row), "threshold": row.trailing_threshold}
        for row in rows[rows["product_id"] == product].itertuples()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        one, many = Path(scratch, "one.json"), Path(scratch, "many.json")
        one.write_text(json.dumps({"rows": bodies[:1]}))
        many.write_text(json.dumps({"rows": bodies}))
        get, post = f"{address}/predict/{product}", f"{address}/predict"
        print("                     answers      p50      p95      p99      max")
        climbs = {}
        print(f"GET /predict/{product}")
        climbs["GET"] = climb(get, chosen.step)
        print("POST /predict, one row")
        climbs["POST"] = climb(post, chosen.step, one)
        batch = measured(wrk(post, connections=1, seconds=chosen.step, body=many))
        print(f"POST /predict, {len(bodies):,} rows {batch}")
        mixed, memory = endure(address, product, chosen.seconds, one, process)
    for name, load in mixed.items():
        print(f"{name:4} of the mixed load {load}")
    met = {
        f"{name} at {TARGETS[name]}/s or more, p95 under {1e3 * P95_SECONDS:g} ms": (
            load.rate >= TARGETS[name] and load.latency["95"] < P95_SECONDS
        )
        for name, load in mixed.items()
    }
    met["no error"] = not any(load.errors for load in (*mixed.values(), batch))
    met[f"{BATCH_ROWS:,} rows, p95 under {1e3 * BATCH_SECONDS:g} ms"] = (
        batch.latency["95"] < BATCH_SECONDS
    )
    if memory:
        sizes = [size / 2**20 for _, size in memory]
        met[f"memory flat ({sizes[0]:.0f} MiB first, {sizes[-1]:.0f} MiB last)"] = (
            growth(memory) < GROWTH
        )
    for target, is_met in met.items():
        print(f"{'met    ' if is_met else 'NOT MET'} {target}")
    print(f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    draw(climbs, mixed, memory, chosen.plot)
    print(f"The curves: {chosen.plot}")
    return all(met.values())


def main() -> int:
    """Runs the load test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="built and trained")
    parser.add_argument("--product", default="BTC-USD")
    parser.add_argument("--seconds", type=int, default=300, help="of the mixed load")
    parser.add_argument("--step", type=int, default=5, help="seconds of each other load")
    parser.add_argument("--address", help="of a service that runs already")
    parser.add_argument("--plot", type=Path, default=Path("data/load.png"))
    chosen = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian, `apt-get install wrk`.")
    if chosen.address:
        return int(not run(chosen.address.rstrip("/"), chosen.product, chosen, None))
    with served(chosen.data.absolute()) as (address, process):
        return int(not run(address, chosen.product, chosen, process))


if __name__ == "__main__":
    sys.exit(main())
