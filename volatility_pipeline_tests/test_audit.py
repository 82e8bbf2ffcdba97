"""The audit over lakes: simulated markets through the SQL, a cut-off future, and the command."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from sklearn.metrics import average_precision_score

from volatility_pipeline.cli import audit as command
from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.domain.leakage import FOREST, labelled, rank
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, ROLES
from volatility_pipeline.resources.audit import LEAST_NOISE_HOURS, NOISE_MODELS, Audit
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.registered_models import tracking
from volatility_pipeline_tests.tick_lake import at, build_all, built_lake, tick, walk, write_ticks

START = datetime(2026, 3, 1, tzinfo=UTC)


def audit_of(lake: Lake) -> Audit:
    return Audit(lake, Warehouse(lake))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Five simulated hours of one product, up to their splits."""
    lake = Lake(tmp_path_factory.mktemp("audited"))
    land_simulation(lake, Market(("BTC-USD",), START, 5, seed=1))
    build_all(lake)
    Training(lake, Warehouse(lake), tracking(lake.root)).split("BTC-USD", "trailing")
    return lake


def run(lake: Lake, *arguments: str) -> None:
    app = typer.Typer()
    command.register(app)
    app(["--data", str(lake.root), "--noise-seeds", "0", *arguments], standalone_mode=False)


# Simulated markets.


def test_noise_through_the_pipeline_gives_chance_and_a_shuffled_split_four_fifths(
    lake: Lake,
) -> None:
    section = audit_of(lake).noise(10, hours=LEAST_NOISE_HOURS)
    assert section.is_simulated
    assert len(section.controls) == len(NOISE_MODELS)
    for control in section.controls:
        assert control.numbers["draws"] == 10
        assert control.passed, control.sentence
        assert -0.8 < control.numbers["excess"] <= 3 * control.numbers["standard_error"]
        assert control.numbers["standard_error"] < 0.6
        assert control.numbers["mean_lift_every_row"] < 1.6
    found = {(row.protocol.name, row.model): row for row in section.leakage}
    assert found["shuffled", FOREST].average_precision > 0.8
    assert found["next_row", "persistence"].average_precision > 0.8
    for model in ("persistence", "har_logistic", FOREST):
        assert found["honest", model].average_precision < 0.3


def test_on_a_clustered_market_persistence_is_well_above_base_and_har_at_or_above_it(
    lake: Lake,
) -> None:
    rows = audit_of(lake).simulated_rows(0, hours=36, is_noise=False, product="ETH-USD")
    policy, frame = labelled(rows, "honest", policy="trailing")
    train, validation, test = (frame[frame["role"] == role] for role in ROLES)
    target = test["is_spike"].to_numpy(dtype=bool)
    base_rate = target.mean()
    persistence, har = (
        average_precision_score(target, rank(name, train, validation, test, policy=policy, seed=0))
        for name in ("persistence", "har_logistic")
    )
    assert 0.02 < base_rate < 0.3
    assert persistence > 2 * base_rate
    assert har >= persistence


def test_the_audit_s_honest_rows_are_those_of_the_splits_stage(trained: Lake) -> None:
    rows = Warehouse(trained).labelled_rows("BTC-USD").to_pandas()
    _, frame = labelled(rows, "honest", policy="trailing")
    stored = pd.read_parquet(trained.file("splits", "BTC-USD"))
    for column in ("ts", "role", "is_spike", "threshold"):
        assert list(frame[column]) == list(stored[column])


# The future.


def test_cutting_off_the_future_changes_nothing(tmp_path: Path) -> None:
    eve = walk("2026-04-04 22:30:00", 5400, seed=1)
    ticks = [*eve, *walk("2026-04-05 00:00:00", 5400, seed=2, step=3)]
    control = audit_of(built_lake(tmp_path, ticks)).truncation()
    assert control.passed, control.sentence
    assert control.numbers["rows"] > 5000
    assert control.numbers["cuts"].startswith("2026-04-05T00:")


