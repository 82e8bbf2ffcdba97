"""The page of data quality: days by tables, each finding in a sentence, and what is expected.

It says what the last outcomes are; what they mean is `domain/expectations.py`, and running the
suites and writing the page to a file are the caller's work.
"""

from __future__ import annotations

from collections.abc import Sequence

from volatility_pipeline.domain.expectations import SUITES, Failure, Outcome
from volatility_pipeline.reports import page
from volatility_pipeline.reports.document import (
    NOT_DEFINED,
    SIMULATED,
    WRONG,
    Block,
    Bullets,
    Document,
    Heading,
    Section,
    Status,
    Table,
    Text,
    moment,
)

SOUND, WARNED = "#e6f4ea", "#fdf0d0"
"""Grounds of cells; what failed is `WRONG`."""

GROUNDS = {"passed": SOUND, "warned": WARNED, "failed": WRONG}
SHOWN_DAYS = 90
"""How many days a page is for: the newest."""


def render(outcomes: Sequence[Outcome]) -> str:
    """Return the page of some outcomes, at most one a table and day."""
    return page.render(document(outcomes))


def document(shown: Sequence[Outcome]) -> Document:
    """Put the page together, the newest day first."""
    days = sorted({each.day for each in shown}, reverse=True)
    failed = [each for each in shown if each.status == "failed"]
    warned = [each for each in shown if each.status == "warned"]
    return Document(
        title="Data quality",
        heading="Data quality by day and table",
        lead="Great Expectations looked at each table's profile of the day, by product and hour. "
        "What is critical stops the stages behind; a warning stops nothing.",
        mark=_mark(shown),
        verdict=_verdict(shown, failed, warned),
        status=_status(shown, failed, warned),
        cover=[("Days", str(len(days)))],
        sections=[
            Section("Days and tables", _matrix(shown, days)),
            Section("Findings", _findings(shown)),
            Section("What is expected", _expected()),
        ],
    )


def _verdict(shown: Sequence[Outcome], failed: Sequence[Outcome], warned: Sequence[Outcome]) -> str:
    if not shown:
        return "Nothing has been looked at."
    total = f"Of {_count(len(shown), 'daily table')}, "
    if not failed and not warned:
        return f"{total}all are in order."
    return f"{total}{len(failed)} failed and {len(warned)} drew a warning."


def _status(
    shown: Sequence[Outcome], failed: Sequence[Outcome], warned: Sequence[Outcome]
) -> Status:
    if failed:
        return "suspicious"
    return "insufficient" if warned or not shown else "claim"


def _matrix(shown: Sequence[Outcome], days: Sequence[str]) -> list[Block]:
    if not shown:
        return [Text("`volatility build` looks at every day that it makes.")]
    by_place = {(each.day, each.table): each for each in shown}
    cells = [[by_place.get((day, table)) for table in SUITES] for day in days]
    table = Table(
        head=("Day (UTC)", *SUITES, "Looked at (UTC)"),
        rows=[
            (day, *(_cell(each) for each in row), _looked_at(row))
            for day, row in zip(days, cells, strict=True)
        ],
        words=set(range(1, len(SUITES) + 2)),
        marked={
            (line, column): GROUNDS[each.status]
            for line, row in enumerate(cells)
            for column, each in enumerate(row, start=1)
            if each is not None
        },
        is_wide=True,
    )
    note = "A dash: the table has no row on that day, or was not looked at yet."
    return [table, Text(note, is_note=True)]


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return NOT_DEFINED
    critical = sum(each.severity == "critical" for each in outcome.failures)
    said = [
        *([f"{critical} failed"] if critical else []),
        *(
            [_count(len(outcome.failures) - critical, "warning")]
            if len(outcome.failures) > critical
            else []
        ),
    ]
    return ", ".join(said) or "in order"


def _looked_at(row: Sequence[Outcome | None]) -> str:
    times = [each.validated_at for each in row if each is not None]
    return moment(max(times)[:19]) if times else NOT_DEFINED


def _findings(shown: Sequence[Outcome]) -> list[Block]:
    found = [(each, failure) for each in _newest_first(shown) for failure in each.failures]
    if not found:
        return [Text("Nothing was found.")]
    return [
        Bullets(
            [
                (f"{each.day}, {each.table}, {failure.severity}:", _sentence(each, failure))
                for each, failure in found
            ]
        )
    ]


def _newest_first(shown: Sequence[Outcome]) -> list[Outcome]:
    order = list(SUITES)
    in_flow = sorted(shown, key=lambda each: order.index(each.table))
    return sorted(in_flow, key=lambda each: each.day, reverse=True)


def _sentence(outcome: Outcome, failure: Failure) -> str:
    keys = SUITES[outcome.table].keys
    more = failure.rows - len(failure.first)
    rest = f"; and {_count(more, 'more row')} by {' and '.join(keys)}" if more else ""
    mark = "(simulated) " if outcome.is_simulated else ""
    return f"{mark}{'; '.join(failure.first)}{rest}."


def _expected() -> list[Block]:
    blocks: list[Block] = []
    for suite in SUITES.values():
        items = [
            (f"{each.name}, {each.severity}:", f"{each.finding.format(value='N')}; {each.limit}.")
            for each in suite.expectations
        ]
        blocks += [Heading(suite.table), Bullets(items)]
    return blocks


def _mark(shown: Sequence[Outcome]) -> str:
    simulated = [each.is_simulated for each in shown]
    if not any(simulated):
        return ""
    return SIMULATED if all(simulated) else f"PARTLY {SIMULATED}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
