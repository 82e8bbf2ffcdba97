"""Live answers: seen while they are written, joined with what happened, compared, rolled back."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pandas as pd
import pytest

from volatility_pipeline.domain.schemas import PREDICTIONS_LIVE
from volatility_pipeline.reports.evaluation import document
from volatility_pipeline.resources import live_answers
from volatility_pipeline.resources.champions import CHALLENGER, CHAMPION
from volatility_pipeline.resources.feature_store import publish
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect, create_table, sql_text
from volatility_pipeline.serving.answer_log import FILE_SPAN, AnswerLog
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.registered_models import appoint, champions
from volatility_pipeline_tests.report_contexts import full_context, judge
from volatility_pipeline_tests.serving_lake import (
    BTC,
    EWMA,
    PERSISTENCE,
    Clock,
    asked,
    copied,
    live,
    make,
    predictor,
)
from volatility_pipeline_tests.split_frames import split_frame
from volatility_pipeline_tests.tick_lake import at, write_rows

NOON = at("2026-04-04 12:00")
SECOND = timedelta(seconds=1)


def answer(ts: datetime, role: str = CHAMPION, **changed: Any) -> dict[str, Any]:
    """A line of the log."""
    return {
        "product_id": BTC,
        "ts": ts.replace(tzinfo=UTC),
        "role": role,
        "probability": 0.25,
        "threshold": 2e-5,
        "decision_threshold": 0.2,
        "is_alert": True,
        "model_name": "ewma",
        "model_version": EWMA if role == CHALLENGER else PERSISTENCE,
        "trained_until": datetime(2026, 4, 3),  # noqa: DTZ001  naive UTC, as models name it
        "realized_volatility_60s": 1e-5,
        "seconds_since_tick": 1.0,
        "answered_at": (ts + 0.5 * SECOND).replace(tzinfo=UTC),
        **changed,
    }


def ask(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    """One question to the feature store as it is published now."""
    with duckdb.connect(str(publish(lake)), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@contextmanager
def logging(lake: Lake) -> Iterator[AnswerLog]:
    log = AnswerLog(lake, print)
    yield log
    log.close()


# -------------------------------------------------------------------------- the log, as it grows


def test_file_is_committed_once_it_spans_an_hour_while_its_writer_lives(lake: Lake) -> None:
    with logging(lake) as log:
        log.write([answer(NOON)])
        log.write([answer(NOON + FILE_SPAN - SECOND)])
        assert live_answers.files(lake) == []
        log.write([answer(NOON + FILE_SPAN)])
        committing = log._committing
        assert committing is not None
        committing.join()
        assert ask(lake, "select ts from predictions_live order by ts") == [
            (NOON,),
            (NOON + FILE_SPAN - SECOND,),
        ]
        (growing,) = log.folder.glob("*/.*")
        other = AnswerLog(lake, print)
        assert growing.exists(), "its writer lives"
        assert len(other.since(NOON.replace(tzinfo=UTC))) == 2
    assert not growing.exists()
    assert len(ask(lake, "from predictions_live")) == 3


def test_rows_that_come_late_after_a_newer_product_s_begin_no_file_of_their_own(
    lake: Lake,
) -> None:
    with logging(lake) as log:
        log.write([answer(NOON)])
        log.write([answer(NOON + FILE_SPAN)])
        for second in range(5):
            log.write([answer(NOON + FILE_SPAN - second * SECOND, product_id="ETH-USD")])
    assert len(live_answers.files(lake)) == 2
    assert ask(lake, "select count(*) from predictions_live") == [(7,)]


@pytest.mark.parametrize("left", [b"", b"no frame"], ids=["empty", "rubbish"])
def test_open_file_that_holds_no_line_stops_no_start(
    lake: Lake, left: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lake.root / "predictions_live" / "date=2026-04-04" / ".answers-x-00000.ndjson.zst.tmp"
    path.parent.mkdir(parents=True)
    path.write_bytes(left)
    with logging(lake) as log:
        log.write([answer(NOON)])
    assert path.exists() == bool(left)
    assert ("the next start tries again" in capsys.readouterr().out) == bool(left)
    assert len(ask(lake, "from predictions_live")) == 1


def test_write_that_a_crash_cut_off_keeps_its_whole_lines(lake: Lake) -> None:
    lines = [answer(NOON + second * SECOND, probability=1 / (1 + second)) for second in range(3000)]
    with logging(lake) as log:
        log.write(lines)
        (growing,) = log.folder.glob("*/.*")
        written = growing.read_bytes()
        left = growing.with_name(growing.name.replace("00000", "00009"))
        left.write_bytes(written[: len(written) // 2])
        found = AnswerLog(lake, print).since(NOON.replace(tzinfo=UTC))
    assert not left.exists()
    assert 0 < len(found) < 3000
    assert [row["probability"] for row in found] == [
        line["probability"] for line in lines[: len(found)]
    ]


# ------------------------------------------------------------------------------------- the view


def test_view_is_typed_commented_and_empty_without_answers(lake: Lake) -> None:
    assert [row[:2] for row in ask(lake, "describe predictions_live")] == [
        (column.name, column.type) for column in PREDICTIONS_LIVE.columns
    ]
    assert ask(lake, "from predictions_live") == []
    comments = ask(
        lake,
        "select column_name, comment from duckdb_columns where table_name = 'predictions_live'",
    )
    assert dict(comments) == {column.name: column.comment for column in PREDICTIONS_LIVE.columns}


def test_answers_stand_beside_their_labels_once_these_are_built(lake: Lake) -> None:
    futures = {0: 2e-5, 1: 1.9e-5, 2: 0.0, 3: None}
    with logging(lake) as log:
        for second in range(5):
            log.write([answer(NOON + second * SECOND, threshold=0.0 if second == 2 else 2e-5)])
        log.write([answer(NOON, CHALLENGER, threshold=3e-5)])
    sql = "select ts, role, future_volatility_60s, is_spike from predictions_live order by ts, role"
    before = ask(lake, sql)
    assert [row[2:] for row in before] == [(None, None)] * 6
    write_rows(
        lake,
        "labels",
        NOON.date(),
        [
            {"product_id": BTC, "ts": NOON + second * SECOND, "future_volatility_60s": future}
            for second, future in futures.items()
        ],
    )
    assert [row[1:] for row in ask(lake, sql)] == [
        (CHALLENGER, 2e-5, False),  # under its own threshold
        (CHAMPION, 2e-5, True),
        (CHAMPION, 1.9e-5, False),
        (CHAMPION, 0.0, False),  # a market that stands still
        (CHAMPION, None, None),
        (CHAMPION, None, None),
    ]


# --------------------------------------------------------------------------------- side by side

UNTIL, LATER = "2026-04-03 10:00:00", "2026-04-04 10:00:00"


def joined(*answers: tuple[int, str, str, float, float], labels: int = 20) -> list[tuple[Any, ...]]:
    """What the SQL makes of answers: second, version, trained until, threshold, probability."""
    lines = [
        {
            "product_id": BTC,
            "ts": str(NOON + second * SECOND),
            "model_version": version,
            "trained_until": until,
            "threshold": str(threshold),
            "probability": str(probability),
            "answered_at": str(NOON + number * SECOND),
            "is_spike": "true",
        }
        for number, (second, version, until, threshold, probability) in enumerate(answers)
    ]
    known = [
        {"product_id": BTC, "ts": str(NOON + second * SECOND), "future_volatility_60s": "1e-5"}
        for second in range(labels)
    ]
    with connect(1) as connection:
        types = {column.name: column.type for column in PREDICTIONS_LIVE.columns}
        for view, given in {"predictions_live": lines, "labels": known}.items():
            create_table(connection, "given", given)
            casts = ", ".join(f"{name}::{types[name]} as {name}" for name in given[0])
            connection.execute(f"create table {view} as select {casts} from given")
        return connection.execute(
            sql_text(live_answers.SHADOW_SQL),
            {
                "product": BTC,
                "champion": "1",
                "champion_until": UNTIL,
                "challenger": "2",
                "challenger_until": LATER,
                "start": NOON + 5 * SECOND,
            },
        ).fetchall()


def test_each_fifth_second_with_a_label_has_both_versions_first_answers() -> None:
    found = joined(
        (5, "1", UNTIL, 2e-5, 0.1),
        (5, "2", LATER, 2e-5, 0.2),
        (5, "2", LATER, 2e-5, 0.9),  # a second service says it again
        (6, "1", UNTIL, 2e-5, 0.1),
        (10, "2", LATER, 2e-5, 0.3),
        (15, "1", UNTIL, 2e-5, 0.1),
        (15, "2", LATER, 3e-5, 0.2),
        (25, "1", UNTIL, 2e-5, 0.1),  # no label yet
        (0, "1", UNTIL, 2e-5, 0.1),  # a model may know it
    )
    assert found == [
        (NOON + 5 * SECOND, 0.1, 0.2, True, True),
        (NOON + 10 * SECOND, None, 0.3, None, None),
        (NOON + 15 * SECOND, 0.1, 0.2, False, True),
    ]


def test_number_that_was_another_model_s_before_does_not_count() -> None:
    found = joined((5, "1", LATER, 2e-5, 0.1), (5, "2", LATER, 2e-5, 0.2), labels=6)
    assert found == [(NOON + 5 * SECOND, None, 0.2, None, None)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a champion and a challenger, and what they answered live to the end of it."""
    root = make(tmp_path_factory.mktemp("made"))
    clock = Clock(datetime(2026, 4, 5, tzinfo=UTC))
    answering = predictor(root, clock)
    answering.take([live(row) for row in asked(root).itertuples() if row.ts.second != 20])
    answering.stop()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return copied(made, tmp_path / "data")


