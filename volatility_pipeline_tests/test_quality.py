"""The suites at their limits, when they are asked, what Dagster makes of them, and their page."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from volatility_pipeline.checks.quality import (
    EXPECTATIONS,
    features_know_the_past_alone,
    labels_are_of_feature_rows,
)
from volatility_pipeline.definitions import STAGES
from volatility_pipeline.domain.expectations import SUITES, Failure, Outcome
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.partitions import build_tags
from volatility_pipeline.reports.quality import render
from volatility_pipeline.resources import quality as quality_module
from volatility_pipeline.resources import warehouse as warehouse_module
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.quality import Quality
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.oracle import Tick
from volatility_pipeline_tests.tick_lake import (
    Row,
    at,
    built_lake,
    tick,
    walk,
    write_rows,
    write_ticks,
)

DAY = date(2026, 3, 1)
MORROW = date(2026, 3, 2)
NOON = at("2026-03-01 12:00")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def quality(lake: Lake, now: str = "2026-03-09") -> Quality:
    """The suites over a lake, at a time that is the clock's."""
    return Quality(lake, Warehouse(lake, threads=1), lambda: at(now).replace(tzinfo=UTC))


def found(lake: Lake, table: str = "ticks", day: date = DAY) -> dict[str, Failure]:
    """What fails in a table of a day, by name."""
    outcome = quality(lake).validate(table, day)
    assert outcome is not None
    return {failure.name: failure for failure in outcome.failures}


def quoted(start: datetime, seconds: int, mid: float, *, every: int = 1, **more: Any) -> list[Tick]:
    """Ticks of one price level that always move a little."""
    return [
        tick(
            start + count * SECOND,
            f"{mid * (1 + count % 2 / 1000):.4f}",
            f"{mid * (1 + count % 2 / 1000) + 0.01:.4f}",
            line=count + 1,
            **more,
        )
        for count in range(0, seconds, every)
    ]


# Ticks: faults at their limits


@pytest.mark.parametrize(("factor", "name"), [(100, "unit_changes"), (3, "price_jumps"), (1.9, "")])
def test_price_that_moves_at_once_is_a_jump_or_a_unit_or_nothing(
    lake: Lake, factor: float, name: str
) -> None:
    ticks = quoted(NOON, 300, 50) + quoted(NOON + 300 * SECOND, 300, 50 * factor, segment="b")
    write_ticks(lake, ticks)
    assert set(found(lake)) == ({name} if name else set())


def test_unit_that_changes_at_midnight_is_seen_from_the_eve(lake: Lake) -> None:
    midnight = at("2026-03-02")
    write_ticks(lake, quoted(midnight - 600 * SECOND, 600, 50) + quoted(midnight, 600, 0.5))
    assert found(lake, day=DAY) == {}
    failure = found(lake, day=MORROW)["unit_changes"]
    assert failure.first == (
        "BTC-USD, 00:00: minutes in which the price moves by a power of ten at once, as if in "
        "another unit: 1",
    )


def test_names_swapped_since_midnight_are_told_from_the_eve(lake: Lake) -> None:
    midnight = at("2026-03-02")
    ticks = []
    for name, before, after in (("BTC-USD", 67_000, 2_050), ("ETH-USD", 2_050, 67_000)):
        ticks += quoted(midnight - 300 * SECOND, 300, before, product_id=name)
        ticks += quoted(midnight, 300, after, product_id=name)
    write_ticks(lake, ticks)
    assert set(found(lake, day=MORROW)) == {"name_changes"}


def test_two_products_at_one_price_are_in_order(lake: Lake) -> None:
    ticks = [
        one
        for name in ("BTC-USD", "BTC-USDC")
        for one in quoted(NOON, 600, 67_000, product_id=name)
    ]
    write_ticks(lake, ticks)
    assert found(lake) == {}


@pytest.mark.parametrize(("silent", "is_hole"), [(599, False), (620, True), (3000, False)])
def test_silence_is_a_hole_from_ten_minutes_on_where_more_is_heard_than_missed(
    lake: Lake, silent: int, is_hole: bool
) -> None:
    after = NOON + (1200 + silent - 1) * SECOND
    write_ticks(lake, quoted(NOON, 1200, 50) + quoted(after, 1200, 50, segment="b"))
    assert ("silent_seconds" in found(lake)) == is_hole


