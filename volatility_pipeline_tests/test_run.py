"""`volatility run` from nothing to an evaluated model, and on the real recordings."""

import html
import json
import os
import re
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import mlflow
import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.assets.evaluation import CONTROLS
from volatility_pipeline.cli.orchestrator import orchestrator
from volatility_pipeline.definitions import resources
from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.models import probabilities, scores
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.jobs import REASON, retraining
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.tracking import StoredModel
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.command_line import Answer, volatility
from volatility_pipeline_tests.registered_models import STEP, tracking
from volatility_pipeline_tests.tick_lake import built_lake, walk

HOURS = 8
WEIGHTING = "model__scale_pos_weight"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A data root with eight simulated hours of one product, run to the end."""
    root = tmp_path_factory.mktemp("ran")
    market = Market(("BTC-USD",), datetime(2026, 3, 1, tzinfo=UTC), HOURS, seed=1)
    land_simulation(Lake(root), market)
    return root, volatility("run", data=root)


def test_run_prints_table_report_and_what_is_next(ran: tuple[Path, Answer]) -> None:
    root, answer = ran
    assert answer.code == 0, answer.errors
    assert "BTC-USD: INSUFFICIENT: " in answer.out
    for rung in LADDER.values():
        assert f" {rung.title} " in answer.out
    assert f"Report: {root / 'evaluation' / 'product=BTC-USD' / 'report.html'}" in answer.out
    assert "Next: open the report" in answer.out


def test_report_stands_alone_and_says_insufficient_and_simulated_first(
    ran: tuple[Path, Answer],
) -> None:
    page = (ran[0] / "evaluation" / "product=BTC-USD" / "report.html").read_text()
    body = re.sub(r"<[^>]+>", " ", page[page.index("<body") :]).strip()
    assert body.startswith("INSUFFICIENT: ")
    assert "SIMULATED DATA" in body[:400]
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)


def test_walk_forward_searches_in_its_first_fold_alone_and_reaches_report_and_mlflow(
    ran: tuple[Path, Answer],
) -> None:
    root, _ = ran
    result = Lake(root).record("walk_forward", "BTC-USD")["result"]
    assert result["window"] == "expanding"
    assert len(result["folds"]) == 4
    assert result["shortage"].startswith("4 of 5 folds: ")
    assert [score["name"] for score in result["pooled"]["models"]] == list(LADDER)
    page = (root / "evaluation" / "product=BTC-USD" / "report.html").read_text()
    pooled = {score["name"]: score["average_precision"] for score in result["pooled"]["models"]}
    for estimate in pooled.values():
        assert f"{estimate['value']:.3f}" in page
    client = mlflow.MlflowClient(tracking_uri=tracking(root).uri)
    for name, entry in Lake(root).record("models", "BTC-USD")["models"].items():
        logged = client.get_run(entry["stored"]["run_id"]).data.metrics
        assert logged["walk_forward_average_precision"] == pooled[name]["value"]


def test_controls_are_recorded_and_are_asset_checks(ran: tuple[Path, Answer]) -> None:
    root, _ = ran
    controls = Lake(root).record("evaluation", "BTC-USD")["controls"]
    passed = {control["name"]: control["passed"] for control in controls}
    assert passed["train/test overlap"] is True
    assert passed["too good to be true"] is True
    assert passed["future truncation"] is True
    assert passed["permuted labels: HAR-logistic"] is None  # eight hours are too few
    assert passed["noise"] is None
    assert "VOLATILITY_NOISE_MARKETS=0" in controls[-1]["sentence"]
    with dg.DagsterInstance.from_config(str(root / "dagster")) as instance:
        keys = [dg.AssetCheckKey(dg.AssetKey("evaluation"), name) for name in CONTROLS]
        keys.append(dg.AssetCheckKey(dg.AssetKey("splits"), "splits_do_not_overlap"))
        found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    events = {key.name: record.evaluation for key, record in found.items()}
    judged = {name for name, evaluation in events.items() if evaluation.passed}
    assert judged == {
        "splits_do_not_overlap",
        "result_is_believable",
        "cut_future_changes_nothing",
    }
    for name in set(CONTROLS) - judged:
        assert events[name].severity == dg.AssetCheckSeverity.WARN


def test_without_enough_data_there_is_no_champion_and_card_and_predictions_say_so(
    ran: tuple[Path, Answer],
) -> None:
    root, answer = ran
    assert "Champion: none; refused: " in answer.out
    assert "BTC-USD has no champion: " in answer.out
    with dg.DagsterInstance.from_config(str(root / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("champion"))
    metadata = event.asset_materialization.metadata
    assert metadata["outcome"].value == "refused"
    assert metadata["reason"].value.startswith("The data is insufficient: ")
    assert "tested_until" not in metadata["numbers"].value
    folder = root / "evaluation" / "product=BTC-USD"
    for name in ("model_card.html", "selection.html"):
        page = (folder / name).read_text()
        assert "SIMULATED DATA" in page
        assert metadata["reason"].value in html.unescape(page)
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert "report.html" in (root / "evaluation" / "index.html").read_text()
    assert Lake(root).record("predictions", date(2026, 3, 1))["rows"] == 0


def test_a_stratified_random_split_is_printed_as_leaky_and_kept_nowhere(
    ran: tuple[Path, Answer],
) -> None:
    root, _ = ran
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    answer = volatility("train", "--split", "stratified-random", data=root)
    assert answer.code == 0, answer.errors
    assert "LEAKY BTC-USD, split stratified-random" in answer.out
    rows = [line for line in answer.out.splitlines() if "LEAKY   " in line]
    assert len(rows) == len(LADDER)
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert {path for path in before if after[path] != before[path]} <= {
        path for path in before if path.is_relative_to(root / "dagster")
    }


def test_run_again_trains_nothing(ran: tuple[Path, Answer]) -> None:
    root, _ = ran
    before = (root / "models" / "product=BTC-USD.json").read_bytes()
    answer = volatility("run", data=root)
    assert answer.code == 0, answer.errors
    assert "Nothing has changed since the last build." in answer.out
    assert "BTC-USD: splits, models, evaluation and champion are current." in answer.out
    assert (root / "models" / "product=BTC-USD.json").read_bytes() == before


def test_once_the_noise_control_is_switched_on_the_evaluation_is_stale(
    ran: tuple[Path, Answer],
) -> None:
    evaluations = resources(Settings(volatility_data=ran[0]))["evaluations"]
    assert evaluations.is_current("BTC-USD", "trailing")
    judging = replace(evaluations, audit=replace(evaluations.audit, noise_markets=10))
    assert not judging.is_current("BTC-USD", "trailing")


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("splits", {"sha256": "another"}, "the models were made from other splits"),
        ("walk_forward", {"made_from": {"inputs": {}, "policy": ""}}, "the walk-forward was made"),
        ("models", {"sha256": "another"}, "the evaluation was made from other models"),
    ],
)
def test_stages_that_were_made_apart_are_neither_evaluated_nor_introduced(
    ran: tuple[Path, Answer],
    tmp_path: Path,
    stage: str,
    change: dict[str, object],
    said: str,
) -> None:
    made = shutil.ignore_patterns("mlflow", "dagster", "raw", "ticks", "bars", "predictions")
    lake = Lake(shutil.copytree(ran[0], tmp_path / "lake", ignore=made))
    evaluations = resources(Settings(volatility_data=lake.root))["evaluations"]
    (decision,) = resources(Settings(volatility_data=ran[0]))["champions"].history("BTC-USD")
    record = lake.record(stage, "BTC-USD")
    lake.write_record(stage, "BTC-USD", {**record, **change})
    before = read_tree(lake.root)
    with pytest.raises(BadInputError, match=f"BTC-USD: {said}"):
        evaluations.introduce("BTC-USD", decision, lambda _: None)
    if stage != "models":  # of which the evaluation is made anew
        with pytest.raises(BadInputError, match=f"BTC-USD: {said}"):
            evaluations.evaluate("BTC-USD")
    assert read_tree(lake.root) == before


def read_tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_late_ticks_of_one_product_leave_the_other_s_model_stages_current(tmp_path: Path) -> None:
    own, other = "BTC-USD", "ETH-USD"
    ticks = walk("2026-04-04 00:00:00", 3600, seed=1)
    lake = built_lake(tmp_path, ticks)
    training = Training(lake, Warehouse(lake), tracking(tmp_path))

    def made_from(product: str) -> list[object]:
        return [
            training.made_from(stage, product, "trailing") for stage in ("splits", "walk_forward")
        ]

    before, content = made_from(own), lake.content("features", date(2026, 4, 4))
    late = walk("2026-04-04 00:00:00", 1800, seed=2, product_id=other)
    built_lake(tmp_path, [*ticks, *late])
    assert lake.content("features", date(2026, 4, 4)) != content
    assert made_from(own) == before
    assert made_from(other)[0] != before[0]
    built_lake(tmp_path, [*walk("2026-04-04 00:00:00", 3601, seed=1), *late])
    assert made_from(own)[0] != before[0]


def test_splits_are_in_order_apart_and_in_the_feature_store(ran: tuple[Path, Answer]) -> None:
    sql = (
        "select role, count(*) as rows, epoch(min(ts))::bigint as first, "
        "epoch(max(ts))::bigint as last from splits group by role order by first"
    )
    found = volatility("query", sql, "--json", data=ran[0]).out.splitlines()
    train, validation, test = (json.loads(row) for row in found)
    assert [row["role"] for row in (train, validation, test)] == ["train", "validation", "test"]
    # The last 60 s before a cut are purged, the first 300 s after it embargoed.
    assert validation["first"] - train["last"] >= 360
    assert test["first"] - validation["last"] >= 360
    assert train["rows"] > 2_000


def test_each_model_has_a_run_of_its_own_under_the_step_s_run(ran: tuple[Path, Answer]) -> None:
    root, _ = ran
    client = mlflow.MlflowClient(tracking_uri=tracking(root).uri)
    runs = client.search_runs([client.get_experiment_by_name("volatility").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = {run.data.tags["model"]: run for run in runs if "model" in run.data.tags}
    (parent,) = [run for run in runs if "model" not in run.data.tags]
    assert set(children) == set(LADDER)
    for name, run in children.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        provenance = json.loads(run.data.tags["provenance"])
        assert provenance["source"] == run.data.tags["source"] == "simulated"
        assert provenance["label_policy"] == "trailing"
        assert provenance["label_horizon_seconds"] == 60
        assert provenance["data_fingerprint"] == Lake(root).content("splits", "BTC-USD")
        assert set(provenance["sql_hashes"]) >= {"ticks", "bars", "features", "labels", "splits"}
        assert run.data.tags["data_fingerprint"] == provenance["data_fingerprint"]
        assert set(provenance["libraries"]) >= {"numpy", "scikit-learn", "scipy", "xgboost"}
        assert provenance["python"].startswith("3.")
        assert provenance["seed"] == int(run.data.params["seed"])
        assert run.data.params["rung"] == name
        tried = json.loads(run.data.params["tried"])
        assert len(tried) > 1 or not LADDER[name].grid
        assert all(0 < trial["average_precision"] < 1 for trial in tried)
        assert set(json.loads(run.data.params["chosen"])) <= {*LADDER[name].grid, WEIGHTING}
        assert 0 <= run.data.metrics["test_average_precision"] <= 1
    versions = client.search_model_versions("name = 'volatility-BTC-USD'")
    assert {version.tags["model"] for version in versions} == set(LADDER)


def test_stored_model_has_a_signature_an_example_and_no_pickle(ran: tuple[Path, Answer]) -> None:
    root, _ = ran
    models = Lake(root).record("models", "BTC-USD")["models"]
    assert list(models) == list(LADDER)
    for entry in models.values():
        info = mlflow.models.get_model_info(entry["stored"]["uri"])
        assert info.signature.inputs.input_names() == list(MODEL_INPUTS)
        assert info.saved_input_example_info is not None
        assert info.flavors["sklearn"]["serialization_format"] == "skops"
    suffixes = {path.suffix for path in (root / "mlflow" / "artifacts").rglob("*")}
    assert not suffixes & {".pkl", ".pickle", ".joblib"}


def test_tampered_model_is_refused_before_it_is_opened(
    ran: tuple[Path, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = ran
    entry = Lake(root).record("models", "BTC-USD")["models"]["har_logistic"]
    stored = StoredModel(**entry["stored"])
    archive = next((root / "mlflow").rglob(f"{stored.uri.removeprefix('models:/')}/**/model.skops"))
    sound = archive.read_bytes()
    middle = len(sound) // 2
    with monkeypatch.context() as patched:
        patched.setattr("skops.io.loads", lambda *_, **__: pytest.fail("it was opened"))
        try:
            archive.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
            with pytest.raises(BadInputError, match="not the model that was recorded"):
                tracking(root).fetch(stored)
        finally:
            archive.write_bytes(sound)
    assert tracking(root).fetch(stored) is not None


@pytest.fixture(scope="module")
def retrained(
    ran: tuple[Path, Answer], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dg.ExecuteInProcessResult]:
    """The same data in another root, trained by the weekly schedule's run."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # where MLflow notes its last store
    made = "splits models walk_forward evaluation champion predictions alerts mlflow dagster"
    root = tmp_path_factory.mktemp("retrained") / "root"
    shutil.copytree(ran[0], root, ignore=shutil.ignore_patterns(*made.split()))
    request = retraining("BTC-USD", policy="trailing", reason="the weekly schedule")
    with orchestrator(Settings(volatility_data=root)) as running:
        running.instance.add_dynamic_partitions("product", ["BTC-USD"])
        yesterday = datetime.now(UTC) - timedelta(days=1)
        failed = Alert("retraining", "BTC-USD", "", title="Of a run that failed.", since=yesterday)
        running.resources["alerts"].raise_(failed)
        result = running.definitions.resolve_job_def(request.job_name).execute_in_process(
            instance=running.instance,
            partition_key=request.partition_key,
            run_config={**request.run_config, "loggers": {"console": {}}},
            tags=request.tags,
        )
    return root, result