def test_champion_and_challenger_are_compared_on_the_rows_that_neither_knows(root: Path) -> None:
    registry = champions(root)
    found = live_answers.shadow(registry, BTC)
    served = [registry.find(BTC, version) for version in (PERSISTENCE, EWMA)]
    rows = asked(root)
    known = max(pd.Timestamp(model.fitted_until) for model in served if model is not None)
    rows = rows[
        (rows["ts"] >= known + pd.Timedelta("360s")) & rows["future_volatility_60s"].notna()
    ]
    rows = rows[(rows["ts"].dt.second % 5 == 0) & (rows["ts"].dt.second != 20)]
    assert found is not None
    assert len(rows) > 50
    assert (found.champion, found.challenger) == ("Persistence (version 1)", "EWMA (version 2)")
    assert (found.rows.rows, found.other_questions) == (len(rows), 0)
    is_spike = rows["future_volatility_60s"] >= rows["trailing_threshold"]
    assert found.rows.spikes == is_spike.sum()
    minutes = rows["ts"].dt.floor("min")
    assert abs(found.missed - minutes.nunique()) <= 1, "each minute lacks one"
    assert found.verdict.startswith("INSUFFICIENT: the live log has ")
    registry.tracking.move_alias(BTC, CHAMPION, EWMA)
    registry.tracking.move_alias(BTC, CHALLENGER, PERSISTENCE)
    turned = live_answers.shadow(registry, BTC)
    assert turned is not None
    assert turned.champion == found.challenger, "whoever was champion when it answered"
    assert [result.brier for result in turned.results] == [
        result.brier for result in reversed(found.results)
    ]


