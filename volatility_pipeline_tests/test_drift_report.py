"""The drift pages: what they say first, what they show, and that they open without a network."""

import re
import socket
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from volatility_pipeline.domain.day_sketch import COLUMNS
from volatility_pipeline.domain.drift import Effect, Reference, compare
from volatility_pipeline.domain.drift_verdict import (
    DayPerformance,
    Performance,
    Verdict,
    decide,
)
from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.reports.drift import Context, evidently_page, render
from volatility_pipeline_tests.domain.test_drift import day, moods
from volatility_pipeline_tests.report_contexts import text_of

REFERENCE = Reference.of(moods(20))
DAYS = (DayPerformance("2026-04-10", 8640, 900, 0.104, 0.41, 5.0, 0.39, 0.071, 0.24),)
HOLDING = Performance(
    "holding", "It holds.", DAYS, Estimate(4.0, 3.1, 4.8), Estimate(0.02, -0.01, 0.05)
)


def page(shift: float = 0.0, product: str = "BTC-USD", **options: Any) -> str:
    """The page of a day that is shifted so far."""
    drift = REFERENCE.judge([day(40, shift)])
    verdict = decide(product, drift, HOLDING)
    context = {"is_simulated": True, "history": [verdict.to_dict()], **options}
    return render(verdict, drift, HOLDING, Context(**context))


def test_the_action_is_the_first_line_and_colours_it():
    assert text_of(page(3.0)).startswith(
        "Retrain at once and find the cause: On 2026-04-10 6 of 6 features lie beyond 2 times"
    )
    assert 'class="verdict suspicious"' in page(3.0)
    assert text_of(page()).startswith("Nothing to do: No drift beyond that of the reference days.")
    assert 'class="verdict claim"' in page()


def test_the_matrix_shades_the_days_own_cell():
    rows = re.findall(r'<tr>\s*<th scope="row">(medium|high)</th>(.*?)</tr>', page(3.0), re.DOTALL)
    marked = {name: cells.count("background") for name, cells in rows}
    assert marked == {"medium": 0, "high": 1}
    assert text_of(page()).count("Retrain at once and find the cause") == 7


def test_columns_beyond_their_limit_performance_and_comparisons_are_shown():
    effects = compare(moods(5), [day(40, 2.0)])
    text = text_of(page(3.0, train_against_test=effects, evidently="columns.html"))
    assert "6 of 6 columns lie beyond their limit" in text
    widest = REFERENCE.judge([day(40, 3.0)]).effects[0]
    assert f"{widest.column} {widest.excess:.2f} {widest.psi:.3f}" in text
    assert "2026-04-10 8,640 900 0.104 0.410 0.390 5.00 0.0710 +0.240" in text
    assert "lift 4.00 [3.10, 4.80], PR-AUC on persistence +0.020 [-0.010, +0.050]" in text
    assert f"{effects[0].column} {effects[0].psi:.3f} {effects[0].wasserstein:.3f}" in text
    assert "There are no whole days to compare." in text
    assert '<a href="columns.html">Distributions</a>' in page(evidently="columns.html")


def test_a_short_reference_says_that_nothing_is_judged():
    drift = Reference.of(moods(3)).judge([day(40, 9.0)])
    nothing = Performance("insufficient", "No label is known.", ())
    verdict = decide("BTC-USD", drift, nothing)
    found = render(verdict, drift, nothing, Context(is_simulated=False))
    assert text_of(found).startswith("Not judged: Drift is not judged: the reference has 3 whole")
    assert 'class="verdict insufficient"' in found
    assert "Nothing: the reference has 3 whole days, 14 are needed." in text_of(found)
    assert "No earlier day was judged." in text_of(found)


def test_simulated_data_are_named_and_real_ones_are_not():
    assert "<title>SIMULATED DATA: Drift of BTC-USD</title>" in page()
    assert "SIMULATED" not in page(is_simulated=False)


def test_a_hostile_name_is_escaped_and_the_page_needs_nothing_but_itself():
    found = page(product="<script>x</script>")
    assert "<script" not in found
    assert "&lt;script&gt;x" in found
    assert not re.findall(r"<(?:link|iframe|object)\b|@import|url\(|https?://", found)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', found))


def test_the_trend_survives_days_without_numbers():
    drift = Reference.of(moods(3)).judge([day(39)])
    early = decide("BTC-USD", drift, Performance("insufficient", "None.", ()))
    low = replace(early, performance="below_floor")
    late: Verdict = decide("BTC-USD", REFERENCE.judge([day(40, 3.0)]), HOLDING)
    rows = [verdict.to_dict() for verdict in (early, low, late)]
    assert page(history=rows) == page(history=rows)
    assert page(history=rows) != page(history=rows[:2])


def test_no_number_is_written_that_is_none():
    found = page(3.0, early_against_late=(Effect("mid", 0.1, 0.2, 0.3),))
    assert not re.search(r"\b(nan|None|inf)\b", text_of(found))


class TestEvidently:
    @pytest.fixture(scope="class")
    @classmethod
    def frames(cls) -> tuple[pd.DataFrame, pd.DataFrame]:
        rng = np.random.default_rng(1)
        rows = pd.DataFrame(
            {name: 1e-4 * np.exp(0.3 * rng.standard_normal(20_000)) for name in FEATURE_COLUMNS}
        ).assign(mid=100.0, volume_velocity_30s=np.nan)
        louder = {"realized_volatility_60s": 2 * rows["realized_volatility_60s"]}
        return rows, rows.assign(**louder)

    def test_it_holds_columns_to_our_limits_and_asks_no_network(self, frames, monkeypatch):
        def refuse(*address: object) -> None:
            raise AssertionError(f"a connection to {address}")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        limits = {"realized_volatility_60s": 1.0, "realized_volatility_30s": 1.0}
        found = evidently_page(*frames, title="A & B", limits=limits, is_simulated=True)
        assert "<title>SIMULATED DATA: A &amp; B</title>" in found
        assert ">SIMULATED DATA: A &amp; B</h1>" in found
        known = len(COLUMNS) - 1
        assert f"(1 out of {known})" in found
        assert len(found) < 7e6
        assert "evidently.telemetry" not in sys.modules

    def test_without_limits_nothing_is_called_drift(self, frames):
        found = evidently_page(*frames, title="A", limits={}, is_simulated=False)
        assert "nothing is called drift" in found
        assert "(0 out of " in found
        assert "SIMULATED" not in found[: found.index("</h1>")]

    def test_two_stretches_without_a_column_in_common_are_refused(self, frames):
        empty = frames[0].head(0)
        with pytest.raises(ValueError, match="no column with values in common"):
            evidently_page(frames[0], empty, title="A", limits={}, is_simulated=False)