def test_long_silences_of_a_thin_market_are_no_holes(lake: Lake) -> None:
    write_ticks(lake, quoted(NOON, 36_000, 50, every=700))
    assert found(lake) == {}


def test_silence_over_midnight_is_a_hole_of_the_day_that_ends_it(lake: Lake) -> None:
    midnight = at("2026-03-02")
    early = quoted(midnight - 3600 * SECOND, 3600, 50)
    write_ticks(lake, early + quoted(midnight + 1800 * SECOND, 3600, 50, segment="b"))
    assert found(lake, day=DAY) == {}
    assert found(lake, day=MORROW)["silent_seconds"].worst == pytest.approx(1801)


def test_null_times_and_products_are_counted_and_named(
    tables: dict[str, list[Row]], lake: Lake
) -> None:
    first, second, *rows = tables["ticks"]
    rows += [first | {"event_time": None}, second | {"product_id": None}]
    write_rows(lake, "ticks", DAY, rows)
    failure = found(lake)["incomplete_rows"]
    assert failure.rows == 2
    assert sorted(said.split(": ")[0] for said in failure.first) == [
        "BTC-USD, no hour",
        "no product_id, 12:00",
    ]


@pytest.mark.parametrize(
    ("minutes", "every", "is_frozen"), [(40, 2, True), (25, 2, False), (40, 20, False)]
)
def test_price_is_frozen_where_it_stands_still_for_long_while_many_ticks_come(
    lake: Lake, minutes: int, every: int, is_frozen: bool
) -> None:
    still = [tick(NOON + count * SECOND) for count in range(0, 60 * minutes, every)]
    write_ticks(lake, quoted(NOON - 600 * SECOND, 600, 100) + still)
    assert ("frozen_minutes" in found(lake)) == is_frozen


def test_quotes_that_stand_still_while_trades_alternate_are_not_frozen(lake: Lake) -> None:
    rows = [
        vars(tick(NOON + count * SECOND, line=count)) | {"price": 99.0 + count % 2, "line": count}
        for count in range(3600)
    ]
    write_rows(lake, "ticks", DAY, [plain(row) for row in rows])
    assert found(lake) == {}


def test_late_line_among_many_is_no_wrong_clock(lake: Lake) -> None:
    ticks = quoted(NOON, 3600, 50)
    ticks[1000] = replace(ticks[1000], event_time=NOON + 3000 * SECOND)
    ticks[3000] = replace(ticks[3000], event_time=NOON + 1000 * SECOND)
    write_ticks(lake, ticks)
    assert found(lake) == {}


def test_segments_of_a_topic_are_one_source_in_the_order_of_their_offsets(lake: Lake) -> None:
    def segment(number: int) -> str:
        return f"ticks.raw-0a1b2c3d-0-{100 * number:020d}-{100 * number + 99:020d}.ndjson"

    def sized(number: int) -> list[Tick]:
        size = Decimal(1) if number < 20 else None
        start = NOON + number * MINUTE
        return quoted(start, 60, 50, segment=segment(number), bid_size=size, ask_size=size)

    write_ticks(lake, [one for number in range(40) for one in sized(number)])
    assert found(lake)["unsized_share"].worst == pytest.approx(0.5)


def test_sources_with_and_without_sizes_side_by_side_are_in_order(lake: Lake) -> None:
    write_ticks(
        lake,
        walk(NOON, 600, product_id="BTC-USD")
        + [
            replace(one, segment="b", event_time=one.event_time + timedelta(microseconds=7))
            for one in walk(NOON, 600, is_sized=False)
        ],
    )
    assert found(lake) == {}


# All tables: what the stages behind rely on


def plain(row: Row) -> Row:
    return {
        name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()
    }


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """Sound rows of every table, in order."""
    import pyarrow.parquet as pq

    lake = built_lake(tmp_path_factory.mktemp("sound"), walk(NOON, 500))
    rows = {
        table: pq.ParquetFile(lake.file(table, DAY)).read().to_pylist()
        for table in ("ticks", "bars", "features", "labels")
    }
    rows["predictions"] = [
        {
            "product_id": "BTC-USD",
            "ts": row["ts"],
            "probability": 0.2,
            "is_alert": False,
            "threshold": 1e-5,
            "decision_threshold": 0.5,
            "model_name": "har_logistic",
            "model_version": "1",
            "trained_until": NOON - timedelta(days=1),
            "out_of_sample": True,
        }
        for row in rows["labels"]
    ]
    return rows


