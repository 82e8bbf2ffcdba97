"""Splits against the definitions of DESIGN §4, one row at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.domain.splits import (
    LEAKY_ROLES,
    ROLES,
    LeakyRowsError,
    Policy,
    Split,
    require_honest,
    split,
    split_at,
    stratified_random,
)

SECOND = np.timedelta64(1, "s")
START = np.datetime64("2026-03-01T23:00:00", "us")
STEADY = settings(deadline=None, derandomize=True, database=None)
POLICIES: tuple[Policy, ...] = ("trailing", "training")


@dataclass(frozen=True)
class Rows:
    """What `split` takes."""

    ts: Any
    future: Any
    trailing: Any

    def split(self, policy: Policy, embargo_seconds: int = 300) -> Split:
        return split(
            self.ts, self.future, self.trailing, policy=policy, embargo_seconds=embargo_seconds
        )

    def is_labelled(self, policy: Policy) -> Any:
        known = ~np.isnan(self.future)
        return known & ~np.isnan(self.trailing) if policy == "trailing" else known


@st.composite
def some_rows(draw: st.DrawFn, *, most: int = 2500) -> Rows:
    """Rows second by second with silences, some without a future or without a threshold."""
    count = draw(st.sampled_from((0, 1, 2, 3)) | st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    longest = draw(st.sampled_from((1, 1, 2, 40, 4000)))
    steps = np.where(rng.random(count) < 0.02, rng.integers(1, longest + 1, count), 1)
    first = draw(st.integers(0, 4))
    ts = START + (first + np.cumsum(steps)) * SECOND
    scale = draw(st.sampled_from((0.0, 1e-5)))  # a market that never moved is one as well
    future = scale * rng.choice([0.0, 0.5, 1.0, 1.0, 1.5, 3.0], count)
    trailing = scale * rng.choice([0.0, 1.0, 1.5], count)
    future[rng.random(count) < draw(st.sampled_from((0, 0.1, 0.9, 1)))] = np.nan
    trailing[: int(count * draw(st.sampled_from((0, 0.2, 1))))] = np.nan
    return Rows(ts, future, trailing)


policies = st.sampled_from(POLICIES)
embargoes = st.sampled_from((0, 1, 60, 300, 1000))


def naive(rows: Rows, policy: Policy, embargo: int) -> tuple[list[str], dict[str, int]]:
    """Roles and counts of what was dropped, row by row in whole seconds."""
    seconds = [int(value) for value in rows.ts.astype("datetime64[s]").astype(int)]
    labelled = [
        second for second, known in zip(seconds, rows.is_labelled(policy), strict=True) if known
    ]
    cuts = []
    for percent in (70, 85):
        before = -(-percent * len(labelled) // 100)  # as many rows lie before the cut, rounded up
        if labelled:
            cuts.append(labelled[min(before, len(labelled) - 1)])
    dropped = dict.fromkeys(
        ("future_unknown", "threshold_unknown", "purged", "embargoed", "thinned"), 0
    )
    roles = []
    for number, second in enumerate(seconds):
        place = sum(second >= cut for cut in cuts)
        role, reason = "", None
        if np.isnan(rows.future[number]):
            reason = "future_unknown"
        elif policy == "trailing" and np.isnan(rows.trailing[number]):
            reason = "threshold_unknown"
        elif place < 2 and second + 60 > cuts[place]:
            reason = "purged"
        elif place > 0 and second < cuts[place - 1] + embargo:
            reason = "embargoed"
        elif place == 0 and second % 5 != 0:
            reason = "thinned"
        else:
            role = ROLES[place]
        if reason is not None:
            dropped[reason] += 1
        roles.append(role)
    return roles, dropped


@STEADY
@given(some_rows(), policies, embargoes)
def test_roles_and_counts_are_those_of_the_definition(
    rows: Rows, policy: Policy, embargo: int
) -> None:
    made = rows.split(policy, embargo)
    roles, dropped = naive(rows, policy, embargo)
    assert made.role.tolist() == roles
    assert made.dropped == dropped


@STEADY
@given(some_rows(), policies, embargoes)
def test_kept_and_dropped_rows_add_up_to_all(rows: Rows, policy: Policy, embargo: int) -> None:
    made = rows.split(policy, embargo)
    kept = sum(int((made.role == role).sum()) for role in ROLES)
    assert kept + sum(made.dropped.values()) == len(rows.ts)
    assert set(made.role.tolist()) <= {*ROLES, ""}
    assert not (made.role[~rows.is_labelled(policy)] != "").any()


@STEADY
@given(some_rows(), policies, embargoes)
def test_no_60_seconds_of_an_earlier_role_reach_a_later_one(
    rows: Rows, policy: Policy, embargo: int
) -> None:
    made = rows.split(policy, embargo)
    for number, earlier in enumerate(ROLES):
        for later in ROLES[number + 1 :]:
            before, after = rows.ts[made.role == earlier], rows.ts[made.role == later]
            if len(before) and len(after):
                assert before.max() + 60 * SECOND <= after.min()
    for cut, later in zip(made.cuts, ROLES[1:], strict=False):
        after = rows.ts[made.role == later]
        assert (after >= cut + embargo * SECOND).all()
        before = rows.ts[(rows.ts < cut) & (made.role != "")]
        assert (before + 60 * SECOND <= cut).all()


@STEADY
@given(some_rows(), policies)
def test_training_rows_lie_on_whole_five_seconds_and_test_rows_on_every_second(
    rows: Rows, policy: Policy
) -> None:
    made = rows.split(policy)
    epoch = rows.ts.astype("datetime64[s]").astype(int)
    assert not (epoch[made.role == "train"] % 5).any()
    if made.cuts:
        first = made.cuts[1] + 300 * SECOND
        assert (made.role[(rows.ts >= first) & rows.is_labelled(policy)] == "test").all()


@STEADY
@given(some_rows(), policies)
def test_70_and_85_percent_of_the_labelled_rows_lie_before_the_cuts(
    rows: Rows, policy: Policy
) -> None:
    made = rows.split(policy)
    labelled = rows.ts[rows.is_labelled(policy)]
    if len(labelled) > 6:
        for cut, percent in zip(made.cuts, (70, 85), strict=True):
            assert 0 <= (labelled < cut).sum() - percent * len(labelled) / 100 < 1
    else:
        assert len(made.cuts) == (2 if len(labelled) else 0)


@STEADY
@given(some_rows())
def test_under_training_the_threshold_is_the_90th_percentile_of_the_kept_training_rows(
    rows: Rows,
) -> None:
    made = rows.split("training")
    assert len(made.threshold) == len(rows.ts)
    training = rows.future[made.role == "train"]
    if len(training):
        assert set(made.threshold.tolist()) == {np.quantile(training, 0.9)}
    else:
        assert np.isnan(made.threshold).all()
        assert not made.is_spike.any()


@STEADY
@given(some_rows(), st.integers(0, 2**32))
def test_under_training_no_later_value_defines_a_label_of_an_earlier_row(
    rows: Rows, seed: int
) -> None:
    made = rows.split("training")
    later = ~np.isin(made.role, ["train"]) & ~np.isnan(rows.future)
    other = rows.future.copy()
    other[later] = np.random.default_rng(seed).random(int(later.sum()))
    again = Rows(rows.ts, other, np.full(len(rows.ts), np.nan)).split("training")
    np.testing.assert_array_equal(again.threshold, made.threshold)
    np.testing.assert_array_equal(again.role, made.role)
    training = made.role == "train"
    np.testing.assert_array_equal(again.is_spike[training], made.is_spike[training])


@STEADY
@given(some_rows())
def test_under_trailing_each_row_is_judged_by_its_own_threshold(rows: Rows) -> None:
    made = rows.split("trailing")
    np.testing.assert_array_equal(made.threshold, rows.trailing)
    expected = [
        bool(future >= threshold and future > 0)
        for future, threshold in zip(rows.future, rows.trailing, strict=True)
    ]
    assert made.is_spike.tolist() == expected


@STEADY
@given(some_rows(), policies)
def test_no_volatility_is_no_spike_even_at_a_threshold_of_zero(rows: Rows, policy: Policy) -> None:
    still = Rows(rows.ts, np.where(np.isnan(rows.future), np.nan, 0.0), 0 * rows.trailing)
    assert not still.split(policy).is_spike.any()


@STEADY
@given(some_rows(), policies, st.sampled_from(("s", "ms", "us", "ns")))
def test_the_unit_of_the_times_changes_nothing(rows: Rows, policy: Policy, unit: str) -> None:
    made = rows.split(policy)
    again = Rows(rows.ts.astype(f"datetime64[{unit}]"), rows.future, rows.trailing).split(policy)
    assert again.role.tolist() == made.role.tolist()
    assert again.dropped == made.dropped
    assert again.cuts == made.cuts


def steady(seconds: int) -> Rows:
    """A row every second whose volatility and threshold are one."""
    return Rows(START + np.arange(seconds) * SECOND, np.ones(seconds), np.ones(seconds))


@pytest.mark.parametrize("policy", POLICIES)
def test_an_hour_is_cut_purged_embargoed_and_thinned_as_counted_by_hand(policy: Policy) -> None:
    made = steady(3600).split(policy)
    assert made.cuts == (START + 2520 * SECOND, START + 3060 * SECOND)
    assert made.dropped == {
        "future_unknown": 0,
        "threshold_unknown": 0,
        "purged": 59 + 59,
        "embargoed": 300 + 300,
        "thinned": 1968,  # 2461 rows until 60 s before the cut, of which every fifth stays
    }
    places = {role: np.flatnonzero(made.role == role) for role in ROLES}
    assert places["train"].tolist() == list(range(0, 2461, 5))
    assert places["validation"].tolist() == list(range(2820, 3001))
    assert places["test"].tolist() == list(range(3360, 3600))
    assert made.is_spike.all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_later_role_shorter_than_its_embargo_is_empty(policy: Policy) -> None:
    made = steady(1000).split(policy)
    assert {role: int((made.role == role).sum()) for role in ROLES} == {
        "train": 129,
        "validation": 0,
        "test": 0,
    }
    assert made.dropped["embargoed"] == 91 + 150


@pytest.mark.parametrize("policy", POLICIES)
def test_no_rows_have_no_cuts_and_nothing_dropped(policy: Policy) -> None:
    made = steady(0).split(policy)
    assert (made.role.tolist(), made.is_spike.tolist(), made.cuts) == ([], [], ())
    assert set(made.dropped.values()) == {0}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("count", "embargoed", "purged"), [(1, 1, 0), (2, 1, 1)])
def test_one_row_or_two_train_nothing_and_are_counted(
    policy: Policy, count: int, embargoed: int, purged: int
) -> None:
    made = steady(count).split(policy)
    assert set(made.role.tolist()) == {""}
    assert made.dropped == {
        "future_unknown": 0,
        "threshold_unknown": 0,
        "purged": purged,
        "embargoed": embargoed,
        "thinned": 0,
    }
    assert made.cuts == (rows_end := START + (count - 1) * SECOND, rows_end)


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_of_which_nothing_is_known_are_all_dropped(policy: Policy) -> None:
    unknown = np.full(500, np.nan)
    made = Rows(steady(500).ts, unknown, unknown).split(policy)
    assert set(made.role.tolist()) == {""}
    assert made.dropped["future_unknown"] == 500
    assert sum(made.dropped.values()) == 500
    assert (made.cuts, made.is_spike.any()) == ((), False)


def test_unknown_thresholds_drop_rows_under_trailing_alone() -> None:
    rows = Rows(steady(3600).ts, np.ones(3600), np.where(np.arange(3600) < 600, np.nan, 1.0))
    assert rows.split("trailing").dropped["threshold_unknown"] == 600
    assert rows.split("training").dropped["threshold_unknown"] == 0
    # The cuts count labelled rows, so they lie later where the first 600 are none.
    assert rows.split("trailing").cuts[0] == START + (600 + 2100) * SECOND
    assert rows.split("training").cuts[0] == START + 2520 * SECOND


def test_the_arrays_given_are_left_alone() -> None:
    rows = steady(900)
    copies = [array.copy() for array in (rows.ts, rows.future, rows.trailing)]
    rows.split("trailing")
    rows.split("training")
    for array, copy in zip((rows.ts, rows.future, rows.trailing), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@STEADY
@given(some_rows(), policies, embargoes, st.integers(0, 2000), st.integers(0, 3000))
def test_rows_outside_of_the_bounds_have_no_role_and_change_nothing_within(
    rows: Rows, policy: Policy, embargo: int, before: int, length: int
) -> None:
    start = START.astype("datetime64[s]") + before * SECOND
    cuts, end = (
        (start + length * SECOND // 3, start + length * SECOND // 2),
        start + length * SECOND,
    )
    is_within = (rows.ts >= start) & (rows.ts < end)

    def cut(part: Any, **bounds: Any) -> Split:
        values = rows.ts[part], rows.future[part], rows.trailing[part]
        return split_at(*values, cuts=cuts, policy=policy, embargo_seconds=embargo, **bounds)

    made = cut(slice(None), start=start, end=end)
    alone = cut(is_within, end=end)
    assert not (made.role[~is_within] != "").any()
    assert made.role[is_within].tolist() == alone.role.tolist()
    assert made.dropped == alone.dropped
    assert (rows.ts[made.role == "test"] + 60 * SECOND <= end).all()


@STEADY
@given(some_rows(), st.integers(0, 2**32))
def test_the_leaky_split_deals_out_all_labelled_rows_70_15_15_in_each_class(
    rows: Rows, seed: int
) -> None:
    is_labelled, is_spike = rows.is_labelled("trailing"), rows.split("trailing").is_spike
    made = stratified_random(is_spike, is_labelled, seed=seed)
    assert not (made.role[~is_labelled] != "").any()
    for stratum in (is_labelled & is_spike, is_labelled & ~is_spike):
        assert not (made.role[stratum] == "").any()
        for role, share in zip(LEAKY_ROLES, (0.70, 0.15, 0.15), strict=True):
            assert abs((made.role[stratum] == role).sum() - share * stratum.sum()) <= 1
    again = stratified_random(is_spike, is_labelled, seed=seed)
    assert made.role.tolist() == again.role.tolist()


def test_the_leaky_split_puts_neighbours_into_different_roles_and_another_seed_others() -> None:
    is_spike = np.arange(3600) % 10 == 0
    first, second = (stratified_random(is_spike, np.full(3600, True), seed=s) for s in (1, 2))
    assert (first.role[1:] != first.role[:-1]).mean() > 0.4
    assert first.role.tolist() != second.role.tolist()


def test_the_leaky_split_says_so_in_every_output_and_is_no_split() -> None:
    made = stratified_random(np.array([True, False] * 50), np.full(100, True), seed=1)
    assert (made.is_leaky, made.label, made.protocol) == (True, "LEAKY", "stratified-random")
    assert set(made.role.tolist()) == {"LEAKY train", "LEAKY validation", "LEAKY test"}
    assert not set(LEAKY_ROLES) & set(ROLES)
    assert not isinstance(made, Split)


def test_the_honest_path_refuses_leaky_rows_even_one() -> None:
    require_honest(ROLES)
    require_honest([])
    with pytest.raises(LeakyRowsError, match="LEAKY test are for the leakage audit alone"):
        require_honest([*ROLES, "LEAKY test"])
