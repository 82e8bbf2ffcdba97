"""`make bench`: what is measured, in which order, on which data.

One made-up day of a million ticks is written to a temporary folder (`day.py`). On it the bare read,
the pipeline's SQL (`pipeline.py`) and its opponents (`polars_features.py`, `incremental.py`) take
turns, so that a busy moment of the machine disturbs all alike; then come the real commands, and
small days for what grows and what must not. `report.py` holds the figures against the targets.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.day import FIRST_DAY
from benchmarks.lab import Lab
from benchmarks.measure import Run, Runs
from benchmarks.report import Figures, as_markdown, show

DAYS = 10
INCREMENTAL_TICKS = 100_000
COMMAND_REPEATS = 2
LOG_WIDTH = 100


def main(
    ticks: Annotated[int, typer.Option(min=10_000, help="Lines of the made-up day.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement.")] = 3,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the made-up days here, and use those that are here.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables to this file as well.")
    ] = None,
) -> None:
    """Measure raw to labels on a made-up day, beside what else could have done it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    with _folders(keep) as (days, work), _progress(console) as step:
        figures = measure(Lab(days, work, step), ticks, repeats)
    show(figures, console)
    if markdown is not None:
        markdown.write_text(as_markdown(figures))


def measure(lab: Lab, ticks: int, repeats: int) -> Figures:
    """Everything, in order."""
    day = FIRST_DAY.isoformat()
    days = [(FIRST_DAY + timedelta(days=count)).isoformat() for count in range(DAYS)]
    whole = lab.write_day(day, ticks)
    half, quarter = (lab.write_head(whole, ticks // part) for part in (2, 4))
    small = {day: lab.write_day(day, ticks // DAYS) for day in days}
    one_small = {day: small[day]}
    first_ticks = min(INCREMENTAL_TICKS, ticks)
    lab.settle(whole)

    turns = _in_turn(
        repeats,
        bare=lambda: lab.bare_read(whole),
        sql=lambda: lab.sql({day: whole}),
        polars=lambda: lab.polars(whole),
        polars_with_ticks=lambda: lab.polars_with_ticks(whole),
        incremental=lambda: lab.incremental(whole, first_ticks),
        half=lambda: lab.sql({day: half}),
        quarter=lambda: lab.sql({day: quarter}),
        one_small_day=lambda: lab.sql(one_small),
        small_days=lambda: lab.sql(small),
    )
    commands = _in_turn(
        min(COMMAND_REPEATS, repeats),
        built=lambda: lab.build_command({day: whole}),
        built_one_small_day=lambda: lab.build_command(one_small),
        built_small_days=lambda: lab.build_command(small),
        imported=lambda: lab.import_command(whole),
    )
    return Figures(
        ticks=ticks,
        source_bytes=whole.stat().st_size,
        small_ticks=ticks // DAYS,
        days=DAYS,
        incremental_ticks=first_ticks,
        disagreements=lab.compare(day, whole),
        **turns,
        **commands,
    )


def _in_turn(rounds: int, **measurements: Callable[[], Run]) -> dict[str, Runs]:
    """Makes each measurement once, and then again, so often."""
    runs: dict[str, list[Run]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measurement in measurements.items():
            runs[name].append(measurement())
    return {name: Runs(made) for name, made in runs.items()}


@contextmanager
def _folders(keep: Path | None) -> Iterator[tuple[Path, Path]]:
    """Where the made-up days lie, and a folder beside them for the work; that one is removed."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    parent = None if keep is None else keep.absolute()
    with tempfile.TemporaryDirectory(prefix="volatility-bench-", dir=parent) as folder:
        work = Path(folder)
        yield parent or work, work


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done and for how long the whole has taken."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda text: progress.update(task, description=text)


if __name__ == "__main__":
    typer.run(main)
