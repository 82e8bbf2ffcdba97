"""Champions in a real registry: decided, set by hand, rolled back, tampered with, interrupted."""

import hashlib
import io
import json
import pickle
import shutil
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.controls import Control
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.evaluation import evaluate
from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.models import FittedModel, fit, probabilities
from volatility_pipeline.domain.promotion import Decision
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import Lake, read_json, write_json
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.resources.tracking import Tracking, registered_name
from volatility_pipeline.resources.training import Training
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.command_line import Answer, volatility
from volatility_pipeline_tests.registered_models import STEP, tracking
from volatility_pipeline_tests.split_frames import market_rows

PRODUCT = "BTC-USD"
NAME = registered_name(PRODUCT)
RUNGS = ("base_rate", "persistence", "har_logistic", "har_logistic")
BASE_RATE, PERSISTENCE, HAR, HAR_AGAIN = "1", "2", "3", "4"
FAILING = Control("overlap", False, {}, "Labels overlap.")


def split_rows() -> pd.DataFrame:
    """Rows of a made-up market, a minute apart: a week, most of it test."""
    rows = market_rows(600_000, seed=3)
    rows = rows[rows["ts"].dt.second == 0].reset_index(drop=True)
    hours = (rows["ts"] - rows["ts"].iloc[0]) / pd.Timedelta(hours=1)
    rows["role"] = np.select(
        [hours < 16, (hours >= 16.2) & (hours < 32), hours >= 32.2],
        ["train", "validation", "test"],
        default="",
    )
    rows["is_spike"] = rows["future_volatility_60s"] >= rows["threshold"]
    return rows[rows["role"] != ""].reset_index(drop=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with splits, an evaluation, and four versions: see `RUNGS`."""
    root = tmp_path_factory.mktemp("trained")
    lake, store, frame = Lake(root), tracking(root), split_rows()
    train, validation = (frame[frame["role"] == role] for role in ("train", "validation"))
    (root / "splits").mkdir()
    frame.to_parquet(lake.file("splits", PRODUCT))
    models: dict[str, Any] = {}
    fitted: dict[str, FittedModel] = {}
    provenance = {
        "label_policy": "trailing",
        "label_horizon_seconds": 60,
        "constant_threshold": None,
        "trained_until": str(train["ts"].max()),
        "fitted_until": str(validation["ts"].max()),
        "source": "recorded",
    }
    with store.step(STEP, "ladder", {}):
        for place, rung in enumerate(RUNGS):
            fitted[rung] = fit(rung, train, validation, policy="trailing", seed=0)
            stored = store.store(
                fitted[rung],
                product=PRODUCT,
                inputs=frame[list(MODEL_INPUTS)].head(3).astype(float),
                params={},
                tags={"provenance": json.dumps(provenance)},
            )
            models[rung] = {"stored": asdict(stored), "validation_average_precision": place / 10}
    test = frame[frame["role"] == "test"]
    result = evaluate(
        frame,
        [model.forecast(test) for model in fitted.values()],
        product_id=PRODUCT,
        policy="trailing",
        seed=0,
        resamples=200,
    )
    write_json(lake.folder("evaluation", PRODUCT) / "evaluation.json", result.to_dict())
    for stage, facts in {
        "splits": {"bytes": lake.file("splits", PRODUCT).stat().st_size},
        "models": {"models": models, "provenance": {"data_fingerprint": "splits"}},
        "evaluation": {"controls": []},
    }.items():
        record = {"rows": 1, "bytes": None, "sha256": stage, **facts}
        lake.write_record(stage, PRODUCT, record)
    evaluated(lake)
    return root


def evaluated(lake: Lake) -> None:
    """Makes the evaluation one of the models and the walk-forward that are there."""
    record = lake.record("evaluation", PRODUCT)
    inputs = {stage: lake.content(stage, PRODUCT) for stage in ("models", "walk_forward")}
    lake.write_record("evaluation", PRODUCT, record | {"made_from": {"inputs": inputs}})


@pytest.fixture
def champions(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Champions:
    """Those of a data root of the test's own."""
    root = shutil.copytree(trained, tmp_path / "lake")
    # MLflow notes in the environment which store it was last pointed at.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking(root).uri)
    with sqlite3.connect(root / "mlflow" / "mlflow.db") as registry:
        for table, column in (("logged_models", "artifact_location"), ("runs", "artifact_uri")):
            registry.execute(
                f"update {table} set {column} = replace({column}, ?, ?)", (str(trained), str(root))
            )
    return Champions(Lake(root), tracking(root))


def now() -> datetime:
    return datetime.now(UTC)


def decide(champions: Champions, **options: Any) -> Decision:
    return champions.decide(PRODUCT, **{"now": now(), **options})


def appoint(champions: Champions, name: str) -> Decision:
    return champions.appoint(PRODUCT, name, reason="by the test", now=now())


def command(champions: Champions, *arguments: str) -> Answer:
    return volatility("champion", *arguments, data=champions.lake.root)


def new_models(champions: Champions, *, later: timedelta = timedelta(0), **served: str) -> None:
    """As after another training: other records, perhaps another version of a rung, later rows."""
    lake = champions.lake
    for stage in ("models", "evaluation"):
        record = lake.record(stage, PRODUCT)
        record["sha256"] += "+"
        for rung, version in served.items():
            if stage == "models":
                record["models"][rung]["stored"]["version"] = version
        lake.write_record(stage, PRODUCT, record)
    evaluated(lake)
    if later:
        path, splits = lake.file("splits", PRODUCT), lake.record("splits", PRODUCT)
        rows = pd.read_parquet(path)
        rows.loc[rows["role"] == "test", "ts"] += later
        rows.to_parquet(path)
        lake.write_record("splits", PRODUCT, splits | {"bytes": path.stat().st_size})


def edit_evaluation(champions: Champions, **facts: Any) -> None:
    path = champions.lake.folder("evaluation", PRODUCT) / "evaluation.json"
    write_json(path, (read_json(path) or {}) | facts)


def decisions(champions: Champions) -> list[str]:
    return [decision.outcome for decision in champions.history(PRODUCT)]


def archive(champions: Champions, version: str) -> Path:
    served = champions.find(PRODUCT, version)
    assert served is not None
    folder = served.stored.uri.removeprefix("models:/")
    return next((champions.lake.root / "mlflow").rglob(f"{folder}/**/model.skops"))


def champion_version(champions: Champions) -> str | None:
    served = champions.find(PRODUCT)
    return served.version if served else None


class TestDeciding:
    @pytest.mark.parametrize(("low", "outcome"), [(1.4, "promoted"), (0.9, "refused")])
    def test_where_the_test_is_too_short_for_an_interval_the_folds_decide_on_the_first_champion(
        self, champions, low, outcome
    ):
        path = champions.lake.folder("evaluation", PRODUCT) / "evaluation.json"
        models = (read_json(path) or {})["models"]
        for model in models:
            model["lift"] |= {"low": None, "high": None}
        edit_evaluation(champions, models=models)
        lift = {"value": 2.0, "low": low, "high": 3.0}
        pooled = {"models": [{"name": rung, "lift": lift} for rung in RUNGS]}
        result = {"folds": [{}] * 5, "pooled": pooled}
        record = {"rows": 5, "bytes": None, "sha256": "folds", "result": result}
        champions.lake.write_record("walk_forward", PRODUCT, record)
        evaluated(champions.lake)
        decision = decide(champions)
        assert decision.outcome == outcome
        assert (
            f"has lift 2.00 [{low:.2f}, 3.00] on 5 walk-forward folds, some of whose rows are "
            "those by which it was chosen" in decision.reason
        )

    def test_first_champion_has_a_lift_interval_above_one_and_serves(self, champions):
        assert champions.find(PRODUCT) is None
        assert champions.describe(PRODUCT, now()).startswith("none; nothing is decided yet")
        assert not champions.is_current(PRODUCT)
        decision = decide(champions)
        assert (decision.outcome, decision.champion_model) == ("promoted", "har_logistic")
        assert decision.numbers["lift"]["low"] > 1
        served = champions.find(PRODUCT)
        assert isinstance(served, ServedModel)
        assert (served.version, served.policy) == (HAR_AGAIN, "trailing")
        assert (served.horizon_seconds, served.source) == (60, "recorded")
        assert served.trained_until < served.fitted_until < decision.numbers["tested_until"]
        assert served.columns == MODEL_INPUTS
        rows = pd.read_parquet(champions.lake.file("splits", PRODUCT))
        by_role = rows.groupby("role")["ts"].max()
        assert served.trained_until == by_role["train"].isoformat()
        assert served.fitted_until == by_role["validation"].isoformat()
        chosen = fit(
            "har_logistic",
            rows[rows["role"] == "train"],
            rows[rows["role"] == "validation"],
            policy="trailing",
            seed=0,
        )
        assert served.decision_threshold == chosen.decision_threshold
        np.testing.assert_array_equal(
            probabilities(champions.load(served), rows), probabilities(chosen.estimator, rows)
        )

    def test_registry_carries_aliases_reason_and_time(self, champions):
        decision = decide(champions)
        client = mlflow.MlflowClient(tracking_uri=champions.tracking.uri)
        version = client.get_model_version_by_alias(NAME, "champion")
        assert version.tags["promotion_reason"] == decision.reason
        assert version.tags["promoted_at"] == decision.at
        assert str(client.get_model_version_by_alias(NAME, "challenger").version) == HAR_AGAIN

    def test_same_models_on_the_same_data_are_decided_once(self, champions):
        first = decide(champions)
        assert champions.is_current(PRODUCT)
        assert not champions.is_current(PRODUCT, controls=[FAILING])
        assert decide(champions, now=now() + timedelta(days=1)) == first
        assert decisions(champions) == ["promoted"]

    def test_better_challenger_takes_over_by_the_paired_interval(self, champions):
        appoint(champions, BASE_RATE)
        decision = decide(champions)
        assert (decision.outcome, decision.champion) == ("promoted", HAR_AGAIN)
        assert decision.numbers["difference"]["low"] > 0
        assert decision.numbers["replaced"] == BASE_RATE
        assert decision.numbers["rows"] > 7_000

    def test_worse_challenger_is_refused(self, champions):
        appoint(champions, HAR)
        new_models(champions, har_logistic=BASE_RATE)
        decision = decide(champions)
        assert (decision.outcome, decision.champion) == ("refused", HAR)
        assert "Base rate (version 1) is worse than the champion" in decision.reason
        assert champion_version(champions) == HAR

    def test_equal_challenger_is_refused_and_then_deferred_for_a_week_of_rows(self, champions):
        appoint(champions, HAR)
        first = decide(champions)
        assert (first.outcome, first.numbers["difference"]["value"]) == ("refused", 0)
        new_models(champions, later=timedelta(days=6))
        assert decide(champions).outcome == "deferred"
        new_models(champions, later=timedelta(days=1))
        assert decide(champions).outcome == "refused"
        assert decisions(champions) == ["set by hand", "refused", "deferred", "refused"]

    def test_stale_champion_serves_marked_so_and_gives_way_to_an_equal(self, champions):
        appoint(champions, HAR)
        later = now() + timedelta(days=31)
        assert "31 days old, STALE: older than 30 days" in champions.describe(PRODUCT, later)
        assert champion_version(champions) == HAR
        decision = decide(champions, now=later)
        assert (decision.outcome, decision.champion) == ("promoted", HAR_AGAIN)
        assert "is stale: 31 days old, 30 are allowed." in decision.reason

    def test_champion_in_drift_gives_way_to_an_equal(self, champions):
        appoint(champions, HAR)
        decision = decide(champions, drift="is in drift: 7 features are over their limit")
        assert (decision.outcome, decision.champion) == ("promoted", HAR_AGAIN)
        assert "is in drift: 7 features" in decision.reason

    def test_failed_control_refuses(self, champions):
        decision = decide(champions, controls=[FAILING, Control("other", None, {}, "")])
        assert (decision.outcome, decision.champion) == ("refused", None)
        assert decision.reason == "A control failed: Labels overlap."
        assert champions.describe(PRODUCT, now()) == f"none; refused: {decision.reason}"

    def test_insufficient_data_leaves_none(self, champions):
        edit_evaluation(champions, insufficient=["test has 3 spikes"])
        assert decide(champions).champion is None
        assert "none; refused: The data is insufficient" in champions.describe(PRODUCT, now())

    def test_suspicious_result_of_recorded_data_waits_for_a_person_s_reason(self, champions):
        edit_evaluation(champions, suspicious=["HAR-logistic covers 99% of the way"])
        too_good = Control("too good to be true", False, {}, "Too good.")
        assert decide(champions, controls=[too_good]).outcome == "deferred"
        assert champion_version(champions) is None
        answer = command(champions, PRODUCT, "--set", HAR_AGAIN, "--reason", "looked: no leak")
        assert answer.code == 0, answer.errors
        assert champion_version(champions) == HAR_AGAIN
        assert champions.history(PRODUCT)[-1].reason == "looked: no leak"

    def test_champion_with_other_inputs_blocks_the_test_and_cannot_be_loaded(self, champions):
        appoint(champions, HAR)
        columns = json.dumps(["obsolete", *MODEL_INPUTS[1:]])
        champions.tracking.tag_version(PRODUCT, HAR, {"columns": columns})
        decision = decide(champions)
        assert (decision.outcome, decision.champion) == ("refused", HAR)
        assert f"schema changed since the champion was trained ({MODEL_INPUTS[0]}, obsolete)" in (
            decision.reason
        )
        with pytest.raises(BadInputError, match="other inputs than there are now"):
            champions.load(champions.find(PRODUCT))

    def test_product_without_models_is_said(self, champions):
        with pytest.raises(BadInputError, match="SOL-USD: no models"):
            champions.decide("SOL-USD", now=now())

    @pytest.mark.parametrize(
        ("stage", "said"),
        [
            ("splits", "the models were made from other splits"),
            ("models", "the evaluation was made from other models"),
            ("walk_forward", "the evaluation was made from other models or another walk-forward"),
        ],
    )
    def test_stages_that_were_made_apart_are_not_decided_on(self, champions, stage, said):
        record = champions.lake.record(stage, PRODUCT) or {"rows": 5, "bytes": None}
        champions.lake.write_record(stage, PRODUCT, record | {"sha256": "another"})
        with pytest.raises(BadInputError, match=f"BTC-USD: {said}"):
            decide(champions)
        assert decisions(champions) == []

    def test_controls_that_were_not_judged_stop_nothing_and_are_named(self, champions):
        decision = decide(champions, controls=[Control("noise", None, {}, "Not judged.")])
        assert decision.outcome == "promoted"
        assert decision.reason.endswith("Controls that could not be judged: noise.")
        assert decision.numbers["controls_not_judged"] == ["noise"]

    def test_change_by_hand_waits_for_the_decision_and_outlives_it(self, champions):
        by_hand = threading.Thread(target=appoint, args=(champions, PERSISTENCE))

        class Slow(Champions):
            def _decide(self, *arguments: Any) -> Decision:
                by_hand.start()
                by_hand.join(timeout=1)  # as long as that it has to change something
                return super()._decide(*arguments)

        assert decide(Slow(champions.lake, champions.tracking)).outcome == "promoted"
        by_hand.join()
        assert decisions(champions) == ["promoted", "set by hand"]
        assert champion_version(champions) == PERSISTENCE

    def test_champion_that_the_registry_gets_meanwhile_is_decided_against(self, champions):
        class Overtaken(Champions):
            def _decide(self, *arguments: Any) -> Decision:
                made = super()._decide(*arguments)
                champions.tracking.move_alias(PRODUCT, "champion", BASE_RATE)
                return made

        decision = decide(Overtaken(champions.lake, champions.tracking))
        assert (decision.outcome, decision.numbers["replaced"]) == ("promoted", BASE_RATE)
        assert decisions(champions) == ["promoted"]


class TestFinding:
    def test_rung_means_its_newest_version(self, champions):
        assert champions.find(PRODUCT, "har_logistic").version == HAR_AGAIN
        assert champions.find(PRODUCT, "persistence").version == PERSISTENCE
        assert champions.find(PRODUCT, HAR).model == "har_logistic"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("99", "no version 99 is registered"),
            ("9" * 20, "no version 99999999999999999999 is registered"),
            ("xgboost", "no xgboost is registered"),
            ("best", "best: no model; name a version's number or one of base_rate"),
        ],
    )
    def test_unknown_name_is_said(self, champions, name, said):
        with pytest.raises(BadInputError, match=said):
            champions.find(PRODUCT, name)

    def test_version_that_does_not_say_what_it_was_made_from_is_refused(self, champions):
        client = mlflow.MlflowClient(tracking_uri=champions.tracking.uri)
        client.delete_model_version_tag(NAME, HAR, "provenance")
        with pytest.raises(BadInputError, match="version 3 does not say what it was made from"):
            champions.find(PRODUCT, HAR)

    def test_asking_where_nothing_was_trained_makes_no_registry(self, tmp_path):
        champions = Champions(Lake(tmp_path), tracking(tmp_path))
        assert champions.find(PRODUCT) is None
        with pytest.raises(BadInputError, match="no version 1 is registered"):
            champions.find(PRODUCT, "1")
        assert not list(tmp_path.iterdir())


