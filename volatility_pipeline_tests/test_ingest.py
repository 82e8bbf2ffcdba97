"""From raw segments to manifest, ticks, quarantine and books: nothing lost, nothing twice."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline.resources.ingest import Ingest, missing_offsets
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.captured_lines import lines_of

DAY = date(2026, 4, 4)
FIRST_DAY = date(2025, 1, 1)
NOON = datetime(2026, 4, 4, 12)  # noqa: DTZ001  UTC without a zone, as everywhere
BOOK = ("lines", "messages", "other", "quarantined_lines")
BOOK += ("tickers", "ticks", "duplicates", "quarantined_tickers")

ENDINGS = ((".ndjson", bytes), (".ndjson.gz", gzip.compress), (".ndjson.zst", zstandard.compress))
Rows = list[dict[str, Any]]


def at(seconds: float) -> str:
    """The time so many seconds after noon."""
    return f"{NOON + timedelta(seconds=seconds)}Z"


def flat(seconds: float, **changed: Any) -> dict[str, Any]:
    """A sound flat line of BTC-USD, with fields changed."""
    fields = {"timestamp": at(seconds), "product_id": "BTC-USD", "price": "2", "best_bid": "1"}
    return {**fields, "best_ask": "3", **changed}


def advanced(number: int, seconds: float, connection: str | None = None) -> dict[str, Any]:
    """An Advanced Trade ticker, in our recorder's line if a connection is given."""
    ticker = {"product_id": "BTC-USD", "price": "2", "best_bid": "1", "best_ask": "3"}
    message = {"channel": "ticker", "timestamp": at(seconds), "sequence_num": number}
    message |= {"events": [{"type": "update", "tickers": [ticker]}]}
    if connection is None:
        return message
    return {"received_at": at(seconds), "connection": connection, "sent": number, "raw": message}


def beat(number: int, seconds: float, connection: str) -> dict[str, Any]:
    """A heartbeat as our recorder writes it."""
    message = {"channel": "heartbeats", "timestamp": at(seconds), "sequence_num": number}
    return {"received_at": at(seconds), "connection": connection, "raw": {**message, "events": []}}


def data_of(lines: Iterable[bytes | str | dict[str, Any]]) -> bytes:
    """Lines as the bytes of a segment."""
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    return b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts)


def land(lake: Lake, name: str, content: bytes, day: date = DAY) -> Path:
    """Puts a segment into the lake as it is."""
    path = lake.raw_folder(day) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ingest(lake: Lake, threads: int | None = 1, max_gap_seconds: int = 30) -> Ingest:
    return Ingest(lake, Warehouse(lake, max_gap_seconds, threads))


def build(lake: Lake, day: date = DAY, threads: int | None = 1) -> dict[str, dict[str, int]]:
    """Manifest, ticks and quarantine of a day; returns the books by segment."""
    made = ingest(lake, threads)
    made.write_manifest(day)
    books = made.build_ticks(day)["books"]
    return {book.pop("segment"): book for book in books}


def rows(lake: Lake, stage: str, day: date = DAY) -> Rows:
    """A partition's rows; none where it is absent."""
    path = lake.file(stage, day)
    found: Rows = pq.read_table(path).to_pylist() if path.exists() else []
    return found


def unbalanced(lake: Lake, day: date = DAY) -> list[dict[str, Any]]:
    """What the blocking check finds."""
    books = (lake.record("ticks", day) or {})["books"]
    segments = (lake.manifest(day) or {})["segments"]
    manifest = [{"segment": entry["name"], "lines": entry["lines"]} for entry in segments]
    tables = {"books": books, "manifest": manifest}
    return Warehouse(lake).bad_rows("ticks_books_unbalanced", {}, tables)


def gaps(lake: Lake, kind: str, **settings_: int) -> Rows:
    """The gaps of one kind in a fresh manifest, as it stands on disk."""
    ingest(lake, **settings_).write_manifest(DAY)
    manifest = lake.manifest(DAY) or {}
    return [gap for gap in manifest["gaps"] if gap.pop("kind") == kind]


# --- books


