"""The oracle against examples small enough to work out by hand, each boundary among them."""

import math
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volatility_pipeline_tests.oracle import (
    Bar,
    Tick,
    bars,
    features,
    labels,
    quantile_90,
    sample_standard_deviation,
    total_order,
)
from volatility_pipeline_tests.strategies import ends, tick_lists

NOON = datetime(2026, 4, 4, 12)  # noqa: DTZ001  UTC without a zone, as everywhere
SECOND = timedelta(seconds=1)
Rows = dict[datetime, dict[str, float | int | None]]


def at(seconds: str | int, start: datetime = NOON) -> datetime:
    """The time so many seconds after noon (or `start`), exact to the microsecond."""
    return start + timedelta(microseconds=int(Decimal(seconds) * 1_000_000))


def tick(
    seconds: str | int,
    bid: str | int = "99",
    ask: str | int = "101",
    *,
    sizes: tuple[str | None, str | None] = (None, None),
    last_size: str | None = None,
    sequence: int | None = None,
    place: tuple[str, int, int] = ("a", 1, 0),
    start: datetime = NOON,
) -> Tick:
    """A tick so many seconds after noon."""
    bid_size, ask_size = (None if size is None else Decimal(size) for size in sizes)
    return Tick(
        product_id="BTC-USD",
        event_time=at(seconds, start),
        sequence=sequence,
        segment=place[0],
        line=place[1],
        item=place[2],
        best_bid=Decimal(bid),
        best_ask=Decimal(ask),
        bid_size=bid_size,
        ask_size=ask_size,
        last_size=None if last_size is None else Decimal(last_size),
    )


