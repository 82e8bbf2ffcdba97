"""What is expected of each table: one suite a table, as plain data.

A suite looks at its table's profile, which `sql/quality/<table>.sql` tells of a day: one row per
product and hour, or per source, with counts and shares of what is amiss. So what a fault is stands
in the SQL, how much of it is too much stands here, and the cost of asking does not grow with the
rows. Running a suite belongs to `resources/quality.py`; what one day's table proves against another
table's rows, and no profile can say, belongs to `sql/checks/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["critical", "warning"]
"""Critical stops the stages behind; a warning is shown, and nothing stops."""

Status = Literal["passed", "warned", "failed"]

HOURLY = ("product_id", "hour")
SHOWN = 5


@dataclass(frozen=True)
class Expectation:
    """That a column of a profile lies between zero and a limit, in every row.

    Attributes:
        name: The column, and what the expectation is called.
        at_most: The greatest value that is in order.
        severity: What a failure does.
        finding: What a failure says to a person; `{value}` is the value found.
        style: How the value and the limit read.
    """

    name: str
    at_most: float
    severity: Severity
    finding: str
    style: str = ",.0f"

    def said(self, value: float) -> str:
        """What a value says to a person."""
        return self.finding.format(value=f"{value:{self.style}}")

    @property
    def limit(self) -> str:
        """The limit, as the end of what a failure says."""
        return f"N is at most {self.at_most:{self.style}}"


@dataclass(frozen=True)
class Suite:
    """What is expected of a table.

    Attributes:
        table: The table, and the asset that it is of.
        reads: Whose contents, of the day and of other days by offset, decide the outcome.
        keys: The columns that name a row of the profile.
        expectations: In the order in which they are shown.
    """

    table: str
    reads: Mapping[str, Sequence[int]]
    keys: Sequence[str]
    expectations: Sequence[Expectation]


def _rows(complete: str, possible: str) -> tuple[Expectation, ...]:
    """What holds for the rows of every table, and what the stages behind rely on."""
    findings = {
        "incomplete_rows": f"rows without a value that is always there ({complete}): {{value}}",
        "impossible_rows": f"rows that cannot be ({possible}): {{value}}",
        "strayed_rows": "rows of another day: {value}",
        "misplaced_rows": "rows out of order: {value}",
        "repeated_rows": "rows that repeat the one before them: {value}",
    }
    return tuple(Expectation(name, 0, "critical", said) for name, said in findings.items())


def _fault(name: str, said: str, at_most: float = 0.01) -> Expectation:
    return Expectation(name, at_most, "warning", f"{{value}} of its {said}", ".0%")


SUITES = {
    suite.table: suite
    for suite in (
        Suite(
            "ticks",
            {"ticks": (-1, 0), "quarantine": (0,)},
            HOURLY,
            (
                *_rows(
                    "product, time, price, quotes or origin",
                    "a price, quote or size that is negative or not finite, or a crossed book",
                ),
                _fault("unsized_share", "ticks lack a size that their source carries", 0.05),
                _fault(
                    "misclocked_share",
                    "ticks have a wrong clock: a minute off the recorder's, or ten minutes back in "
                    "their file",
                    0.05,
                ),
                Expectation(
                    "silent_seconds",
                    0,
                    "warning",
                    "a hole of {value} seconds ends here, in a feed with a tick in most minutes",
                ),
                Expectation(
                    "frozen_minutes",
                    30,
                    "warning",
                    "price and quotes stand still for {value} minutes, while ticks go on",
                ),
                Expectation(
                    "unit_changes",
                    0,
                    "warning",
                    "minutes in which the price moves by a power of ten at once, as if in another "
                    "unit: {value}",
                ),
                Expectation(
                    "name_changes",
                    0,
                    "warning",
                    "minutes in which the price moves at once to or from where another product "
                    "trades, as if under its name: {value}",
                ),
                Expectation(
                    "price_jumps",
                    0,
                    "warning",
                    "minutes in which the price doubles or halves at once: {value}",
                ),
            ),
        ),
        Suite(
            "quarantine",
            {"quarantine": (0,), "ticks": (0,)},
            ("source",),
            (
                _fault("duplicate_share", "tickers are there already, under another segment", 0.1),
                _fault("not_json_share", "lines are no JSON object"),
                _fault("no_product_share", "lines name no product"),
                _fault("no_time_share", "lines have no readable time, or one in the future"),
                _fault("bad_price_share", "lines have no sound price"),
                _fault("bad_quote_share", "lines have no sound quotes"),
                _fault("crossed_share", "lines have an ask below the bid"),
                _fault("wrong_day_share", "lines are of another day than their folder"),
            ),
        ),
        Suite(
            "bars",
            {"bars": (0,)},
            HOURLY,
            _rows(
                "any column but the microprice and the volume",
                "a price, spread, count, age or length of a run out of its range",
            ),
        ),
        Suite(
            "features",
            {"features": (0,)},
            HOURLY,
            _rows(
                "any feature that is known wherever there is a row",
                "a volatility, imbalance, intensity or another feature out of its range",
            ),
        ),
        Suite(
            "labels",
            {"labels": (0,)},
            HOURLY,
            _rows("product or time", "a volatility or threshold that is negative or not finite"),
        ),
        Suite(
            "predictions",
            {"predictions": (0,)},
            HOURLY,
            _rows(
                "any column but what happened afterwards",
                "a probability outside 0 to 1, an alert or a role against its own numbers",
            ),
        ),
    )
}


@dataclass(frozen=True)
class Failure:
    """An expectation that does not hold.

    Attributes:
        name: The expectation's.
        severity: Its severity.
        rows: Rows of the profile in which it fails.
        worst: The value farthest from what is expected.
        first: The first of them, each as a sentence that says where and what.
    """

    name: str
    severity: Severity
    rows: int
    worst: float
    first: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a table's suite on a day.

    Attributes:
        table: The table.
        day: The day, as `2026-03-01`.
        fingerprint: A hash of what was looked at, and by which suite.
        validated_at: When, UTC.
        profile_rows: Rows of the profile.
        is_simulated: Whether the day, or the eve, is made up.
        failures: What does not hold.
    """

    table: str
    day: str
    fingerprint: str
    validated_at: str
    profile_rows: int
    is_simulated: bool
    failures: tuple[Failure, ...]

    @property
    def status(self) -> Status:
        """The worst of its failures."""
        if any(failure.severity == "critical" for failure in self.failures):
            return "failed"
        return "warned" if self.failures else "passed"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(facts: Mapping[str, Any]) -> Outcome:
        """Return what `to_dict` gave."""
        failures = (
            Failure(**(failure | {"first": tuple(failure["first"])}))
            for failure in facts["failures"]
        )
        return Outcome(**{**facts, "failures": tuple(failures)})


def failure(suite: Suite, expectation: Expectation, rows: Sequence[Mapping[str, Any]]) -> Failure:
    """Put together what is said of an expectation that failed in some rows of a profile."""
    values = [float(row[expectation.name]) for row in rows]
    said = [
        f"{_where(suite, row)}: {expectation.said(value)}"
        for row, value in zip(rows, values, strict=True)
    ]
    return Failure(
        expectation.name, expectation.severity, len(rows), max(values), tuple(said[:SHOWN])
    )


def _where(suite: Suite, row: Mapping[str, Any]) -> str:
    return ", ".join(_key(name, row[name]) for name in suite.keys)


def _key(name: str, value: Any) -> str:
    """A key as a person reads it; a time is said to the minute, and not being there as that."""
    if value is None or value != value:  # NaT, as NaN, is not itself
        return f"no {name}"
    return str(value) if isinstance(value, str) else f"{value:%H:%M}"