def test_a_table_that_knew_the_future_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = built_lake(tmp_path, walk("2026-04-05 00:00:00", 3000, seed=2))
    path = lake.file("features", at("2026-04-05").date())
    table = pq.ParquetFile(path).read().to_pandas()
    table["realized_volatility_60s"] = table["realized_volatility_60s"].shift(-30)
    table.to_parquet(path)
    monkeypatch.setattr(Warehouse, "is_current", lambda *_: True)
    control = audit_of(lake).truncation()
    assert control.passed is False
    assert "they know the future" in control.sentence


def test_stale_days_are_not_judged(tmp_path: Path) -> None:
    ticks = walk("2026-04-05 00:00:00", 1000, seed=2)
    lake = built_lake(tmp_path, ticks)
    write_ticks(lake, [*ticks, tick("2026-04-05 01:00")])
    control = audit_of(lake).truncation()
    assert control.passed is None
    assert "bars of 2026-04-05 are stale" in control.sentence


def test_an_empty_lake_is_not_judged(lake: Lake) -> None:
    assert audit_of(lake).truncation().passed is None


# The command.


def test_audit_prints_and_writes_what_it_found(
    trained: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.OUT, "_width", 200)
    monkeypatch.setenv("VOLATILITY_SEARCH_SECONDS", "0")
    run(trained)
    said = capsys.readouterr().out
    assert "SIMULATED DATA BTC-USD" in said
    assert "LEAKY" in said
    sections = json.loads((trained.root / "audit" / "audit.json").read_text())["sections"]
    assert [section["subject"] for section in sections] == ["BTC-USD", "all products"]
    assert all(section["is_simulated"] for section in sections)
    passed = {control["name"]: control["passed"] for control in sections[0]["controls"]}
    assert passed["train/test overlap"] is True
    assert passed["permuted labels: HAR-logistic"] is None  # five hours are too few
    shuffled = [row for row in sections[0]["leakage"] if row["protocol"] == "shuffled"]
    assert {row["label"] for row in shuffled} == {"LEAKY"}
    assert shuffled[-1]["average_precision"] > 0.8
    expanding, rolling = sections[0]["walks"]
    assert (expanding["window"], rolling["window"]) == ("expanding", "rolling")
    assert expanding["folds"] == rolling["folds"]  # the first fold has one past
    assert len(expanding["folds"]) == 1
    assert expanding["shortage"].startswith("1 of 5 folds: ")
    assert "Walk-forward, pooled" in said
    assert (trained.root / "audit" / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_overlapping_splits_fail_with_exit_code_1(trained: Lake, tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    lake = Lake(tmp_path)
    record = trained.record("splits", "BTC-USD") or {}
    frame = pd.read_parquet(trained.file("splits", "BTC-USD"))
    is_later = frame["role"] != "train"
    gap = pd.Timedelta(seconds=EMBARGO_SECONDS + 30)  # what keeps the roles apart, and half more
    frame.loc[is_later, "ts"] -= gap

    def write(path: Path) -> int:
        frame.to_parquet(path)
        return len(frame)

    facts = {name: record[name] for name in ("policy", "source", "days")}
    lake.write_partition("splits", "BTC-USD", write, {}, facts)
    with pytest.raises(RefusedError, match="failed: BTC-USD, train/test overlap"):
        run(lake)
    assert (tmp_path / "audit" / "audit.json").exists()


def test_splits_that_leak_on_purpose_are_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    frame = pd.DataFrame({"role": ["LEAKY train"]})

    def write(path: Path) -> int:
        frame.to_parquet(path)
        return 1

    lake.write_partition("splits", "BTC-USD", write, {})
    with pytest.raises(BadInputError, match="its splits leak on purpose"):
        run(lake)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--noise-seeds", "3"), "a mean needs 5 markets"),
        (("--noise-seeds", "-1"), "a mean needs 5 markets"),
        (("--noise-hours", "1"), "give 6 to 240"),
        (("--products", "DOGE-USD"), "DOGE-USD: no splits; there are those of BTC-USD"),
    ],
)
def test_bad_input_is_one_sentence(trained: Lake, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        run(trained, *arguments)


def test_without_splits_it_says_what_makes_them(lake: Lake) -> None:
    with pytest.raises(BadInputError, match="no splits to audit; `volatility train` makes them"):
        run(lake)
