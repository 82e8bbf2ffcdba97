"""Recordings become raw segments by event day: byte for byte, once, whole or not at all."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import read_day, read_line
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file, land_simulation
from volatility_pipeline.resources.segments import Decoded, stem_and_suffix
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.captured_lines import line_of, lines_of

FIRST_DAY = date(2025, 1, 1)
EVE, DAY, MORROW = (date(2026, 4, number) for number in (3, 4, 5))
UNTIMED = (b"", b"rubbish", b'{"torn":', b"42", b'{"hello":"world"}', b"\xff\x00\r")


def line(captured: str, **more: Any) -> bytes:
    """A sound flat line captured at that time."""
    fields = {"timestamp": captured, "product_id": "BTC-USD", "price": "2", "best_bid": "1"}
    return json.dumps({**fields, "best_ask": "3", **more}).encode()


def source(tmp_path: Path, lines: Iterable[bytes], name: str = "btc.ndjson") -> Path:
    """A recording of these lines, in a folder of its own beside the lake."""
    path = tmp_path / "recordings" / name
    path.parent.mkdir(exist_ok=True)
    data = b"".join(one + b"\n" for one in lines)
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(data))
    return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake whose folder is not there yet."""
    return Lake(tmp_path / "data")


def tree(lake: Lake) -> dict[str, bytes | None]:
    """Every file (its bytes) and folder (None) of the lake, its root included."""
    return {
        str(path.relative_to(lake.root)): path.read_bytes() if path.is_file() else None
        for path in ([lake.root, *lake.root.rglob("*")] if lake.root.exists() else [])
    }


def landed(lake: Lake) -> dict[date, list[bytes]]:
    """The lines of each day's one segment."""
    found = {}
    for day in lake.raw_days():
        (segment,) = lake.segments(day)
        found[day] = list(Decoded(segment).lines())
    return found


# --- by event day


def test_lines_go_to_their_event_days_over_midnight(lake: Lake, tmp_path: Path) -> None:
    eve = [line("2026-04-03T23:59:58Z"), line("2026-04-03T23:59:59.999999999Z")]
    day = [
        line("2026-04-04T00:00:00Z"),
        line("2026-04-04T01:59:59+02:00"),
        line("2026-04-04 03:00:00"),
    ]
    path = source(tmp_path, [eve[0], eve[1], day[0], day[1], day[2]])
    found = import_file(lake, path, FIRST_DAY)
    assert (found.source, found.is_new, found.is_torn) == ("btc.ndjson", True, False)
    assert found.lines == {EVE: 3, DAY: 2}
    assert landed(lake) == {EVE: [eve[0], eve[1], day[1]], DAY: [day[0], day[2]]}


def test_day_is_the_events_not_the_captures(lake: Lake, tmp_path: Path) -> None:
    late = line("2026-04-05T00:00:03Z", time="2026-04-04T23:59:59Z")
    import_file(lake, source(tmp_path, [late]), FIRST_DAY)
    assert landed(lake) == {DAY: [late]}


def test_line_without_a_readable_time_stays_with_the_one_before(lake: Lake, tmp_path: Path) -> None:
    eve, day = line("2026-04-03T12:00:00Z"), line("2026-04-04T12:00:00Z")
    future = line("2999-01-01T00:00:00Z")
    lines = [eve, *UNTIMED, future, day, *UNTIMED, eve, future]
    found = import_file(lake, source(tmp_path, lines), FIRST_DAY)
    assert landed(lake) == {EVE: [eve, *UNTIMED, future, eve, future], DAY: [day, *UNTIMED]}
    assert found.lines == {EVE: len(UNTIMED) + 4, DAY: len(UNTIMED) + 1}


def test_untimed_lines_at_the_head_go_with_the_first_timed_one(lake: Lake, tmp_path: Path) -> None:
    lines = [*UNTIMED, line("2026-04-04T12:00:00Z"), line("2026-04-03T12:00:00Z")]
    import_file(lake, source(tmp_path, lines), FIRST_DAY)
    assert landed(lake) == {EVE: lines[-1:], DAY: lines[:-1]}


def test_last_line_without_line_feed_gets_one_and_nothing_else_changes(
    lake: Lake, tmp_path: Path
) -> None:
    content = b"\r\n\n" + line("2026-04-04T12:00:00Z") + b" \r\n\t\n" + line("2026-04-04T12:00:01Z")
    path = source(tmp_path, [])
    path.write_bytes(content)
    import_file(lake, path, FIRST_DAY)
    (segment,) = lake.segments(DAY)
    assert segment.read_bytes() == content + b"\n"


