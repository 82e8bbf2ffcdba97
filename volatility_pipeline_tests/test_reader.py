"""The fast reader says what the plain one says, line for line, whatever the segments hold."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.resources import reader
from volatility_pipeline.resources.reader import Day, messages
from volatility_pipeline.resources.segments import Decoded, Segment, describe
from volatility_pipeline.resources.warehouse import connect
from volatility_pipeline_tests.captured_lines import line_of, lines_of

START = datetime(2026, 4, 4)  # noqa: DTZ001  UTC without a zone, as everywhere
LATEST = datetime(2026, 4, 8)  # noqa: DTZ001
RELATIONS = ("messages", "envelopes", "quarantine", "gap_lines", "line_books")
SOUND = {"product_id": "BTC-USD", "price": "2", "best_bid": "1", "best_ask": "3"}
TIME = {"time": "2026-04-04T12:00:00Z"}

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(2) as opened:
        yield opened


def day_of(folder: Path) -> Day:
    """A day of all the files in a folder."""
    return Day(folder, [describe(path) for path in sorted(folder.iterdir())], START, LATEST)


def read(connection: Any, day: Day, *, is_plain_only: bool = False) -> dict[str, Rows]:
    """Every relation that a reading of the day makes, whole, in order."""
    with messages(connection, day, is_plain_only=is_plain_only):
        return {
            name: sorted(connection.execute(f"select * from {name}").fetchall(), key=repr)
            for name in RELATIONS
        }


def vouched(connection: Any) -> dict[str | None, int]:
    """Of the last reading, the lines by what the fast reader said of them."""
    sql = "select kind, count(*) from lines group by kind"
    return dict(connection.execute(sql).fetchall())


def expected(lines: dict[str, list[bytes]]) -> dict[str, Rows]:
    """Books, quarantine and places of the messages, straight from `read_line`."""
    places: Rows = []
    faults: Rows = []
    books: Rows = []
    for segment, found in lines.items():
        counts = {"ticker": 0, "other": 0, "tickers": 0}
        for number, line in enumerate(found, start=1):
            said = read_line(line, day=START.date(), now=LATEST - timedelta(days=1))
            if said.kind == "not_json":
                faults.append((segment, number, None, "not_json", line))
                continue
            counts[said.kind] += 1
            counts["tickers"] += len(said.tickers)
            for ticker in said.tickers:
                place = (segment, number, ticker.item)
                if ticker.reason is None:
                    places.append((*place, ticker.product_id, ticker.event_time, ticker.price))
                else:
                    faults.append((*place, ticker.reason, line))
        if found:
            books.append((segment, *counts.values()))
    return {name: sorted(rows, key=repr) for name, rows in
            {"places": places, "quarantine": faults, "books": books}.items()}


def assert_both_agree(connection: Any, day: Day) -> dict[str, Rows]:
    fast = read(connection, day)
    said = vouched(connection)
    plain = read(connection, day, is_plain_only=True)
    plain["line_books"] = [row for row in plain["line_books"] if any(row[1:]) or row in fast["line_books"]]
    assert fast == plain
    assert sum(said.values()) <= sum(segment.lines for segment in day.segments)
    return fast


# --- drawn segments


ENCODINGS = ("plain", "plain", "plain", "gz", "zst", "gz in members", "zst in frames")


def encoded(rng: Random, data: bytes) -> tuple[str, bytes]:
    """A suffix and the data as a file of it holds it."""
    kind = rng.choice(ENCODINGS)
    cut = rng.randrange(len(data) + 1)
    if kind == "plain":
        return ".ndjson", data
    if kind.startswith("gz"):
        parts = (data[:cut], data[cut:]) if "members" in kind else (data,)
        return ".ndjson.gz", b"".join(gzip.compress(part, mtime=0) for part in parts)
    parts = (data[:cut], data[cut:]) if "frames" in kind else (data,)
    return ".ndjson.zst", b"".join(zstandard.compress(part) for part in parts)


def torn(rng: Random, data: bytes) -> bytes:
    """The file cut off, or with a byte changed, or with zeros for its end."""
    at = rng.randrange(len(data) + 1)
    ways = (data[:at], data[:at] + b"\xa5" + data[at + 1 :], data[:at] + bytes(len(data) - at))
    return rng.choice(ways)


def write_segments(rng: Random, folder: Path, nastiness: float) -> dict[str, list[bytes]]:
    """A few segments of drawn lines; returns the lines of those that are not torn."""
    lines: dict[str, list[bytes]] = {}
    for number in range(rng.randrange(1, 5)):
        found = lines_of(rng, rng.choice((0, 1, 2, 3, 8)), nastiness=nastiness)
        data = b"\n".join(found) + (b"\n" if found and rng.random() < 0.8 else b"")
        suffix, content = encoded(rng, data)
        name = f"{rng.choice(('a', 'b', 'a[1]', 'b*', 'price=9', 'é ü'))}{number}{suffix}"
        if rng.random() < 0.15:
            content = torn(rng, content)
        if suffix == ".ndjson" or content == (content and encoded_again(suffix, data, content)):
            lines[name] = content.split(b"\n") if suffix == ".ndjson" else data.split(b"\n")
            if not lines[name][-1]:
                lines[name].pop()
        (folder / name).write_bytes(content)
    return lines


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.randoms(use_true_random=False), nastiness=st.sampled_from((0.05, 0.3, 0.6)))
def test_both_readers_say_the_same_of_drawn_segments(
    connection: Any, rng: Random, nastiness: float
) -> None:
    with TemporaryDirectory() as made:
        folder = Path(made)
        lines = write_segments(rng, folder, nastiness)
        found = assert_both_agree(connection, day_of(folder))
