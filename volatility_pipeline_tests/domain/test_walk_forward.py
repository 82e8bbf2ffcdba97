"""Walk-forward folds: who may learn from a row in each, and what models are shown."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.models import Forecast
from volatility_pipeline.domain.splits import ROLES, Policy, split_at
from volatility_pipeline.domain.walk_forward import (
    ANSWERS,
    Fold,
    WalkForward,
    Window,
    fold_frames,
    run_folds,
    walk_forward,
)

SECOND = np.timedelta64(1, "s")
START = np.datetime64("2026-03-01T23:00:00", "us")
STEADY = settings(deadline=None, derandomize=True, database=None)
WINDOWS: tuple[Window, ...] = ("expanding", "rolling")
POLICIES: tuple[Policy, ...] = ("trailing", "training")


@dataclass(frozen=True)
class Case:
    """Rows, and how they are asked to be cut."""

    ts: Any
    future: Any
    trailing: Any
    policy: Policy
    window: Window
    folds: int
    rolling_pieces: int
    embargo_seconds: int
    minimum_piece_rows: int

    def walk(self, **changed: Any) -> WalkForward:
        options = {
            name: getattr(self, name)
            for name in (
                "policy",
                "window",
                "folds",
                "rolling_pieces",
                "embargo_seconds",
                "minimum_piece_rows",
            )
        }
        return walk_forward(self.ts, self.future, self.trailing, **{**options, **changed})

    def labelled(self) -> Any:
        known = ~np.isnan(self.future)
        return known if self.policy == "training" else known & ~np.isnan(self.trailing)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.sampled_from((6000, 5000, 4000, 2500, 1500, 30, 2, 1, 0)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = np.where(rng.random(count) < 0.01, rng.integers(1, 2000, count), 1)
    future = rng.choice([0.0, 0.5, 1.0, 1.5, 3.0], count)
    trailing = rng.choice([1.0, 1.5], count)
    future[rng.random(count) < draw(st.sampled_from((0, 0.01, 0.1, 0.6)))] = np.nan
    trailing[: int(count * draw(st.sampled_from((0, 0.1, 0.2, 1))))] = np.nan
    return Case(
        START + np.cumsum(steps) * SECOND,
        future,
        trailing,
        policy=draw(st.sampled_from(POLICIES)),
        window=draw(st.sampled_from(WINDOWS)),
        folds=draw(st.sampled_from((5, 3, 7, 2, 1))),
        rolling_pieces=draw(st.integers(1, 4)),
        embargo_seconds=draw(st.sampled_from((0, 1, 60, 300))),
        minimum_piece_rows=draw(st.sampled_from((500, 1, 100, 300))),
    )


def times(case: Case, fold: Fold, role: str) -> Any:
    return case.ts[fold.split.role == role]


@STEADY
@given(cases())
def test_no_60_seconds_of_an_earlier_role_reach_a_later_one(case: Case) -> None:
    for fold in case.walk().folds:
        bounds = (*fold.split.cuts, fold.end)
        for role, bound in zip(ROLES, bounds, strict=True):
            assert (times(case, fold, role) + 60 * SECOND <= bound).all()
        for cut, role in zip(fold.split.cuts, ROLES[1:], strict=True):
            assert (times(case, fold, role) >= cut + case.embargo_seconds * SECOND).all()
        for earlier, later in pairwise(ROLES):
            gap = times(case, fold, later).min() - times(case, fold, earlier).max()
            assert gap >= (60 + case.embargo_seconds) * SECOND


@STEADY
@given(cases())
def test_test_rows_of_folds_are_apart_and_in_time_order(case: Case) -> None:
    walk = case.walk()
    assert [fold.number for fold in walk.folds] == list(range(1, len(walk.folds) + 1))
    for earlier, later in pairwise(walk.folds):
        gap = times(case, later, "test").min() - times(case, earlier, "test").max()
        assert gap >= 60 * SECOND
        assert earlier.end <= later.split.cuts[1]


@STEADY
@given(cases())
def test_expanding_training_holds_the_one_before_and_starts_with_the_data(case: Case) -> None:
    folds = case.walk(window="expanding").folds
    for fold in folds:
        assert fold.start == case.ts[case.labelled()][0]
    for earlier, later in pairwise(folds):
        before, after = (set(times(case, fold, "train").tolist()) for fold in (earlier, later))
        assert before < after


@STEADY
@given(cases())
def test_rolling_training_is_bounded_recent_and_part_of_the_expanding_one(case: Case) -> None:
    expanding = {fold.split.cuts: fold for fold in case.walk(window="expanding").folds}
    is_labelled = case.labelled()
    asked = min(case.folds, int(is_labelled.sum()) // case.minimum_piece_rows - 2)
    for fold in case.walk(window="rolling").folds:
        window = (case.ts >= fold.start) & (case.ts < fold.split.cuts[0]) & is_labelled
        piece = is_labelled.sum() / (asked + 2)
        assert window.sum() <= case.rolling_pieces * piece + 1
        longest = times(case, expanding[fold.split.cuts], "train")
        assert times(case, fold, "train").tolist() == [
            ts for ts in longest.tolist() if ts >= fold.start.astype(case.ts.dtype).item()
        ]


@STEADY
@given(cases())
def test_both_windows_judge_the_same_rows(case: Case) -> None:
    tests = []
    for window in WINDOWS:
        walk = case.walk(window=window)
        if walk.shortage and "leave nothing" in walk.shortage:
            return
        tests.append([times(case, fold, "test").tolist() for fold in walk.folds])
    assert tests[0] == tests[1]


@STEADY
@given(cases())
def test_fewer_folds_than_asked_for_say_why_and_fail_nowhere(case: Case) -> None:
    walk = case.walk()
    assert len(walk.folds) <= walk.asked == case.folds
    assert (walk.shortage is None) == (len(walk.folds) == case.folds)
    for fold in walk.folds:
        assert {*ROLES} <= set(fold.split.role.tolist()) <= {*ROLES, ""}
        is_within = (case.ts >= fold.start) & (case.ts < fold.end)
        assert not (fold.split.role[~is_within] != "").any()
        kept = int((fold.split.role != "").sum())
        assert kept + sum(fold.split.dropped.values()) == is_within.sum()
    enough = int(case.labelled().sum()) // case.minimum_piece_rows - 2
    assert len(walk.folds) <= max(0, enough)
    if case.minimum_piece_rows > 360 + case.embargo_seconds:
        assert len(walk.folds) == max(0, min(case.folds, enough))


@STEADY
@given(cases(), st.integers(0, 2**32))
def test_no_later_value_changes_a_fold_s_training_rows_or_their_labels(
    case: Case, seed: int
) -> None:
    """Later labels are drawn anew: neither threshold nor training labels may know of them."""
    for number, fold in enumerate(case.walk().folds):
        later = (case.ts >= fold.split.cuts[0]) & ~np.isnan(case.future)
        future = case.future.copy()
        future[later] = np.random.default_rng(seed).random(int(later.sum()))
        again = replace(case, future=future).walk().folds[number].split
        training = fold.split.role == "train"
        assert (again.role == fold.split.role).all()
        assert (again.is_spike[training] == fold.split.is_spike[training]).all()
        np.testing.assert_array_equal(again.threshold, fold.split.threshold)


def steady(seconds: int, **options: Any) -> WalkForward:
    ones = np.ones(seconds)
    return walk_forward(START + np.arange(seconds) * SECOND, ones, ones, **options)


def places(fold: Fold, role: str) -> tuple[int, int, int]:
    """First and last place of a role, and how many rows it has."""
    found = np.flatnonzero(fold.split.role == role)
    return int(found[0]), int(found[-1]), len(found)


def test_seven_hours_make_five_folds_as_counted_by_hand() -> None:
    walk = steady(7 * 3600)
    assert (walk.window, walk.asked, walk.shortage) == ("expanding", 5, None)
    for number, fold in enumerate(walk.folds, start=1):
        hour = 3600 * number
        assert places(fold, "train") == (0, hour - 60, (hour - 60) // 5 + 1)
        assert places(fold, "validation") == (hour + 300, hour + 3540, 3241)
        last = hour + 2 * 3600 - (60 if number < 5 else 1)  # nothing follows the last test
        assert places(fold, "test") == (hour + 3900, last, last - hour - 3899)
        assert fold.split.cuts == (START + hour * SECOND, START + (hour + 3600) * SECOND)


def test_a_rolling_window_of_two_pieces_trains_on_two_hours_at_most() -> None:
    walk = steady(7 * 3600, window="rolling", rolling_pieces=2)
    assert [places(fold, "train")[0] // 3600 for fold in walk.folds] == [0, 0, 1, 2, 3]
    assert [places(fold, "train")[2] for fold in walk.folds] == [709, 1429, 1429, 1429, 1429]


@pytest.mark.parametrize(
    ("seconds", "folds"), [(0, 0), (1, 0), (10_799, 0), (10_800, 1), (25_199, 4), (25_200, 5)]
)
def test_an_hour_a_piece_is_the_least(seconds: int, folds: int) -> None:
    walk = steady(seconds)
    assert len(walk.folds) == folds
    reason = f"{folds} of 5 folds: {seconds:,} rows are labelled, 25,200 are needed"
    assert walk.shortage == (reason if folds < 5 else None)


def test_pieces_that_the_embargo_eats_up_make_no_fold() -> None:
    walk = steady(7 * 300, minimum_piece_rows=300)
    assert walk.folds == ()
    assert walk.shortage == "0 of 5 folds: purge and embargo leave nothing of a role in the others"


@pytest.mark.parametrize("wrong", ["folds", "rolling_pieces", "minimum_piece_rows"])
def test_less_than_one_of_anything_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="at least one"):
        steady(100, **{wrong: 0})


def test_under_training_each_fold_has_a_threshold_of_its_own_training_rows() -> None:
    seconds = 7 * 3600
    ts, future = START + np.arange(seconds) * SECOND, np.arange(seconds, dtype=float)
    for fold in walk_forward(ts, future, np.full(seconds, np.nan), policy="training").folds:
        training = future[fold.split.role == "train"]
        assert set(fold.split.threshold.tolist()) == {np.quantile(training, 0.9)}


def test_a_fold_is_what_the_splits_make_of_its_cuts() -> None:
    ones = np.ones(30_000)
    ts = START + np.arange(30_000) * SECOND
    fold = walk_forward(ts, ones, ones, window="rolling").folds[3]
    again = split_at(ts, ones, ones, cuts=fold.split.cuts, start=fold.start, end=fold.end)
    assert (again.role == fold.split.role).all()


@dataclass
class Watcher:
    """Stands in for models: notes what it was shown, and answers with its name's length."""

    fitted: list[tuple[str, pd.DataFrame, pd.DataFrame]] = field(default_factory=list)
    asked: list[pd.DataFrame] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def fit(self, name: str, train: pd.DataFrame, validation: pd.DataFrame) -> str:
        self.fitted.append((name, train, validation))
        return name

    def forecast(self, model: str, rows: pd.DataFrame) -> Forecast:
        self.asked.append(rows)
        score = np.full(len(rows), float(len(model)))
        return Forecast(model, score, score / 100, 0.5)