@pytest.mark.parametrize(
    ("champion", "challenger"), [(PERSISTENCE, None), (None, EWMA), (EWMA, EWMA)]
)
def test_without_a_challenger_beside_a_champion_nothing_is_compared(
    root: Path, champion: str | None, challenger: str | None
) -> None:
    registry = champions(root)
    registry.tracking.move_alias(BTC, CHAMPION, champion)
    registry.tracking.move_alias(BTC, CHALLENGER, challenger)
    assert live_answers.shadow(registry, BTC) is None


def test_week_before_the_newest_answers_is_looked_at_and_no_more(root: Path) -> None:
    lake, registry = Lake(root), champions(root)
    newest: datetime = asked(root)["ts"].max().to_pydatetime()
    before = live_answers.shadow(registry, BTC)
    assert before is not None
    for days, rows in ((6, before.rows.rows), (7, 0)):
        with logging(lake) as log:
            log.write([answer(newest + timedelta(days=days))])
        found = live_answers.shadow(registry, BTC)
        assert found is not None
        assert found.rows.rows == rows


def test_command_shows_the_challenger_and_what_both_answered(root: Path) -> None:
    found = live_answers.shadow(champions(root), BTC)
    assert found is not None
    shown = volatility("champion", BTC, data=root)
    assert shown.code == 0
    assert f"Challenger: EWMA (version 2). {found.verdict}" in shown.out
    assert f"{found.rows.rows} rows that both answered live, 5 s apart, 2026-04-04 23:" in shown.out
    for name, result in zip(("Persistence", "EWMA"), found.results, strict=True):
        assert re.search(rf"{name} \(version \d\) .*{result.brier:.4f}", shown.out)