class TestByHand:
    def test_set_roll_back_and_remove_are_recorded_with_their_reasons(self, champions):
        steps = [
            (("--set", "persistence"), PERSISTENCE),
            (("--set", HAR), HAR),
            (("--rollback",), PERSISTENCE),
            (("--remove",), None),
            (("--rollback",), PERSISTENCE),
        ]
        for number, (change, version) in enumerate(steps):
            answer = command(champions, PRODUCT, *change, "--reason", f"reason {number}")
            assert answer.code == 0, answer.errors
            assert f"reason {number}" in answer.out
            assert champion_version(champions) == version
        assert [decision.reason for decision in champions.history(PRODUCT)] == [
            f"reason {number}" for number in range(5)
        ]

    def test_show_says_champion_age_what_was_measured_and_the_last_decisions(self, champions):
        assert "BTC-USD: none; nothing is decided yet" in command(champions).out
        decision = decide(champions)
        precision = decision.numbers["challenger"]
        appoint(champions, PERSISTENCE)
        champions.roll_back(PRODUCT, reason="back", now=now())
        first, measured, *lines = command(champions).out.splitlines()
        assert first == "BTC-USD: HAR-logistic (version 4), 0 days old"
        assert f"PR-AUC {precision['value']:.3f} [{precision['low']:.3f}, " in measured
        assert f"at base rate {decision.numbers['base_rate']:.3f}, on test rows up to" in measured
        outcomes = [line.split("  ")[2].split(":")[0] for line in lines]
        assert outcomes == ["rolled back", "set by hand", "promoted"]
        assert lines[0].endswith("rolled back: back")
        assert decision.reason in lines[2]

    def test_show_says_where_the_champion_learnt_from_simulated_data(self, champions):
        appoint(champions, HAR)
        client = mlflow.MlflowClient(tracking_uri=champions.tracking.uri)
        provenance = json.loads(client.get_model_version(NAME, HAR).tags["provenance"])
        simulated = {"provenance": json.dumps(provenance | {"source": "simulated"})}
        champions.tracking.tag_version(PRODUCT, HAR, simulated)
        assert "0 days old, trained on SIMULATED DATA" in command(champions).out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((PRODUCT, "--set", HAR), "recorded with its reason"),
            ((PRODUCT, "--rollback", "--reason", "  "), "no champion was there before"),
            ((PRODUCT, "--remove", "--reason", "x"), "no champion; nothing is changed"),
            ((PRODUCT, "--set", "99", "--reason", "x"), "no version 99 is registered"),
            ((PRODUCT, "--set", "best", "--reason", "x"), "best: no model; name a version"),
            ((PRODUCT, "--set", HAR, "--remove", "--reason", "x"), "exclude each other"),
            ((PRODUCT, "--reason", "x"), "--reason is for a change"),
            (("--rollback", "--reason", "x"), "Name the product"),
            (("SOL-USD",), "SOL-USD: no models; there are those of BTC-USD"),
        ],
    )
    def test_bad_request_is_one_sentence_and_changes_nothing(self, champions, arguments, said):
        answer = command(champions, *arguments)
        assert answer.code == 2
        assert said in answer.errors
        assert "Traceback" not in answer.errors
        assert champion_version(champions) is None
        assert decisions(champions) == []

    def test_champion_cannot_be_set_again(self, champions):
        appoint(champions, HAR)
        with pytest.raises(BadInputError, match="version 3\\) is the champion already"):
            appoint(champions, HAR)
        assert decisions(champions) == ["set by hand"]

    def test_training_goes_on_from_what_was_set(self, champions):
        decide(champions)
        appoint(champions, PERSISTENCE)
        assert champions.is_current(PRODUCT)
        assert decide(champions).outcome == "set by hand"
        new_models(champions)
        decision = decide(champions)
        assert (decision.outcome, decision.champion) == ("deferred", PERSISTENCE)

    def test_show_without_models_says_how_to_make_them(self, tmp_path):
        answer = volatility("champion", data=tmp_path)
        assert answer.code == 2
        assert "no models; `volatility train` makes them" in answer.errors