SPOILT: dict[str, Row] = {
    "ticks": {"bid_size": -1.0},
    "bars": {"spread": -0.01},
    "features": {"order_book_imbalance_60s": 1.5},
    "labels": {"future_volatility_60s": float("nan")},
    "predictions": {"is_alert": True},
}
TIMES = {"ticks": "event_time", "bars": "second"}
SPOIL: dict[str, Callable[[str, list[Row]], list[Row]]] = {
    "incomplete_rows": lambda _, rows: [*rows[:-1], rows[-1] | {"product_id": None}],
    "impossible_rows": lambda table, rows: [*rows[:-1], rows[-1] | SPOILT[table]],
    "strayed_rows": lambda table, rows: [
        *rows[:-1],
        rows[-1] | {TIMES.get(table, "ts"): at("2026-03-02 00:00")},
    ],
    "misplaced_rows": lambda _, rows: [*rows[:-2], rows[-1], rows[-2]],
    "repeated_rows": lambda _, rows: [*rows, rows[-1]],
}


@pytest.mark.parametrize("table", SPOILT)
def test_each_fault_of_a_row_fails_its_expectation_alone_and_is_critical(
    table: str, tables: dict[str, list[Row]], tmp_path: Path
) -> None:
    said = {}
    for name, spoil in {"": lambda _, rows: rows, **SPOIL}.items():
        lake = Lake(tmp_path / (name or "sound"))
        write_rows(lake, table, DAY, spoil(table, tables[table]))
        said[name] = found(lake, table)
    assert {name: set(failures) for name, failures in said.items()} == {
        "": set(),
        **{name: {name} for name in SPOIL},
    }
    for name in SPOIL:
        assert said[name][name].severity == "critical"
        assert said[name][name].worst == 1


def test_null_in_a_feature_that_always_is_known_is_found(
    tables: dict[str, list[Row]], lake: Lake
) -> None:
    rows = [row | {"log_return_60s": None} for row in tables["features"]]
    write_rows(lake, "features", DAY, rows)
    (failure,) = found(lake, "features").values()
    assert (failure.name, failure.worst) == ("incomplete_rows", len(rows))
    assert failure.first[0].startswith("BTC-USD, 12:00: rows without a value")
    assert failure.first[0].endswith(f": {len(rows)}")


# SQL checks


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        ({}, 0),
        ({"mid": 85_000.005}, 1),
        ({"trade_intensity_300s": 10_000}, 1),
        ({"log_return_30s": None}, 1),
    ],
)
def test_feature_row_that_says_other_than_the_bars_before_it_is_found(
    tables: dict[str, list[Row]], lake: Lake, spoil: Row, count: int
) -> None:
    rows = tables["features"]
    write_rows(lake, "bars", DAY, tables["bars"])
    write_rows(lake, "features", DAY, [*rows[:-1], rows[-1] | spoil])
    bad = Warehouse(lake).bad_days("features_look_ahead", {"features": [DAY], "bars": [DAY]}, DAY)
    assert [row["ts"] for row in bad] == [rows[-1]["ts"]] * count


def test_features_that_know_one_second_too_much_are_found(
    tables: dict[str, list[Row]], lake: Lake
) -> None:
    write_rows(lake, "bars", DAY, tables["bars"])
    ahead = [row | {"ts": row["ts"] - SECOND} for row in tables["features"]]
    write_rows(lake, "features", DAY, ahead)
    bad = Warehouse(lake).bad_days("features_look_ahead", {"features": [DAY], "bars": [DAY]}, DAY)
    assert len(bad) == len(ahead)


def test_row_in_labels_or_features_alone_is_found(tables: dict[str, list[Row]], lake: Lake) -> None:
    write_rows(lake, "features", DAY, tables["features"][1:])
    write_rows(lake, "labels", DAY, tables["labels"][:-1])
    days = {"labels": [DAY], "features": [DAY]}
    assert Warehouse(lake).bad_rows("labels_without_features", days) == [
        {"product_id": "BTC-USD", "ts": tables["labels"][0]["ts"], "only_in": "labels"},
        {"product_id": "BTC-USD", "ts": tables["labels"][-1]["ts"], "only_in": "features"},
    ]


# When a suite is asked


def asked_at(lake: Lake, now: str, table: str = "bars") -> str | None:
    outcome = quality(lake, now).validate(table, DAY)
    return None if outcome is None else outcome.validated_at


