"""`volatility predict` on a simulated market: what is answered, by whom, and what stays."""

import json
import shutil
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.cli.orchestrator import Orchestrator, orchestrator
from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.domain.schemas import PREDICTIONS
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.command_line import Answer, volatility
from volatility_pipeline_tests.registered_models import appoint, champions, register

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
BTC, ETH = "BTC-USD", "ETH-USD"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated hours of two products over a midnight; HAR-logistic is champion of one."""
    root = tmp_path_factory.mktemp("trained")
    start = datetime.fromisoformat("2026-03-01T22:00:00+00:00")
    land_simulation(Lake(root), Market((BTC, ETH), start, 3, seed=1))
    answer = volatility("build", data=root)
    assert answer.code == 0, answer.errors
    register(root, BTC, ["persistence", "har_logistic"])
    register(root, ETH, ["ewma"])
    appoint(root, BTC, "har_logistic")
    return root


@pytest.fixture(scope="module")
def predicted(trained: Path) -> tuple[Path, Answer]:
    """The same, predicted; nothing changes it after that."""
    return trained, volatility("predict", data=trained)


@pytest.fixture
def copied(predicted: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A copy to be changed; its registry names the original's archives."""
    left_out = shutil.ignore_patterns("artifacts", ".published")
    return shutil.copytree(predicted[0], tmp_path / "data", ignore=left_out)


def rows(root: Path, *days: date) -> pd.DataFrame:
    """The predictions of some days."""
    files = [Lake(root).file("predictions", day) for day in days or (FIRST, SECOND)]
    return pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)


def asked(root: Path, product: str) -> pd.DataFrame:
    """A product's features beside its labels."""
    tables = [
        pd.concat([pd.read_parquet(path) for path in Lake(root).files(stage)])
        for stage in ("features", "labels")
    ]
    both = tables[0].merge(tables[1], on=["product_id", "ts"])
    return both[both["product_id"] == product].sort_values("ts", ignore_index=True)


def contents(root: Path) -> dict[date, tuple[bytes, int]]:
    """Each day's bytes, and when they were written."""
    paths = {day: Lake(root).file("predictions", day) for day in (FIRST, SECOND)}
    return {day: (path.read_bytes(), path.stat().st_mtime_ns) for day, path in paths.items()}


def by_model(root: Path, *days: date) -> dict[str, set[str]]:
    """Which rungs answered for each product."""
    found = rows(root, *days).groupby("product_id")["model_name"].unique()
    return {str(product): set(names) for product, names in found.items()}


# ------------------------------------------------------------------------------ what a row says


def test_each_row_with_a_known_threshold_has_the_champion_s_probability(
    predicted: tuple[Path, Answer],
) -> None:
    root, answer = predicted
    assert answer.code == 0, answer.errors
    served = champions(root).find(BTC)
    assert served is not None
    expected = asked(root, BTC).dropna(subset=["trailing_threshold"]).reset_index(drop=True)
    expected["threshold"] = expected["trailing_threshold"]
    made = rows(root)
    assert list(made) == [column.name for column in PREDICTIONS.columns]
    assert len(made) > 5_000
    pd.testing.assert_series_equal(made["ts"], expected["ts"])
    estimator = champions(root).load(served)
    np.testing.assert_array_equal(made["probability"], probabilities(estimator, expected))
    np.testing.assert_array_equal(made["threshold"], expected["threshold"])
    is_alert = made["probability"] >= served.decision_threshold
    assert 0 < is_alert.sum() < len(made)
    pd.testing.assert_series_equal(made["is_alert"], is_alert, check_names=False)
    for column, value in {
        "product_id": BTC,
        "decision_threshold": served.decision_threshold,
        "model_name": "har_logistic",
        "model_version": "2",
        "trained_until": pd.Timestamp(served.fitted_until),
    }.items():
        assert set(made[column]) == {value}, column


def test_rows_of_unknown_threshold_are_not_predicted_but_counted(
    predicted: tuple[Path, Answer],
) -> None:
    root, answer = predicted
    unknown = asked(root, BTC)["trailing_threshold"].isna()
    counted = [
        Lake(root).record("predictions", day)["products"][BTC]["threshold_unknown"]
        for day in (FIRST, SECOND)
    ]
    assert sum(counted) == unknown.sum() > 0
    assert f"{unknown.sum():,} rows are not predicted: their threshold is not known" in answer.out


def test_out_of_sample_begins_after_the_last_validation_row_its_minute_and_the_embargo(
    predicted: tuple[Path, Answer],
) -> None:
    root, _ = predicted
    splits = pd.read_parquet(Lake(root).file("splits", BTC))
    known_until = splits.loc[splits["role"] == "validation", "ts"].max()
    made = rows(root)
    boundary = known_until + pd.Timedelta(seconds=60 + 300)
    assert boundary in set(made["ts"])
    assert set(made.loc[made["ts"] <= boundary, "out_of_sample"]) == {False}
    assert set(made.loc[made["ts"] > boundary, "out_of_sample"]) == {True}
    assert made["out_of_sample"].sum() > 600


