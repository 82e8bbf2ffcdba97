"""Bad calls: one helpful sentence, exit code 2, nothing changed."""

import subprocess
import sys
from pathlib import Path

import pytest

from volatility_pipeline.cli.app import app
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline_tests.command_line import Answer, volatility
from volatility_pipeline_tests.test_build import market


def assert_refused(answer: Answer, *said: str) -> None:
    assert answer.code == 2
    assert answer.errors.startswith("Error: ")
    assert answer.errors.count("\n") == 1
    assert "Traceback" not in answer.errors
    for words in said:
        assert words in answer.errors


def everything(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


def test_import_of_a_missing_file_names_it(tmp_path: Path) -> None:
    answer = volatility("import", "nowhere.ndjson", data=tmp_path)
    assert_refused(answer, "nowhere.ndjson: no such file", "name a recording")
    assert everything(tmp_path) == []


def test_import_of_a_folder_says_what_to_name_instead(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    answer = volatility("import", folder, data=tmp_path / "data")
    assert_refused(answer, "a folder", "recordings/*.ndjson")


def test_import_before_the_first_day_names_line_and_setting(tmp_path: Path) -> None:
    old = tmp_path / "old.ndjson"
    old.write_text('{"time": "2019-05-06T07:08:09Z", "product_id": "BTC-USD"}\n')
    answer = volatility("import", old, data=tmp_path / "data")
    assert_refused(answer, "old.ndjson, line 1: 2019-05-06", "VOLATILITY_FIRST_DAY=2019-05-06")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_build_without_data_says_where_data_comes_from(tmp_path: Path) -> None:
    answer = volatility("build", data=tmp_path)
    assert_refused(answer, "no raw data", "volatility import")
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "2019-01-01"), "set VOLATILITY_FIRST_DAY=2019-01-01"),
        (("--to", "2999-01-01"), "lies in the future"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), "exchange the two"),
    ],
)
def test_build_of_impossible_days_says_which(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    land_simulation(Lake(tmp_path), market(0.01))
    assert_refused(volatility("build", *options, data=tmp_path), said)


def test_train_of_a_product_never_seen_lists_those_that_were(tmp_path: Path) -> None:
    land_simulation(Lake(tmp_path), market(0.2))
    assert volatility("build", data=tmp_path).code == 0
    answer = volatility("train", "--products", "DOGE-USD", data=tmp_path)
    assert_refused(answer, "DOGE-USD: never seen", "BTC-USD")


def test_train_before_a_build_says_so(tmp_path: Path) -> None:
    assert_refused(volatility("train", data=tmp_path), "no ticks yet", "volatility build")


def test_train_without_a_labelled_row_says_what_is_missing(tmp_path: Path) -> None:
    land_simulation(Lake(tmp_path), market(0.2))
    volatility("build", data=tmp_path)
    assert_refused(volatility("train", data=tmp_path), "BTC-USD: no row has both", "301 s")
    answer = volatility("run", data=tmp_path)
    assert answer.code == 0
    assert "INSUFFICIENT BTC-USD: no row has both its features and a label" in answer.out


def test_query_that_fails_says_why_and_what_there_is(tmp_path: Path) -> None:
    assert_refused(volatility("query", "select 1", data=tmp_path), "no feature store yet")
    volatility("publish", data=tmp_path)
    assert_refused(
        volatility("query", "select nothing from nowhere", data=tmp_path),
        "nowhere",
        "show tables",
    )


def test_query_cannot_write_to_the_feature_store(tmp_path: Path) -> None:
    volatility("publish", data=tmp_path)
    assert_refused(volatility("query", "create table t (i int)", data=tmp_path), "read-only")


def test_query_answers_as_table_csv_and_json(tmp_path: Path) -> None:
    volatility("publish", data=tmp_path)
    sql = "select 1 as one, null as nothing, 'a' as letter"
    assert volatility("query", sql, "--csv", data=tmp_path).out.split() == [
        "one,nothing,letter",
        "1,,a",
    ]
    assert volatility("query", sql, "--json", data=tmp_path).out == (
        '{"one": 1, "nothing": null, "letter": "a"}\n'
    )
    assert "nothing" in volatility("query", sql, data=tmp_path).out


def test_data_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert_refused(volatility("status", data=file), "a file, not a folder", "--data")


def test_setting_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLATILITY_MAX_GAP_SECONDS", "soon")
    assert_refused(volatility("status", data=tmp_path), "VOLATILITY_MAX_GAP_SECONDS", "'soon'")


def test_market_that_cannot_be_simulated_says_why(tmp_path: Path) -> None:
    assert_refused(volatility("simulate", "--hours", "-1", data=tmp_path), "hours")
    assert everything(tmp_path) == []


def test_market_before_the_first_day_names_the_setting(tmp_path: Path) -> None:
    answer = volatility("simulate", "--start", "2019-05-06", data=tmp_path)
    assert_refused(answer, "VOLATILITY_FIRST_DAY=2019-05-06")


def test_simulating_the_same_market_again_changes_nothing(tmp_path: Path) -> None:
    arguments = ("simulate", "--products", "SOL-USD", "--start", "2026-03-01", "--hours", "0.1")
    first = volatility(*arguments, data=tmp_path)
    before = everything(tmp_path)
    again = volatility(*arguments, data=tmp_path)
    assert (first.code, again.code) == (0, 0)
    assert "there already" not in first.out
    assert "there already" in again.out
    assert everything(tmp_path) == before


def test_simulated_segments_say_so(tmp_path: Path) -> None:
    landed = land_simulation(
        Lake(tmp_path), Market(("X-USD",), market(1).start, 0.01, is_noise=True)
    )
    assert landed.source.startswith("simulated-noise-seed0-")
    (segment,) = tmp_path.rglob("*.zst")
    assert segment.name == landed.source


def test_each_command_has_help_with_an_example() -> None:
    for command in app.registered_commands:
        text = (command.callback.__doc__ or "") if command.callback else ""
        assert "Example: `volatility " in text, command.name


def test_console_script_answers_without_a_traceback() -> None:
    answer = subprocess.run(
        [Path(sys.executable).with_name("volatility"), "import", "nowhere.ndjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: nowhere.ndjson: no such file")
