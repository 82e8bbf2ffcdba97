"""What alerts say, in which form, and which spike alerts predictions amount to."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.alerts import (
    DRIFT_SEVERITY,
    KINDS,
    SEVERITIES,
    Alert,
    as_json,
    as_slack,
    duration,
    from_json,
    recovery,
    sentence,
    spike_alerts,
)

STEADY = settings(deadline=None, derandomize=True, database=None)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def failed(**other: Any) -> Alert:
    given: dict[str, Any] = {
        "kind": "run_failed",
        "product": "BTC-USD",
        "partition": "models",
        "title": "The run of train failed at models: no room.",
        "since": NOON,
    }
    return Alert(**given | other)


class TestAlert:
    def test_what_is_not_said_is_the_kinds_own(self):
        alert = failed()
        assert (alert.severity, alert.noticed_at) == ("critical", NOON)
        assert alert.runbook == "docs/runbook.md#a-run-failed"
        assert failed(severity="info", noticed_at=at(5)).severity == "info"

    def test_times_are_utc_and_one_without_a_zone_is_taken_as_such(self):
        east = NOON.astimezone(timezone(timedelta(hours=2)))
        for since in (NOON, NOON.replace(tzinfo=None), east, pd.Timestamp(NOON)):
            assert failed(since=since) == failed()
            assert failed(since=since).since.utcoffset() == timedelta(0)

    def test_numbers_are_such_as_json_has(self):
        numbers = {
            "a": np.float64(0.5),
            "b": np.int64(3),
            "c": float("nan"),
            "d": -np.inf,
            "e": None,
            "f": NOON.date(),
        }
        alert = failed(numbers=numbers)
        plain = {"a": 0.5, "b": 3, "c": None, "d": None, "e": None, "f": "2026-03-01"}
        assert alert.numbers == plain
        json.dumps(as_json(alert), allow_nan=False)

    def test_unknown_kind_is_an_error(self):
        with pytest.raises(KeyError):
            failed(kind="something")

    def test_id_is_the_alerts_own_and_changes_with_what_would_be_another(self):
        others = [
            failed(),
            failed(partition="splits"),
            failed(product=""),
            failed(kind="check_failed"),
            failed(noticed_at=at(1)),
            failed(severity="warning"),
            recovery(failed(), at(60)),
            recovery(failed(), at(61)),
        ]
        assert len({alert.id for alert in others}) == len(others)
        assert failed(title="Otherwise said.", numbers={"a": 1}).id == failed().id

    def test_every_kind_and_every_drift_verdict_has_a_known_severity(self):
        assert {kind.severity for kind in KINDS.values()} <= set(SEVERITIES)
        assert [DRIFT_SEVERITY[verdict] for verdict in ("low", "medium", "high")] == [*SEVERITIES]


class TestWords:
    def test_sentence_says_how_bad_where_and_what(self):
        expected = "run_failed, BTC-USD, models: The run of train failed at models: no room."
        assert sentence(failed()) == f"CRITICAL: {expected}"
        assert sentence(recovery(failed(), at(720))) == f"RECOVERED after 12 min: {expected}"
        alert = Alert("no_run", "", "", "Nothing has run.", NOON)
        assert sentence(alert) == "WARNING: no_run: Nothing has run."

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (0, "0 s"),
            (-5, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
        ],
    )
    def test_duration_is_in_the_largest_whole_unit(self, seconds: float, said: str):
        assert duration(timedelta(seconds=seconds)) == said

    def test_json_says_all_that_an_alert_is_to_say(self):
        alert = failed(numbers={"rows": 3}, link="http://localhost:3000/runs/1")
        assert as_json(recovery(alert, at(60))) == {
            "id": recovery(alert, at(60)).id,
            "is_recovery": True,
            "kind": "run_failed",
            "product": "BTC-USD",
            "partition": "models",
            "title": "The run of train failed at models: no room.",
            "since": "2026-03-01T12:00:00.000000+00:00",
            "noticed_at": "2026-03-01T12:00:00.000000+00:00",
            "severity": "critical",
            "numbers": {"rows": 3},
            "link": "http://localhost:3000/runs/1",
            "recovered_at": "2026-03-01T12:01:00.000000+00:00",
            "meaning": "A run failed and will not be retried by itself.",
            "runbook": "docs/runbook.md#a-run-failed",
        }

    @STEADY
    @given(
        kind=st.sampled_from(sorted(KINDS)),
        words=st.lists(st.text(max_size=9), min_size=4, max_size=4),
        severity=st.sampled_from(SEVERITIES),
        seconds=st.integers(0, 10**6),
        numbers=st.dictionaries(
            st.text(max_size=5), st.none() | st.integers() | st.floats() | st.text(max_size=5)
        ),
        is_over=st.booleans(),
    )
    def test_json_gives_the_alert_back(self, kind, words, severity, seconds, numbers, is_over):
        product, partition, title, link = words
        alert = Alert(
            kind,
            product,
            partition,
            title,
            NOON,
            at(seconds),
            severity,
            numbers,
            link,
            at(seconds + 1) if is_over else None,
        )
        assert from_json(json.loads(json.dumps(as_json(alert)))) == alert

    def test_slack_message_keeps_slacks_limits_and_escapes_its_marks(self):
        alert = failed(
            title="<b> & " + 5000 * "x",
            numbers={f"n{n}": 5000 * ">" for n in range(30)},
            link="http://localhost:3000/runs/1?a=<b>",
        )
        message = as_slack(alert)
        title, numbers, foot = message["blocks"]
        assert title["text"]["text"].startswith(
            "CRITICAL: run_failed, BTC-USD, models: &lt;b&gt; &amp; xxx"
        )
        assert title["text"]["text"].endswith("…")
        assert max(len(title["text"]["text"]), len(message["text"])) < 3000
        assert len(numbers["fields"]) == 10
        assert all(len(each["text"]) < 2000 for each in numbers["fields"])
        assert numbers["fields"][0]["text"].startswith("*n0*\n&gt;&gt;")
        said = foot["elements"][0]["text"]
        assert "<http://localhost:3000/runs/1?a=&lt;b&gt;|run or report>" in said
        assert said.startswith("since 2026-03-01 12:00:00 UTC · ")
        assert said.endswith("what to do: docs/runbook.md#a-run-failed")

    def test_slack_message_without_numbers_or_link_has_no_empty_block(self):
        _, foot = as_slack(failed())["blocks"]
        assert foot["elements"][0]["text"].count(" · ") == 1


def predicted(seconds: Any, alerts: Any, probability: float = 0.8) -> pd.DataFrame:
    """Predictions at these seconds after noon, of which some alert."""
    rows = np.array(list(seconds), dtype=int)
    return pd.DataFrame(
        {
            "ts": np.datetime64(NOON.replace(tzinfo=None), "us") + rows.astype("timedelta64[s]"),
            "probability": probability,
            "is_alert": np.isin(rows, list(alerts)),
            "decision_threshold": 0.4,
            "model_name": "har_logistic",
            "model_version": "7",
        }
    )


def told(
    rows: pd.DataFrame, *, now: float, before: Alert | None = None
) -> list[tuple[float, float, float | None]]:
    """Per event: seconds after noon of its start, its newest alert row and its end."""
    return [
        (
            (event.since - NOON).total_seconds(),
            (event.noticed_at - NOON).total_seconds(),
            None if event.recovered_at is None else (event.recovered_at - NOON).total_seconds(),
        )
        for event in spike_alerts("BTC-USD", rows, before, now=at(now))
    ]


def spike(start: float, last: float, end: float | None = None) -> Alert:
    """What was told of an episode before."""
    partition = f"{at(start):%Y-%m-%dT%H:%M:%SZ}"
    return Alert(
        "spike",
        "BTC-USD",
        partition,
        "",
        at(start),
        at(last),
        recovered_at=None if end is None else at(end),
    )


class TestSpikes:
    def test_new_episode_is_one_alert_with_its_probability_threshold_and_horizon(self):
        rows = predicted(range(200), range(150, 170), probability=0.834)
        (alert,) = spike_alerts("BTC-USD", rows, None, now=at(200))
        assert alert.key == ("spike", "BTC-USD", "2026-03-01T12:02:30Z")
        assert (alert.since, alert.noticed_at) == (at(150), at(169))
        assert alert.title == (
            "unusual volatility within 60 s has probability 0.83 (alerts from 0.40 on)."
        )
        assert alert.numbers == {
            "probability": 0.834,
            "decision_threshold": 0.4,
            "horizon_seconds": 60,
            "model": "har_logistic 7",
        }

    def test_made_up_market_says_so_first(self):
        rows = predicted(range(9), [3])
        (alert,) = spike_alerts("BTC-USD", rows, None, now=at(9), is_simulated=True)
        assert alert.title.startswith("SIMULATED market: ")

    def test_alert_row_more_than_a_minute_later_begins_another_episode(self):
        assert told(predicted(range(300), [10, 70]), now=300) == [(10, 70, None), (10, 70, 130)]
        assert told(predicted(range(120), [10, 71]), now=120) == [
            (10, 10, None),
            (10, 10, 70),
            (71, 71, None),
        ]

    def test_episode_that_was_told_goes_on_though_the_rows_begin_within_it(self):
        rows = predicted(range(500, 560), range(500, 560))
        assert told(rows, now=560, before=spike(100, 499)) == [(100, 559, None)]

    def test_it_is_over_once_a_row_a_minute_after_its_last_alert_shows_it(self):
        assert told(predicted(range(160), []), now=160, before=spike(50, 99)) == []
        assert told(predicted(range(161), []), now=161, before=spike(50, 99)) == [(50, 99, 159)]

    def test_it_is_over_when_predictions_have_stopped_for_ten_minutes(self):
        assert told(predicted([], []), now=99 + 660, before=spike(50, 99)) == []
        assert told(predicted([], []), now=99 + 661, before=spike(50, 99)) == [(50, 99, 159)]

    def test_the_same_rows_again_tell_nothing(self):
        rows = predicted(range(300), range(100, 150))
        assert told(rows, now=300, before=spike(100, 149, 209)) == []
        within = predicted(range(120, 300), range(120, 150))
        assert told(within, now=300, before=spike(100, 149, 209)) == []

    @pytest.mark.parametrize("now", [10 + 601, 86_400, -600])
    def test_predictions_of_other_times_raise_nothing(self, now: float):
        assert told(predicted(range(20), [5, 9]), now=now) == []

    def test_long_episode_is_news_while_its_newest_alert_row_is(self):
        assert told(predicted(range(3600), range(3600)), now=3600) == [(0, 3599, None)]