def test_what_happened_equals_the_labels_and_stays_null_until_it_is_known(
    predicted: tuple[Path, Answer],
) -> None:
    root, _ = predicted
    labels = asked(root, BTC).dropna(subset=["trailing_threshold"]).reset_index(drop=True)
    made, future = rows(root), labels["future_volatility_60s"]
    pd.testing.assert_series_equal(made["future_volatility_60s"], future)
    is_known = future.notna()
    expected = (future >= labels["trailing_threshold"]) & (future > 0)
    assert (~is_known).sum() >= 59
    assert made.loc[~is_known, "is_spike"].isna().all()
    assert made.loc[is_known, "is_spike"].astype(bool).equals(expected[is_known])
    assert 0 < expected[is_known].sum() < is_known.sum()


def test_product_without_a_champion_has_no_rows_and_the_command_says_so(
    predicted: tuple[Path, Answer],
) -> None:
    root, answer = predicted
    assert set(rows(root)["product_id"]) == {BTC}
    assert "No predictions: ETH-USD has no champion: `volatility train`" in answer.out
    record = Lake(root).record("predictions", SECOND)
    assert record["products"][ETH]["model"] is None
    assert record["products"][ETH]["rows"] == 0


def test_table_tells_rows_alerts_and_what_out_of_sample_rows_showed(
    predicted: tuple[Path, Answer],
) -> None:
    root, answer = predicted
    assert "SIMULATED DATA: predictions" in answer.out
    made = rows(root, SECOND)
    judged = made[made["out_of_sample"] & made["is_spike"].notna()]
    (line,) = [line for line in answer.out.splitlines() if str(SECOND) in line]
    assert line.split() == [
        str(SECOND),
        BTC,
        "HAR-logistic",
        "v2",
        f"{len(made):,}",
        f"{made['is_alert'].sum():,}",
        f"{made['out_of_sample'].sum():,}",
        f"{judged['is_spike'].mean():.3f}",
        "–",  # a quarter of an hour holds no ten episodes
        "–",
    ]


def test_day_s_materialization_and_the_feature_store_tell_the_same(
    predicted: tuple[Path, Answer], running: Orchestrator
) -> None:
    root, _ = predicted
    (record,) = running.instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("predictions"), asset_partitions=[SECOND.isoformat()]),
        limit=1,
    ).records
    metadata = {n: value.value for n, value in record.asset_materialization.metadata.items()}
    assert metadata["dagster/row_count"] == len(rows(root, SECOND))
    assert metadata["is_simulated"] is True
    assert "| BTC-USD | har_logistic | 2 |" in metadata["products"]
    assert metadata["unserved"].startswith("ETH-USD has no champion: ")
    sql = "select count(*) as n, count(is_spike) as known, sum(is_alert::int) as alerts"
    found = volatility("query", f"{sql} from predictions", "--json", data=root).out
    assert json.loads(found) == {
        "n": len(rows(root)),
        "known": int(rows(root)["is_spike"].notna().sum()),
        "alerts": int(rows(root)["is_alert"].sum()),
    }


@pytest.fixture
def running(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VOLATILITY_DATA", str(trained))
    with orchestrator(Settings()) as opened:
        yield opened


# --------------------------------------------------------------------- what stays, what is redone


def test_predicting_again_runs_nothing_and_changes_no_byte(
    predicted: tuple[Path, Answer], running: Orchestrator
) -> None:
    root, _ = predicted
    before, runs = contents(root), running.instance.get_runs_count()
    answer = volatility("predict", data=root)
    assert answer.out == "Every day is predicted already.\n"
    assert contents(root) == before
    assert running.instance.get_runs_count() == runs


def test_promotion_rewrites_no_day_unless_it_is_asked_for(copied: Path) -> None:
    before = contents(copied)
    appoint(copied, BTC, "persistence")
    assert volatility("predict", data=copied).out == "Every day is predicted already.\n"
    assert contents(copied) == before
    answer = volatility("predict", "--from", SECOND, data=copied)
    assert answer.code == 0, answer.errors
    assert "Persistence v1" in answer.out
    assert by_model(copied, SECOND) == {BTC: {"persistence"}}
    assert contents(copied)[FIRST] == before[FIRST]
    appoint(copied, BTC, "har_logistic")
    volatility("predict", "--from", SECOND, "--to", SECOND, data=copied)
    assert contents(copied)[SECOND][0] == before[SECOND][0]


def test_named_model_takes_the_place_of_the_chosen_product_s_champion_alone(
    copied: Path,
) -> None:
    appoint(copied, ETH, "ewma")
    answer = volatility("predict", "--products", BTC, "--model", "1", data=copied)
    assert answer.code == 0, answer.errors
    assert by_model(copied) == {BTC: {"persistence"}, ETH: {"ewma"}}
    assert ETH not in answer.out
    kept = rows(copied).query("product_id == @ETH")
    volatility("predict", "--products", BTC, "--model", "har_logistic", data=copied)
    assert by_model(copied) == {BTC: {"har_logistic"}, ETH: {"ewma"}}
    again = rows(copied).query("product_id == @ETH")
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), again.reset_index(drop=True))