def market(seconds: int = 7 * 3600) -> tuple[pd.DataFrame, WalkForward]:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "ts": (START + np.arange(seconds) * SECOND).astype("datetime64[us]"),
            "realized_volatility_60s": rng.random(seconds),
            "future_volatility_60s": rng.random(seconds),
            "trailing_threshold": 0.9,
        }
    )
    columns = ("ts", "future_volatility_60s", "trailing_threshold")
    return rows, walk_forward(*(rows[column].to_numpy() for column in columns))


def test_each_model_is_fitted_anew_in_each_fold_and_never_shown_an_answer() -> None:
    rows, walk = market()
    watcher = Watcher()
    runs = run_folds(
        rows,
        walk.folds,
        ["har", "trees"],
        fit=watcher.fit,
        forecast=watcher.forecast,
        progress=watcher.said.append,
    )
    assert watcher.said[:3] == ["fold 1 of 5: har", "fold 1 of 5: trees", "fold 2 of 5: har"]
    assert [name for name, *_ in watcher.fitted] == ["har", "trees"] * 5
    for _, train, validation in watcher.fitted:
        assert set(train["role"]) == {"train"}
        assert set(validation["role"]) == {"validation"}
        assert train["ts"].max() + pd.Timedelta("360s") <= validation["ts"].min()
        assert train["ts"].is_monotonic_increasing
        spikes = train["future_volatility_60s"] >= train["threshold"]
        assert (train["is_spike"] == spikes).all()
    for asked in watcher.asked:
        assert not set(ANSWERS) & set(asked)
        assert "threshold" in asked
    for fold, run in zip(walk.folds, runs, strict=True):
        assert run.number == fold.number
        assert [forecast.name for forecast in run.forecasts] == ["har", "trees"]
        test = run.rows[run.rows["role"] == "test"]
        assert test["ts"].tolist() == rows.loc[fold.split.role == "test", "ts"].tolist()
        assert run.forecasts[0].score.shape == (len(test),)
        assert run.rows["ts"].is_monotonic_increasing
        assert list(run.rows) == ["ts", "is_spike", "role"]


def test_no_folds_run_to_nothing() -> None:
    rows, walk = market(5000)
    watcher = Watcher()
    assert run_folds(rows, walk.folds, ["x"], fit=watcher.fit, forecast=watcher.forecast) == ()
    assert not watcher.fitted


def test_a_fold_of_other_rows_is_refused_and_the_rows_given_stay_as_they_are() -> None:
    rows, walk = market()
    before = rows.copy()
    with pytest.raises(ValueError, match="cut from 25200 rows, not from 25199"):
        fold_frames(rows.iloc[1:], walk.folds[0])
    fold_frames(rows, walk.folds[0])
    pd.testing.assert_frame_equal(rows, before)
