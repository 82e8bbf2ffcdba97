"""Promotion, rule by rule on hand-made facts, and the paired test on rows whose truth is known."""

import json
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain import promotion
from volatility_pipeline.domain.evaluation import Estimate, plain
from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.promotion import Candidate, Comparison, Decision, Facts, Measured

STEADY = settings(deadline=None, derandomize=True, database=None)
OLD = Candidate("4", "har_logistic", "trailing", ("mid", "threshold"), "2026-03-01T12:00:00")
NEW = Candidate("16", "xgboost", "trailing", ("mid", "threshold"), "2026-03-08T12:00:00")
FACTS = Facts(
    product="BTC-USD",
    at="2026-03-10T00:00:00Z",
    challenger=NEW,
    champion=OLD,
    is_simulated=False,
    newest_row="2026-03-09T23:59:00",
    latency_ms=1.5,
)
FIRST = replace(
    FACTS,
    champion=None,
    base_rate=0.1,
    average_precision=Estimate(0.5, 0.3, 0.8),
    lift=Estimate(5.0, 3.0, 8.2),
)


def compared(low: float, value: float, high: float, **changes: Any) -> Comparison:
    """A comparison with this interval of the difference; the champion is sound."""
    return Comparison(
        **{
            "rows": 40_000,
            "start": "2026-03-08T12:06:00",
            "end": "2026-03-09T23:59:00",
            "base_rate": 0.1,
            "blocks": 22,
            "block_seconds": 1800,
            "refusal": None,
            "challenger": Estimate(0.5, 0.4, 0.6),
            "champion": Estimate(0.48, 0.38, 0.58),
            "difference": Estimate(value, low, high),
            "champion_lift": Estimate(4.8, 3.8, 5.8),
            "persistence_gain": Estimate(-0.05, -0.1, 0.01),
            **changes,
        }
    )


def decide(facts: Facts, comparison: Comparison | None = None) -> Decision:
    """The decision; without a comparison, none may be made."""
    return promotion.decide(
        facts, lambda: comparison or pytest.fail("test rows were looked at without need")
    )


def kept(decision: Decision) -> bool:
    """Whether things stay as they were, and no test was made."""
    return (decision.champion, decision.champion_model) == ("4", "har_logistic") and (
        "tested_until" not in decision.numbers
    )


class TestAgainstAChampion:
    def test_interval_above_zero_promotes(self):
        decision = decide(FACTS, compared(0.011, 0.031, 0.052))
        assert (decision.outcome, decision.champion, decision.challenger) == (
            "promoted",
            "16",
            "16",
        )
        assert decision.reason == (
            "XGBoost (version 16) is better than the champion, HAR-logistic (version 4): "
            "+0.031 [+0.011, +0.052] PR-AUC on 40,000 rows that neither knows."
        )
        assert decision.numbers["replaced"] == "4"
        assert decision.numbers["tested_until"] == "2026-03-09T23:59:00"
        assert decision.numbers["difference"] == {"value": 0.031, "low": 0.011, "high": 0.052}

    @pytest.mark.parametrize(
        ("interval", "said"),
        [
            ((-0.06, -0.04, -0.01), "is worse than"),
            ((-0.01, 0.02, 0.05), "is not shown to be better than"),
            ((0.0, 0.02, 0.05), "is not shown to be better than"),
            ((0.0, 0.0, 0.0), "is not shown to be better than"),
        ],
    )
    def test_worse_or_equal_within_noise_is_refused_and_counts_as_a_test(self, interval, said):
        decision = decide(FACTS, compared(*interval))
        assert (decision.outcome, decision.champion) == ("refused", "4")
        assert said in decision.reason
        assert decision.numbers["tested_until"] == "2026-03-09T23:59:00"

    def test_too_few_blocks_refuse_and_are_no_test(self):
        few = compared(0, 0, 0, difference=Estimate(0.1, None, None), refusal="the test has 7")
        decision = decide(FACTS, few)
        assert decision.outcome == "refused"
        assert kept(decision)
        assert decision.reason.endswith("that neither knows: the test has 7.")

    def test_no_spike_refuses(self):
        decision = decide(FACTS, compared(0, 0, 0, difference=None))
        assert decision.reason.endswith(": there is no spike.")
        assert kept(decision)

    def test_the_champion_itself_is_no_challenger(self):
        decision = decide(replace(FACTS, challenger=OLD, failed_controls=("Fails.",)))
        assert decision.outcome == "unchanged"
        assert kept(decision)


