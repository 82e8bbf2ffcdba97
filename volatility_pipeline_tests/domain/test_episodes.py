"""Spike episodes and alerts against hand-made rows and a naive count, second by second."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.episodes import (
    EpisodeResult,
    alerts_per_hour,
    find_episodes,
    judge_alerts,
    lead_seconds,
)

SECOND = np.timedelta64(1, "s")
START = np.datetime64("2026-03-01T23:50:00", "us")
STEADY = settings(deadline=None, derandomize=True, database=None)


def judge(seconds: Any, spikes: Any, alerts: Any) -> EpisodeResult:
    """Rows at these seconds, of which some are spikes and some alerts."""
    rows = np.array(list(seconds), dtype=int)
    return judge_alerts(
        START + rows * SECOND, np.isin(rows, list(spikes)), np.isin(rows, list(alerts))
    )


def episodes(seconds: Any, spikes: Any) -> list[tuple[int, int]]:
    rows = np.array(list(seconds), dtype=int)
    found = find_episodes(START + rows * SECOND, np.isin(rows, list(spikes)))
    return [
        (int((start - START) / SECOND), int((end - START) / SECOND))
        for start, end in zip(found.start, found.end, strict=True)
    ]


class TestEpisodes:
    def test_spikes_at_most_60_seconds_apart_are_one_episode(self):
        hour = range(3600)
        assert episodes(hour, [100]) == [(100, 100)]
        assert episodes(hour, range(100, 200)) == [(100, 199)]
        assert episodes(hour, [100, 160]) == [(100, 160)]
        assert episodes(hour, [100, 161]) == [(100, 100), (161, 161)]
        assert episodes(hour, [0, 60, 120, 3599]) == [(0, 120), (3599, 3599)]
        assert episodes(hour, []) == []

    def test_missing_rows_count_by_time_and_a_gap_of_the_recording_ends_an_episode(self):
        with_hole = [*range(100), *range(140, 300)]
        assert episodes(with_hole, [99, 140]) == [(99, 140)]
        with_gap = [*range(100), *range(500, 700)]
        assert episodes(with_gap, [*range(90, 100), *range(500, 510)]) == [(90, 99), (500, 509)]

    def test_no_rows_have_no_episode(self):
        assert episodes([], []) == []


class TestLeadTime:
    SPIKES = range(600, 700)

    @pytest.mark.parametrize(
        ("alerts", "lead"),
        [
            ([600], 0),
            ([590, 605], 10),
            ([541], 59),
            ([699], -99),
            ([640, 650], -40),
            ([630, *range(100, 200)], -30),  # an old alarm is no part of it
        ],
    )
    def test_it_is_from_the_first_new_alert_in_force_to_the_start(self, alerts, lead):
        found = judge(range(3600), self.SPIKES, alerts)
        assert (found.caught, found.warned, found.median_lead_seconds) == (1, 1, lead)

    @pytest.mark.parametrize("alerts", [[540], [700], [], range(400, 541)])
    def test_an_alert_that_has_expired_or_comes_after_the_end_catches_nothing(self, alerts):
        found = judge(range(3600), self.SPIKES, alerts)
        assert (found.caught, found.warned, found.median_lead_seconds) == (0, 0, None)
        assert found.share_caught == 0

    @pytest.mark.parametrize("alerts", [range(3600), range(500, 3600), range(0, 3600, 60)])
    def test_an_alarm_already_on_catches_but_has_no_lead_time(self, alerts):
        found = judge(range(3600), self.SPIKES, alerts)
        assert (found.share_caught, found.warned, found.median_lead_seconds) == (1, 0, None)

    def test_it_is_told_apart_by_episode(self):
        alerts = START + np.array([590, 1000, 1050, 1100, 2030]) * SECOND
        spikes = np.zeros(3600, dtype=bool)
        spikes[[600, 1100, 2000, 2030, 3000]] = True
        ts = START + np.arange(3600) * SECOND
        lead = lead_seconds(alerts, find_episodes(ts, spikes))
        np.testing.assert_array_equal(lead, [10, np.inf, -30, np.nan])


class TestAlerts:
    def test_an_alert_that_stays_on_is_told_each_minute(self):
        ts = START + np.arange(3600) * SECOND
        assert alerts_per_hour(ts, np.full(3600, True)) == 60
        assert alerts_per_hour(ts, np.arange(3600) < 120) == 2
        assert alerts_per_hour(ts, np.arange(3600) < 121) == 3
        assert alerts_per_hour(ts, np.full(3600, False)) == 0
        assert alerts_per_hour(ts[:0], np.empty(0, dtype=bool)) is None

    def test_hours_are_rows_times_their_step_and_leave_gaps_out(self):
        assert judge([*range(1800), *range(9000, 10_800)], [], []).hours == 1
        assert judge(range(0, 3600, 5), [], []).hours == 1

    def test_false_alarms_lie_away_from_every_episode_and_true_ones_do_not_count(self):
        found = judge(range(7200), range(600, 700), [100, 101, 540, 541, 650, 699, 700, 5000])
        assert (found.false_alarms, found.false_alarms_per_hour) == (4, 2)
        assert (found.alerts, found.alerts_per_hour) == (4, 2)

    def test_alerting_always_catches_all_warns_of_none_and_costs_60_false_alarms_an_hour(self):
        found = judge(range(36_000), range(600, 700), range(36_000))
        assert (found.share_caught, found.warned, found.alerts_per_hour) == (1, 0, 60)
        assert found.false_alarms == 10 + 589  # 541 seconds before and 35,300 after

    def test_never_alerting_costs_and_catches_nothing(self):
        found = judge(range(3600), [600], [])
        assert found == EpisodeResult(1.0, 1, 0, 0.0, 0, None, 0, 0.0, 0, 0.0)

    def test_nothing_to_catch_is_undefined_and_no_rows_are_no_error(self):
        quiet = judge(range(3600), [], [5])
        assert (quiet.share_caught, quiet.false_alarms) == (None, 1)
        empty = judge([], [], [])
        assert empty == EpisodeResult(0, 0, 0, None, 0, None, 0, None, 0, None)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], set[int], set[int]]:
    """Seconds of rows with holes, and which are spikes and alerts, in bursts or alone."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from((0, 1, 2)) | st.integers(0, 900))
    steps = np.where(rng.random(count) < 0.02, rng.integers(1, 200, count), 1)
    seconds = np.cumsum(steps)
    chosen = []
    for _ in range(2):
        hold = draw(st.sampled_from((1, 10, 59, 60, 61, 150)))
        share = draw(st.sampled_from((0, 0.003, 0.02, 0.3, 1)))
        bursts = np.repeat(rng.random(count // hold + 1) < share, hold)[:count]
        alone = rng.random(count) < draw(st.sampled_from((0, 0.01, 0.05)))
        chosen.append(set(seconds[bursts | alone].tolist()))
    return seconds.tolist(), chosen[0], chosen[1]


def naive(seconds: list[int], spikes: set[int], alerts: set[int]) -> dict[str, Any]:
    """The definitions, by loops over seconds."""
    found: list[list[int]] = []
    for second in sorted(spikes):
        if found and second - found[-1][1] <= 60:
            found[-1][1] = second
        else:
            found.append([second, second])
    caught, leads = 0, []
    for start, end in found:
        inside = [second for second in range(start - 59, end + 1) if second in alerts]
        if inside:
            caught += 1
            if not any(second in alerts for second in range(inside[0] - 60, inside[0])):
                leads.append(start - inside[0])

    def told(times: list[int]) -> int:
        count, until = 0, None
        for second in times:
            if until is None or second >= until:
                count, until = count + 1, second + 60
        return count

    near = {second for start, end in found for second in range(start - 59, end + 1)}
    return {
        "episodes": len(found),
        "caught": caught,
        "warned": len(leads),
        "median_lead_seconds": float(np.median(leads)) if leads else None,
        "alerts": told(sorted(alerts)),
        "false_alarms": told(sorted(alerts - near)),
    }


@STEADY
@given(rows())
def test_all_is_as_counted_second_by_second(case: tuple[list[int], set[int], set[int]]) -> None:
    found = judge(*case)
    for name, value in naive(*case).items():
        assert getattr(found, name) == value, name


@STEADY
@given(rows(), st.integers(0, 2**32))
def test_more_alerts_never_catch_less_and_never_cost_less(
    case: tuple[list[int], set[int], set[int]], seed: int
) -> None:
    seconds, spikes, alerts = case
    rng = np.random.default_rng(seed)
    more = alerts | {second for second in seconds if rng.random() < 0.1}
    fewer_found, more_found = judge(seconds, spikes, alerts), judge(seconds, spikes, more)
    assert more_found.caught >= fewer_found.caught
    assert more_found.alerts >= fewer_found.alerts
    assert more_found.false_alarms >= fewer_found.false_alarms


@STEADY
@given(rows())
def test_lead_is_at_most_59_seconds_and_rates_at_most_60_an_hour_and_one(
    case: tuple[list[int], set[int], set[int]],
) -> None:
    found = judge(*case)
    assert found.warned <= found.caught <= found.episodes
    if found.median_lead_seconds is not None:
        assert found.median_lead_seconds < 60
    assert found.false_alarms <= found.alerts