class TestRegistryThatWasDeleted:
    @pytest.fixture
    def anew(self, champions: Champions) -> Champions:
        """A champion was promoted, and what was decided on is of another registry than this."""
        appoint(champions, PERSISTENCE)
        decide(champions)
        folder = champions.lake.folder("champion", PRODUCT)
        archives = champions.tracking.archives(PRODUCT)
        for path in (folder / "decisions.jsonl", champions.lake.file("champion", PRODUCT, ".json")):
            text = path.read_text()
            for version in (PERSISTENCE, HAR_AGAIN):
                text = text.replace(archives[version], "another")
            path.write_text(text)
        champions.tracking.move_alias(PRODUCT, "champion", None)
        return champions

    def test_there_is_a_first_champion_again_without_a_week_s_wait(self, anew):
        assert not anew.is_current(PRODUCT)
        assert "version 4 was, but the registry has no champion any" in anew.describe(
            PRODUCT, now()
        )
        decision = decide(anew)
        assert (decision.outcome, decision.numbers["replaced"]) == ("promoted", None)
        assert anew.is_current(PRODUCT)

    def test_a_number_of_then_is_not_rolled_back_to_nor_its_measure_shown(self, anew):
        with pytest.raises(BadInputError, match="no champion was there before"):
            anew.roll_back(PRODUCT, reason="back", now=now())
        anew.tracking.move_alias(PRODUCT, "champion", HAR_AGAIN)
        assert "PR-AUC 0." not in command(anew).out.splitlines()[1]

    def test_models_that_it_has_not_are_no_current_ones(self, champions):
        training = Training(champions.lake, Warehouse(champions.lake), champions.tracking)
        assert training.are_registered(PRODUCT)
        champions.tracking.tag_version(PRODUCT, HAR_AGAIN, {"sha256": "another"})
        assert not training.are_registered(PRODUCT)
        (champions.lake.root / "mlflow" / "mlflow.db").unlink()
        assert not training.are_registered(PRODUCT)