def test_time_up_to_a_day_ahead_is_believed_and_later_is_not(lake: Lake, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    near, far = (line(f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%M:%S}Z") for hours in (23, 49))
    import_file(lake, source(tmp_path, [line("2026-04-04T12:00:00Z"), far, near]), FIRST_DAY)
    assert landed(lake) == {
        DAY: [line("2026-04-04T12:00:00Z"), far],
        (now + timedelta(hours=23)).date(): [near],
    }


def test_line_of_a_megabyte_and_thousands_of_days_apart_are_taken(
    lake: Lake, tmp_path: Path
) -> None:
    lines = [line("2026-04-04T12:00:00Z", x="y" * 1_000_000), line("2025-01-01T00:00:00Z")]
    import_file(lake, source(tmp_path, lines), FIRST_DAY)
    assert landed(lake) == {DAY: lines[:1], FIRST_DAY: lines[1:]}


@settings(max_examples=300, deadline=None)
@given(rng=st.randoms(use_true_random=False), nastiness=st.sampled_from((0.05, 0.4, 0.7)))
def test_day_agrees_with_what_the_plain_reader_says_of_the_line(
    rng: Random, nastiness: float
) -> None:
    latest = datetime(2026, 4, 4, 18)  # noqa: DTZ001  UTC without a zone, as everywhere
    drawn = line_of(rng, nastiness=nastiness)
    time = read_line(drawn).time
    expected = None if time is None or time > latest else time.date()
    assert read_day(drawn, latest=latest) == expected


@settings(max_examples=30, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_no_line_is_lost_or_changed_and_their_order_stays(
    tmp_path_factory: pytest.TempPathFactory, rng: Random
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    lines = [line("2026-04-04T12:00:00Z"), *lines_of(rng, rng.randrange(20)), b"end"]
    name = rng.choice(("a.ndjson", "a.ndjson.gz", "a.ndjson.zst"))
    lake = Lake(folder / "data")
    import_file(lake, source(folder, lines, name), date(1970, 1, 1))
    days: dict[date, list[bytes]] = {}
    day = DAY
    latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    for one in lines:
        day = read_day(one, latest=latest) or day
        days.setdefault(day, []).append(one)
    assert landed(lake) == days


# --- names, and importing again


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("btc.ndjson", "btc", ".ndjson"),
        ("btc.2026.ndjson.gz", "btc.2026", ".ndjson.gz"),
        ("btc.ndjson.zst", "btc", ".ndjson.zst"),
        ("btc.json", "btc", ".ndjson"),
        ("btc.jsonl.gz", "btc", ".ndjson.gz"),
        ("btc.zst", "btc", ".ndjson.zst"),
        ("btc", "btc", ".ndjson"),
        (".hidden.ndjson", "hidden", ".ndjson"),
        ("..ndjson", "recording", ".ndjson"),
        (".ndjson", "recording", ".ndjson"),
        (".ndjson.gz", "recording", ".ndjson.gz"),
        ("é ü [1].ndjson", "é ü [1]", ".ndjson"),
        ("\udcff.ndjson", "recording", ".ndjson"),
        ("é" * 120 + ".ndjson", "é" * 90, ".ndjson"),
    ],
)
def test_stem_and_suffix_make_a_file_name_that_a_lake_lists(
    name: str, stem: str, suffix: str
) -> None:
    assert stem_and_suffix(Path("x") / name) == (stem, suffix)


@pytest.mark.parametrize("name", ["btc.ndjson", ".btc.ndjson.gz", "btc.zst", "é" * 100 + ".json"])
def test_segment_is_named_by_stem_and_sixteen_hex_of_the_sources_hash(
    lake: Lake, tmp_path: Path, name: str
) -> None:
    path = source(tmp_path, [line("2026-04-04T12:00:00Z")], name)
    import_file(lake, path, FIRST_DAY)
    stem, suffix = stem_and_suffix(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [segment.name for segment in lake.segments(DAY)] == [f"{stem}-{digest[:16]}{suffix}"]


@pytest.mark.parametrize("ending", ["ndjson", "ndjson.gz", "ndjson.zst"])
def test_importing_the_same_file_again_changes_nothing(
    lake: Lake, tmp_path: Path, ending: str
) -> None:
    lines = [line("2026-04-03T12:00:00Z"), line("2026-04-04T12:00:00Z"), b"rubbish"]
    path = source(tmp_path, lines, f"btc.{ending}")
    first = import_file(lake, path, FIRST_DAY)
    before = tree(lake)
    stamps = [segment.stat().st_mtime_ns for day in (EVE, DAY) for segment in lake.segments(day)]
    again = import_file(lake, path, FIRST_DAY)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.lines == first.lines == {EVE: 1, DAY: 2}
    assert tree(lake) == before
    assert stamps == [
        segment.stat().st_mtime_ns for day in (EVE, DAY) for segment in lake.segments(day)
    ]


def test_importing_again_brings_back_only_the_day_that_was_lost(lake: Lake, tmp_path: Path) -> None:
    path = source(tmp_path, [line("2026-04-03T12:00:00Z"), line("2026-04-04T12:00:00Z")])
    import_file(lake, path, FIRST_DAY)
    before = tree(lake)
    (segment,) = lake.segments(DAY)
    segment.unlink()
    assert import_file(lake, path, FIRST_DAY).is_new
    assert tree(lake) == before


def test_file_that_grew_is_another_segment_and_its_first_part_duplicates(
    lake: Lake, tmp_path: Path
) -> None:
    import_file(lake, source(tmp_path, [line("2026-04-04T12:00:00Z")]), FIRST_DAY)
    grown = [line("2026-04-04T12:00:00Z"), line("2026-04-04T12:00:01Z")]
    assert import_file(lake, source(tmp_path, grown), FIRST_DAY).is_new
    ingest = Ingest(lake, Warehouse(lake))
    ingest.write_manifest(DAY)
    books = ingest.build_ticks(DAY)["books"]
    assert sum(book["ticks"] for book in books) == 2
    assert sum(book["duplicates"] for book in books) == 1


def test_compressed_recording_is_stored_compressed_without_name_or_time(
    lake: Lake, tmp_path: Path
) -> None:
    one = line("2026-04-04T12:00:00Z")
    stored = {}
    for name, folder in (("a.ndjson.gz", "x"), ("b.ndjson.gz", "y")):
        own = Lake(tmp_path / folder)
        import_file(own, source(tmp_path, [one], name), FIRST_DAY)
        (segment,) = own.segments(DAY)
        stored[name] = segment.read_bytes()
        assert gzip.decompress(stored[name]) == one + b"\n"
    assert stored["a.ndjson.gz"] == stored["b.ndjson.gz"]


# --- torn files


MANY = [
    line(
        f"2026-04-04T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z", x=Random(n).randbytes(40).hex()
    )
    for n in range(9000)
]  # 400 KB compressed


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_torn_recording_is_kept_as_far_as_it_decodes_and_told_by_the_manifest(
    lake: Lake, tmp_path: Path, ending: str
) -> None:
    path = source(tmp_path, [line("2026-04-03T12:00:00Z"), *MANY], f"btc.ndjson.{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found = import_file(lake, path, FIRST_DAY)
    assert found.is_torn
    assert found.lines[EVE] == 1
    kept = landed(lake)[DAY]
    assert len(kept) == found.lines[DAY] > 1000
    assert kept[:-1] == MANY[: len(kept) - 1]
    assert MANY[len(kept) - 1].startswith(kept[-1])

    ingest = Ingest(lake, Warehouse(lake))
    torn = {day: ingest.write_manifest(day)["gaps"] for day in (EVE, DAY)}
    (segment,) = lake.segments(DAY)
    gap = {"kind": "torn", "subject": segment.name, "is_hint": False}
    assert (torn[EVE], gap in torn[DAY]) == ([], True)
    ingest.build_ticks(DAY)
    before = tree(lake)
    assert not import_file(lake, path, FIRST_DAY).is_new
    assert tree(lake) == before


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_recording_with_a_wrong_byte_is_kept_as_far_as_that(
    lake: Lake, tmp_path: Path, ending: str
) -> None:
    path = source(tmp_path, MANY, f"btc.ndjson.{ending}")
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + b"\xff" * 16 + whole[half + 16 :])
    found = import_file(lake, path, date(1970, 1, 1))
    assert found.is_torn
    assert landed(lake)[DAY][:2000] == MANY[:2000]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_whole_compressed_recording_is_not_torn(lake: Lake, tmp_path: Path, ending: str) -> None:
    found = import_file(lake, source(tmp_path, MANY, f"btc.ndjson.{ending}"), FIRST_DAY)
    assert not found.is_torn
    assert landed(lake)[DAY] == MANY
    assert Ingest(lake, Warehouse(lake)).write_manifest(DAY)["gaps"] == []


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_file_that_only_claims_to_be_compressed_is_refused(
    lake: Lake, tmp_path: Path, ending: str
) -> None:
    path = source(tmp_path, [], f"btc.{ending}")
    path.write_bytes(MANY[0])
    with pytest.raises(BadInputError, match=rf"btc\.{ending}: nothing of it decodes; .*whole\?"):
        import_file(lake, path, FIRST_DAY)
    assert tree(lake) == {}


# --- bad input changes nothing


def assert_refused(lake: Lake, path: Path, first_day: date, *words: str) -> None:
    """Importing fails in one sentence that holds the words, and nothing changes on disk."""
    before = tree(lake)
    with pytest.raises(BadInputError) as caught:
        import_file(lake, path, first_day)
    assert tree(lake) == before
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


@pytest.fixture(params=["no lake", "a lake"])
def any_lake(request: pytest.FixtureRequest, lake: Lake, tmp_path: Path) -> Lake:
    """A lake that is not there yet, and one that holds a day."""
    if request.param == "a lake":
        import_file(lake, source(tmp_path, [line("2026-04-04T12:00:00Z")], "old.ndjson"), FIRST_DAY)
    return lake


def test_no_such_file_is_refused(any_lake: Lake, tmp_path: Path) -> None:
    assert_refused(
        any_lake, tmp_path / "none.ndjson", FIRST_DAY, "no such file", "name a recording"
    )


def test_folder_is_refused(any_lake: Lake, tmp_path: Path) -> None:
    assert_refused(any_lake, tmp_path, FIRST_DAY, "a folder", f"{tmp_path}/*.ndjson")


@pytest.mark.parametrize("ending", ["ndjson", "ndjson.gz", "ndjson.zst"])
def test_recording_without_any_readable_time_is_refused(
    any_lake: Lake, tmp_path: Path, ending: str
) -> None:
    path = source(tmp_path, [*UNTIMED, line("2999-01-01T00:00:00Z")], f"btc.{ending}")
    assert_refused(any_lake, path, FIRST_DAY, "line 1", "no line", "readable time", "Coinbase")


@pytest.mark.parametrize("ending", ["ndjson", "ndjson.gz", "ndjson.zst"])
def test_day_before_the_first_is_refused_wherever_it_stands(
    any_lake: Lake, tmp_path: Path, ending: str
) -> None:
    lines = [b"", line("2026-04-04T12:00:00Z"), line("2026-04-03T12:00:00Z")]
    lines += [b"x", line("2026-04-02T23:59:59Z"), line("2026-04-04T12:00:00Z")]
    path = source(tmp_path, lines, f"btc.{ending}")
    words = ("line 5", "2026-04-02", "first day, 2026-04-03", "VOLATILITY_FIRST_DAY=2026-04-02")
    assert_refused(any_lake, path, EVE, *words)
    import_file(any_lake, path, date(2026, 4, 2))


def test_failure_while_writing_leaves_nothing(
    any_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path, [line("2026-04-03T12:00:00Z"), line("2026-04-04T12:00:00Z")])
    before = tree(any_lake)

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(any_lake, path, FIRST_DAY, progress=fail)
    assert tree(any_lake) == before
    seen: list[int] = []

    def fail_later(size: int) -> None:
        seen.append(size)
        if len(seen) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(any_lake, path, FIRST_DAY, progress=fail_later)
    assert tree(any_lake) == before


def test_empty_recording_is_no_fault_and_changes_nothing(any_lake: Lake, tmp_path: Path) -> None:
    before = tree(any_lake)
    for name in ("a.ndjson", "a.ndjson.gz", "a.ndjson.zst"):
        found = import_file(any_lake, source(tmp_path, [], name), FIRST_DAY)
        assert (found.lines, found.is_new, found.is_torn) == ({}, False, False)
    assert tree(any_lake) == before


def test_progress_is_told_the_bytes_of_every_line(lake: Lake, tmp_path: Path) -> None:
    path = source(tmp_path, [b"", line("2026-04-04T12:00:00Z"), b"abc"])
    seen: list[int] = []
    import_file(lake, path, FIRST_DAY, progress=seen.append)
    assert sum(seen) == path.stat().st_size
    assert (seen[0], seen[2]) == (1, 4)


# --- made-up markets


def test_simulated_market_lands_once_marked_and_compressed(lake: Lake) -> None:
    market = Market(("BTC-USD",), datetime(2026, 4, 3, 23, tzinfo=UTC), 2, seed=5)
    first = land_simulation(lake, market)
    before = tree(lake)
    assert set(first.lines) == {EVE, DAY}
    for day in (EVE, DAY):
        (segment,) = lake.segments(day)
        assert segment.name == first.source
        assert segment.name.startswith("simulated-market-seed5-")
        assert segment.name.endswith(".ndjson.zst")
        lines = list(Decoded(segment).lines())
        assert len(lines) == first.lines[day]
        assert {json.loads(one)["source"] for one in lines} == {"simulated"}
    assert not land_simulation(lake, market).is_new
    assert tree(lake) == before