class TestObstacles:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"insufficient": ("test has 3 spikes",)}, "insufficient: test has 3 spikes."),
            ({"failed_controls": ("Labels overlap.",)}, "A control failed: Labels overlap."),
            ({"fault": "No archive."}, "No archive."),
            ({"latency_ms": 10.1}, "takes 10.1 ms of processor time for a row; 10 ms"),
            ({"challenger": replace(NEW, columns=("mid",))}, "schema changed since the champion"),
            (
                {"challenger": replace(NEW, columns=("threshold", "mid"))},
                "(their order)",
            ),
            (
                {"challenger": replace(NEW, policy="training")},
                "policy was trailing for the champion and is training for the challenger",
            ),
        ],
    )
    def test_each_refuses_before_any_test(self, change, said):
        decision = decide(replace(FACTS, **change))
        assert decision.outcome == "refused"
        assert said in decision.reason
        assert kept(decision)

    def test_changed_schema_says_which_columns_and_how_a_person_goes_on(self):
        decision = decide(replace(FACTS, challenger=replace(NEW, columns=("mid", "spread_bps"))))
        assert "(spread_bps, threshold)" in decision.reason
        assert "`volatility champion BTC-USD --set 16 --reason …`" in decision.reason

    def test_budget_itself_is_allowed(self):
        decision = decide(replace(FACTS, latency_ms=10.0), compared(0.01, 0.02, 0.03))
        assert decision.outcome == "promoted"

    def test_suspicious_result_on_recorded_data_waits_for_a_person(self):
        decision = decide(replace(FACTS, suspicious=("XGBoost gains +0.3",)))
        assert decision.outcome == "deferred"
        assert kept(decision)
        assert decision.reason.startswith("Suspicious: XGBoost gains +0.3. Look for a leak")
        assert "--set 16 --reason" in decision.reason

    def test_suspicious_result_on_simulated_data_only_warns(self):
        simulated = replace(FACTS, is_simulated=True, suspicious=("XGBoost gains +0.3",))
        decision = decide(simulated, compared(0.2, 0.3, 0.4))
        assert decision.outcome == "promoted"
        assert decision.reason.endswith("On simulated data only a warning: XGBoost gains +0.3.")


class TestWeakChampion:
    STALE = replace(FACTS, weaknesses=("is stale: 45 days old, 30 are allowed",))

    def test_stale_champion_gives_way_to_one_that_is_not_inferior(self):
        decision = decide(self.STALE, compared(-0.015, 0.0, 0.01))
        assert (decision.outcome, decision.champion) == ("promoted", "16")
        assert decision.reason.startswith(
            "The champion, HAR-logistic (version 4), is stale: 45 days old, 30 are allowed. "
            "XGBoost (version 16) is not inferior to it: +0.000 [-0.015, +0.010] PR-AUC"
        )
        assert decision.numbers["margin"] == -0.02

    @pytest.mark.parametrize("low", [-0.02, -0.05])
    def test_stale_champion_stays_where_the_challenger_may_be_inferior(self, low):
        decision = decide(self.STALE, compared(low, 0.0, 0.01))
        assert (decision.outcome, decision.champion) == ("refused", "4")
        assert "may still be inferior" in decision.reason

    def test_champion_in_drift_gives_way_likewise(self):
        facts = replace(FACTS, weaknesses=("is in drift: 7 features over their limit",))
        decision = decide(facts, compared(-0.01, 0.0, 0.01))
        assert decision.outcome == "promoted"
        assert "is in drift: 7 features" in decision.reason

    @pytest.mark.parametrize(
        "floor",
        [
            {"champion_lift": Estimate(0.8, 0.6, 0.99)},
            {"persistence_gain": Estimate(0.05, 0.001, 0.1)},
        ],
    )
    def test_champion_below_its_floor_gives_way_likewise(self, floor):
        decision = decide(FACTS, compared(-0.01, 0.0, 0.01, **floor))
        assert decision.outcome == "promoted"
        assert "is below its floor: " in decision.reason

    @pytest.mark.parametrize(
        "floor",
        [
            {"champion_lift": Estimate(0.9, 0.6, 1.0)},
            {"champion_lift": Estimate(0.9, None, None)},
            {"champion_lift": None},
            {"persistence_gain": Estimate(0.05, 0.0, 0.1)},
            {"persistence_gain": Estimate(0.05, None, None)},
        ],
    )
    def test_champion_that_may_be_above_its_floor_is_not_below_it(self, floor):
        assert decide(FACTS, compared(-0.01, 0.0, 0.01, **floor)).outcome == "refused"


