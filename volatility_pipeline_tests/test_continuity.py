"""Holes in numbered series: exactly the numbers that never came, between the right neighbours."""

from hypothesis import given
from hypothesis import strategies as st

from volatility_pipeline.feed.continuity import Continuity, Hole

GRACE = 2.0


def numbers(holes: list[Hole]) -> list[int]:
    return sorted(number for hole in holes for number in range(hole.first, hole.last + 1))


@given(st.data(), st.integers(0, 60))
def test_holes_are_exactly_the_numbers_that_did_not_come(data: st.DataObject, count: int) -> None:
    gone = data.draw(st.sets(st.integers(0, max(count - 1, 0))))
    arriving = [number for number in range(count) if number not in gone]
    order = data.draw(st.permutations(arriving)) if data.draw(st.booleans()) else arriving
    repeated = data.draw(st.lists(st.sampled_from(order), max_size=3)) if order else []
    series = Continuity(grace=GRACE, first=0)
    for place, number in enumerate([*order, *repeated]):
        series.see(number, number, now=place / 1000)
    told = series.close()
    newest = max(arriving, default=-1)
    assert numbers(told) == [number for number in sorted(gone) if number < newest]
    assert series.repeats == len(repeated)
    assert all(hole.after > hole.last for hole in told)


def test_a_hole_is_told_once_after_its_grace_and_knows_its_neighbours() -> None:
    series = Continuity(grace=GRACE)
    series.see(7, "seven", now=0)
    series.see(10, "ten", now=1)
    assert series.overdue(2.9) == []
    (hole,) = series.overdue(3.0)
    assert (hole.first, hole.last, hole.missing) == (8, 9, 2)
    assert (hole.before, hole.after) == ("seven", "ten")
    assert series.overdue(100) == []
    assert series.close() == []


def test_a_number_that_comes_late_splits_its_hole() -> None:
    series = Continuity(grace=GRACE, first=1)
    series.see(6, "six", now=0)
    series.see(3, "three", now=1)
    assert numbers(series.close()) == [1, 2, 4, 5]
    assert (series.late, series.repeats) == (1, 0)


def test_an_announced_number_that_never_comes_is_a_hole() -> None:
    series = Continuity(grace=GRACE)
    series.expect(4, "heartbeat", now=0)
    assert series.close() == [], "what was before the first word is not known to be missing"
    series.expect(6, "next heartbeat", now=1)
    series.see(7, "seven", now=1)
    assert numbers(series.close()) == [5, 6]


def test_a_mark_that_only_bounds_from_above_is_no_neighbour_from_below() -> None:
    series = Continuity(grace=GRACE, first=0)
    series.see(0, "ticker", now=0)
    series.see(1, "heartbeat", now=0, is_mark=False)
    series.see(3, "later", now=0)
    (hole,) = series.close()
    assert (hole.before, hole.after) == ("ticker", "later")
