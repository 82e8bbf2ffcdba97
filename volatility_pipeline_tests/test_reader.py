"""The fast reader says what the plain one says, line for line, whatever the segments hold."""

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.resources import parts, reader
from volatility_pipeline.resources.reader import Day, messages
from volatility_pipeline.resources.segments import Decoded, Segment, describe
from volatility_pipeline.resources.warehouse import connect
from volatility_pipeline_tests.captured_lines import RUBBISH, lines_of

START = datetime(2026, 4, 4)  # noqa: DTZ001  UTC without a zone, as everywhere
LATEST = datetime(2026, 4, 8)  # noqa: DTZ001
RELATIONS = ("messages", "envelopes", "quarantine", "gap_lines", "line_books")
FLAT = {"timestamp": "2026-04-04T12:00:00Z", "product_id": "BTC-USD", "price": "2"}
FLAT |= {"best_bid": "1", "best_ask": "3"}

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    with connect(2) as opened:
        yield opened


def write(folder: Path, **segments: list[bytes]) -> Day:
    """A day of plain segments, named `<name>.ndjson`, of these lines."""
    for name, lines in segments.items():
        (folder / f"{name}.ndjson").write_bytes(b"".join(line + b"\n" for line in lines))
    return day_of(folder)


def day_of(folder: Path) -> Day:
    """A day of all the files in a folder."""
    return Day(folder, [describe(path) for path in sorted(folder.iterdir())], START, LATEST)


def flat(**changed: Any) -> bytes:
    """A sound flat line, with some fields changed."""
    return json.dumps({**FLAT, **changed}).encode()


def read(connection: Any, day: Day, *, is_plain_only: bool = False) -> dict[str, Rows]:
    """Every relation that a reading of the day makes, whole, in a fixed order."""
    with messages(connection, day, is_plain_only=is_plain_only):
        return {
            name: sorted(connection.execute(f"select * from {name}").fetchall(), key=repr)
            for name in RELATIONS
        }


def vouched(connection: Any) -> dict[str | None, int]:
    """Of the last reading that was not plain only, the lines by what the fast reader said."""
    sql = "select kind, count(*) from lines group by kind"
    return dict(connection.execute(sql).fetchall())


def read_both(connection: Any, day: Day) -> dict[str, Rows]:
    """What both readers say of a day, which must be the same."""
    plain = read(connection, day, is_plain_only=True)
    for small in (0, 300, parts.SMALL_BYTES):  # each segment by itself, some joined, all joined
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(parts, "SMALL_BYTES", min(small, parts.SMALL_BYTES))
            patched.setattr(parts, "PART_BYTES", max(small, 1000))
            fast = read(connection, day)
        empty = [(segment.name, 0, 0, 0) for segment in day.segments if not segment.lines]
        fast["line_books"] = sorted(fast["line_books"] + empty, key=repr)  # read by nobody
        assert fast == plain
    return fast


def said_of(lines: dict[str, list[bytes]]) -> tuple[Rows, Rows, Rows]:
    """Places of the messages, quarantine and books, straight from `read_line`."""
    sound: Rows = []
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
                    sound.append((*place, ticker.product_id, ticker.event_time))
                else:
                    faults.append((*place, ticker.reason, line))
        books.append((segment, *counts.values()))
    return sound, sorted(faults, key=repr), sorted(books, key=repr)


# --- drawn segments


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def encode(rng: Random, data: bytes) -> tuple[str, bytes]:
    """An ending of a segment's name, and the data as such a file holds it, in one part or two."""
    ending, compress = rng.choice(
        (
            (".ndjson", bytes),
            (".ndjson", bytes),
            (".ndjson.gz", gzipped),
            (".ndjson.zst", zstandard.compress),
        )
    )
    at = rng.choice((len(data), rng.randrange(len(data) + 1)))
    parts = [compress(part) for part in (data[:at], data[at:]) if part]
    return ending, b"".join(parts or [compress(b"")])


