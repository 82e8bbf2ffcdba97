"""What the figures say: the tables, and each target with whether it is met."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Runs
from benchmarks.pipeline import SQL_STAGES

TICKS_PER_SECOND = 400_000
TIMES_THE_BARE_READ = 5.0
PEAK_MB = 1_500.0
SINGLE_DAY_SECONDS = 10.0
FURTHER_DAY_SECONDS = 1.0
# How much noise "flat" and "linear" are allowed before they are called neither.
FLAT = LINEAR = 1.2


@dataclass(frozen=True)
class Figures:
    """All that was measured; the runs of `pipeline.build` hold one for each stage."""

    ticks: int
    source_bytes: int
    small_ticks: int
    days: int
    incremental_ticks: int
    disagreements: dict[str, int]
    bare: Runs
    sql: Runs
    polars: Runs
    polars_with_ticks: Runs
    incremental: Runs
    half: Runs
    quarter: Runs
    one_small_day: Runs
    small_days: Runs
    imported: Runs
    built: Runs
    built_one_small_day: Runs
    built_small_days: Runs

    @property
    def raw_to_labels(self) -> Runs:
        """The day from raw to labels: the SQL of all stages and its writes."""
        return self.sql.parts(*SQL_STAGES)


@dataclass(frozen=True)
class Section:
    """A table: title, headings, rows of text, and what to know when reading it."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def sections(figures: Figures) -> list[Section]:
    """The tables, the targets last."""
    return [_day(figures), _growth(figures), _targets(figures)]


