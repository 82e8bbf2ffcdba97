"""What `doctor` looks at: each look returns what it found, and what a person should do about it.

Nothing is mended here but for leftovers, and those only when asked. Dagster's instance is looked at
by the command, since nothing here knows Dagster.
"""

import os
import socket
import sqlite3
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from volatility_pipeline.resources.disk import free, growth, left_over
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect

LIBRARIES = (
    *("dagster", "duckdb", "pyarrow", "mlflow", "scikit-learn", "xgboost"),
    *("aiokafka", "websockets", "zstandard"),
)
TIMEOUT_SECONDS = 2.0
LEAST_FREE_BYTES = 100 << 20
LITTLE_FREE_BYTES = 1 << 30
FEW_DAYS_LEFT = 7
BEHIND_SECONDS = 0.5
LATE_SECONDS = 5.0
REPLAYED_SECONDS = 3600.0

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` says what to do where the verdict is not `ok`."""

    subject: str
    verdict: Verdict
    said: str
    mend: str = ""


def installation() -> Iterator[Finding]:
    """Python and the main libraries."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("libraries", "wrong", f"{name} is not installed", "`make setup`")
    yield Finding("Python", "ok", f"{sys.version.split()[0]}, {sys.executable}")
    yield Finding("libraries", "ok", ", ".join(found))


def data_root(lake: Lake) -> Iterator[Finding]:
    """Whether the data root can be written, what room is left in it, and hard links."""
    root = lake.root
    there = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        mend = "mend its permissions, or name another with VOLATILITY_DATA or --data"
        yield Finding("data root", "wrong", f"{there} is not writable", mend)
        return
    yield Finding("data root", "ok", str(root) if there == root else f"{root}, not made yet")
    yield _room(lake)
    if there == root:
        yield _hard_links(root)


def _room(lake: Lake) -> Finding:
    room = free(lake.root)
    grown = growth(lake)
    said = f"{room / 1e6:,.0f} MB free. " + ("" if grown is None else grown.said())
    is_soon = grown is not None and grown.days_left < FEW_DAYS_LEFT
    verdict: Verdict = "warning" if room < LITTLE_FREE_BYTES or is_soon else "ok"
    if room < LEAST_FREE_BYTES:
        verdict = "wrong"
    mend = "" if verdict == "ok" else "make room, or `volatility compact` closed days"
    return Finding("disk", verdict, said.strip(), mend)


def _hard_links(root: Path) -> Finding:
    one, other = (root / f".link-{name}.{os.getpid()}.tmp" for name in ("from", "to"))
    try:
        one.touch()
        other.hardlink_to(one)
    except OSError as error:
        mend = "put the data root on a file system that has them; the feature store needs them"
        return Finding("hard links", "wrong", f"{root}: {error.strerror}", mend)
    finally:
        other.unlink(missing_ok=True)
        one.unlink(missing_ok=True)
    return Finding("hard links", "ok", "the file system has them")


def leftovers(root: Path, *, is_clean: bool) -> Finding:
    """Temporary files of killed processes; `is_clean` removes them."""
    found = left_over(root)
    size = sum(path.stat().st_size for path in found)
    said = f"{len(found)} temporary files of killed processes, {size / 1e6:,.1f} MB"
    if not found:
        return Finding("leftovers", "ok", "no temporary files of killed processes")
    if not is_clean:
        return Finding("leftovers", "warning", said, "`volatility doctor --clean` removes them")
    for path in found:
        path.unlink(missing_ok=True)
    return Finding("leftovers", "ok", f"{said}: removed")


def kafka(bootstrap_servers: str) -> Finding:
    """Whether one of the brokers takes a connection."""
    faults = []
    for address in bootstrap_servers.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            mend = "set KAFKA_BOOTSTRAP_SERVERS to something like localhost:9092"
            return Finding("Kafka", "wrong", f"{address.strip()!r} is no host:port", mend)
        try:
            with socket.create_connection((host, int(port)), TIMEOUT_SECONDS):
                return Finding("Kafka", "ok", f"{address.strip()} takes connections")
        except (OSError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            faults.append(f"{address.strip()}: {said or error}")
    mend = "start it, or set KAFKA_BOOTSTRAP_SERVERS; recordings on disk need none"
    return Finding("Kafka", "warning", "; ".join(faults), mend)


def mlflow_store(uri: str) -> Finding:
    """Whether MLflow's store opens and answers."""
    subject = "MLflow"
    mend = "mend it, or set MLFLOW_TRACKING_URI to another"
    if uri.startswith("http"):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TIMEOUT_SECONDS):  # noqa: S310
                return Finding(subject, "ok", f"{uri} answers")
        except (OSError, ValueError) as error:
            return Finding(subject, "wrong", f"{uri}: {error}", mend)
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.exists():
            return Finding(subject, "ok", f"{uri}, not made yet")
        try:  # before MLflow does, which would try for minutes
            address = f"{path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(address, uri=True)) as connection:
                connection.execute("select count(*) from experiments")
        except sqlite3.Error as error:
            return Finding(subject, "wrong", f"{path}: {error}", mend)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    import mlflow

    try:
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        return Finding(subject, "wrong", f"{uri}: {error}", mend)
    return Finding(subject, "ok", f"{uri} opens")


def clock(lake: Lake) -> Finding:
    """How long after the exchange's time of an event our clock captured it, in the newest ticks."""
    subject = "clock"
    files = lake.files("ticks")
    if not files:
        return Finding(subject, "ok", "no ticks yet to compare it with")
    with connect() as connection:
        newest, lags = connection.execute(
            "select max(event_time), quantile_cont("
            "epoch_us(capture_time) - epoch_us(event_time), [0.05, 0.5, 0.95]) "
            "from read_parquet(?) where capture_time is not null",
            [str(files[-1])],
        ).fetchall()[0]
    day = date.fromisoformat(files[-1].stem.removeprefix("date="))
    if not lags:
        return Finding(subject, "ok", f"the ticks of {day} carry no capture time")
    low, median, high = (lag / 1e6 for lag in lags)
    said = (
        f"ticks of {day} were captured {median:,.3f} s after the event "
        f"(the middle 90 %: {low:,.3f} to {high:,.3f} s)"
    )
    manifest = lake.manifest(day) or {"segments": []}
    if any(segment["is_simulated"] for segment in manifest["segments"]):
        return Finding(subject, "ok", f"{said}; they are simulated, and tell nothing of this clock")
    if median > REPLAYED_SECONDS:
        return Finding(subject, "ok", f"{said}; a replay, which tells nothing of this clock")
    if datetime.now(UTC).replace(tzinfo=None) - newest > timedelta(days=1):
        return Finding(subject, "ok", f"{said}; older than a day, not of this clock as it is now")
    mend = "set this machine's clock by NTP (`timedatectl set-ntp true`)"
    if median < -BEHIND_SECONDS:
        return Finding(subject, "warning", f"{said}: this clock is behind the exchange's", mend)
    if median > LATE_SECONDS:
        mend += ", or find what delays the feed"
        return Finding(
            subject, "warning", f"{said}: this clock is ahead, or the feed lags behind", mend
        )
    return Finding(subject, "ok", said)