def tear(rng: Random, data: bytes) -> bytes:
    """The file cut off, or with a byte changed, or with zeros or rubbish for its end."""
    at = rng.randrange(len(data) + 1)
    changed = data[:at] + b"\xa5" + data[at + 1 :]
    return rng.choice((data[:at], changed, data[:at] + bytes(len(data) - at), data + b"rubbish"))


def write_drawn(rng: Random, folder: Path, nastiness: float) -> dict[str, list[bytes]]:
    """A few segments of drawn lines; returns the lines of those that are whole."""
    whole: dict[str, list[bytes]] = {}
    for number in range(rng.randrange(1, 5)):
        lines = lines_of(rng, rng.choice((0, 1, 2, 3, 8)), nastiness=nastiness)
        data = b"".join(line + b"\n" for line in lines)
        if lines and lines[-1] and rng.random() < 0.3:
            data = data[:-1]
        ending, content = encode(rng, data)
        name = f"{rng.choice(('a', 'b', 'a[1]', 'b*', 'price=9', 'é ü'))}{number}{ending}"
        if rng.random() < 0.2:
            content = tear(rng, content)
        else:
            whole[name] = lines
        (folder / name).write_bytes(content)
    return whole


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rng=st.randoms(use_true_random=False), nastiness=st.sampled_from((0.05, 0.3, 0.6)))
def test_both_readers_say_the_same_of_drawn_segments(rng: Random, nastiness: float) -> None:
    with TemporaryDirectory(prefix="price=9 [a]*") as made, connect(2) as connection:
        whole = write_drawn(rng, Path(made), nastiness)
        found = read_both(connection, day_of(Path(made)))
    sound, faults, books = said_of(whole)
    places = [(row[0], row[1], row[2], row[3], row[4]) for row in found["messages"]]
    assert sorted(place for place in places if place[0] in whole) == sorted(sound)
    assert [row for row in found["quarantine"] if row[0] in whole] == faults
    assert [row for row in found["line_books"] if row[0] in whole] == books


@pytest.mark.parametrize("seed", range(3))
def test_both_readers_say_the_same_of_thousands_of_lines(
    connection: Any, tmp_path: Path, seed: int
) -> None:
    rng = Random(seed)
    nastiness = (0.1, 0.3, 0.6)[seed]
    for number in range(4):
        lines = lines_of(rng, 400, nastiness=nastiness)
        (tmp_path / f"{number}.ndjson").write_bytes(b"\n".join(lines))
    read_both(connection, day_of(tmp_path))
    said = vouched(connection)
    assert said["ticker"] > 100  # else this proves nothing
    assert said["other"] > 50
    assert said[None] > 100


# --- disagreements that were found once