class TestFirstChampion:
    def test_lift_interval_above_one_promotes(self):
        decision = decide(FIRST)
        assert (decision.outcome, decision.champion) == ("promoted", "16")
        assert "has lift 5.00 [3.00, 8.20] on the test, an interval above 1." in decision.reason
        assert decision.numbers["replaced"] is None

    @pytest.mark.parametrize("low", [0.7, 1.0])
    def test_lift_that_may_be_one_leaves_none(self, low):
        decision = decide(replace(FIRST, lift=Estimate(1.4, low, 2.1)))
        assert (decision.outcome, decision.champion) == ("refused", None)
        assert decision.numbers["tested_until"] == FIRST.newest_row

    @pytest.mark.parametrize("lift", [None, Estimate(5.0, None, None)])
    def test_no_interval_leaves_none_and_is_no_test(self, lift):
        decision = decide(replace(FIRST, lift=lift, lift_refusal="the test has 7 blocks"))
        assert (decision.outcome, decision.champion) == ("refused", None)
        assert decision.reason.endswith("is shown: the test has 7 blocks.")
        assert "tested_until" not in decision.numbers

    def test_insufficient_data_leaves_none_whatever_the_lift(self):
        decision = decide(replace(FIRST, insufficient=("train has 2 episodes",)))
        assert (decision.outcome, decision.champion) == ("refused", None)


class TestOneTestAWeek:
    @pytest.mark.parametrize("facts", [FACTS, FIRST])
    def test_less_than_a_week_of_new_rows_defers_and_says_until_when(self, facts):
        facts = replace(facts, last_tested="2026-03-03T00:00:00")
        decision = decide(facts)
        assert decision.outcome == "deferred"
        assert "rows up to 2026-03-03T00:00:00;" in decision.reason
        assert "once there are test rows from 2026-03-10T00:00:00 on" in decision.reason
        assert "tested_until" not in decision.numbers

    def test_a_week_is_enough(self):
        facts = replace(FACTS, last_tested="2026-03-02T23:59:00")
        assert decide(facts, compared(0.01, 0.02, 0.03)).outcome == "promoted"

    def test_deciding_daily_for_ten_weeks_looks_ten_times(self):
        history: list[Decision] = []
        for day in range(70):
            newest = datetime(2026, 3, 1) + timedelta(days=day)  # noqa: DTZ001  (naive UTC)
            facts = replace(
                FACTS,
                newest_row=newest.isoformat(),
                last_tested=promotion.last_tested(history),
            )
            found = compared(-0.01, 0.0, 0.01, end=newest.isoformat())
            history.append(promotion.decide(facts, lambda found=found: found))
        assert [decision.outcome for decision in history].count("refused") == 10
        assert {decision.outcome for decision in history[::7]} == {"refused"}


