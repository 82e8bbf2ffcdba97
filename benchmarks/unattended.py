"""The whole loop with nobody watching: exchange → record → Kafka → land → sensor → features.

`python -m benchmarks.unattended --minutes 10` starts a broker, the stand-in exchange at a market's
own pace, the recorder, the lander with segments of 15 seconds and Dagster's daemon, as their users
start them, and looks every few seconds how far the newest feature row is behind the newest tick.
The first row needs five minutes of market; the minutes are counted after it. The exit code is 1 if
a row was ever more than 60 seconds behind.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline_tests.broker import Broker, free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LOOK_SECONDS = 5.0
FIRST_ROW_SECONDS = 420.0
BEHIND_SECONDS = 60.0


@contextmanager
def processes(
    root: Path, commands: dict[str, list[str]], environment: dict[str, str]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Runs commands side by side, what they say in `<name>.log`, and stops them in good order."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (program, *arguments) in commands.items():
            with (root / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(
                    [BIN / program, *arguments],
                    cwd=ROOT,
                    env=os.environ | environment,
                    stdout=log,
                    stderr=log,
                )
        yield started
    finally:
        for process in reversed(started.values()):
            process.send_signal(signal.SIGTERM)
        for process in started.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def newest_tick(lake: Lake) -> datetime | None:
    """The second of the newest tick that a feature row knows of, naive UTC.

    Bars carry the newest tick forward for up to `max_gap_seconds`, so the newest row's own time
    would flatter.
    """
    files = [str(path) for path in lake.files("features")[-1:]]
    if not files:
        return None
    query = "select max(ts - to_seconds(1 + seconds_since_tick)) from read_parquet(?)"
    try:
        row = duckdb.execute(query, [files]).fetchone()
    except duckdb.IOException:  # replaced at this moment
        return None
    return row[0] if row else None


def watch(lake: Lake, minutes: float) -> list[float]:
    """Looks for so many minutes after the first row; seconds behind the newest tick at each."""
    behind: list[float] = []
    started = time.monotonic()
    end = started + FIRST_ROW_SECONDS
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        row = newest_tick(lake)
        if row is None:
            continue
        if not behind:
            end = time.monotonic() + 60 * minutes
        # The stand-in plays the present: its newest tick is not older than a second or two.
        behind.append((datetime.now(UTC).replace(tzinfo=None) - row).total_seconds())
        print(
            f"{datetime.now(UTC):%H:%M:%S} features know the ticks up to {row:%H:%M:%S}, "
            f"{behind[-1]:.1f} s ago",
            flush=True,
        )
    return behind


def main() -> int:
    """Runs the loop and says how far behind it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true", help="keep the data root and its logs")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="volatility-unattended-"))
    broker = Broker(folder / "kafka")
    root = folder / "data"
    (root / "dagster").mkdir(parents=True)
    shutil.copyfile(ROOT / "dagster.yaml", root / "dagster" / "dagster.yaml")
    port = str(free_port())
    environment = {
        "VOLATILITY_DATA": str(root),
        "DAGSTER_HOME": str(root / "dagster"),
        "KAFKA_BOOTSTRAP_SERVERS": broker.address,
        "VOLATILITY_UNATTENDED": "true",
    }
    commands = {
        "exchange": ["volatility", "exchange", "--port", port],
        "land": ["volatility", "land", "--roll-seconds", "15"],
        "record": ["volatility", "record", "--url", f"ws://127.0.0.1:{port}"],
        "daemon": ["dagster-daemon", "run", "--workspace", str(ROOT / "workspace.yaml")],
    }
    try:
        broker.start()
        with processes(folder, commands, environment) as running:
            behind = watch(Lake(root), chosen.minutes)
            ended = [name for name, process in running.items() if process.poll() is not None]
    finally:
        broker.stop()
        if chosen.keep:
            print(f"Kept: {folder}")
        else:
            shutil.rmtree(folder)
    if not behind or ended:
        print(f"No feature row came, or something ended by itself: {ended}")
        return 1
    middle, worst = statistics.median(behind), max(behind)
    print(
        f"{len(behind)} looks over {chosen.minutes:g} minutes: features are behind the newest "
        f"tick by {middle:.1f} s in the median, {worst:.1f} s at worst."
    )
    return int(worst >= BEHIND_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