AGREED = {
    "a number for a connection": flat(connection=5),
    "an object for a connection": flat(connection={"a": 1}),
    "events of a message without a channel": flat(events=[{"tickers": [{"price": "2.5"}]}]),
    "events of a nested one": flat(raw={"events": [{"tickers": [{"price": "2.5"}]}]}),
    "a heartbeat's blank number": b'{"channel":"heartbeats","sequence_num":" 5 "}',
    "a heartbeat's broken number": b'{"channel":"heartbeats","sequence_num":"5.7"}',
    "a heartbeat's date": b'{"channel":"heartbeats","sequence_num":1,"timestamp":"2026-04-04"}',
    "a heartbeat's zone": (
        b'{"channel":"heartbeats","sequence_num":1,"timestamp":"2026-04-04T12:00:00+02:00"}'
    ),
    "a heartbeat's epoch": b'{"channel":"heartbeats","sequence_num":1,"timestamp":"epoch"}',
    "a heartbeat's wrapper's time": (
        b'{"time":"2026-04-04T12:00:00Z","raw":{"channel":"heartbeats","sequence_num":1}}'
    ),
    "a heartbeat's ticker": (
        b'{"channel":"heartbeats","sequence_num":1,"timestamp":"2026-04-04T12:00:00Z",'
        b'"events":[{"tickers":[{"time":"2026-04-04T13:00:00Z"}]}]}'
    ),
    "a known key twice": flat()[:-1] + b',"price":"9"}',
    "a nest too deep for a parser's stack": flat(raw=None)[:-1]
    + b',"x":'
    + b"[" * 950
    + b"]" * 950
    + b"}",
    "a product that begins with a digit": flat(product_id="1INCH-USD"),
    "a product like a number": flat(product_id=1e2),
    "a product with a bar": flat(product_id="BTC-USD|2026-04-04T12:00:00Z"),
    "numbers of many digits": flat(price=2.123456789012345, best_bid="1.00000000005"),
    "a payload beside a flat ticker": flat(payload={"price": "2.5"}),
    "a wrapper that has a channel": flat(channel="ticker", raw={"product_id": "BTC-USD"}),
    "a wrapper that has a heartbeat's": flat(channel="heartbeats", sequence_num=1, raw={"a": 1}),
    "a wrapper that has events": flat(events=[{"tickers": [FLAT]}], raw={"channel": "ticker"}),
    "the next midnight": flat(timestamp="2026-04-05T00:00:00Z"),
    "nanoseconds before midnight": flat(timestamp="2026-04-04T23:59:59.999999999Z"),
}


@pytest.mark.parametrize("line", AGREED.values(), ids=AGREED)
def test_both_readers_agree_where_they_once_did_not(
    connection: Any, tmp_path: Path, line: bytes
) -> None:
    read_both(connection, write(tmp_path, a=[flat(), line, flat()]))


def test_both_readers_draw_the_line_to_the_future_at_the_same_microsecond(
    connection: Any, tmp_path: Path
) -> None:
    times = [f"2026-04-04T12:00:00{fraction}Z" for fraction in ("", ".0000009", ".000001")]
    segments = write(tmp_path, a=[flat(timestamp=time) for time in times]).segments
    noon = START + timedelta(hours=12)
    found = read_both(connection, Day(tmp_path, segments, START, noon))
    assert [row[1] for row in found["messages"]] == [1, 2]
    assert [row[1:4] for row in found["quarantine"]] == [(3, 0, "no_time")]


NAMES = ("product_id", "pair", "price", "best_bid", "best_ask", "best_bid_size", "side", "time")
NAMES += ("best_bid_quantity", "best_ask_size", "best_ask_quantity", "last_size", "volume_24h")
NAMES += ("volume_24_h", "trade_id", "sequence", "sequence_num", "timestamp")
OUTER_NAMES = ("received_at", "ingest_time", "ts")


def layer(rng: Random, number: int, *names: str) -> dict[str, Any]:
    """Half of the names, each with a value of its own, sound wherever it comes from."""
    values = {name: f"{number}{place:02}.5" for place, name in enumerate(names)}
    values |= {name: f"A-{number}{name}" for name in ("product_id", "pair")}
    values |= {name: rng.choice(("buy", "sell")) for name in ("side",)}
    values |= {"best_ask": f"9{values.get('best_ask')}"}
    for name in ("trade_id", "sequence", "sequence_num"):
        values[name] = values.get(name, "")[:-2]
    for place, name in enumerate(("time", "timestamp", *OUTER_NAMES)):
        values[name] = f"2026-04-04T1{number}:00:0{place}Z"
    return {name: values[name] for name in names if rng.random() < 0.5}


def layered(rng: Random) -> bytes:
    """A ticker whose fields stand under any of their names in any of its layers."""
    item = layer(rng, 1, *(name for name in NAMES if name != "timestamp"))
    message = layer(rng, 2, *NAMES)
    outer = layer(rng, 3, *NAMES, *OUTER_NAMES)
    if rng.random() < 0.5:
        message |= {"channel": "ticker", "events": [{"tickers": [item]}]}
    return json.dumps(rng.choice(({**outer, "raw": message}, {**outer, **message}))).encode()