def test_day_that_has_not_changed_is_not_asked_again(
    tables: dict[str, list[Row]], lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(lake, "bars", DAY, tables["bars"])
    first = asked_at(lake, "2026-03-05")
    assert asked_at(lake, "2026-03-06") == first == "2026-03-05T00:00:00+00:00"

    write_rows(lake, "bars", DAY, tables["bars"][:-1])
    assert asked_at(lake, "2026-03-07") == "2026-03-07T00:00:00+00:00"

    stricter = replace(SUITES["bars"], expectations=SUITES["bars"].expectations[:1])
    monkeypatch.setitem(quality_module.SUITES, "bars", stricter)
    assert asked_at(lake, "2026-03-08") == "2026-03-08T00:00:00+00:00"


def test_today_is_asked_every_ten_minutes_and_once_more_when_it_is_over(
    tables: dict[str, list[Row]], lake: Lake
) -> None:
    times = []
    for rows, now in (
        (3, "12:00"),
        (4, "12:09"),
        (5, "12:10"),
        (5, "23:59"),
        (6, "23:59"),
        (7, "23:59"),
    ):
        write_rows(lake, "bars", DAY, tables["bars"][:rows])
        times.append(asked_at(lake, f"2026-03-01 {now}"))
    assert [time[11:16] for time in times if time] == [
        "12:00",
        "12:00",
        "12:10",
        "12:10",
        "23:59",
        "23:59",
    ]
    assert asked_at(lake, "2026-03-02 00:01") == "2026-03-02T00:01:00+00:00"


def test_what_failed_today_is_asked_again_at_once(tables: dict[str, list[Row]], lake: Lake) -> None:
    write_rows(lake, "bars", DAY, SPOIL["repeated_rows"]("bars", tables["bars"]))
    assert quality(lake, "2026-03-01 12:00").validate("bars", DAY).status == "failed"
    write_rows(lake, "bars", DAY, tables["bars"])
    assert quality(lake, "2026-03-01 12:01").validate("bars", DAY).status == "passed"


def test_table_without_rows_has_no_outcome(tables: dict[str, list[Row]], lake: Lake) -> None:
    assert asked_at(lake, "2026-03-05") is None
    write_rows(lake, "bars", DAY, tables["bars"])
    assert asked_at(lake, "2026-03-05") is not None
    write_rows(lake, "bars", DAY, [])
    assert asked_at(lake, "2026-03-05") is None
    assert quality(lake).days() == []


def test_great_expectations_is_imported_only_to_ask_and_calls_and_writes_nowhere(
    tables: dict[str, list[Row]], tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "data")
    write_rows(lake, "bars", DAY, tables["bars"])
    home = tmp_path / "home"
    home.mkdir()
    program = """
import socket, sys
from datetime import date
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refuse
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.quality import Quality
from volatility_pipeline.resources.warehouse import Warehouse
lake = Lake(Path(sys.argv[1]))
quality = Quality(lake, Warehouse(lake))
(outcome,) = quality.validate_days("bars", [date(2026, 3, 1)])
print(outcome.status, "great_expectations" in sys.modules)
"""

    def run() -> str:
        answer = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(lake.root)],
            capture_output=True,
            text=True,
            check=True,
            cwd=home,
            env={**os.environ, "HOME": str(home)},
        )
        assert answer.stderr == ""
        return answer.stdout.strip()

    assert run() == "passed True"
    assert run() == "passed False"
    assert list(home.iterdir()) == []
    assert {path.name for path in lake.root.iterdir()} == {"bars", "quality"}


# Dagster