def test_books_count_every_line_and_ticker_of_a_segment(lake: Lake) -> None:
    batch = advanced(1, 5)
    good = batch["events"][0]["tickers"][0]
    batch["events"][0]["tickers"] = [good, {**good, "price": "0"}, 5, good]
    lines: list[Any] = [
        *(flat(0), flat(0), flat(1), batch, advanced(2, 6), flat(2, best_bid="4")),
        *("", "rubbish", "42", "[]", {"type": "heartbeat"}, {"type": "gap"}, flat(-90_000)),
    ]
    land(lake, "a.ndjson", data_of(lines))
    books = build(lake)
    counts = (13, 7, 3, 3, 10, 4, 2, 4)
    assert books == {"a.ndjson": dict(zip(BOOK, counts, strict=True))}
    assert unbalanced(lake) == []


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False), nastiness=st.sampled_from((0.1, 0.4, 0.7)))
def test_books_balance_whatever_the_segments_hold(rng: Random, nastiness: float) -> None:
    with TemporaryDirectory() as root:
        lake = Lake(Path(root))
        for number in range(rng.randrange(1, 4)):
            data = data_of(lines_of(rng, rng.randrange(12), nastiness=nastiness))
            ending, compress = rng.choice(ENDINGS)
            content = compress(data)
            cut = rng.choice((len(content), rng.randrange(len(content) + 1)))
            land(lake, f"{number}{ending}", content[:cut])
        books = build(lake)
        assert unbalanced(lake) == []
        manifest = lake.manifest(DAY) or {}
        assert [entry["lines"] for entry in manifest["segments"]] == [
            book["lines"] for book in books.values()
        ]
        assert sum(book["ticks"] for book in books.values()) == len(rows(lake, "ticks"))
        assert len(rows(lake, "quarantine")) == sum(
            book["quarantined_lines"] + book["quarantined_tickers"] for book in books.values()
        )
        order = [
            (
                *(row["product_id"], row["event_time"], row["sequence"] is None),
                *(row["sequence"] or 0, row["segment"], row["line"], row["item"]),
            )
            for row in rows(lake, "ticks")
        ]
        assert order == sorted(order)
        assert len(order) == len(set(order))


def test_empty_segments_and_days_have_books_of_nothing(lake: Lake) -> None:
    land(lake, "a.ndjson", b"")
    land(lake, "b.ndjson.gz", gzip.compress(b""))
    nothing = dict.fromkeys(BOOK, 0)
    assert build(lake) == {"a.ndjson": nothing, "b.ndjson.gz": nothing}
    assert unbalanced(lake) == []
    assert not lake.file("ticks", DAY).exists()
    assert not lake.file("quarantine", DAY).exists()
    assert build(lake, DAY + timedelta(days=1)) == {}
    assert not lake.raw_folder(DAY + timedelta(days=1)).exists()


@pytest.mark.parametrize(
    "change",
    [
        *({"lines": 4}, {"messages": 3}, {"other": 1}, {"quarantined_lines": 2}),
        *({"tickers": 1}, {"ticks": 0}, {"ticks": 3, "duplicates": -1}, {"quarantined_tickers": 1}),
        *({"segment": "b.ndjson"}, {"lines": 4, "messages": 4}),
    ],
)
def test_check_finds_books_that_were_tampered_with(lake: Lake, change: dict[str, Any]) -> None:
    land(lake, "a.ndjson", data_of([flat(0), flat(1), "rubbish"]))
    build(lake)
    assert unbalanced(lake) == []
    record = lake.record("ticks", DAY) or {}
    record["books"][0] |= change
    lake.write_record("ticks", DAY, record)
    found = unbalanced(lake)
    assert found
    assert {row["segment"] for row in found} <= {"a.ndjson", "b.ndjson", None}


def test_check_finds_a_segment_that_lost_a_line_after_its_manifest(lake: Lake) -> None:
    path = land(lake, "a.ndjson", data_of([flat(0), flat(1), flat(2)]))
    made = ingest(lake)
    made.write_manifest(DAY)
    path.write_bytes(data_of([flat(0), flat(1, x="y" * (len(data_of([flat(2)])) - 9))]))
    made.build_ticks(DAY)
    (found,) = unbalanced(lake)
    assert (found["lines"], found["counted_lines"]) == (3, 2)


def test_check_finds_a_segment_without_books(lake: Lake) -> None:
    land(lake, "a.ndjson", data_of([flat(0)]))
    build(lake)
    land(lake, "b.ndjson", data_of([flat(1)]))
    ingest(lake).write_manifest(DAY)
    (found,) = unbalanced(lake)
    assert (found["segment"], found["manifest_lines"]) == (None, 1)