def test_product_that_gets_its_first_champion_gets_its_rows_beside_the_others(
    copied: Path,
) -> None:
    before = rows(copied)
    appoint(copied, BTC, "persistence")
    appoint(copied, ETH, "ewma")
    answer = volatility("predict", data=copied)
    assert answer.code == 0, answer.errors
    assert by_model(copied) == {BTC: {"har_logistic"}, ETH: {"ewma"}}
    made = rows(copied).query("product_id == @BTC").reset_index(drop=True)
    pd.testing.assert_frame_equal(made, before)
    assert volatility("predict", data=copied).out == "Every day is predicted already.\n"


def test_late_segment_makes_the_model_of_that_time_answer_anew_for_the_changed_days(
    copied: Path,
) -> None:
    appoint(copied, BTC, "persistence")
    before = contents(copied)
    late = {
        "type": "ticker",
        "product_id": BTC,
        "time": "2026-03-02T00:30:00.5Z",
        "price": "60000",
        "best_bid": "60000",
        "best_ask": "60001",
    }
    (Lake(copied).raw_folder(SECOND) / "late.ndjson").write_text(json.dumps(late) + "\n")
    assert volatility("build", data=copied).code == 0
    answer = volatility("predict", data=copied)
    assert answer.code == 0, answer.errors
    assert str(FIRST) not in answer.out
    assert contents(copied)[FIRST] == before[FIRST]
    assert by_model(copied, SECOND) == {BTC: {"har_logistic"}}
    features = pd.read_parquet(Lake(copied).file("features", SECOND)).query("product_id == @BTC")
    assert set(rows(copied, SECOND)["ts"]) == set(features["ts"])


def test_day_whose_features_are_gone_loses_its_predictions(copied: Path) -> None:
    lake = Lake(copied)
    for stage in ("features", "labels"):
        for suffix in (".parquet", ".json"):
            lake.file(stage, SECOND, suffix).unlink()
    answer = volatility("predict", data=copied)
    assert answer.code == 0, answer.errors
    assert not lake.file("predictions", SECOND).exists()
    assert lake.record("predictions", SECOND)["rows"] == 0
    assert lake.file("predictions", FIRST).exists()


def test_under_the_training_policy_every_row_is_held_against_the_one_constant(
    copied: Path,
) -> None:
    (served,) = register(copied, BTC, ["har_logistic"], policy="training")
    assert served.constant_threshold is not None
    answer = volatility("predict", "--model", served.version, "--products", BTC, data=copied)
    assert answer.code == 0, answer.errors
    made = rows(copied)
    assert len(made) == len(asked(copied, BTC))
    assert set(made["threshold"]) == {served.constant_threshold}
    known = made.dropna(subset=["is_spike"])
    expected = known["future_volatility_60s"] >= served.constant_threshold
    assert known["is_spike"].astype(bool).equals(expected)
    assert "not predicted" not in answer.out


# --------------------------------------------------------------------------------- what is refused


def test_tampered_model_is_refused_and_the_day_stays_as_it_was(
    predicted: tuple[Path, Answer],
) -> None:
    root, _ = predicted
    before = contents(root)
    served = champions(root).find(BTC)
    assert served is not None
    folder = served.stored.uri.removeprefix("models:/")
    archive = next((root / "mlflow").rglob(f"{folder}/**/model.skops"))
    sound = archive.read_bytes()
    try:
        archive.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        answer = volatility("predict", "--from", FIRST, data=root)
    finally:
        archive.write_bytes(sound)
    assert answer.code == 2
    assert "not the model that was recorded" in answer.errors
    assert contents(root) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "oracle"], "oracle: no model; name a version's number or one of base_rate"),
        (["--model", "99", "--products", BTC], "BTC-USD: no version 99 is registered"),
        (["--products", "DOGE-USD"], "DOGE-USD: never seen; there are ticks of BTC-USD, ETH-USD"),
        (["--from", "2026-03-05"], "--from 2026-03-05 lies after --to"),
        (["--from", "2025-02-01", "--to", "2025-02-02"], "no features; there are those of"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    predicted: tuple[Path, Answer], arguments: list[str], said: str
) -> None:
    root, _ = predicted
    before = contents(root)
    answer = volatility("predict", *arguments, data=root)
    assert answer.code == 2
    assert said in answer.errors
    assert contents(root) == before


def test_without_features_predict_says_what_makes_them(tmp_path: Path) -> None:
    answer = volatility("predict", data=tmp_path)
    assert answer.code == 2
    assert "no features to predict from; `volatility build` makes them." in answer.errors
    assert not (tmp_path / "mlflow").exists()
