"""How far each data stage reaches: which days of which stages a day is made from.

This is the one place that says it; partition mappings, records and plans are derived from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta

DATA_STAGES = ("raw", "ticks", "bars", "features", "labels")


@dataclass(frozen=True)
class Reach:
    """The day offsets that a stage reads, for each stage it reads."""

    offsets: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def days(self, day: date) -> list[tuple[str, date]]:
        """The (stage, day) pairs that a day is made from."""
        return [
            (source, day + timedelta(days=offset))
            for source, offsets in self.offsets.items()
            for offset in offsets
        ]


REACH = {
    "raw": Reach(),
    "ticks": Reach({"raw": (0,)}),
    "bars": Reach({"ticks": (-1, 0)}),
    "features": Reach({"bars": (-1, 0)}),
    "labels": Reach({"features": (-1, 0), "bars": (-1, 0, 1)}),
}


def affected(changed: Iterable[tuple[str, date]]) -> set[tuple[str, date]]:
    """All (stage, day) pairs that may change when the given ones do, these included."""
    found = set(changed)
    for stage in DATA_STAGES:
        for source, offsets in REACH[stage].offsets.items():
            found |= {
                (stage, day - timedelta(days=offset))
                for name, day in found
                if name == source
                for offset in offsets
            }
    return found


def ranges(days: Iterable[date]) -> list[tuple[date, date]]:
    """Days as inclusive ranges of adjoining days, in order."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day - found[-1][1] <= timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found
