"""`volatility benchmark-inference`: what it measures, and when it says no."""

import json
from pathlib import Path

import pytest

from volatility_pipeline.domain import latency
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.registered_models import appoint, register
from volatility_pipeline_tests.tick_lake import built_lake, walk

GENEROUS = {1: 60.0, 1000: 60.0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours and a half of recorded-like ticks; persistence is champion, EWMA is there too."""
    root = tmp_path_factory.mktemp("served")
    built_lake(root, walk("2026-04-04 21:50", 9000, step=5))
    register(root, "BTC-USD", ["persistence", "ewma"])
    appoint(root, "BTC-USD", "persistence")
    return root


def test_each_size_of_call_is_timed_and_the_machine_is_named(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "BUDGET_SECONDS", GENEROUS)
    answer = volatility("benchmark-inference", "--seconds", 0, data=served)
    assert answer.code == 0, answer.errors
    assert "BTC-USD, Persistence v1" in answer.out
    assert "SIMULATED" not in answer.out
    for size in ("1 row", "10 rows", "100 rows", "1,000 rows", "10,000 rows"):
        assert f" {size} " in answer.out
    assert answer.out.count("met") == 2
    assert "cores" in answer.out
    assert "load average" in answer.out


def test_named_model_is_timed_in_the_champion_s_place(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "BUDGET_SECONDS", GENEROUS)
    answer = volatility(
        "benchmark-inference", "--model", "ewma", "--seconds", 0, "--json", data=served
    )
    assert answer.code == 0, answer.errors
    found = json.loads(answer.out)
    assert (found["product"], found["model"], found["version"]) == ("BTC-USD", "ewma", "2")
    assert [call["rows"] for call in found["calls"]] == list(latency.BATCHES)
    assert [call["is_met"] for call in found["calls"]] == [True, None, None, True, None]
    assert found["machine"]["cores"] >= 1
    assert found["load_seconds"] > 0


def test_calls_over_the_budget_are_named_and_the_exit_code_is_1(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "BUDGET_SECONDS", {1: 0.0, 1000: 60.0})
    answer = volatility("benchmark-inference", "--seconds", 0, data=served)
    assert answer.code == 1
    assert "not met" in answer.out
    assert "Refused: Over the budget: BTC-USD, 1 row." in answer.errors


def test_product_without_a_champion_has_nothing_to_time(tmp_path: Path) -> None:
    built_lake(tmp_path, walk("2026-04-04 12:00", 60))
    answer = volatility("benchmark-inference", data=tmp_path)
    assert answer.code == 2
    assert "BTC-USD has no champion: " in answer.errors
    assert "--model names another." in answer.errors


def test_without_ticks_the_benchmark_says_what_makes_them(tmp_path: Path) -> None:
    answer = volatility("benchmark-inference", data=tmp_path)
    assert answer.code == 2
    assert "no ticks yet; `volatility build` makes them." in answer.errors
