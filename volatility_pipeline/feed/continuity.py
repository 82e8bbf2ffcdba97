"""Numbers that follow each other without a hole, and the holes that they prove.

One `Continuity` watches one series: an Advanced Trade connection's `sequence_num`, its heartbeats'
counter, or the trade ids of one Exchange product. What a hole is called and where it is written
belongs to the recorder.
"""

import math
from dataclasses import dataclass
from typing import Any

MOST_HOLES = 10_000
RESTART_RUN = 20  # so many repeats in a row, each higher than the last: the count began anew


@dataclass
class Hole:
    """The numbers `first` to `last` are missing; `before` and `after` are the messages around."""

    first: int
    last: int
    before: Any
    after: Any
    deadline: float

    @property
    def missing(self) -> int:
        """How many numbers."""
        return self.last - self.first + 1


class Continuity:
    """Watches one series. A number may come late by `grace` seconds before its hole is final.

    Marks are whatever the caller wants to know of a message (its event time): they are handed back
    as a hole's `before` and `after`.
    """

    def __init__(self, *, grace: float, first: int | None = None) -> None:
        self.grace = grace
        self.next = first
        self.mark: Any = None
        self.repeats = 0
        self.late = 0
        self.restarts: list[tuple[Any, Any]] = []  # the marks around a count that began anew
        self._repeated = -1
        self._run = 0  # how many repeats in a row went up, without a new number between
        self._holes: list[Hole] = []

    def see(self, number: int, mark: Any, now: float, *, is_mark: bool = True) -> None:
        """Takes a message's number in, in the order of arrival.

        `is_mark` is False for a message whose mark bounds a hole before it, and none after it.
        """
        if self.next is not None and number < self.next:
            self._fill(number, mark)
            return
        self._run = 0
        self.expect(number - 1, mark, now)
        self.next = number + 1
        if is_mark or self.mark is None:
            self.mark = mark

    def expect(self, last: int, mark: Any, now: float) -> None:
        """Takes in that the numbers up to `last` exist: those not seen are missing, or late."""
        if self.next is None:
            self.mark = mark
        elif last >= self.next:
            self._holes.append(Hole(self.next, last, self.mark, mark, now + self.grace))
        self.next = max(self.next or 0, last + 1)

    def overdue(self, now: float) -> list[Hole]:
        """The holes that nothing has filled in time; each is told once."""
        if not self._holes or (self._holes[0].deadline > now and len(self._holes) < MOST_HOLES):
            return []
        limit = now if len(self._holes) < MOST_HOLES else math.inf
        told = [hole for hole in self._holes if hole.deadline <= limit]
        self._holes = [hole for hole in self._holes if hole.deadline > limit]
        return told

    def close(self) -> list[Hole]:
        """All holes that are left, at the end of the series."""
        told, self._holes = self._holes, []
        return told

    def _fill(self, number: int, mark: Any) -> None:
        for index, hole in enumerate(self._holes):
            if hole.first <= number <= hole.last:
                sides = [
                    Hole(first, last, hole.before, hole.after, hole.deadline)
                    for first, last in ((hole.first, number - 1), (number + 1, hole.last))
                    if first <= last
                ]
                self._holes[index : index + 1] = sides
                self.late += 1
                return
        self.repeats += 1
        self._run = self._run + 1 if number > self._repeated else 1
        self._repeated = number
        if self._run >= RESTART_RUN:
            self.repeats -= self._run
            self.restarts.append((self.mark, mark))
            self.next, self.mark, self._run = number + 1, mark, 0
