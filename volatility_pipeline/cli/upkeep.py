"""Commands that keep a data root in order: compact, doctor."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from volatility_pipeline.cli.console import ERRORS, OUT, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.resources.lake import Lake

if TYPE_CHECKING:
    from volatility_pipeline.resources.health import Finding
    from volatility_pipeline.settings import Settings

COLORS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compact)
    app.command()(doctor)


def compact(
    days: Annotated[
        list[datetime] | None, typer.Argument(formats=["%Y-%m-%d"], help="Days that are over.")
    ] = None,
    expire: Annotated[
        bool,
        typer.Option("--expire", help="Remove raw segments older than VOLATILITY_RAW_KEEP_DAYS."),
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option(help="With --expire: the folder of `date=…/` that holds equal copies."),
    ] = None,
    data: DataOption = None,
) -> None:
    """Make one compressed segment of a closed day's many; nothing in it changes.

    With `--expire` it removes compacted raw segments that are older than the setting and have an
    equal copy in the backup; tables and manifests stay.

    Example: `volatility compact 2026-04-04 2026-04-05`
    """
    settings = load_settings(data)
    lake = Lake(settings.data)
    chosen = [day.date() for day in days or ()]
    if expire:
        _expire(settings, lake, chosen, backup)
        return
    if backup is not None:
        raise BadInputError("--backup is for --expire; give both, or neither.")
    if not chosen:
        raise BadInputError("No day is named; name days that are over, like 2026-04-04.")
    from volatility_pipeline.resources.compaction import compact as compact_day

    is_any = False
    for day in chosen:
        with ERRORS.status(f"Compacting {day}"):
            made = compact_day(lake, day)
        if made is None:
            OUT.print(f"{day}: one compacted segment already.")
        else:
            is_any = True
            before, after = made.bytes_before / 1e6, made.segment.bytes / 1e6
            OUT.print(
                f"{day}: {made.segments:,} segments of {before:,.1f} MB are one of {after:,.1f} MB "
                f"({made.segment.lines:,} lines)."
            )
    if is_any:
        OUT.print("Next: [bold]volatility build[/] makes the ticks anew, which name their segment.")


def _expire(settings: "Settings", lake: Lake, chosen: list[date], backup: Path | None) -> None:
    from volatility_pipeline.resources.compaction import expire
    from volatility_pipeline.resources.warehouse import Warehouse

    keep_days = settings.volatility_raw_keep_days
    if keep_days is None:
        raise BadInputError("Raw data is kept for ever; set VOLATILITY_RAW_KEEP_DAYS to expire it.")
    if backup is None or not backup.is_dir():
        raise BadInputError(
            f"{backup or '--backup'}: no folder; name the one that holds copies as "
            "date=…/compacted-….ndjson.zst."
        )
    today = datetime.now(UTC).date()
    old = [day for day in lake.raw_days() if (today - day).days > keep_days and lake.segments(day)]
    unfit = [str(day) for day in chosen if day not in old]
    if unfit:
        raise BadInputError(
            f"{', '.join(unfit)}: no raw segments older than VOLATILITY_RAW_KEEP_DAYS={keep_days}; "
            "leave the days out to take all that are."
        )
    warehouse = Warehouse(lake, settings.volatility_max_gap_seconds)
    kept = 0
    for day in chosen or old:
        try:
            removed = expire(warehouse, day, backup)
        except (RefusedError, OSError) as reason:
            kept += 1
            OUT.print(f"{day}: kept; {reason}.", soft_wrap=True, highlight=False)
        else:
            OUT.print(f"{day}: removed {removed / 1e6:,.1f} MB of raw segments.")
    if kept:
        raise RefusedError(f"{kept} of {len(chosen or old)} days were kept, as said above.")
    if not old:
        OUT.print(f"No raw segments are older than {keep_days} days.")


def doctor(
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove what killed processes left behind.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Look at installation, data root, disk, Kafka, MLflow, Dagster and clock; say what to do.

    The exit code is 1 if something is wrong; a warning is none.

    Example: `volatility doctor`
    """
    settings = load_settings(data)
    table = Table("looked at", "", "found", "what to do", box=box.SIMPLE)
    for column in table.columns:
        column.overflow = "fold"
    wrong = []
    with ERRORS.status("Looking"):
        for found in _findings(settings, is_clean=clean):
            color = COLORS[found.verdict]
            verdict = f"[{color}]{found.verdict}[/]"
            table.add_row(found.subject, verdict, escape(found.said), escape(found.mend))
            if found.verdict == "wrong":
                wrong.append(found.subject)
    OUT.print(table)
    if wrong:
        raise RefusedError(f"Wrong is {', '.join(wrong)}; the table says what to do.")


def _findings(settings: "Settings", *, is_clean: bool) -> Iterator["Finding"]:
    from volatility_pipeline.resources import health

    lake = Lake(settings.data)
    yield from health.installation()
    yield from health.data_root(lake)
    yield health.leftovers(lake.root, is_clean=is_clean)
    yield health.kafka(settings.kafka_bootstrap_servers)
    yield health.mlflow_store(settings.tracking_uri)
    yield _dagster(lake)
    yield health.clock(lake)


def _dagster(lake: Lake) -> "Finding":
    from volatility_pipeline.resources.health import Finding

    home = lake.root / "dagster"
    if not home.exists():
        return Finding("Dagster", "ok", f"{home}, not made yet")
    import dagster as dg
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = instance.get_runs_count()
    except (dg.DagsterError, SQLAlchemyError, OSError) as error:
        said = str(error).splitlines()[0]
        return Finding("Dagster", "wrong", f"{home}: {said}", "mend it, or move it away")
    return Finding("Dagster", "ok", f"{home}, {runs:,} runs")