class TestInterrupted:
    def test_decision_that_was_recorded_is_carried_out_later(self, champions, monkeypatch):
        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Tracking, "tag_version", crash)
            with pytest.raises(KeyboardInterrupt):
                decide(champions)
        assert champions.lake.record("champion", PRODUCT) is None
        champions.tracking.move_alias(PRODUCT, "champion", None)  # nor was it moved yet
        decision = decide(champions)
        assert decision.outcome == "promoted"
        assert decisions(champions) == ["promoted"]
        assert champion_version(champions) == HAR_AGAIN
        assert champions.is_current(PRODUCT)

    def test_line_that_was_cut_off_is_no_decision_and_spoils_no_other(self, champions):
        decide(champions)
        path = champions.lake.folder("champion", PRODUCT) / "decisions.jsonl"
        path.write_bytes(path.read_bytes() + b'{"decision": {"product": "BTC-')
        assert decisions(champions) == ["promoted"]
        appoint(champions, PERSISTENCE)
        assert decisions(champions) == ["promoted", "set by hand"]
        assert champion_version(champions) == PERSISTENCE


def flipped(sound: bytes, _: Path) -> bytes:
    middle = len(sound) // 2
    return sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.write_text, (self.path, "unpickled"))


def pickled(_: bytes, trace: Path) -> bytes:
    return pickle.dumps(Bomb(trace))