class TestChallenger:
    @pytest.mark.parametrize(
        ("validation", "chosen"),
        [
            ({"persistence": 0.4, "har_logistic": 0.45, "xgboost": 0.5}, "xgboost"),
            ({"persistence": 0.4, "har_logistic": 0.45, "xgboost": 0.44}, "har_logistic"),
            ({"har_logistic": 0.45, "xgboost": 0.45}, "har_logistic"),
            ({"har_logistic": 0.4502, "xgboost": 0.4509}, "har_logistic"),
            ({"persistence": 0.5, "har_logistic": 0.4, "z_score": 0.5}, "persistence"),
            ({"har_logistic": None, "xgboost": None}, "har_logistic"),
            ({}, "har_logistic"),
        ],
    )
    def test_best_on_validation_and_the_reference_among_equals(self, validation, chosen):
        assert promotion.choose_challenger(validation) == chosen


def changed(outcome: promotion.Outcome, champion: str | None) -> Decision:
    return Decision("BTC-USD", FACTS.at, outcome, "because", None, None, champion, None)


class TestLastMeasured:
    def test_it_is_the_newest_test_that_the_version_took_part_in(self):
        first = decide(replace(FIRST, challenger=OLD))
        history = [first, decide(replace(FACTS, failed_controls=("Fails.",)))]
        assert promotion.last_measured(history, "4") == Measured(
            Estimate(0.5, 0.3, 0.8), 0.1, "2026-03-09T23:59:00"
        )
        history.append(decide(FACTS, compared(0.01, 0.02, 0.03, base_rate=0.2)))
        assert promotion.last_measured(history, "4").average_precision == Estimate(0.48, 0.38, 0.58)
        assert promotion.last_measured(history, "16").average_precision == Estimate(0.5, 0.4, 0.6)
        assert promotion.last_measured(history, "16").base_rate == 0.2

    def test_what_was_never_tested_has_none(self):
        refused = decide(replace(FACTS, failed_controls=("Fails.",)))
        assert promotion.last_measured([refused, changed("set by hand", "16")], "16") is None
        assert promotion.last_measured([], "16") is None


class TestRollBack:
    def test_each_goes_one_champion_further_back(self):
        history = [changed("promoted", "1"), changed("refused", "1"), changed("promoted", "2")]
        history.append(changed("set by hand", "3"))
        assert promotion.champion_before(history, "3") == "2"
        history.append(changed("rolled back", "2"))
        assert promotion.champion_before(history, "2") == "1"
        history.append(changed("rolled back", "1"))
        assert promotion.champion_before(history, "1") is None
        history.append(changed("promoted", "4"))
        assert promotion.champion_before(history, "4") == "1"

    def test_removal_is_undone(self):
        history = [changed("promoted", "1"), changed("promoted", "2"), changed("removed", None)]
        assert promotion.champion_before(history, None) == "2"

    def test_champion_that_was_set_elsewhere_goes_back_to_the_last_known(self):
        assert promotion.champion_before([changed("promoted", "1")], "7") == "1"
        assert promotion.champion_before([], "7") is None

    @STEADY
    @given(st.lists(st.booleans(), max_size=30))
    def test_it_is_a_stack_of_champions(self, steps: list[bool]) -> None:
        history: list[Decision] = []
        stack: list[str] = []
        for number, is_promotion in enumerate(steps):
            now = stack[-1] if stack else None
            if is_promotion:
                stack.append(str(number))
                history.append(changed("promoted", str(number)))
            elif len(stack) > 1:
                stack.pop()
                assert promotion.champion_before(history, now) == stack[-1]
                history.append(changed("rolled back", stack[-1]))
            else:
                assert promotion.champion_before(history, now) is None


BLOCK = 360
STEP = np.timedelta64(5, "s")