def conditions(figures: Figures) -> str:
    """On what, with what, and how it was measured."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "polars", "dagster"))
    return (
        f"A made-up day of {figures.ticks:,} lines ({figures.source_bytes / 1e6:,.0f} MB, in the "
        f"page cache); {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; Python "
        f"{platform.python_version()}, {libraries}. "
        "Each run is a process of its own; the best counts."
    )


def _day(figures: Figures) -> Section:
    ticks, first = figures.ticks, figures.incremental_ticks
    rows = [
        ("bare read_json of one column", figures.bare, ticks),
        ("raw → labels as SQL, with writes", figures.raw_to_labels, ticks),
        *((f"· {stage}", figures.sql.part(stage), ticks) for stage in SQL_STAGES),
        ("manifest: hash, lines, gaps", figures.sql.part("manifest"), ticks),
        ("volatility build, all of it", figures.built, ticks),
        ("volatility import, all of it", figures.imported, ticks),
        ("polars, same features and labels", figures.polars, ticks),
        ("polars, ticks written too", figures.polars_with_ticks, ticks),
        (f"Python tick by tick, {first:,}", figures.incremental, first),
    ]
    sql = figures.raw_to_labels.seconds / ticks
    at_odds = {name: count for name, count in figures.disagreements.items() if count}
    agreement = (
        "not everywhere: "
        + ", ".join(f"{count:,} rows of {name}" for name, count in at_odds.items())
        if at_odds
        else f"on every row of all {len(figures.disagreements) - 1} columns"
    )
    return Section(
        "The day",
        ("", "best s", "median", "cpu s", "ticks/s", "× SQL", "peak MB"),
        [
            (
                name,
                f"{runs.seconds:.2f}",
                f"{runs.median:.2f}",
                f"{runs.best.processor_seconds:.2f}",
                f"{count / runs.seconds:,.0f}",
                f"{runs.seconds / count / sql:.2f}",
                f"{runs.peak_bytes / 1e6:,.0f}",
            )
            for name, runs, count in rows
        ],
        "× SQL: the time of a tick, in that of raw → labels as SQL. Process start "
        f"({figures.sql.best.start_seconds:.2f} s for the SQL) is in the commands' figures alone. "
        f"The pipeline and polars agree {agreement}.",
    )


def _growth(figures: Figures) -> Section:
    ticks, small, days = figures.ticks, figures.small_ticks, figures.days
    single, one, many = _orchestration(figures)
    rows = [
        ("SQL, a quarter of the day", figures.quarter.parts(*SQL_STAGES), ticks // 4, ""),
        ("SQL, half of it", figures.half.parts(*SQL_STAGES), ticks // 2, ""),
        ("SQL, the day", figures.raw_to_labels, ticks, ""),
        ("SQL, a smaller day", figures.one_small_day.parts(*SQL_STAGES), small, ""),
        (f"SQL, {days} of them", figures.small_days.parts(*SQL_STAGES), small * days, ""),
        ("volatility build, the day", figures.built, ticks, f"{single:.2f}"),
        ("volatility build, a smaller day", figures.built_one_small_day, small, f"{one:.2f}"),
        (
            f"volatility build, {days} of them",
            figures.built_small_days,
            small * days,
            f"{many:.2f}",
        ),
    ]
    return Section(
        "What it grows with",
        ("", "ticks", "best s", "µs a tick", "orchestration", "peak MB"),
        [
            (
                name,
                f"{count:,}",
                f"{runs.seconds:.2f}",
                f"{runs.seconds / count * 1e6:.2f}",
                orchestration,
                f"{runs.peak_bytes / 1e6:,.0f}",
            )
            for name, runs, count, orchestration in rows
        ],
        "Orchestration: seconds of the command less those of the same days' manifests and SQL.",
    )


def _orchestration(figures: Figures) -> tuple[float, float, float]:
    """Seconds that Dagster and the command add: the day, one smaller day, all smaller days."""
    pairs = [
        (figures.built, figures.sql),
        (figures.built_one_small_day, figures.one_small_day),
        (figures.built_small_days, figures.small_days),
    ]
    single, one, many = (
        built.seconds - sql.parts("manifest", *SQL_STAGES).seconds for built, sql in pairs
    )
    return single, one, many


def _targets(figures: Figures) -> Section:
    sql = figures.raw_to_labels
    rate = figures.ticks / sql.seconds
    bare = sql.seconds / figures.bare.seconds
    polars = figures.polars.seconds / sql.seconds
    incremental = (figures.incremental.seconds / figures.incremental_ticks) * rate
    growth = max(
        sql.seconds / (part * runs.parts(*SQL_STAGES).seconds)
        for part, runs in ((2, figures.half), (4, figures.quarter))
    )
    peaks = {"SQL": figures.sql, "volatility build": figures.built}
    flat = {
        "SQL": figures.small_days.peak_bytes / figures.one_small_day.peak_bytes,
        "volatility build": (
            figures.built_small_days.peak_bytes / figures.built_one_small_day.peak_bytes
        ),
    }
    single, one, many = _orchestration(figures)
    further = (many - one) / (figures.days - 1)
    targets = [
        (
            "raw → labels",
            f"≥ {TICKS_PER_SECOND:,} ticks/s",
            f"{rate:,.0f}",
            rate >= TICKS_PER_SECOND,
        ),
        (
            "its time against the bare read",
            f"≤ {TIMES_THE_BARE_READ:g} ×",
            f"{bare:.2f} ×",
            bare <= TIMES_THE_BARE_READ,
        ),
        ("polars' time against it", "> 1 ×", f"{polars:.2f} ×", polars > 1),
        ("Python's time against it", "shown", f"{incremental:.1f} ×", None),
        (
            "a tick of the day against a part's",
            f"≤ {LINEAR:g} ×",
            f"{growth:.2f} ×",
            growth <= LINEAR,
        ),
        *(
            (f"peak memory, {name}", f"< {PEAK_MB:,.0f} MB", f"{peak:,.0f} MB", peak < PEAK_MB)
            for name, peak in ((name, runs.peak_bytes / 1e6) for name, runs in peaks.items())
        ),
        *(
            (
                f"… of {figures.days} days against one, {name}",
                f"≤ {FLAT:g} ×",
                f"{ratio:.2f} ×",
                ratio <= FLAT,
            )
            for name, ratio in flat.items()
        ),
        (
            "orchestration of a single day",
            f"≤ {SINGLE_DAY_SECONDS:g} s",
            f"{single:.2f} s",
            single <= SINGLE_DAY_SECONDS,
        ),
        (
            "orchestration of each further day",
            f"≤ {FURTHER_DAY_SECONDS:g} s",
            f"{further:.2f} s",
            further <= FURTHER_DAY_SECONDS,
        ),
    ]
    verdicts = {True: "met", False: "not met", None: ""}
    return Section(
        "Targets",
        ("", "target", "measured", ""),
        [(name, target, measured, verdicts[met]) for name, target, measured, met in targets],
    )


def show(figures: Figures, console: Console) -> None:
    """Prints the tables."""
    console.print(conditions(figures), soft_wrap=True)
    styles = {"met": "[green]met[/]", "not met": "[bold red]not met[/]"}
    for section in sections(figures):
        table = Table(
            *section.headings, title=section.title, title_justify="left", box=box.SIMPLE_HEAD
        )
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        for row in section.rows:
            table.add_row(*(styles.get(cell, cell) for cell in row))
        console.print()
        console.print(table)
        if section.note:
            console.print(section.note, soft_wrap=True)


def as_markdown(figures: Figures) -> str:
    """The tables as Markdown."""
    lines = ["# Benchmarks", "", conditions(figures), ""]
    for section in sections(figures):
        rule = ["---", *["---:"] * (len(section.headings) - 1)]
        rows = [section.headings, rule, *section.rows]
        lines += [f"## {section.title}", "", *map(_piped, rows), "", section.note, ""]
    return "\n".join(lines).rstrip() + "\n"


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