def test_both_readers_take_each_field_from_the_same_name_and_layer(
    connection: Any, tmp_path: Path
) -> None:
    rng = Random(5)
    read_both(connection, write(tmp_path, a=[layered(rng) for _ in range(3000)]))
    assert vouched(connection)["ticker"] > 1000


# --- what the fast reader must still vouch for


VOUCHED = {
    "flat": flat(),
    "flat with a nested one": flat(
        raw={"type": "ticker", "price": "2.5", "best_bid_quantity": "1"}
    ),
    "Exchange": (
        b'{"type":"ticker","sequence":5,"product_id":"1INCH-USD","price":"2","best_bid":"1",'
        b'"best_bid_size":"0.5","best_ask":"3","best_ask_size":"0.1","side":"sell","trade_id":7,'
        b'"time":"2026-04-04T12:00:00.000001Z","last_size":"1","volume_24h":"99"}'
    ),
    "Advanced Trade": (
        b'{"channel":"ticker_batch","timestamp":"2026-04-04T12:00:00.123456789Z","sequence_num":3,'
        b'"events":[{"type":"update","tickers":[{"type":"ticker","product_id":"BTC-USD",'
        b'"price":"2","best_bid":"1","best_ask":"3"}]}]}'
    ),
    "our recorder's": (
        b'{"received_at":"2026-04-04T12:00:00.5Z","connection":"0fc1-77","sent":1,"raw":'
        b'{"channel":"ticker","timestamp":"2026-04-04T12:00:00Z","sequence_num":3,"events":'
        b'[{"tickers":[{"product_id":"BTC-USD","price":2.5,"best_bid":1,"best_ask":"3"}]}]}}'
    ),
    "its heartbeat": (
        b'{"received_at":"2026-04-04T12:00:00.5Z","connection":"0fc1-77","sent":1,"raw":'
        b'{"channel":"heartbeats","timestamp":"2026-04-04T12:00:00Z","sequence_num":4,"events":'
        b'[{"current_time":"2026-04-04","heartbeat_counter":"5"}]}}'
    ),
    "subscriptions": b'{"type":"subscriptions","channels":[{"name":"ticker"}]}',
}


