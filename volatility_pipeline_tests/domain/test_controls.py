"""The controls: that they hold where they should, and that each has teeth."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.controls import (
    Outcome,
    chance,
    future_truncation,
    noise_control,
    overlap,
    past_rows,
    permuted_labels,
    separate_rows,
    shifted_labels,
    too_good,
)
from volatility_pipeline.domain.leakage import FOREST, rank
from volatility_pipeline.domain.splits import LEAKY_ROLES, ROLES, stratified_random
from volatility_pipeline_tests.split_frames import role, split_frame

RUNGS = ("har_logistic",)


def seconds(count: int) -> np.ndarray:
    return np.datetime64("2026-03-01T00:00:00") + np.arange(count).astype("timedelta64[s]")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """Ten noise markets of five hours; `test_audit` asks every rung, on longer ways."""
    found: dict[str, list[Outcome]] = {name: [] for name in [*RUNGS, "base_rate", "peeking"]}
    for seed in range(10):
        frame = split_frame(18_000, seed=seed, is_noise=True)
        train, validation, test = (role(frame, name) for name in ROLES)
        ts, target = test["ts"].to_numpy(), test["is_spike"].to_numpy(dtype=bool)
        for name, measured in found.items():
            if name == "peeking":
                score = target + np.random.default_rng(seed).normal(size=len(target))
            else:
                score = rank(name, train, validation, test, policy="trailing", seed=0)
            measured.append(separate_rows(ts, target, score))
    return found


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return split_frame(44_000, seed=1)


class TestChance:
    @pytest.mark.parametrize(("positives", "rows"), [(1, 1), (1, 5), (2, 6), (4, 7), (6, 6)])
    def test_it_is_the_mean_over_all_orders(self, positives, rows):
        precisions = []
        for places in combinations(range(1, rows + 1), positives):
            precisions.append(np.mean([hit / place for hit, place in enumerate(places, start=1)]))
        assert chance(positives, rows) == pytest.approx(np.mean(precisions), rel=1e-12)

    def test_it_lies_above_the_base_rate_and_falls_towards_it(self):
        lifts = [chance(rows // 10, rows) / 0.1 for rows in (100, 1000, 10_000)]
        assert lifts == pytest.approx([1.38, 1.06, 1.008], abs=0.005)


class TestNoise:
    @pytest.mark.parametrize("name", [*RUNGS, "base_rate"])
    def test_the_mean_lift_is_that_of_chance(self, outcomes, name):
        control = noise_control(name, outcomes[name])
        assert control.passed, control.sentence
        assert abs(control.numbers["excess"]) <= 3 * control.numbers["standard_error"]
        assert control.numbers["standard_error"] < 0.4
        assert control.numbers["mean_lift_every_row"] < 2

    def test_what_chance_gives_in_few_rows_is_far_above_1(self, outcomes):
        control = noise_control("base_rate", outcomes["base_rate"])
        assert control.passed
        assert control.numbers["expected_lift"] > 1.3
        assert control.numbers["standard_errors_from_1"] > 3

    def test_a_glimpse_of_the_label_is_noticed(self, outcomes):
        control = noise_control("peeking", outcomes["peeking"])
        assert control.passed is False
        assert "knowing nothing gives" in control.sentence

    def test_a_slow_average_of_the_past_lies_below_chance_and_is_no_fault(self):
        rng = np.random.default_rng(0)
        measured = []
        for _ in range(200):
            volatility = rng.normal(size=160)
            score = np.convolve(volatility, 0.5 ** (np.arange(60) / 5))[59:159]
            minutes = seconds(100) + 59 * np.arange(100).astype("timedelta64[s]")
            measured.append(separate_rows(minutes, volatility[60:] > 1.28, score))
        control = noise_control("ewma", [one for one in measured if one])
        assert control.passed
        assert -0.35 < control.numbers["excess"] < -0.1

    def test_fewer_than_five_draws_are_not_judged(self, outcomes):
        control = noise_control("har_logistic", outcomes["har_logistic"][:4])
        assert control.passed is None
        assert control.sentence == "Not judged: 4 noise markets hold a spike, 5 are needed."

    def test_separate_rows_of_random_scores_give_chance_on_average(self):
        rng = np.random.default_rng(1)
        target = np.repeat(rng.random(60) < 0.2, 60)  # as clustered as overlapping labels are
        drawn = [separate_rows(seconds(3600), target, rng.random(3600)) for _ in range(200)]
        mean = np.mean([one.average_precision for one in drawn])
        assert mean == pytest.approx(drawn[0].expected, rel=0.01)
        assert drawn[0].base_rate == pytest.approx(target.mean())

    def test_rows_without_a_spike_give_no_outcome(self):
        nothing = np.zeros(100, dtype=bool)
        assert separate_rows(seconds(100), nothing, np.arange(100.0)) is None
        assert shifted_labels(nothing, np.arange(100.0)) is None


class TestPermutedLabels:
    def test_no_model_knows_labels_that_stand_elsewhere(self, frame):
        found = permuted_labels(frame, policy="trailing", models=("persistence", "har_logistic"))
        assert [control.passed for control in found] == [True, True]
        assert found[1].name == "permuted labels: HAR-logistic"
        assert found[1].numbers["draws"] == 10
        assert abs(found[1].numbers["excess"]) < 0.5
        # They know the labels where they stand:
        train, validation, test = (role(frame, name) for name in ROLES)
        score = rank("har_logistic", train, validation, test, policy="trailing", seed=0)
        outcome = shifted_labels(test["is_spike"].to_numpy(dtype=bool), score)
        assert outcome.lift > outcome.expected_lift + 1

    def test_what_is_remembered_across_a_shuffled_split_is_noticed(self, frame):
        target = frame["is_spike"].to_numpy(dtype=bool)
        roles = stratified_random(target, np.ones_like(target), seed=0).role
        (control,) = permuted_labels(
            frame.assign(role=roles),
            policy="trailing",
            models=(FOREST,),
            roles=LEAKY_ROLES,
            permutations=5,
        )
        assert control.passed is False
        assert control.numbers["excess"] > 2

    def test_too_short_a_market_is_not_judged(self):
        frame = split_frame(20_000, seed=1)
        (control,) = permuted_labels(frame, policy="trailing", models=("har_logistic",))
        assert control.passed is None
        assert "half-hours of rows are there, 20 are needed" in control.sentence


class TestOverlap:
    @staticmethod
    def frame(**times: list[int]) -> pd.DataFrame:
        rows = [(second, name) for name, chosen in times.items() for second in chosen]
        second, names = zip(*rows, strict=True)
        return pd.DataFrame({"ts": seconds(10_000)[list(second)], "role": names})

    def test_an_honest_split_has_none(self):
        control = overlap(split_frame(20_000, seed=1))
        assert control.passed
        assert set(control.numbers.values()) == {0}

    def test_a_minute_apart_is_apart_and_a_second_less_is_not(self):
        apart = overlap(self.frame(train=[0], validation=[60], test=[120]))
        assert apart.passed
        near = overlap(self.frame(train=[0, 1], validation=[60], test=[120]))
        assert near.passed is False
        assert near.numbers["train rows that reach into validation"] == 1
        assert "1 train rows that reach into validation" in near.sentence

    def test_training_rows_after_the_test_reach_into_it_too(self):
        control = overlap(self.frame(train=[0, 559, 560], validation=[200], test=[500]))
        assert control.passed is False
        assert control.numbers["train rows that reach into test"] == 1

    def test_each_fold_is_looked_at_by_itself(self):
        first = self.frame(train=[0], validation=[60], test=[120])
        second = self.frame(train=[0, 60, 120], validation=[180], test=[240])
        folds = pd.concat([first.assign(fold=0), second.assign(fold=1)])
        assert overlap(folds).passed
        assert overlap(folds.drop(columns="fold")).passed is False

    def test_a_shuffled_split_is_nothing_but_overlap(self):
        frame = split_frame(20_000, seed=1)
        target = frame["is_spike"].to_numpy(dtype=bool)
        leaky = frame.assign(role=stratified_random(target, np.ones_like(target), seed=0).role)
        control = overlap(leaky, roles=LEAKY_ROLES)
        assert control.passed is False
        reached = control.numbers["LEAKY train rows that reach into LEAKY test"]
        assert reached > 0.95 * (leaky["role"] == LEAKY_ROLES[0]).sum()


class TestFutureTruncation:
    WHOLE = pd.DataFrame(
        {"product_id": "BTC-USD", "ts": seconds(10), "mid": np.arange(10.0), "gap": np.nan}
    )
    AT = np.datetime64("2026-03-01T00:00:06")

    def control(self, cut: pd.DataFrame):
        return future_truncation([past_rows(self.WHOLE, cut, self.AT)])

    def test_the_past_may_stay_and_the_future_may_go(self):
        later = self.WHOLE.assign(mid=self.WHOLE["mid"].where(self.WHOLE["ts"] <= self.AT, -1.0))
        for cut in (self.WHOLE, self.WHOLE.head(7), self.WHOLE.head(8), later):
            control = self.control(cut)
            assert control.passed
            assert control.numbers["rows"] == 7

    def test_a_changed_a_lost_and_an_invented_row_are_counted(self):
        changed = self.WHOLE.head(7).replace({"mid": {3.0: 3.0000001}})
        assert self.control(changed).numbers["changed"] == 1
        known = self.WHOLE.head(7).fillna({"gap": 0.0})
        assert self.control(known).numbers["changed"] == 7
        assert self.control(self.WHOLE.head(5)).numbers["lost"] == 2
        other = self.WHOLE.head(1).assign(product_id="ETH-USD")
        assert self.control(pd.concat([self.WHOLE, other])).numbers["invented"] == 1
        for cut in (changed, known, self.WHOLE.head(5), pd.concat([self.WHOLE, other])):
            assert self.control(cut).passed is False
        assert "1 of 7 earlier rows change" in self.control(changed).sentence

    def test_no_rows_are_not_judged(self):
        assert future_truncation(()).passed is None


class TestTooGood:
    def test_an_alarm_fails_on_recorded_data_and_warns_on_simulated(self):
        assert too_good((), is_simulated=False).passed
        assert too_good(("XGBoost covers 90 %",), is_simulated=False).passed is False
        warned = too_good(("XGBoost covers 90 %",), is_simulated=True)
        assert warned.passed
        assert warned.sentence.startswith("Simulated data, so only a warning. Too good: XGBoost")