def frame(blocks: int = 60, seed: int = 0) -> pd.DataFrame:
    """Rows of every role, five seconds apart, spikes in bursts of five minutes."""
    rng = np.random.default_rng(seed)
    sizes = {"train": 8000, "validation": 8000, "test": blocks * BLOCK}
    role = np.repeat(list(sizes), list(sizes.values()))
    bursts = rng.random(len(role) // 60 + 1) < 0.15
    ts = np.datetime64("2026-03-01", "us") + np.arange(len(role)) * STEP
    return pd.DataFrame({"ts": ts, "is_spike": np.repeat(bursts, 60)[: len(role)], "role": role})


def forecast(rows: pd.DataFrame, *, noise: float, seed: int = 1) -> Forecast:
    """The test's answers, seen through noise that lasts a minute."""
    target = rows.loc[rows["role"] == "test", "is_spike"].to_numpy(dtype=float)
    rng = np.random.default_rng(seed)
    score = target + noise * np.repeat(rng.normal(size=len(target) // 12 + 1), 12)[: len(target)]
    return Forecast("any", score, 1 / (1 + np.exp(-score)), 0.5)


def paired(rows: pd.DataFrame, *, challenger: float, champion: float) -> Comparison:
    return promotion.compare(
        rows,
        challenger=forecast(rows, noise=challenger),
        champion=forecast(rows, noise=champion, seed=2),
        persistence=forecast(rows, noise=2.0, seed=3),
        product="BTC-USD",
        policy="trailing",
        seed=0,
    )


class TestComparison:
    def test_clearer_sight_is_promoted_and_dimmer_sight_is_worse(self):
        rows = frame()
        better = decide(FACTS, paired(rows, challenger=0.4, champion=1.0))
        assert better.outcome == "promoted"
        assert better.numbers["difference"]["low"] > 0
        worse = decide(FACTS, paired(rows, challenger=1.0, champion=0.4))
        assert worse.outcome == "refused"
        assert "is worse than" in worse.reason

    def test_equal_sight_is_refused_and_the_numbers_are_plain_json(self):
        found = paired(frame(), challenger=1.0, champion=1.0)
        decision = decide(FACTS, found)
        assert "is not shown to be better than" in decision.reason
        assert found.difference.low < 0 < found.difference.high
        assert found.difference.value == pytest.approx(
            found.challenger.value - found.champion.value
        )
        assert found.persistence_gain.high < 0
        assert found.weaknesses == ()
        assert json.loads(json.dumps(asdict(decision))) == plain(asdict(decision))

    def test_champion_blinder_than_persistence_is_below_its_floor(self):
        found = paired(frame(), challenger=2.0, champion=20.0)
        assert any("persistence gains" in weakness for weakness in found.weaknesses)

    def test_short_test_has_no_interval(self):
        found = paired(frame(blocks=5), challenger=0.4, champion=2.0)
        assert found.refusal
        assert found.difference.low is None
        assert decide(FACTS, found).outcome == "refused"

    def test_no_row_that_neither_knows_is_no_error(self):
        rows = frame()
        found = paired(rows[rows["role"] != "test"], challenger=1.0, champion=1.0)
        assert (found.rows, found.start, found.difference) == (0, None, None)
        assert "on the 0 test rows" in decide(FACTS, found).reason


class TestRowsThatNeitherKnows:
    def test_they_begin_a_label_and_an_embargo_after_the_later_of_both(self):
        rows = frame()
        ts = rows.loc[rows["role"] == "test", "ts"]
        late = ts.iloc[1000]
        kept = promotion.unknown_to(["2026-03-01T00:00:00", late.isoformat()], rows)
        left = kept.loc[kept["role"] == "test", "ts"]
        assert left.iloc[0] == late + pd.Timedelta(seconds=360)
        assert left.iloc[-1] == ts.iloc[-1]
        for role in ("train", "validation"):
            assert (kept["role"] == role).sum() == (rows["role"] == role).sum()

    def test_models_that_know_nothing_later_leave_all(self):
        rows = frame()
        pd.testing.assert_frame_equal(promotion.unknown_to(["1970-01-01T00:00:00"], rows), rows)
