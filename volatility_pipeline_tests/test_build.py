"""`volatility build` on a simulated market: what it makes, and what it leaves alone."""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from volatility_pipeline.cli.orchestrator import Orchestrator, orchestrator
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.command_line import volatility

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)


def market(hours: float, products: tuple[str, ...] = ("BTC-USD",), hour: int = 22) -> Market:
    return Market(products, datetime(2026, 3, 1, hour, tzinfo=UTC), hours)


def hashes(root: Path) -> dict[str, str]:
    """All partitions by name."""
    files = [path for path in root.rglob("*.parquet") if "dagster" not in path.parts]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with four simulated hours of two products over a midnight, built."""
    root = tmp_path_factory.mktemp("built")
    land_simulation(Lake(root), market(4, ("BTC-USD", "ETH-USD")))
    answer = volatility("build", data=root)
    assert answer.code == 0, answer.errors
    assert answer.out.startswith("Built 2026-03-01 to 2026-03-03: ")
    return root


@pytest.fixture
def running(built: Path, monkeypatch: pytest.MonkeyPatch) -> Orchestrator:
    monkeypatch.setenv("VOLATILITY_DATA", str(built))
    with orchestrator(Settings()) as opened:
        yield opened


def test_build_makes_each_stage_of_each_day_that_holds_rows(built: Path) -> None:
    made = {name.split("/")[0] + "/" + name[-18:-8] for name in hashes(built)}
    assert made == {
        f"{stage}/{day}"
        for stage in ("ticks", "bars", "features", "labels")
        for day in (FIRST, SECOND)
    }


def test_build_again_finds_nothing_to_do_and_materializes_nothing(
    built: Path, running: Orchestrator
) -> None:
    runs = running.instance.get_runs_count()
    assert volatility("build", data=built).out == "Nothing has changed since the last build.\n"
    assert running.instance.get_runs_count() == runs


def test_forced_range_gives_the_same_bytes(built: Path) -> None:
    before = hashes(built)
    answer = volatility("build", "--from", FIRST, "--to", SECOND, data=built)
    assert answer.code == 0, answer.errors
    assert hashes(built) == before


def test_materializations_tell_rows_bytes_and_times(built: Path, running: Orchestrator) -> None:
    lake = Lake(built)
    event = running.instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("labels"), asset_partitions=[SECOND.isoformat()]), limit=1
    ).records[0]
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    record = lake.record("labels", SECOND)
    assert metadata["dagster/row_count"] == record["rows"] > 10_000
    assert metadata["bytes"] == record["bytes"]
    assert metadata["products"] == "BTC-USD, ETH-USD"
    assert metadata["from"] == "2026-03-02 00:00:00"
    assert metadata["to"] == "2026-03-02 02:00:28"
    assert 0 <= metadata["spike_rate"] < 1
    assert metadata["plot_BTC-USD"].startswith("![BTC-USD](data:image/svg+xml;base64,")


def test_products_that_were_seen_become_partitions_of_the_model_stages(
    running: Orchestrator,
) -> None:
    assert set(running.instance.get_dynamic_partitions("product")) == {"BTC-USD", "ETH-USD"}


def test_late_segment_of_duplicates_rebuilds_its_ticks_and_stops_there(
    built: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    land_simulation(Lake(root), market(1))
    volatility("build", data=root)
    before = hashes(root)
    lake = Lake(root)
    segment = lake.segments(FIRST)[0]
    (segment.parent / f"zz-late-{segment.name}").write_bytes(segment.read_bytes())

    answer = volatility("build", data=root)

    assert answer.code == 0, answer.errors
    assert hashes(root) == before  # the late copy's name sorts last, so the first rows stay
    books = lake.record("ticks", FIRST)["books"]
    assert sorted(book["duplicates"] > 0 for book in books) == [False, True]


def test_unbalanced_books_stop_the_run_before_the_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    land_simulation(lake, market(1))
    forged = "volatility_pipeline.resources.ingest.Ingest._books"
    monkeypatch.setattr(
        forged,
        staticmethod(
            lambda _, segments: [
                {
                    "segment": segment.name,
                    "lines": segment.lines,
                    "messages": segment.lines - 1,
                    "other": 0,
                    "quarantined_lines": 0,
                    "tickers": 1,
                    "ticks": 1,
                    "duplicates": 0,
                    "quarantined_tickers": 0,
                }
                for segment in segments
            ]
        ),
    )
    answer = volatility("build", data=tmp_path)
    assert answer.code == 1
    assert "A blocking check failed (ticks: ticks_books_balance)" in answer.errors
    assert lake.record("ticks", FIRST) is not None
    assert lake.record("bars", FIRST) is None


def test_rubbish_among_the_lines_is_quarantined_and_fails_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    land_simulation(lake, market(1))
    volatility("build", data=tmp_path)
    ticks = lake.record("ticks", FIRST)["rows"]
    lines = [b"42", b"\xff\xfe\x00", b"", b'{"type":"subscriptions"}', b'{"product_id":"BTC-USD"}']
    (lake.raw_folder(FIRST) / "rubbish.ndjson").write_bytes(b"\n".join(lines) + b'\n{"price": "1')

    answer = volatility("build", data=tmp_path)

    assert answer.code == 0, answer.errors
    assert lake.record("ticks", FIRST)["rows"] == ticks
    found = volatility(
        "query", "select line, reason, raw from quarantine order by line", "--json", data=tmp_path
    )
    assert [json.loads(row)["reason"] for row in found.out.splitlines()] == [
        "not_json",
        "not_json",
        "no_time",
        "not_json",
    ]
    status = volatility("status", data=tmp_path)
    assert "2026-03-01" in status.out
    assert "build" in status.out


def test_old_superseded_runs_are_pruned_and_the_newest_of_each_partition_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_simulation(Lake(tmp_path), market(1))
    volatility("build", data=tmp_path)
    monkeypatch.setattr("volatility_pipeline.timing.KEPT_RUNS", timedelta(days=-1))
    volatility("build", "--from", FIRST, "--to", FIRST, data=tmp_path)
    monkeypatch.setenv("VOLATILITY_DATA", str(tmp_path))
    with orchestrator(Settings()) as opened:
        assert opened.instance.get_runs_count() == 2
        volatility("build", "--from", FIRST, "--to", FIRST, data=tmp_path)
        assert opened.instance.get_runs_count() == 2
        partitions = opened.instance.get_materialized_partitions(dg.AssetKey("labels"))
        assert FIRST.isoformat() in partitions