def seconds_of(some_bars: list[Bar]) -> list[int]:
    """The bars' seconds, counted from noon."""
    return [(bar.second - NOON) // SECOND for bar in some_bars]


def beats(first: int, last: int, step: int = 1, bid: int = 99, ask: int = 101) -> list[Tick]:
    """Ticks of one quote on the whole seconds `first`, `first + step` … `last`."""
    return [tick(second, bid, ask) for second in range(first, last + 1, step)]


# ----------------------------------------------------------------------------------------- bars


def test_no_ticks_make_no_bars() -> None:
    assert bars([], until=at(60)) == []


def test_one_tick_on_a_whole_second_is_carried_until_it_is_exactly_30_s_old() -> None:
    made = bars([tick(0, "99.5", "100")], until=at(100))
    assert seconds_of(made) == list(range(30))  # bar 29 ends at 30 s, when the tick is 30 s old
    assert [bar.seconds_since_tick for bar in made] == list(range(30))
    assert [bar.continuous_seconds for bar in made] == list(range(1, 31))
    assert [bar.tick_count for bar in made] == [1] + [0] * 29
    assert [bar.spread_sum for bar in made] == [Decimal("0.5")] + [Decimal(0)] * 29
    assert {(bar.mid, bar.spread, bar.microprice, bar.volume) for bar in made} == {
        (99.75, 0.5, None, None)
    }


@pytest.mark.parametrize("time", ["0.000001", "0.5", "0.999999"])
def test_one_tick_within_a_second_makes_thirty_bars_too(time: str) -> None:
    made = bars([tick(time)], until=at(100))
    assert seconds_of(made) == list(range(30))
    assert made[29].seconds_since_tick == 29


def test_bars_end_before_until_and_know_nothing_of_later_ticks() -> None:
    ticks = [tick(0), tick(2, "199", "201")]
    assert seconds_of(bars(ticks, until=at(2))) == [0, 1]
    assert bars(ticks, until=at(2)) == bars(ticks[:1], until=at(2))
    assert bars(ticks, until=at(3))[-1].mid == 200
    assert bars(ticks, until=at(0)) == []


def test_a_tick_on_the_second_belongs_to_it_and_one_microsecond_before_to_the_last() -> None:
    made = bars([tick("0.1"), tick("0.999999", 10, 12), tick("2", 20, 22)], until=at(3))
    assert [(bar.mid, bar.tick_count) for bar in made] == [(11, 2), (11, 0), (21, 1)]
    assert [bar.seconds_since_tick for bar in made] == [0, 1, 0]


@pytest.mark.parametrize("first", ["0", "0.000001", "0.5", "0.999999"])
@pytest.mark.parametrize(("gap", "runs"), [("29.999999", 1), ("30", 1), ("30.000001", 2)])
def test_only_more_than_30_s_end_a_run_even_where_the_seconds_adjoin(
    first: str, gap: str, runs: int
) -> None:
    second = Decimal(first) + Decimal(gap)
    made = bars([tick(first), tick(str(second), 9, 11)], until=at(int(second) + 1))
    gone = seconds_of(made)
    assert gone[-1] == int(second)
    assert len({bar.run for bar in made}) == runs
    if runs == 1:
        assert gone == list(range(int(second) + 1))
        assert made[-1].continuous_seconds == int(second) + 1
    else:
        # The old run has its thirty bars; from 0.999999 s on the new one begins a second later.
        assert gone == [*range(30), int(second)]
        assert made[-2].run != made[-1].run
        assert made[-1].continuous_seconds == 1


def test_a_run_that_broke_may_adjoin_the_next_second_for_second() -> None:
    made = bars([tick(0), tick("30.000001")], until=at(32))
    assert seconds_of(made) == list(range(32))
    assert [bar.run for bar in made] == [0] * 30 + [1] * 2
    assert [bar.continuous_seconds for bar in made] == [*range(1, 31), 1, 2]


def test_seconds_without_a_bar_lie_between_runs_far_apart() -> None:
    made = bars([tick("0.5"), tick("40.2")], until=at(42))
    assert seconds_of(made) == [*range(30), 40, 41]


def test_another_gap_gives_other_bars() -> None:
    assert seconds_of(bars([tick("0.5"), tick("2.6")], 2, until=at(9))) == [0, 1, 2, 3]
    assert [bar.run for bar in bars([tick("0.5"), tick("2.6")], 2, until=at(9))] == [0, 0, 1, 1]


def test_ties_are_ordered_by_sequence_nulls_last_then_segment_line_and_item() -> None:
    ordered = [
        tick(0, 1, 1, sequence=2, place=("z", 9, 9)),
        tick(0, 2, 2, sequence=10, place=("a", 1, 0)),
        tick(0, 3, 3, sequence=10, place=("b", 1, 0)),
        tick(0, 4, 4, sequence=10, place=("b", 2, 0)),
        tick(0, 5, 5, sequence=10, place=("b", 10, 0)),
        tick(0, 6, 6, sequence=10, place=("b", 10, 1)),
        tick(0, 7, 7, sequence=None, place=("a", 1, 0)),
        tick("0.000001", 8, 8, sequence=0, place=("a", 1, 0)),
    ]
    for count in range(1, len(ordered) + 1):
        assert bars(ordered[:count][::-1], until=at(1))[0].mid == count
    backwards = ordered[::-1]
    assert sorted(backwards, key=total_order) == ordered


def test_sums_of_a_second_are_exact() -> None:
    ticks = [
        tick("0.1", "0.10", "0.11", sizes=("1", "2"), last_size="0.1"),
        tick("0.2", "0.10", "0.12", sizes=("1", "1"), last_size="0.2"),
        tick("0.3", "0.10", "0.10", sizes=("3", "0")),
    ]
    (bar,) = bars(ticks, until=at(1))
    assert (bar.tick_count, bar.spread_sum, bar.volume) == (3, Decimal("0.03"), Decimal("0.3"))
    assert bar.imbalance_sum == 333_333_333_333 + 500_000_000_000 + 1_000_000_000_000
    assert bar.imbalance_count == 3
    assert (bar.mid, bar.spread) == (0.1, 0.0)


def test_half_a_unit_of_imbalance_is_rounded_up() -> None:
    (bar,) = bars([tick(0, sizes=("1", "8191"))], until=at(1))
    assert bar.imbalance_sum == 122_070_313  # 1e12 / 8192 = 122070312.5
    (bar,) = bars([tick(0, sizes=("2", "1"))], until=at(1))
    assert bar.imbalance_sum == 666_666_666_667


@pytest.mark.parametrize("sizes", [(None, None), ("1", None), (None, "1"), ("0", "0")])
def test_ticks_without_both_sizes_count_for_no_imbalance_and_no_microprice(
    sizes: tuple[str | None, str | None],
) -> None:
    alone, _ = bars([tick("0.5", sizes=sizes)], until=at(2))
    assert (alone.imbalance_sum, alone.imbalance_count, alone.microprice) == (0, 0, None)
    ticks = [tick("0.1", 10, 20, sizes=("1", "3")), tick("0.5", 30, 40, sizes=sizes)]
    both, _ = bars(ticks, until=at(2))
    assert (both.imbalance_sum, both.imbalance_count) == (250_000_000_000, 1)
    assert both.microprice == (10 * 3 + 20 * 1) / 4  # of the tick with sizes
    assert both.mid == 35  # of the newest


def test_microprice_leans_away_from_the_larger_size() -> None:
    assert bars([tick(0, 10, 20, sizes=("0", "5"))], until=at(1))[0].microprice == 10
    assert bars([tick(0, 10, 20, sizes=("5", "0"))], until=at(1))[0].microprice == 20


def test_microprice_is_kept_until_its_tick_is_30_s_old_at_the_end_of_the_second() -> None:
    quotes = beats(1, 60)
    on_second = bars([tick(0, 10, 20, sizes=("1", "1")), *quotes], until=at(60))
    assert [bar.microprice for bar in on_second] == [15.0] * 30 + [None] * 30
    within = bars([tick("0.000001", 10, 20, sizes=("1", "1")), *quotes], until=at(60))
    assert [bar.microprice for bar in within] == [15.0] * 30 + [None] * 30
    again = bars([*quotes, tick("59.5", 30, 40, sizes=("1", "1"))], until=at(60))
    assert [bar.microprice for bar in again] == [None] * 58 + [35.0]


def test_microprice_does_not_cross_a_run_break() -> None:
    # Its age forbids it as well: the next run starts when the old one's ticks are over 30 s old.
    ticks = [tick(0, sizes=("1", "1")), tick("30.000001")]
    made = bars(ticks, until=at(31))
    assert [bar.microprice for bar in made] == [100.0] * 30 + [None]
    joined = bars([ticks[0], tick("29.999999")], until=at(31))
    assert [bar.microprice for bar in joined] == [100.0] * 30 + [None]


def test_volume_is_null_without_a_traded_size_and_zero_for_a_traded_zero() -> None:
    ticks = [tick(0), tick(1, last_size="0"), tick("2.1", last_size="1.5"), tick("2.2")]
    assert [bar.volume for bar in bars(ticks, until=at(4))] == [None, 0, Decimal("1.5"), None]


def test_bars_go_on_over_midnight() -> None:
    eve = datetime(2026, 2, 28, 23, 59, 59)  # noqa: DTZ001
    ticks = [tick("0.999999", 1, 1, start=eve), tick("1", 2, 2, start=eve)]
    made = bars(ticks, until=at(3, eve))
    assert [bar.second.isoformat() for bar in made] == [
        "2026-02-28T23:59:59",
        "2026-03-01T00:00:00",
        "2026-03-01T00:00:01",
    ]
    assert [bar.mid for bar in made] == [1, 2, 2]
    assert [bar.continuous_seconds for bar in made] == [1, 2, 3]


def test_bad_calls_are_refused() -> None:
    other = Tick("ETH-USD", NOON, None, "a", 1, 0, Decimal(1), Decimal(1), None, None, None)
    with pytest.raises(ValueError, match="one product"):
        bars([tick(0), other], until=at(1))
    with pytest.raises(ValueError, match="whole second"):
        bars([tick(0)], until=at("1.5"))
    with pytest.raises(ValueError, match="at least 1"):
        bars([tick(0)], 0, until=at(1))
    made = bars([tick(0)], until=at(9))
    with pytest.raises(ValueError, match="missing"):
        features(made[:3] + made[4:])


# ------------------------------------------------------------------------------------- features


def test_standard_deviation_of_a_sample() -> None:
    assert sample_standard_deviation([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == pytest.approx(
        math.sqrt(32 / 7), rel=1e-15
    )
    assert sample_standard_deviation([0.25, 0.25, 0.25]) == 0


def test_the_301st_bar_gives_the_first_row_one_second_later() -> None:
    assert features(bars(beats(0, 299), until=at(300))) == {}
    assert list(features(bars(beats(0, 300), until=at(301)))) == [at(301)]


def test_a_carried_bar_counts_like_any_other() -> None:
    # 271 ticks and thirty bars after the last: 300 bars; one tick more gives the row.
    assert features(bars(beats(0, 270), until=at(900))) == {}
    (row,) = features(bars(beats(0, 271), until=at(900))).values()
    assert row["seconds_since_tick"] == 29


def test_a_run_break_between_adjoining_seconds_starts_the_count_again() -> None:
    ticks = [*beats(0, 270, 30), tick("300.000001"), *beats(301, 700)]
    made = bars(ticks, until=at(700))
    assert seconds_of(made) == list(range(700))
    assert list(features(made)) == [at(second) for second in range(601, 701)]
    joined = bars([*beats(0, 300, 30), *beats(301, 700)], until=at(700))
    assert list(features(joined)) == [at(second) for second in range(301, 701)]


def test_a_quiet_market_moves_by_zero_and_misses_what_it_never_had() -> None:
    (row,) = features(bars(beats(0, 300), until=at(301))).values()
    for w in (30, 60, 300):
        assert row[f"log_return_{w}s"] == 0
        assert row[f"realized_volatility_{w}s"] == 0
        assert row[f"price_velocity_{w}s"] == 0
        assert row[f"spread_mean_{w}s"] == 2
        assert row[f"order_book_imbalance_{w}s"] is None
        assert row[f"trade_intensity_{w}s"] == w
        assert isinstance(row[f"trade_intensity_{w}s"], int)
        assert row[f"volume_velocity_{w}s"] is None
    assert row["realized_volatility_900s"] is None
    assert row["realized_volatility_3600s"] is None
    assert row["microprice_gap_bps"] is None
    assert (row["mid"], row["spread_bps"], row["seconds_since_tick"]) == (100, 200, 0)
    assert len(row) == 3 * 7 + 8


@pytest.mark.parametrize(
    ("jump", "windows"), [(270, ()), (271, (30,)), (240, ()), (241, (60,)), (0, ()), (1, (300,))]
)
def test_a_return_into_the_oldest_bar_of_a_window_counts_and_the_one_before_does_not(
    jump: int, windows: tuple[int, ...]
) -> None:
    # Bars 0 … 300, one row at 301: the window W holds the bars 301 - W … 300.
    ticks = [*beats(0, jump - 1), *beats(jump, 300, bid=119, ask=121)]
    (row,) = features(bars(ticks, until=at(301))).values()
    for w in (30, 60, 300):
        is_inside = jump >= 301 - w
        size = math.log(1.2) if is_inside and jump > 0 else 0
        assert row[f"log_return_{w}s"] == pytest.approx(size, rel=1e-14)
        # One return r among W: mean r / W, so the variance is (r² - r² / W) / (W - 1) = r² / W.
        expected = size / math.sqrt(w)
        assert row[f"realized_volatility_{w}s"] == pytest.approx(expected, rel=1e-14)
        assert row[f"price_velocity_{w}s"] == pytest.approx(20 / w if size else 0, rel=1e-15)
        if w in windows:
            assert size > 0


def test_a_price_there_and_back_returns_nothing_and_yet_moves() -> None:
    ticks = [*beats(0, 290), tick(291, 109, 111), *beats(292, 300)]
    (row,) = features(bars(ticks, until=at(301))).values()
    assert row["log_return_30s"] == 0
    assert row["price_velocity_30s"] == pytest.approx(20 / 30, rel=1e-15)
    r = math.log(1.1)  # +r and -r: the mean is 0, the squares add to 2 r²
    assert row["realized_volatility_30s"] == pytest.approx(math.sqrt(2 * r * r / 29), rel=1e-13)


def test_velocity_is_exact_for_half_a_cent_on_a_large_price() -> None:
    ticks = [
        *(tick(n, "85194.22", "85194.23") for n in range(300)),
        tick(300, "85194.23", "85194.23"),
    ]
    made = bars(ticks, until=at(301))
    (row,) = features(made).values()
    assert row["price_velocity_30s"] == 0.005 / 30
    of_doubles = made[300].mid - made[299].mid
    assert of_doubles != pytest.approx(0.005, rel=1e-9)  # which is why the oracle keeps decimals


def test_sums_over_a_window_weigh_ticks_and_not_seconds() -> None:
    ticks = [
        *beats(0, 300, 30),
        tick("270.5", 90, 91, sizes=("9", "1"), last_size="5"),  # the bar before the 30 s window
        tick("271", 90, 94, sizes=("1", "3"), last_size="0.25"),  # its first bar
        tick("271.5", 90, 93, sizes=("1", "1"), last_size="0.5"),
        tick("300.5", 90, 96, sizes=("0", "0")),  # its last bar
        tick("301", 90, 99, sizes=("1", "0"), last_size="7"),  # the bar after
    ]
    row = features(bars(ticks, until=at(302)))[at(301)]
    assert row["trade_intensity_30s"] == 4  # with the beat on second 300
    assert row["spread_mean_30s"] == (4 + 3 + 2 + 6) / 4
    assert row["order_book_imbalance_30s"] == (0.25 + 0.5) / 2
    assert row["volume_velocity_30s"] == 0.75
    assert row["trade_intensity_60s"] == 6  # and the beat on 270, and the tick half a second on
    assert row["spread_mean_60s"] == (4 + 3 + 2 + 6 + 2 + 1) / 6
    assert row["order_book_imbalance_60s"] == 0.55  # (0.25 + 0.5 + 0.9) / 3
    assert row["volume_velocity_60s"] == 5.75
    # The newest tick with sizes, 271.5, is 29.5 s old at the end of bar 300: 91.5 against 93.
    assert row["mid"] == 93
    assert row["microprice_gap_bps"] == 1e4 * (91.5 / 93 - 1)
    assert row["spread_bps"] == 1e4 * 6 / 93


def test_a_window_without_a_tick_has_no_mean_spread() -> None:
    # With the default gap there is always one: it takes a longer gap.
    made = bars([*beats(0, 240, 40), *beats(241, 270)], 40, until=at(305))
    row = features(made)[at(301)]
    assert row["trade_intensity_30s"] == 0
    assert row["spread_mean_30s"] is None
    assert row["spread_mean_60s"] == 2
    assert row["seconds_since_tick"] == 30


def test_traded_nothing_is_zero_and_not_known_is_null() -> None:
    ticks = [*beats(0, 300, 30), tick("271.5", last_size="0")]
    made = features(bars(ticks, until=at(303)))
    assert made[at(301)]["volume_velocity_30s"] == 0
    assert made[at(302)]["volume_velocity_30s"] is None


def test_the_time_of_day_is_that_of_ts() -> None:
    midnight = datetime(2026, 4, 5)  # noqa: DTZ001
    ticks = [tick(30 * n, start=midnight - timedelta(seconds=301)) for n in range(12)]
    made = features(bars(ticks, until=midnight + SECOND))
    assert list(made) == [midnight, midnight + SECOND]
    assert (made[midnight]["time_of_day_sin"], made[midnight]["time_of_day_cos"]) == (0, 1)
    later = made[midnight + SECOND]
    assert later["time_of_day_sin"] == pytest.approx(math.sin(2 * math.pi / 86400), rel=1e-15)
    evening = [tick(30 * n, start=NOON + timedelta(hours=6, seconds=-301)) for n in range(12)]
    row = features(bars(evening, until=NOON + timedelta(hours=6)))[NOON + timedelta(hours=6)]
    assert row["time_of_day_sin"] == -1
    assert row["time_of_day_cos"] == pytest.approx(0, abs=1e-15)


def test_the_long_volatilities_wait_for_w_plus_one_bars_and_the_count_stops_at_3601() -> None:
    # One jump of ln 1.2 into bar 1: the oldest return that a run starting at bar 0 can have.
    ticks = [tick(0), *(tick(1 + 30 * n, 119, 121) for n in range(122))]
    made = bars(ticks, until=at(3603))
    assert [bar.continuous_seconds for bar in made[-4:]] == [3600, 3601, 3601, 3601]
    rows = features(made)
    size = math.log(1.2)
    for w in (900, 3600):
        column = f"realized_volatility_{w}s"
        assert rows[at(w)][column] is None
        assert rows[at(w + 1)][column] == pytest.approx(size / math.sqrt(w), rel=1e-14)
        assert rows[at(w + 2)][column] == 0


# --------------------------------------------------------------------------------------- labels


def test_the_future_is_the_sixty_returns_from_the_bar_before_ts() -> None:
    def future(jump: int) -> float | None:
        ticks = [*beats(0, jump - 1), *beats(jump, 360, bid=119, ask=121)]
        made = bars(ticks, until=at(361))
        return labels(features(made), made, ticks)[at(301)]["future_volatility_60s"]

    expected = pytest.approx(math.log(1.2) / math.sqrt(60), rel=1e-14)
    assert future(300) == 0  # into bar ts - 1: the past
    assert future(301) == expected  # into bar ts
    assert future(360) == expected  # into bar ts + 59
    assert future(361) == 0


@pytest.mark.parametrize(
    ("last", "is_known"), [("359.999999", False), ("360", True), ("360.5", True), ("389", True)]
)
def test_a_label_needs_a_tick_at_or_after_its_last_second(last: str, is_known: bool) -> None:
    ticks = [*beats(0, 359), tick(last)]
    made = bars(ticks, until=at(420))
    label = labels(features(made), made, ticks)[at(301)]
    assert (label["future_volatility_60s"] is not None) is is_known


def test_a_label_needs_the_bar_of_its_last_second_to_be_known() -> None:
    ticks = beats(0, 400)
    for until, is_known in ((360, False), (361, True)):
        made = bars(ticks, until=at(until))
        label = labels(features(made), made, ticks)[at(301)]
        assert (label["future_volatility_60s"] is not None) is is_known


def test_the_tick_that_confirms_a_label_must_be_known_itself() -> None:
    ticks = [*beats(0, 359), tick(380)]
    for until, is_known in ((380, False), (381, True)):
        made = bars(ticks, until=at(until))
        label = labels(features(made), made, ticks)[at(301)]
        assert (label["future_volatility_60s"] is not None) is is_known


@pytest.mark.parametrize(("gap", "is_known"), [("30", True), ("30.000001", False)])
def test_no_label_spans_a_run_break_between_adjoining_seconds(gap: str, is_known: bool) -> None:
    ticks = [*beats(0, 310), tick(str(310 + Decimal(gap))), *beats(341, 500)]
    made = bars(ticks, until=at(500))
    assert seconds_of(made) == list(range(500))
    label = labels(features(made), made, ticks)[at(301)]
    assert (label["future_volatility_60s"] is not None) is is_known


def test_no_label_of_the_old_run_is_taken_from_the_new_one() -> None:
    # Old run: bars 0 … 339 (its last tick at 310). New run from 340.000001 on.
    ticks = [*beats(0, 310), tick("340.000001"), *beats(341, 800)]
    made = bars(ticks, until=at(800))
    rows = labels(features(made), made, ticks)
    assert [ts for ts in rows if ts <= at(340)] == [at(second) for second in range(301, 341)]
    assert all(rows[at(second)]["future_volatility_60s"] is None for second in range(301, 341))
    assert min(ts for ts in rows if ts > at(340)) == at(641)
    assert rows[at(641)]["future_volatility_60s"] == 0


def rows_at(times: list[datetime], values: list[float]) -> Rows:
    """Feature rows with nothing but the volatility that the threshold is taken over."""
    return {ts: {"realized_volatility_60s": value} for ts, value in zip(times, values, strict=True)}


def thresholds(rows: Rows) -> dict[datetime, float | None]:
    """The trailing thresholds of such rows, each with a lone bar before it."""
    (bar,) = bars([tick(0)], until=at(1))
    lone = [Bar(**{**vars(bar), "second": ts - SECOND}) for ts in rows]
    return {ts: row["trailing_threshold"] for ts, row in labels(rows, lone, []).items()}


def test_the_threshold_needs_sixty_whole_minutes() -> None:
    minutes = [NOON + timedelta(minutes=n) for n in range(60)]
    others = [minute + timedelta(seconds=30) for minute in minutes]
    rows = rows_at(minutes + others, [float(n) for n in range(60)] + [1e9] * 60)
    made = thresholds(rows)
    assert made[minutes[58]] is None
    assert made[others[58]] is None
    # The sixtieth value is its own row's: known at ts. Position 0.9 · 59 = 53.1 of 0 … 59.
    assert made[minutes[59]] == pytest.approx(53.1, rel=1e-15)
    assert made[others[59]] == pytest.approx(53.1, rel=1e-15)


def test_the_threshold_forgets_the_minute_exactly_a_day_ago() -> None:
    minutes = [NOON + timedelta(minutes=n) for n in range(60)]
    day = timedelta(hours=24)
    late = [NOON + day - SECOND, NOON + day + SECOND]
    rows = rows_at(
        [*minutes, *late, NOON + day], [float(n) for n in range(60)] + [1e9] * 2 + [100.0]
    )
    made = thresholds(rows)
    assert made[late[0]] == pytest.approx(53.1, rel=1e-15)  # 0 … 59
    assert made[NOON + day] == pytest.approx(54.1, rel=1e-15)  # 1 … 59 and 100: sixty still
    assert made[late[1]] == pytest.approx(54.1, rel=1e-15)
    without = thresholds(rows_at([*minutes, late[1]], [float(n) for n in range(61)]))
    assert without[late[1]] is None  # 1 … 59


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0], 5.0), ([1.0, 2.0], 1.9), ([7.0, 20.5, 1.0, 2.0, 10.0, 4.0, 3.0], 14.2)],
)
def test_the_quantile_interpolates_linearly(values: list[float], expected: float) -> None:
    assert quantile_90(values) == pytest.approx(expected, rel=1e-15)


def test_a_short_run_has_no_threshold() -> None:
    ticks = beats(0, 1200, 30)
    made = bars(ticks, until=at(1200))
    assert {row["trailing_threshold"] for row in labels(features(made), made, ticks).values()} == {
        None
    }


# ------------------------------------------------------------------------------------ strategies


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_made_up_ticks_are_plausible_and_cutting_the_future_changes_no_past(
    data: st.DataObject,
) -> None:
    ticks = data.draw(tick_lists(max_span_seconds=900, max_ticks=600))
    until = data.draw(ends(ticks))
    assert len({(t.segment, t.line, t.item) for t in ticks}) == len(ticks) <= 600
    assert len({total_order(t) for t in ticks}) == len(ticks)
    assert all(0 < t.best_bid <= t.best_ask for t in ticks)
    whole = bars(ticks, until=max(t.event_time for t in ticks).replace(microsecond=0) + 40 * SECOND)
    cut = bars([t for t in ticks if t.event_time < until], until=until)
    assert cut == [bar for bar in whole if bar.second < until]
    assert all(a.second < b.second for a, b in pairwise(whole))
    past = {ts: row for ts, row in features(whole).items() if ts <= until}
    assert features(cut) == past