def test_scheduled_training_goes_through_the_gate_and_leaves_its_reason_everywhere(
    retrained: tuple[Path, dg.ExecuteInProcessResult],
) -> None:
    root, result = retrained
    assert result.dagster_run.tags[REASON] == "the weekly schedule"
    (event,) = result.asset_materializations_for_node("champion")
    assert event.metadata["trained_because"].value == "the weekly schedule"
    assert event.metadata["outcome"].value == "refused"
    client = mlflow.MlflowClient(tracking_uri=tracking(root).uri)
    runs = client.search_runs([client.get_experiment_by_name("volatility").experiment_id])
    (parent,) = [run for run in runs if "model" not in run.data.tags]
    assert parent.data.tags["reason"] == "the weekly schedule"
    entries = Alerts(root).history()
    assert [entry.alert.key for entry in entries] == 2 * [("retraining", "BTC-USD", "")]
    assert all(entry.alert.is_recovery for entry in entries)
    assert {entry.alert.title for entry in entries} == {
        "Of a run that failed.",
        "Models are trained anew: the weekly schedule.",
    }
    with sqlite3.connect(root / "alerts" / "alerts.sqlite") as ledger:
        (body,) = ledger.execute("select body from messages order by number desc").fetchone()
    expected = "Models were trained anew (the weekly schedule): refused. The data is insufficient"
    assert json.loads(body)["title"].startswith(expected)