def run_build(lake: Lake) -> dg.ExecuteInProcessResult:
    """A real run of the data stages with the quality checks, over the market's days."""
    warehouse = Warehouse(lake, threads=1)
    tables = ("ticks", "quarantine", "bars", "features", "labels")
    checks = [EXPECTATIONS[table] for table in tables]
    definitions = dg.Definitions(
        assets=[STAGES[stage][0] for stage in ("raw", "ticks", "bars", "features", "labels")],
        asset_checks=[*checks, features_know_the_past_alone, labels_are_of_feature_rows],
        jobs=[dg.define_asset_job("build", selection=dg.AssetSelection.all())],
        resources={
            "lake": lake,
            "warehouse": warehouse,
            "ingest": Ingest(lake, warehouse),
            "quality": Quality(lake, warehouse),
        },
        executor=dg.in_process_executor,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("build").execute_in_process(
            instance=instance, tags=build_tags(DAY, MORROW), raise_on_error=False
        )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


@pytest.fixture
def landed(lake: Lake) -> Lake:
    start = datetime(2026, 3, 1, 23, tzinfo=UTC)
    land_simulation(lake, Market(("BTC-USD",), start, 1.5))
    return lake


def test_sound_build_passes_every_check_and_writes_the_page(landed: Lake) -> None:
    made = evaluations(run_build(landed))
    assert {name for name, found in made.items() if found.passed} == {
        "ticks_expectations",
        "quarantine_expectations",
        "bars_expectations",
        "features_expectations",
        "labels_expectations",
        "features_know_the_past_alone",
        "labels_are_of_feature_rows",
    }
    metadata = made["bars_expectations"].metadata
    assert metadata["days"].value == 2
    assert metadata["failed"].value == ""
    page = Path(str(metadata["page"].value))
    assert page == landed.root / "quality" / "quality.html"
    assert "Of 10 daily tables, all are in order." in page.read_text()


def test_critical_fault_stops_the_stages_behind_and_a_warning_does_not(
    landed: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = landed.raw_folder(DAY)
    original = landed.segments(DAY)[0]
    shutil.copy(original, folder / f"again-{original.name}")
    broken = tmp_path / "sql"
    shutil.copytree(warehouse_module.SQL, broken)
    sql = (broken / "30_features.sql").read_text()
    formula = "ln(mid / mid_60s)::double"
    assert formula in sql
    (broken / "30_features.sql").write_text(
        sql.replace(formula, "case when minute(ts) != 7 then ln(mid / mid_60s) end::double")
    )
    monkeypatch.setattr(warehouse_module, "SQL", broken)

    result = run_build(landed)

    assert not result.success
    made = evaluations(result)
    warned = made["quarantine_expectations"]
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert warned.metadata["failed"].value == "duplicate_share"
    assert made["bars_expectations"].passed
    failed = made["features_expectations"]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.metadata["failed"].value == "incomplete_rows"
    first = str(failed.metadata["first"].value).splitlines()[0]
    assert first.startswith("- 2026-03-01, **incomplete_rows** (critical): BTC-USD, 23:00: rows")
    assert first.endswith(": 60")
    assert landed.record("features", DAY) is not None
    assert landed.record("labels", DAY) is None
    assert not [name for name in made if name.startswith("labels")]


# The page


def outcome(table: str, day: str, *failures: Failure, is_simulated: bool = False) -> Outcome:
    return Outcome(table, day, "f", f"{day}T23:00:00+00:00", 24, is_simulated, failures)


WARNING = Failure("frozen_minutes", "warning", 7, 61.0, ("BTC-USD, 13:00: it <stands> still",))
CRITICAL = Failure("repeated_rows", "critical", 1, 3.0, ("BTC-USD, 13:00: 3 rows say again",))


def test_page_says_each_finding_and_how_many_more_there_are() -> None:
    page = render(
        [
            outcome("ticks", "2026-03-01", WARNING),
            outcome("bars", "2026-03-01", CRITICAL, is_simulated=True),
            outcome("bars", "2026-03-02"),
        ]
    )
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "PARTLY SIMULATED DATA: Data quality" in page
    assert "Of 3 daily tables, 1 failed and 1 drew a warning." in text
    assert (
        "BTC-USD, 13:00: it &lt;stands&gt; still; and 6 more rows by product_id and hour." in text
    )
    assert "(simulated) BTC-USD, 13:00: 3 rows say again." in text
    assert text.index("2026-03-02") < text.index("2026-03-01")


def test_page_needs_nothing_but_itself() -> None:
    page = render([outcome("ticks", "2026-03-01", WARNING)])
    assert not re.findall(r"(?:https?:|//|@import|<script|<link|url\()", page)


def test_page_of_nothing_says_so() -> None:
    assert "Nothing has been looked at." in render([])


def test_every_expectation_is_a_column_of_its_profile(tables: dict[str, list[Row]]) -> None:
    for suite in SUITES.values():
        sql = warehouse_module.sql_text(f"quality/{suite.table}.sql")
        for name in [*suite.keys, *(each.name for each in suite.expectations)]:
            assert re.search(rf'\b{name}\b"?,?$', sql, re.MULTILINE), (suite.table, name)