# --- duplicates and order


def test_first_of_alike_rows_in_file_order_stays_across_segments(lake: Lake) -> None:
    land(lake, "b.ndjson", data_of([flat(0, side="sell"), flat(1)]))
    land(lake, "a.ndjson", data_of([flat(5), flat(1), flat(1, volume_24h="9"), flat(0)]))
    books = build(lake)
    assert [(row["segment"], row["line"]) for row in rows(lake, "ticks")] == [
        *(("a.ndjson", 4), ("a.ndjson", 2), ("a.ndjson", 1)),
    ]
    assert [book["duplicates"] for book in books.values()] == [1, 2]
    assert [book["ticks"] for book in books.values()] == [3, 0]


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        *(("product_id", "BTC-USD", "ETH-USD"), ("timestamp", at(0), at(0.000001))),
        *(("sequence", 1, 2), ("sequence", 1, None), ("trade_id", 1, 2), ("trade_id", None, 1)),
        *(("price", "2", "2.0000000001"), ("best_bid", "1", "1.5"), ("best_ask", "3", "3.5")),
        *(("best_bid_size", "1", "2"), ("best_bid_size", "0", None), ("best_ask_size", None, "0")),
    ],
)
def test_rows_that_differ_in_one_key_column_both_stay(
    lake: Lake, column: str, one: Any, other: Any
) -> None:
    lines = [flat(0, **{column: value}) for value in (one, other, one, other)]
    land(lake, "a.ndjson", data_of(lines))
    assert build(lake)["a.ndjson"]["duplicates"] == 2
    assert [row["line"] for row in sorted(rows(lake, "ticks"), key=lambda row: row["line"])] == [
        1,
        2,
    ]


@pytest.mark.parametrize("column", ["side", "last_size", "volume_24h", "received_at"])
def test_rows_that_differ_in_another_column_alone_are_duplicates(lake: Lake, column: str) -> None:
    value = {"side": "buy", "received_at": at(9)}.get(column, "5")
    time = {"time": at(0)}
    land(lake, "a.ndjson", data_of([flat(0, **time), flat(0, **time, **{column: value})]))
    assert build(lake)["a.ndjson"]["duplicates"] == 1
    assert [row["line"] for row in rows(lake, "ticks")] == [1]


def test_alike_in_ten_decimals_and_microseconds_is_alike(lake: Lake) -> None:
    time = "2026-04-04T12:00:00.123456"
    lines = [
        flat(0, timestamp=f"{time}Z", price="2.0"),
        flat(0, timestamp=f"{time}999Z", price="2.00000000001"),
        flat(0, timestamp=f"{time}+00:00", price=2, sequence=None),
    ]
    land(lake, "a.ndjson", data_of(lines))
    assert build(lake)["a.ndjson"]["duplicates"] == 2


def test_same_sequence_number_of_another_connection_is_no_duplicate(lake: Lake) -> None:
    first, second = advanced(1, 0, "a"), advanced(1, 0.5, "b")
    land(lake, "a.ndjson", data_of([first, second]))
    assert build(lake)["a.ndjson"]["duplicates"] == 0


def test_ticks_stand_in_total_order_with_ties(lake: Lake) -> None:
    batch = advanced(7, 1)
    ticker = batch["events"][0]["tickers"][0]
    batch["events"][0]["tickers"] = [{**ticker, "price": price} for price in ("2.3", "2.1", "2.2")]
    land(
        lake,
        "b.ndjson",
        data_of([flat(1, price="2.5"), batch, flat(1, sequence=3), flat(1, product_id="A-B")]),
    )
    land(lake, "a.ndjson", data_of([flat(1, price="2.6"), flat(2), flat(1, sequence=7, price="9")]))
    build(lake)
    found = [
        (row["product_id"], row["sequence"], row["segment"], row["line"], row["item"])
        for row in rows(lake, "ticks")
    ]
    assert found == [
        ("A-B", None, "b.ndjson", 4, 0),
        ("BTC-USD", 3, "b.ndjson", 3, 0),
        ("BTC-USD", 7, "a.ndjson", 3, 0),
        ("BTC-USD", 7, "b.ndjson", 2, 0),
        ("BTC-USD", 7, "b.ndjson", 2, 1),
        ("BTC-USD", 7, "b.ndjson", 2, 2),
        ("BTC-USD", None, "a.ndjson", 1, 0),
        ("BTC-USD", None, "b.ndjson", 1, 0),
        ("BTC-USD", None, "a.ndjson", 2, 0),
    ]