def foreign(_: bytes, __: Path) -> bytes:
    import skops.io
    from sklearn.gaussian_process.kernels import RBF

    data: bytes = skops.io.dumps({"kernel": RBF(), "function": shutil.rmtree})
    return data


def zipped_pickle(_: bytes, trace: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("schema.json", pickle.dumps(Bomb(trace)))
        made.writestr("data.pkl", pickle.dumps(Bomb(trace)))
    return data.getvalue()


CHANGES = (flipped, pickled, foreign, zipped_pickle)


class TestTampering:
    @pytest.mark.parametrize("change", CHANGES)
    def test_changed_archive_is_refused_by_its_hash(self, champions, tmp_path, change):
        path, trace = archive(champions, HAR), tmp_path / "unpickled"
        path.write_bytes(change(path.read_bytes(), trace))
        answer = command(champions, PRODUCT, "--set", HAR, "--reason", "x")
        assert answer.code == 2
        assert f"{path}: not the model that was recorded (its SHA-256 differs)" in answer.errors
        assert champion_version(champions) is None
        assert not trace.exists()

    @pytest.mark.parametrize("change", CHANGES[1:])
    def test_archive_is_not_unpickled_even_where_its_recorded_hash_agrees(
        self, champions, tmp_path, change
    ):
        path, trace = archive(champions, HAR), tmp_path / "unpickled"
        data = change(path.read_bytes(), trace)
        path.write_bytes(data)
        forged = {"sha256": hashlib.sha256(data).hexdigest()}
        champions.tracking.tag_version(PRODUCT, HAR, forged)
        answer = command(champions, PRODUCT, "--set", HAR, "--reason", "x")
        assert answer.code == 2
        expected = "types that are not trusted" if change is foreign else "no skops archive"
        assert expected in answer.errors
        assert "Traceback" not in answer.errors
        assert not trace.exists()

    def test_bomb_would_be_noticed(self, tmp_path):
        pickle.loads(pickled(b"", tmp_path / "unpickled"))
        assert (tmp_path / "unpickled").exists()

    @pytest.mark.parametrize("is_whole_folder", [False, True])
    def test_missing_archive_is_refused(self, champions, is_whole_folder):
        path = archive(champions, HAR)
        if is_whole_folder:
            shutil.rmtree(path.parent.parent)
        else:
            path.unlink()
        answer = command(champions, PRODUCT, "--set", HAR, "--reason", "x")
        assert answer.code == 2
        assert "train again" in answer.errors
        assert "Traceback" not in answer.errors

    def test_tampered_champion_is_not_compared_with(self, champions):
        appoint(champions, HAR)
        path = archive(champions, HAR)
        path.write_bytes(flipped(path.read_bytes(), path))
        decision = decide(champions)
        assert (decision.outcome, decision.champion) == ("refused", HAR)
        assert decision.reason.startswith(
            "HAR-logistic (version 3) cannot be loaded, so there is no test: "
        )
        assert "SHA-256 differs" in decision.reason


def test_age_counts_from_the_registration(champions: Champions) -> None:
    served = champions.find(PRODUCT, HAR)
    assert served is not None
    registered = datetime.fromisoformat(served.registered_at)
    assert served.age(registered + timedelta(days=3)) == timedelta(days=3)
    shorter = replace(champions, model_days=2.0)
    assert shorter.is_stale(served, registered + timedelta(days=3))
    assert not champions.is_stale(served, registered + timedelta(days=30))
