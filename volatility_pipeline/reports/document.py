"""What a report is made of: sections of text, tables and plots, the same for page and print.

A report is put together once and laid out twice: `page` makes HTML of it, `pdf` makes PDF. How
numbers read stands here too, so that both say them alike. Nothing is measured, and nothing here
knows how it will look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.reports.plots import Plot

NOT_DEFINED = "–"
SIMULATED = "SIMULATED DATA"
RIGHT, WRONG = "#eef5fa", "#fbdcd7"
"""Grounds of cells."""


Status = Literal["claim", "insufficient", "suspicious"]
"""What a verdict is, and how it is coloured."""


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller."""

    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list, each item with the words that stand out at its beginning."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Terms:
    """Terms, and what is said of each."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table of text whose first column names the row.

    In a column of numbers, what follows a cell's first space is set smaller, under the value: its
    interval, or the counts of a share.

    Attributes:
        head: The columns' names.
        rows: As wide as the head.
        words: Columns of words rather than numbers, by position.
        colours: A swatch for each row; empty for none.
        shaded: Rows that stand out, by position.
        marked: Grounds of cells that stand out, by the positions of row and column.
        links: Where a row's name leads, by position.
        is_wide: Whether it needs all the width there is.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[int] = ()
    colours: Sequence[str] = ()
    shaded: Collection[int] = ()
    marked: Mapping[tuple[int, int], str] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict)
    is_wide: bool = False


@dataclass(frozen=True)
class Plots:
    """Plots side by side where there is room; one alone takes all the width."""

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Card:
    """A small table under a name, with a model's colour."""

    name: str
    remark: str
    colour: str
    table: Table


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: Sequence[Card]


Block = Text | Heading | Bullets | Terms | Table | Plots | Cards


@dataclass(frozen=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: What it is, for the window and the foot of printed pages.
        heading: What a reader sees first, under the mark.
        lead: One sentence under the heading.
        mark: `SIMULATED DATA` or the like; empty for real data.
        verdict: The sentence put first.
        status: How it is coloured.
        cover: What else the first printed page says, by name.
        sections: In reading order.
    """

    title: str
    heading: str
    lead: str
    mark: str
    verdict: str
    status: Status
    cover: Sequence[tuple[str, str]]
    sections: Sequence[Section]

    @property
    def full_title(self) -> str:
        """The title, with the mark before it."""
        return f"{self.mark}: {self.title}" if self.mark else self.title


def facts(items: Sequence[tuple[str, str]], head: tuple[str, str]) -> Table:
    """Return a table of names and what is said of each."""
    return Table(head=head, rows=items, words={1})


def number(value: float | None, style: str = ".3f") -> str:
    """Return a number as text; a dash where it is not defined."""
    return NOT_DEFINED if value is None else f"{value:{style}}"


def estimate(value: Estimate | None, style: str = ".3f") -> str:
    """Return an estimate as text, its interval in brackets where it has one."""
    if value is None:
        return NOT_DEFINED
    if value.low is None:
        return f"{value.value:{style}}"
    return f"{value.value:{style}} [{value.low:{style}}, {value.high:{style}}]"


def moment(time: str | None) -> str:
    """Return an ISO time as a person reads it; a dash where there is none."""
    return NOT_DEFINED if time is None else time.replace("T", " ")


def words(value: object) -> str:
    """Return a fact as text, lists and mappings too."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return NOT_DEFINED if value is None else str(value)