def test_training_again_gives_the_same_metrics_and_equal_forecasts(
    ran: tuple[Path, Answer], retrained: tuple[Path, dg.ExecuteInProcessResult]
) -> None:
    root, again = ran[0], retrained[0]
    metrics = [
        (folder / "evaluation" / "product=BTC-USD" / "evaluation.json").read_bytes()
        for folder in (root, again)
    ]
    assert metrics[0] == metrics[1]
    test = pd.read_parquet(again / "splits" / "product=BTC-USD.parquet").query("role == 'test'")
    records = [Lake(folder).record("models", "BTC-USD")["models"] for folder in (root, again)]
    for name in LADDER:
        first, second = (
            tracking(folder).fetch(StoredModel(**record[name]["stored"]))
            for folder, record in zip((root, again), records, strict=True)
        )
        np.testing.assert_array_equal(scores(first, test), scores(second, test))
        np.testing.assert_array_equal(probabilities(first, test), probabilities(second, test))
        for fact in ("decision_threshold", "parameters", "notes"):
            assert records[0][name][fact] == records[1][name][fact]


def test_step_refuses_to_nest_under_an_mlflow_run_that_is_still_active(tmp_path: Path) -> None:
    store = tracking(tmp_path)
    with (
        store.step(STEP, "outer", {}),
        pytest.raises(RuntimeError, match="still active"),
        store.step(STEP, "inner", {}),
    ):
        pass
    assert mlflow.active_run() is None