def test_tick_holds_every_column_of_its_line(lake: Lake) -> None:
    line = {
        **flat(3, side="buy", sequence=5, trade_id=6, last_size="0.25", volume_24h="12.5"),
        "time": at(1.5),
        "best_bid_size": "0.1",
        "best_ask_size": 0.2,
    }
    land(lake, "a.ndjson", data_of(["", line]))
    build(lake)
    assert rows(lake, "ticks") == [
        {
            "product_id": "BTC-USD",
            "event_time": NOON + timedelta(seconds=1.5),
            "capture_time": NOON + timedelta(seconds=3),
            "sequence": 5,
            "trade_id": 6,
            "price": 2.0,
            "best_bid": 1.0,
            "best_ask": 3.0,
            "bid_size": 0.1,
            "ask_size": 0.2,
            "last_size": 0.25,
            "side": "buy",
            "volume_24h": 12.5,
            "segment": "a.ndjson",
            "line": 2,
            "item": 0,
        }
    ]


def test_ticks_are_the_same_bytes_on_one_thread_and_two_and_built_again(tmp_path: Path) -> None:
    """More than one row group, all rows tied in time with others, one line in ten repeated."""
    sound = json.dumps(flat(0, trade_id="ID"))
    many = [
        sound.replace("ID", str(key)).replace("12:00:00", f"12:{key % 60:02}:{key % 59:02}")
        for key in (number * 9 // 10 for number in range(140_000))
    ]
    drawn = data_of(lines_of(Random(1), 1500, nastiness=0.2))
    contents = {}
    for threads in (1, 2):
        lake = Lake(tmp_path / str(threads))
        land(lake, "a.ndjson", data_of(many))
        land(lake, "b.ndjson", drawn)
        land(lake, "c.ndjson.zst", zstandard.compress(drawn[: len(drawn) // 2]))
        for again in (False, True)[:threads]:
            build(lake, threads=threads)
            files = [lake.file(stage, DAY).read_bytes() for stage in ("ticks", "quarantine")]
            contents[threads, again] = files
    assert contents[1, False] == contents[2, False] == contents[2, True]
    assert pq.read_metadata(lake.file("ticks", DAY)).num_row_groups == 2


# --- quarantine


def test_quarantine_holds_the_lines_bytes_reasons_and_numbers(lake: Lake) -> None:
    batch = advanced(1, 0)
    ticker = batch["events"][0]["tickers"][0]
    batch["events"][0]["tickers"] = [ticker, {**ticker, "price": None}, 5]
    lines: list[Any] = [
        *(b"\xff\x00 binary\r", flat(0), "", b'{"torn":', flat(0, product_id=None)),
        *(flat(0, timestamp="x"), flat(0, best_bid="9"), flat(90_000), batch),
    ]
    content = data_of(lines)
    land(lake, "a.ndjson", content)
    land(lake, "b.ndjson.gz", gzip.compress(b"\n" + content))
    build(lake)
    found = rows(lake, "quarantine")
    texts = content.split(b"\n")
    expected = [
        *((1, None, "not_json"), (4, None, "not_json"), (5, 0, "no_product"), (6, 0, "no_time")),
        *((7, 0, "crossed"), (8, 0, "wrong_day"), (9, 1, "bad_price"), (9, 2, "not_json")),
    ]
    assert [tuple(row.values()) for row in found] == [
        *(("a.ndjson", line, item, why, texts[line - 1]) for line, item, why in expected),
        *(("b.ndjson.gz", line + 1, item, why, texts[line - 1]) for line, item, why in expected),
    ]


# --- manifest


def test_manifest_describes_each_segment(lake: Lake) -> None:
    plain = data_of([flat(0), flat(1)])
    contents = {
        "a.ndjson": plain,
        "b.ndjson": plain[:-1] + b"\n\nrubbish",
        "c.ndjson.gz": gzip.compress(plain),
        "d.ndjson.zst": zstandard.compress(plain)[:-5],
        "e.ndjson": data_of([flat(2, source="simulated")]),
        "f.ndjson": b"",
    }
    for name, content in contents.items():
        land(lake, name, content)
    land(lake, ".g.ndjson.77.tmp", b"unfinished")
    land(lake, "notes.txt", b"no segment")
    ingest(lake).write_manifest(DAY)
    manifest = lake.manifest(DAY) or {}
    assert [entry["name"] for entry in manifest["segments"]] == list(contents)
    for entry in manifest["segments"]:
        content = contents[entry["name"]]
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    facts = {
        entry["name"]: (entry["lines"], entry["is_plain"], entry["is_torn"], entry["is_simulated"])
        for entry in manifest["segments"]
    }
    assert facts == {
        "a.ndjson": (2, True, False, False),
        "b.ndjson": (4, False, False, False),
        "c.ndjson.gz": (2, True, False, False),
        "d.ndjson.zst": (facts["d.ndjson.zst"][0], False, True, False),
        "e.ndjson": (1, True, False, True),
        "f.ndjson": (0, True, False, False),
    }
    assert lake.is_manifest_current(DAY)


# --- gaps


def test_missing_sequence_numbers_of_a_recorded_connection_with_all_channels_are_a_gap(
    lake: Lake,
) -> None:
    lines = [advanced(0, 0, "k"), beat(1, 1, "k"), advanced(4, 2, "k"), beat(5, 3, "k")]
    land(lake, "a.ndjson", data_of(lines))
    assert gaps(lake, "sequence_num") == [
        {
            "subject": "k",
            "from": "2026-04-04 12:00:01",
            "to": "2026-04-04 12:00:02",
            "missing": 2,
            "is_hint": False,
        }
    ]


def test_missing_sequence_numbers_of_a_connection_of_which_tickers_alone_were_kept_are_a_hint(
    lake: Lake,
) -> None:
    empty = advanced(9, 3, "k")
    empty["raw"]["events"] = []
    land(lake, "a.ndjson", data_of([advanced(0, 0, "k"), advanced(4, 2, "k"), empty]))
    assert [(gap["missing"], gap["is_hint"]) for gap in gaps(lake, "sequence_num")] == [
        (3, True),
        (4, True),
    ]


def test_missing_sequence_numbers_of_bare_messages_are_a_hint_even_with_all_channels(
    lake: Lake,
) -> None:
    bare = beat(1, 1, "k")["raw"]
    land(lake, "a.ndjson", data_of([advanced(0, 0), bare, advanced(4, 2)]))
    ((gap),) = gaps(lake, "sequence_num")
    assert (gap["subject"], gap["missing"], gap["is_hint"]) == ("a.ndjson#0", 2, True)


def test_restart_at_zero_is_another_connection_and_no_gap(lake: Lake) -> None:
    land(lake, "a.ndjson", data_of([advanced(n, n) for n in (7, 8, 9)]))
    land(lake, "b.ndjson", data_of([advanced(n, 9 + n) for n in (3, 4)]))
    assert gaps(lake, "sequence_num") == []
    numbers = (7, 8, 0, 1, 3, 0, 2)
    land(lake, "a.ndjson", data_of([advanced(n, at_) for at_, n in enumerate(numbers)]))
    found = [(gap["subject"], gap["missing"]) for gap in gaps(lake, "sequence_num")]
    assert found == [("a.ndjson#1", 1), ("a.ndjson#2", 1)]


def test_recorded_connection_is_one_over_segments_and_out_of_order(lake: Lake) -> None:
    land(lake, "a.ndjson", data_of([advanced(0, 0, "k"), beat(3, 3, "k"), beat(1, 1, "k")]))
    land(lake, "b.ndjson", data_of([advanced(2, 2, "k"), beat(0, 9, "m"), beat(0, 0, "k")]))
    assert gaps(lake, "sequence_num") == []


def test_extreme_sequence_and_trade_numbers_fail_nothing(lake: Lake) -> None:
    most, least = 2**63 - 1, -(2**63)
    lines: list[Any] = [beat(n, 0, "k") for n in (least, most, most)]
    lines += [advanced(n, 1, "k") for n in (least, most)]
    lines += [flat(n % 7, trade_id=n, sequence=n) for n in (least, 0, most)]
    lines += [flat(9, trade_id=most, sequence=most)]
    land(lake, "a.ndjson", data_of(lines))
    assert [gap["missing"] for gap in gaps(lake, "sequence_num")] == [2**64 - 2]
    assert [gap["missing"] for gap in gaps(lake, "trade_id")] == [2**64 - 3]
    build(lake)
    assert unbalanced(lake) == []


def test_missing_trade_ids_are_one_hint_per_product(lake: Lake) -> None:
    lines = [flat(n, trade_id=n, product_id=name) for n in (1, 2, 5, 5, 9) for name in ("A", "B")]
    lines += [flat(n, trade_id=n, product_id="C") for n in (1, 2, 3)] + [flat(4, product_id="C")]
    land(lake, "a.ndjson", data_of(lines))
    assert gaps(lake, "trade_id") == [
        {
            "subject": name,
            "from": "2026-04-04 12:00:02",
            "to": "2026-04-04 12:00:09",
            "missing": 5,
            "is_hint": True,
        }
        for name in ("A", "B")
    ]


def test_silence_is_longer_than_the_most_allowed_and_per_product(lake: Lake) -> None:
    lines = [flat(n, product_id="A") for n in (0, 30, 60.000001, 61)]
    lines += [flat(n, product_id="B") for n in range(0, 100, 20)]
    land(lake, "a.ndjson", data_of(lines))
    silence = {
        "subject": "A",
        "from": "2026-04-04 12:00:30",
        "to": "2026-04-04 12:01:00.000001",
        "missing": None,
        "is_hint": False,
    }
    assert gaps(lake, "silence") == [silence]
    assert gaps(lake, "silence", max_gap_seconds=31) == []
    assert len(gaps(lake, "silence", max_gap_seconds=29)) == 2


def test_recorders_gap_lines_are_read_into_the_manifest(lake: Lake) -> None:
    gap = {"type": "gap", "product_id": "BTC-USD", "from": at(0), "to": at(9), "reason": "closed"}
    odd = {"type": "gap", "product_id": {"a": "\ud800"}, "from": 5, "to": None}
    wrapped = {"received_at": at(10), "connection": "k", "raw": {**gap, "missing": 3}}
    land(lake, "a.ndjson", data_of([flat(0), gap, odd, wrapped]))
    found = gaps(lake, "recorded")
    known = {"subject": "BTC-USD", "from": at(0), "to": at(9), "is_hint": False, "reason": "closed"}
    nothing = {"to": None, "reason": None, "missing": None, "is_hint": False}
    assert found == [
        {**known, "missing": None},
        {"subject": {"a": "\ud800"}, "from": "5", **nothing},
        {**known, "missing": 3},
    ]
    assert build(lake)["a.ndjson"]["other"] == 3


def test_torn_segment_is_a_gap_and_keeps_what_decodes(lake: Lake) -> None:
    whole = gzip.compress(data_of([flat(n) for n in range(2000)]))
    land(lake, "a.ndjson.gz", whole[: len(whole) // 2])
    land(lake, "b.ndjson.gz", gzip.compress(data_of([flat(9_999)])))
    assert gaps(lake, "torn") == [{"subject": "a.ndjson.gz", "is_hint": False}]
    book = build(lake)["a.ndjson.gz"]
    assert book["ticks"] > 500
    assert book["lines"] == book["ticks"] + book["quarantined_lines"]
    assert unbalanced(lake) == []


LOG = "ticks.raw-0a1b2c3d-0"


def landed(first: int, last: int, log: str = LOG, ending: str = ".ndjson") -> str:
    return f"{log}-{first:020}-{last:020}{ending}"


def offsets(names: list[str], near: list[str] | None = None) -> list[tuple[str, int, int, int]]:
    found = missing_offsets(names, [*names, *(near or [])])
    assert all(gap["kind"] == "offsets" and gap["is_hint"] is False for gap in found)
    return [(gap["subject"], gap["first"], gap["last"], gap["missing"]) for gap in found]


def test_offsets_between_landed_segments_that_no_segment_holds_are_missing() -> None:
    names = [landed(0, 9), landed(30, 39, ending=".ndjson.zst"), landed(10, 19)]
    assert offsets(names) == [(LOG, 20, 29, 10)]
    assert offsets([*names, landed(40, 40, ending=".ndjson.gz"), landed(42, 50)]) == [
        (LOG, 20, 29, 10),
        (LOG, 41, 41, 1),
    ]


def test_offsets_that_the_days_around_hold_are_not_missing() -> None:
    assert offsets([landed(0, 9), landed(30, 39)], near=[landed(10, 19), landed(20, 29)]) == []
    assert offsets([landed(20, 29)], near=[landed(0, 19), landed(30, 99)]) == []


def test_offsets_missing_between_two_days_are_told_by_the_later_one() -> None:
    earlier, later = [landed(0, 9)], [landed(15, 20)]
    assert offsets(later, near=earlier) == [(LOG, 10, 14, 5)]
    assert offsets(earlier, near=later) == []


def test_overlapping_and_single_segments_miss_nothing_and_other_names_have_no_offsets() -> None:
    assert offsets([landed(0, 9), landed(5, 20), landed(2, 3), landed(21, 22)]) == []
    assert offsets([landed(500, 600)]) == []
    assert offsets(["btc-0123456789abcdef.ndjson", "a.ndjson", landed(0, 5) + ".tmp"]) == []


def test_offsets_are_told_apart_by_topic_and_partition() -> None:
    other = "ticks.raw-0a1b2c3d-1"
    names = [landed(0, 9), landed(20, 29), landed(10, 19, other), landed(30, 31, other)]
    assert offsets(names) == [(LOG, 10, 19, 10), (other, 20, 29, 10)]


def test_missing_offsets_of_neighbouring_days_reach_the_manifest(lake: Lake) -> None:
    land(lake, landed(0, 0), data_of([flat(-86_400)]), DAY - timedelta(days=1))
    land(lake, landed(3, 3), data_of([flat(0)]))
    land(lake, landed(5, 5), data_of([flat(2)]))
    land(lake, landed(4, 4), data_of([flat(86_400)]), DAY + timedelta(days=1))
    assert gaps(lake, "offsets") == [
        {"subject": LOG, "first": 1, "last": 2, "missing": 2, "is_hint": False}
    ]


# --- the real recordings


# Lines, ticks by product, other lines, gaps. The longest of the three silences of the four pieces
# spans midnight, which no day alone can see.
RECORDED: dict[str, tuple[int, dict[str, int], int, list[str]]] = {
    "flat_btc_20251108_43s": (223, {"BTC-USD": 223}, 0, []),
    "flat_btc_20251201_10min": (3_996, {"BTC-USD": 3_996}, 0, []),
    "advanced_btc_20260404_15min": (3_108, {"BTC-USD": 3_108}, 0, ["sequence_num"]),
    "exchange_btc_20251112_4pieces": (
        *(6_000, {"BTC-USD": 5_996}, 4),
        ["silence", "trade_id", "silence", "trade_id"],
    ),
    "flat_btc_eth_20260404_2h": (30_123, {"BTC-USD": 17_251, "ETH-USD": 12_872}, 0, []),
}


@pytest.mark.parametrize("name", RECORDED)
def test_real_recording_becomes_ticks_line_for_line(
    recordings: Path, lake: Lake, name: str
) -> None:
    lines, products, other, gaps_found = RECORDED[name]
    found = import_file(lake, recordings / f"{name}.ndjson", FIRST_DAY)
    assert sum(found.lines.values()) == lines
    assert not found.is_torn
    sums = dict.fromkeys(BOOK, 0)
    ticks: dict[str, list[datetime]] = {}
    gap_kinds: list[str] = []
    for day in sorted(found.lines):
        for book in build(lake, day).values():
            sums = {key: sums[key] + book[key] for key in BOOK}
        assert unbalanced(lake, day) == []
        assert rows(lake, "quarantine", day) == []
        for row in rows(lake, "ticks", day):
            ticks.setdefault(row["product_id"], []).append(row["event_time"])
        gap_kinds += [gap["kind"] for gap in (lake.manifest(day) or {})["gaps"]]
    assert (sums["lines"], sums["other"], sums["quarantined_lines"]) == (lines, other, 0)
    assert sums["tickers"] == lines - other
    assert sums["ticks"] + sums["duplicates"] == sums["tickers"]
    assert sums["duplicates"] == 0
    assert {product: len(times) for product, times in ticks.items()} == products
    assert gap_kinds == gaps_found
    assert all(earlier <= later for times in ticks.values() for earlier, later in pairwise(times))
