"""Single measures and the bootstrap under them, against scikit-learn and against hand counts."""

import numpy as np
import pytest
from arch.bootstrap import MovingBlockBootstrap
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from volatility_pipeline.domain import metrics
from volatility_pipeline.domain.bootstrap import Ranking, choose_blocks, resample

SECOND = np.timedelta64(1, "s")


class TestAveragePrecision:
    @given(
        st.lists(
            st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40
        )
    )
    def test_any_weights_and_ties_give_what_scikit_learn_gives(self, rows):
        score, target, weights = (np.array(column) for column in zip(*rows, strict=True))
        ours = Ranking(score.astype(float), target).average_precision(weights)
        if weights[target].sum():
            expected = average_precision_score(target, score, sample_weight=weights)
            assert ours == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(ours)

    def test_resamples_give_what_scikit_learn_gives_on_the_drawn_rows(self):
        rng = np.random.default_rng(5)
        score, target = rng.normal(size=500).round(1), rng.random(500) < 0.2
        drawn = resample([Ranking(score, target)], target, block_rows=20, resamples=3, seed=9)
        draws = MovingBlockBootstrap(20, np.arange(500), seed=9).bootstrap(3)
        for number, ((rows,), _) in enumerate(draws):
            expected = average_precision_score(target[rows], score[rows])
            assert drawn.average_precision[number, 0] == pytest.approx(expected, rel=1e-12)
            assert drawn.base_rate[number] == pytest.approx(target[rows].mean())


class TestBlocks:
    @staticmethod
    def blocks(rows: int, spike_rows, step: int = 1):
        target = np.zeros(rows, dtype=bool)
        target[spike_rows] = True
        ts = np.datetime64("2026-03-01") + np.arange(rows) * step * SECOND
        return choose_blocks(ts, target, [])

    def test_twenty_blocks_of_half_an_hour_ten_with_a_spike_are_enough(self):
        blocks = self.blocks(36_000, np.arange(0, 18_000, 1800))
        assert (blocks.seconds, blocks.rows, blocks.count, blocks.with_spike) == (
            1800,
            1800,
            20,
            10,
        )
        assert blocks.refusal is None

    def test_nineteen_blocks_are_refused(self):
        blocks = self.blocks(35_999, np.arange(0, 35_999, 100))
        assert blocks.refusal == "the test has 19 blocks of 1800 s, 20 are needed"

    def test_nine_blocks_with_a_spike_are_refused(self):
        blocks = self.blocks(36_000, np.arange(0, 16_200, 1800))
        assert blocks.refusal == "9 of 20 blocks hold a spike, 10 are needed"

    def test_no_spike_at_all_is_refused(self):
        assert self.blocks(36_000, []).refusal == "0 of 20 blocks hold a spike, 10 are needed"

    def test_blocks_are_as_long_in_seconds_where_rows_are_thinner(self):
        blocks = self.blocks(7_200, np.random.default_rng(1).random(7_200) < 0.02, step=5)
        assert (blocks.seconds, blocks.rows, blocks.count) == (1800, 360, 20)

    def test_a_longer_automatic_length_wins(self):
        rows = 100_000
        slow = np.repeat(np.arange(50) % 2 == 0, rows // 50)
        blocks = self.blocks(rows, slow, step=60)
        assert blocks.rows > 30
        assert blocks.seconds == 60 * blocks.rows > 1800

    def test_no_rows_are_refused(self):
        assert self.blocks(0, []).refusal == "the test has 0 blocks of 1800 s, 20 are needed"


class TestMetrics:
    TARGET = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    SCORE = np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.3])

    def test_confusion_and_its_ratios_are_those_of_scikit_learn(self):
        found = metrics.confusion(self.TARGET, self.SCORE >= 0.5)
        assert found == metrics.Confusion(2, 1, 1, 2)
        expected = precision_recall_fscore_support(
            self.TARGET, self.SCORE >= 0.5, average="binary"
        )[:3]
        assert (found.precision, found.recall, found.f1) == pytest.approx(expected)

    def test_ratios_without_alert_or_spike_are_none(self):
        quiet = metrics.confusion(~self.TARGET & False, self.SCORE >= 2)
        assert (quiet.precision, quiet.recall, quiet.f1) == (None, None, None)
        silent = metrics.confusion(self.TARGET, self.SCORE >= 2)
        assert (silent.precision, silent.recall, silent.f1) == (None, 0.0, 0.0)

    def test_one_class_leaves_ranking_measures_undefined(self):
        never = np.zeros(6, dtype=bool)
        assert metrics.roc_auc(never, self.SCORE) is None
        assert metrics.brier_skill(never, self.SCORE) is None
        assert metrics.precision_recall(never, self.SCORE) == metrics.Curve()
        assert metrics.roc(never, self.SCORE) == metrics.Curve()
        assert metrics.independent_labels(never, lags=3) is None

    def test_the_tests_own_base_rate_has_no_brier_skill(self):
        rate = np.full(6, 0.5)
        assert metrics.brier(self.TARGET, rate) == 0.25
        assert metrics.brier_skill(self.TARGET, rate) == 0
        assert metrics.brier_skill(self.TARGET, self.TARGET.astype(float)) == 1

    def test_a_thinned_curve_keeps_its_ends_and_its_area(self):
        rng = np.random.default_rng(2)
        target = rng.random(20_000) < 0.1
        score = rng.normal(size=20_000) + target
        curve = metrics.roc(target, score)
        assert len(curve.x) <= metrics.CURVE_POINTS + 2
        assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
        area = np.trapezoid(curve.y, curve.x)
        assert area == pytest.approx(roc_auc_score(target, score), abs=1e-3)

    def test_reliability_bins_hold_every_row_once(self):
        rng = np.random.default_rng(2)
        probability = rng.random(1000)
        bins = metrics.reliability(rng.random(1000) < probability, probability)
        assert [b.rows for b in bins] == [100] * 10
        assert max(abs(b.probability - b.spike_rate) for b in bins) < 0.15

    def test_equal_probabilities_share_one_bin(self):
        bins = metrics.reliability(self.TARGET, np.full(6, 0.3))
        assert bins == (metrics.ReliabilityBin(6, pytest.approx(0.3), 0.5),)

    def test_spikes_are_counted_when_far_enough_apart(self):
        times = np.datetime64("2026-03-01") + np.array([0, 59, 60, 119, 120, 900]) * SECOND
        assert metrics.count_apart(times, 60) == 4
        assert metrics.count_apart(times, 900) == 2
        assert metrics.count_apart(times[:0], 60) == 0

    def test_labels_repeated_for_a_minute_are_worth_one_each(self):
        labels = np.random.default_rng(4).random(600) < 0.3
        apart = metrics.independent_labels(labels, lags=10)
        repeated = metrics.independent_labels(np.repeat(labels, 60), lags=600)
        assert apart == pytest.approx(600, rel=0.3)
        assert repeated == pytest.approx(apart, rel=0.3)