@pytest.mark.parametrize("line", VOUCHED.values(), ids=VOUCHED)
def test_fast_reader_vouches_for_clean_lines_of_each_shape(
    connection: Any, tmp_path: Path, line: bytes
) -> None:
    read_both(connection, write(tmp_path, a=[line]))
    assert None not in vouched(connection)


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzipped), (".zst", zstandard.compress)], ids=["gz", "zst"]
)
def test_fast_reader_reads_compressed_segments_of_several_parts(
    connection: Any, tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    part = compress(b"".join(flat(trade_id=number) + b"\n" for number in range(100)))
    (tmp_path / f"a.ndjson{ending}").write_bytes(part + compress(b"") + part + part)
    assert len(read_both(connection, day_of(tmp_path))["messages"]) == 300
    assert vouched(connection) == {"ticker": 300}


@pytest.mark.parametrize(
    "line", [*RUBBISH[:-1], b'{"events":5}', b'{"price":"1","price":"2"}', flat(raw=[])]
)
def test_one_bad_line_leaves_its_segments_other_lines_to_the_fast_reader(
    connection: Any, tmp_path: Path, line: bytes
) -> None:
    read_both(connection, write(tmp_path, a=[flat()] * 5 + [line] + [flat()] * 5, b=[flat()] * 3))
    assert vouched(connection)["ticker"] == 13


def test_plain_reader_is_given_only_the_lines_that_the_fast_one_did_not_vouch_for(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = write(tmp_path, a=[flat(), flat(price="0"), flat()], b=[flat()], c=[b"rubbish", flat()])
    asked: list[tuple[str, list[int] | None]] = []
    read_plain = reader._Reading.read_plain

    def noted(self: Any, segment: Segment, wanted: list[int] | None) -> None:
        asked.append((segment.name, wanted))
        read_plain(self, segment, wanted)

    monkeypatch.setattr(reader._Reading, "read_plain", noted)
    read(connection, day)
    assert asked == [("a.ndjson", [2]), ("c.ndjson", [1])]


# --- line numbers


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_line_numbers_are_right_over_large_and_small_segments_on_any_number_of_threads(
    tmp_path: Path, threads: int
) -> None:
    """More than one buffer of 32 MB, and more than one row group, in one file."""
    faults = {1, 2, 9_999, 10_000, 122_880, 122_881, 129_999}
    padding = b"x" * 500

    def line(number: int) -> bytes:
        if number in faults:
            return b"broken %d" % number
        return (
            b'{"timestamp":"2026-04-04T12:00:00Z","product_id":"BTC-USD","price":"%d",'
            b'"best_bid":"1","best_ask":"3","x":"%s"}' % (number, padding)
        )

    sizes = {"a": 3, "b": 130_000, "c": 1, "d": 20_000, "e": 2}
    for name, size in sizes.items():
        with (tmp_path / f"{name}.ndjson").open("wb") as file:
            file.writelines(line(number) + b"\n" for number in range(1, size + 1))
    with connect(threads) as connection, messages(connection, day_of(tmp_path)):
        sql = "select count(*), count(*) filter (price != line) from messages"
        found = sum(size - sum(fault <= size for fault in faults) for size in sizes.values())
        assert connection.execute(sql).fetchall() == [(found, 0)]
        sql = "select segment, line, decode(raw) from quarantine order by segment, line"
        assert connection.execute(sql).fetchall() == [
            (f"{name}.ndjson", fault, f"broken {fault}")
            for name, size in sizes.items()
            for fault in sorted(faults)
            if fault <= size
        ]


@pytest.mark.parametrize(("small", "part"), [(0, 0), (100, 500), (1000, 5000), (1000, 1 << 20)])
def test_many_small_segments_keep_their_lines_apart(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, part: int
) -> None:
    monkeypatch.setattr(parts, "SMALL_BYTES", small)
    monkeypatch.setattr(parts, "PART_BYTES", part)
    for number in range(300):
        lines = [flat(price=str(number + 1)), b"", flat(trade_id=number), b"x%d" % number]
        data = b"\n".join(lines[: 1 + number % 4])
        if number % 3 == 0:
            (tmp_path / f"{number:03}.ndjson.zst").write_bytes(zstandard.compress(data))
        else:
            (tmp_path / f"{number:03}.ndjson").write_bytes(data)
    with messages(connection, day_of(tmp_path)):
        sql = "select segment[:3]::int, line, price::int, trade_id from messages order by all"
        assert connection.execute(sql).fetchall() == [
            row
            for number in range(300)
            for row in [(number, 1, number + 1, None), (number, 3, 2, number)]
            if row[1] <= 1 + number % 4
        ]
        sql = "select segment[:3]::int, line, decode(raw) from quarantine order by all"
        assert connection.execute(sql).fetchall() == [
            (number, 4, f"x{number}") for number in range(3, 300, 4)
        ]


def test_segment_that_changed_since_it_was_described_is_read_plainly_and_wholly(
    connection: Any, tmp_path: Path
) -> None:
    day = write(tmp_path, a=[flat(price="5")] * 3, b=[flat(price="6")] * 4, c=[flat()])
    (tmp_path / "b.ndjson").write_bytes(flat() + b"\n" + flat() + b"\nbroken\n")
    found = read(connection, day)
    assert [row[:2] for row in found["messages"]] == [
        *(("a.ndjson", 1), ("a.ndjson", 2), ("a.ndjson", 3)),
        *(("b.ndjson", 1), ("b.ndjson", 2), ("c.ndjson", 1)),
    ]
    assert found["quarantine"] == [("b.ndjson", 3, None, "not_json", b"broken")]
    assert ("b.ndjson", 2, 0, 2) in found["line_books"]


# --- folders, names and sizes


@pytest.mark.parametrize("place", ["price=9/side=buy", "a [b] *?{c}", 'it\'s "quoted"', "é"])
def test_folder_and_file_names_are_no_patterns_and_no_columns(
    connection: Any, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SMALL_BYTES", 0)  # read where they lie
    monkeypatch.delattr(parts.Parts, "join")
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for name in ("a[1]", "a1", "a*", "it's", "{a,b}", "-x", " ", "é"):
        (folder / f"{name}.ndjson").write_bytes(flat(price=2) + b"\n")
    found = read_both(connection, day_of(folder))
    assert len(found["messages"]) == 8
    assert {row[8] for row in found["messages"]} == {2}
    assert vouched(connection) == {"ticker": 8}


def test_relative_folder_is_read(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a=[flat()])
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(parts, "SMALL_BYTES", 0)  # read where it lies
    monkeypatch.delattr(parts.Parts, "join")
    found = read_both(connection, day_of(Path(tmp_path.name)))
    assert len(found["messages"]) == 1


def test_no_segments_and_empty_ones_make_empty_relations(connection: Any, tmp_path: Path) -> None:
    read(connection, write(tmp_path, a=[flat()]))
    assert read(connection, Day(tmp_path, [], START, LATEST)) == {name: [] for name in RELATIONS}
    (tmp_path / "a.ndjson").write_bytes(b"")
    (tmp_path / "b.ndjson.gz").write_bytes(b"")
    (tmp_path / "c.ndjson.zst").write_bytes(b"")
    (tmp_path / "d.ndjson.gz").write_bytes(gzipped(b""))
    found = read_both(connection, day_of(tmp_path))
    assert found["line_books"] == [
        (f"{n}", 0, 0, 0) for n in ("a.ndjson", "b.ndjson.gz", "c.ndjson.zst", "d.ndjson.gz")
    ]
    assert not any(rows for name, rows in found.items() if name != "line_books")


def test_plain_reading_needs_no_fast_one_before(tmp_path: Path) -> None:
    day = write(tmp_path, a=[flat()])
    with connect(1) as fresh:
        assert len(read(fresh, day, is_plain_only=True)["messages"]) == 1


def test_lines_of_megabytes_are_read_by_both(connection: Any, tmp_path: Path) -> None:
    long = {size: flat(x="y" * (size << 20)) for size in (1, 7, 9, 20)}
    found = read_both(connection, write(tmp_path, a=[flat(), *long.values(), flat()]))
    assert [row[1] for row in found["messages"]] == [1, 2, 3, 4, 5, 6]
    assert vouched(connection) == {"ticker": 4, None: 2}


def test_long_message_of_many_faults_keeps_its_bytes_once(connection: Any, tmp_path: Path) -> None:
    line = b'{"channel":"ticker","events":[{"tickers":[' + b"0," * 100_000 + b"0]}]}"
    short = b'{"channel":"ticker","events":[{"tickers":[0,0]}]}'
    found = read(connection, write(tmp_path, a=[line, short]))
    held = [(row[1], row[2], row[4]) for row in found["quarantine"] if row[4] is not None]
    assert held == [(1, 0, line), (2, 0, short), (2, 1, short)]
    assert len(found["quarantine"]) == 100_003
    assert found["line_books"] == [("a.ndjson", 2, 0, 100_003)]


def test_more_faults_than_are_held_at_once_are_all_written(
    connection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PLAIN_BATCH_ROWS", 7)
    lines = [b"broken %d" % number for number in range(20)]
    found = read_both(connection, write(tmp_path, a=lines, b=[*lines, flat(price="0")]))
    assert len(found["quarantine"]) == 41
    monkeypatch.setattr(reader, "PLAIN_BATCH_BYTES", 10)
    assert read_both(connection, day_of(tmp_path)) == found


def test_gap_lines_are_kept_as_they_were_read(connection: Any, tmp_path: Path) -> None:
    gap = {"type": "gap", "product_id": "BTC-USD", "from": 1775304000, "to": "\ud800"}
    found = read_both(connection, write(tmp_path, a=[flat(), json.dumps(gap).encode()]))
    ((segment, line, text),) = found["gap_lines"]
    assert (segment, line, json.loads(text)) == ("a.ndjson", 2, {**gap, "from": "1775304000"})


# --- decoding


def everything(path: Path) -> tuple[bytes, bool]:
    decoded = Decoded(path)
    return b"".join(decoded), decoded.is_torn


DATA = b"".join(b"%d %s\n" % (n, Random(n).randbytes(40).hex().encode()) for n in range(12_000))
COMPRESSED = pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzipped), (".zst", zstandard.compress)], ids=["gz", "zst"]
)
Compress = Callable[[bytes], bytes]


@COMPRESSED
def test_whole_file_of_several_parts_decodes_whole(
    tmp_path: Path, ending: str, compress: Compress
) -> None:
    path = tmp_path / f"a.ndjson{ending}"
    path.write_bytes(compress(DATA) + compress(b"") + compress(b"more\n") + compress(DATA))
    assert everything(path) == (DATA + b"more\n" + DATA, False)


@COMPRESSED
@pytest.mark.parametrize("missing", [1, 4, 9, 1000])
def test_cut_file_keeps_all_that_it_has(
    tmp_path: Path, ending: str, compress: Compress, missing: int
) -> None:
    path = tmp_path / f"a.ndjson{ending}"
    path.write_bytes(compress(b"first\n") + compress(DATA)[:-missing])
    found, is_torn = everything(path)
    assert is_torn
    assert (b"first\n" + DATA).startswith(found)
    assert len(found) > len(DATA) - (10 * missing if ending == ".gz" else 300_000)  # a zst block


@COMPRESSED
@pytest.mark.parametrize("rubbish", [b"rubbish", bytes(100_000)], ids=["text", "zeros"])
def test_rubbish_after_the_end_is_a_tear_that_loses_nothing(
    tmp_path: Path, ending: str, compress: Compress, rubbish: bytes
) -> None:
    path = tmp_path / f"a.ndjson{ending}"
    path.write_bytes(compress(DATA) + rubbish)
    assert everything(path) == (DATA, True)


@COMPRESSED
@pytest.mark.parametrize("seed", range(4))
def test_wrong_byte_is_a_tear_and_what_stands_before_it_is_kept(
    tmp_path: Path, ending: str, compress: Compress, seed: int
) -> None:
    part = compress(DATA)
    at = len(part) // 2 + seed * len(part) // 10
    broken = part[:at] + bytes([part[at] ^ 0x5A]) + part[at + 1 :]
    path = tmp_path / f"a.ndjson{ending}"
    path.write_bytes(compress(b"first\n") + broken)
    found, is_torn = everything(path)
    assert is_torn or ending == ".zst"  # a frame need not carry a checksum
    assert found.startswith(b"first\n" + DATA[: len(DATA) // 4])


@COMPRESSED
def test_file_that_is_none_of_the_kind_decodes_to_nothing(
    tmp_path: Path, ending: str, compress: Compress
) -> None:
    path = tmp_path / f"a.ndjson{ending}"
    path.write_bytes(compress(DATA)[1:])
    assert everything(path) == (b"", True)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"\n\n", [b"", b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\n\nb\r", [b"a\r", b"", b"b\r"]),
        (b"a\x0bb\x85\xe2\x80\xa8c\n", [b"a\x0bb\x85\xe2\x80\xa8c"]),
    ],
)
def test_line_is_the_bytes_up_to_a_line_feed(
    tmp_path: Path, content: bytes, lines: list[bytes]
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(content)
    assert list(Decoded(path).lines()) == lines
    assert describe(path).lines == len(lines)