def test_command_compares_nothing_unless_a_product_is_named(root: Path) -> None:
    shown = volatility("champion", data=root)
    assert "BTC-USD: Persistence (version 1)" in shown.out
    assert "Challenger" not in shown.out


def test_command_says_that_there_is_nothing_to_compare_yet(root: Path) -> None:
    for path in live_answers.files(Lake(root)):
        path.unlink()
    shown = volatility("champion", BTC, data=root)
    assert "Challenger: EWMA (version 2). There is no row yet that both answered" in shown.out
    assert "PR-AUC" not in shown.out


def test_report_has_a_section_of_it_only_where_there_is_something(root: Path) -> None:
    split = split_frame(20_000, seed=3)
    evaluation, context = judge(split), full_context(split)
    bare = [section.title for section in document(evaluation, context).sections]
    assert "Live, side by side" not in bare
    found = live_answers.shadow(champions(root), BTC)
    assert found is not None
    sections = document(evaluation, replace(context, shadow=found)).sections
    (live_section,) = (one for one in sections if one.title == "Live, side by side")
    assert len(sections) == len(bare) + 1
    text = str(live_section.blocks)
    assert found.verdict in text
    assert f"{found.missed} more rows of that time have a label" in text
    assert "Champion: Persistence (version 1)" in text
    assert "In brackets" not in text


def test_query_for_analysts_runs_over_the_published_view(root: Path) -> None:
    found = ask(Lake(root), sql_text("analysis/live_answers_by_day.sql"))
    assert [(row[:3]) for row in found] == [
        (BTC, date(2026, 4, 4), version) for version in (PERSISTENCE, EWMA)
    ]


# ------------------------------------------------------------------------------------- roll-back


def test_roll_back_changes_who_answers_while_no_request_fails(root: Path) -> None:
    appoint(root, BTC, "ewma")
    features = live(next(asked(root).itertuples())).features
    body = {"rows": [{"product": BTC, **features, "threshold": 2e-5}]}
    command = [str(Path(sys.executable).with_name("volatility")), "serve"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--source", "none"],
        env={**os.environ, "VOLATILITY_DATA": str(root), "VOLATILITY_RATE_LIMIT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    answers: list[tuple[int, str]] = []
    done = threading.Event()

    def ask_on(address: str) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            while not done.is_set():
                told = client.post("/predict", json=body)
                answers.append((told.status_code, told.text))

    try:
        said = ""
        while "Serving on" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        address = re.findall(r"http://127.0.0.1:\d+", said)[0]
        asking = [threading.Thread(target=ask_on, args=(address,)) for _ in range(3)]
        for thread in asking:
            thread.start()
        rolled = volatility("champion", BTC, "--rollback", "--reason", "false alarms", data=root)
        deadline = time.monotonic() + 120
        while PERSISTENCE not in _versions(answers[-1:]) and time.monotonic() < deadline:
            time.sleep(0.2)
        done.set()
        for thread in asking:
            thread.join()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        done.set()
        process.kill()
        process.stderr.close()
    assert rolled.code == 0
    assert {status for status, _ in answers} == {200}
    assert _versions(answers) == {EWMA, PERSISTENCE}
    assert _versions(answers[:1]) == {EWMA}
    # What each version says is one thing, whoever asked and whenever.
    assert len({text for _, text in answers}) == 2


def _versions(answers: list[tuple[int, str]]) -> set[str]:
    return {json.loads(text)["predictions"][0]["version"] for _, text in answers}