def test_step_that_fails_ends_its_mlflow_run_as_failed(tmp_path: Path) -> None:
    store = tracking(tmp_path)
    with pytest.raises(ZeroDivisionError), store.step(STEP, "fails", {"product": "X"}):
        raise ZeroDivisionError
    client = mlflow.MlflowClient(tracking_uri=store.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("volatility").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["dagster_run_id"] == STEP.run.run_id


def test_real_recordings_go_through_and_are_stamped_insufficient(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLATILITY_SEARCH_SECONDS", "0")
    files = sorted(recordings.glob("*.ndjson"))
    imported = volatility("import", *files, data=tmp_path)
    assert imported.code == 0, imported.errors
    answer = volatility("run", "--threshold-policy", "training", data=tmp_path)
    assert answer.code == 0, answer.errors
    assert "43,446 ticks, 0 quarantine" in answer.out
    for product in ("BTC-USD", "ETH-USD"):
        assert f"{product}: INSUFFICIENT: train has" in answer.out
        report = tmp_path / "evaluation" / f"product={product}" / "report.html"
        assert "SIMULATED" not in report.read_text()
        evaluation = json.loads(report.with_name("evaluation.json").read_text())
        assert len(evaluation["insufficient"]) == 3
        assert not any(model["is_better"] for model in evaluation["models"])
        assert all(
            model["average_precision"]["low"] is None for model in evaluation["models"]
        )  # too few blocks for an interval
        models = Lake(tmp_path).record("models", product)["models"]
        assert not any(set(entry["parameters"]) - {WEIGHTING} for entry in models.values())
