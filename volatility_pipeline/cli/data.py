"""Commands of the data stages: import, simulate, build, status."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from volatility_pipeline.cli.console import ERRORS, OUT, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.settings import Settings, product_names

if TYPE_CHECKING:
    from volatility_pipeline.cli.orchestrator import Orchestrator
    from volatility_pipeline.resources.landing import Landed

SIMULATED_HOURS = 72.0
LANDING_HEADROOM = 64 << 20
MANY_SEGMENTS = 100


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("import")(import_files)
    app.command()(simulate)
    app.command()(build)
    app.command()(status)


def import_files(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings: .ndjson, .ndjson.gz, .ndjson.zst.")
    ],
    data: DataOption = None,
) -> None:
    """Bring recordings into `data/raw/`, by the UTC day of each message.

    Importing the same file again changes nothing.

    Example: `volatility import recordings/*.ndjson`
    """
    from volatility_pipeline.resources.landing import check_recording, import_file

    settings = load_settings(data)
    lake = Lake(settings.data)
    for path in files:
        check_recording(path)
    lake.check_writable(sum(path.stat().st_size for path in files) + LANDING_HEADROOM)
    table = Table("file", "day", "lines", "")
    with bytes_progress() as progress:
        for path in files:
            task = progress.add_task(path.name, total=path.stat().st_size)
            landed = import_file(
                lake,
                path,
                settings.volatility_first_day,
                progress=lambda size, task=task: progress.advance(task, size),  # type: ignore[misc]
            )
            progress.remove_task(task)
            _add_rows(table, landed)
    OUT.print(table)
    OUT.print(
        "Next: [bold]volatility build[/] makes the tables, [bold]volatility run[/] all of it."
    )


def simulate(
    products: Annotated[
        str | None, typer.Option(help="Comma-separated (default: VOLATILITY_PRODUCTS).")
    ] = None,
    start: Annotated[
        datetime | None, typer.Option(help="UTC start (default: midnight, --hours ago).")
    ] = None,
    hours: Annotated[float, typer.Option(help="How long, in hours.")] = SIMULATED_HOURS,
    seed: Annotated[int, typer.Option(help="Another seed is another market.")] = 0,
    noise: Annotated[bool, typer.Option("--noise", help="Nothing to predict in it.")] = False,
    data: DataOption = None,
) -> None:
    """Write a made-up market to `data/raw/`, marked as simulated.

    Example: `volatility simulate --products BTC-USD,ETH-USD --hours 72 --seed 7`
    """
    settings = load_settings(data)
    names = settings.volatility_products if products is None else product_names(products)
    simulate_market(settings, names, start=start, hours=hours, seed=seed, is_noise=noise)
    OUT.print("Next: [bold]volatility run[/] builds the tables, trains and reports.")


def simulate_market(
    settings: Settings,
    products: tuple[str, ...],
    *,
    start: datetime | None = None,
    hours: float = SIMULATED_HOURS,
    seed: int = 0,
    is_noise: bool = False,
) -> None:
    """Lands a simulated market; without a start it ends at the last midnight."""
    from volatility_pipeline.domain.simulation import Market
    from volatility_pipeline.resources.landing import land_simulation

    lake = Lake(settings.data)
    lake.check_writable(LANDING_HEADROOM)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = midnight - timedelta(hours=hours) if start is None else start.replace(tzinfo=UTC)
    if begin.date() < settings.volatility_first_day:
        raise BadInputError(
            f"--start {begin.date()} lies before the first day, {settings.volatility_first_day}; "
            f"set VOLATILITY_FIRST_DAY={begin.date()} to take it in."
        )
    try:
        market = Market(products, begin, hours, seed, is_noise)
    except ValueError as error:
        raise BadInputError(f"This market cannot be simulated: {error}.") from error
    with ERRORS.status("Simulating") as shown:
        landed = land_simulation(
            lake,
            market,
            progress=lambda day, _: shown.update(f"Simulating {', '.join(products)}: {day}"),
        )
    table = Table("segment", "day", "lines", "")
    _add_rows(table, landed)
    OUT.print(table)


def build(
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="Rebuild from this day.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="… to this day.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Build raw to labels for the days that changed, and publish the feature store.

    `--from` and `--to` make a range of days again, changed or not.

    Example: `volatility build --from 2026-04-01 --to 2026-04-04`
    """
    settings = load_settings(data)
    lake = Lake(settings.data)
    chosen = _chosen_days(settings, lake, first, last)
    if not lake.raw_days():
        raise BadInputError(
            f"{lake.root / 'raw'}: no raw data; `volatility import` a recording or "
            "`volatility simulate` a market first."
        )
    from volatility_pipeline.cli.orchestrator import orchestrator

    with orchestrator(settings) as running:
        build_days(running, chosen)


def build_days(running: "Orchestrator", chosen: list[date] | None = None) -> None:
    """Builds the chosen days, or what is stale, says what was done, and publishes."""
    from volatility_pipeline.resources.feature_store import publish

    days = running.stale_days() if chosen is None else chosen
    if days:
        running.build(days, force=chosen is not None)
        running.prune_runs()
        OUT.print(f"Built {days[0]} to {days[-1]}: {_counts(running.lake, days)}.")
    else:
        OUT.print("Nothing has changed since the last build.")
        publish(running.lake)  # a build that was killed may not have come to it


def _chosen_days(
    settings: Settings, lake: Lake, first: datetime | None, last: datetime | None
) -> list[date] | None:
    if first is None and last is None:
        return None
    known = lake.raw_days() or [datetime.now(UTC).date()]
    start = first.date() if first else known[0]
    end = last.date() if last else known[-1]
    today = datetime.now(UTC).date()
    if start < settings.volatility_first_day:
        raise BadInputError(
            f"--from {start} lies before the first day, {settings.volatility_first_day}; "
            f"set VOLATILITY_FIRST_DAY={start} to build it."
        )
    if end > today:
        raise BadInputError(f"--to {end} lies in the future; the last day is today, {today}.")
    if start > end:
        raise BadInputError(f"--from {start} lies after --to {end}; exchange the two.")
    from volatility_pipeline.cli.orchestrator import days_between

    return days_between(start, end)


def _counts(lake: Lake, days: list[date]) -> str:
    """Rows per table over some days, as a person would say it."""
    counted = []
    for stage in ("ticks", "quarantine", "bars", "features", "labels"):
        rows = sum((lake.record(stage, day) or {"rows": 0})["rows"] for day in days)
        counted.append(f"{rows:,} {stage}")
    return ", ".join(counted)


def status(data: DataOption = None) -> None:
    """Show days, rows, gaps, quarantine, disk use, last runs and evaluations.

    Example: `volatility status`
    """
    settings = load_settings(data)
    lake = Lake(settings.data)
    days = sorted({*lake.raw_days(), *(day for day in lake.days("labels") if _has_rows(lake, day))})
    if not days:
        OUT.print(f"{lake.root}: no data yet; `volatility run` simulates three days to begin with.")
        return
    table = Table("day", "source", box=box.SIMPLE, padding=0)  # as wide as a terminal can be narrow
    for name in ("raw MB", "files", "gaps", "ticks", "faulty", "features", "labels"):
        table.add_column(name, justify="right")
    for column in table.columns:
        column.no_wrap = True
    for day in days:
        table.add_row(*_status_row(lake, day))
    OUT.print(table)
    _print_disk(lake)
    _print_evaluations(settings, lake)
    if (lake.root / "dagster").exists():
        _print_runs(settings)


def _has_rows(lake: Lake, day: date) -> bool:
    return any((lake.record(stage, day) or {"rows": 0})["rows"] for stage in ("bars", "labels"))


def _status_row(lake: Lake, day: date) -> list[str]:
    manifest = lake.manifest(day) or {"segments": [], "gaps": []}
    sizes = [path.stat().st_size for path in lake.segments(day)]
    is_simulated = any(segment["is_simulated"] for segment in manifest["segments"])
    stages = ("ticks", "quarantine", "features", "labels")
    rows = [lake.record(stage, day) for stage in stages]
    gaps = sum(not gap["is_hint"] for gap in manifest["gaps"])
    source = "simulated" if is_simulated else "recorded" if manifest["segments"] else "–"
    if not lake.is_manifest_current(day):
        source = "not built"
    return [
        day.isoformat(),
        source,
        "moved" if lake.moved(day) else f"{sum(sizes) / 1e6:.1f}" if sizes else "–",
        str(len(sizes)),
        str(gaps),
        *("–" if record is None else f"{record['rows']:,}" for record in rows),
    ]


def _print_disk(lake: Lake) -> None:
    from volatility_pipeline.resources.disk import free, growth, usage

    used = " · ".join(f"{kind} {size / 1e6:,.1f}" for kind, size in usage(lake.root).items())
    OUT.print(f"MB on disk: {used}; {free(lake.root) / 1e6:,.0f} free.")
    grown = growth(lake)
    if grown is not None:
        OUT.print(grown.said())
    today = datetime.now(UTC).date()
    scattered = [
        str(day)
        for day in lake.raw_days()
        if day < today and len(lake.segments(day)) > MANY_SEGMENTS
    ]
    if scattered:
        OUT.print(
            f"Days of more than {MANY_SEGMENTS} segments; to make one file of each: "
            f"[bold]volatility compact {' '.join(scattered)}[/]",
            soft_wrap=True,
        )


def _print_evaluations(settings: Settings, lake: Lake) -> None:
    products = sorted(path.stem for path in (lake.root / "evaluation").glob("product=*.json"))
    for name in products:
        product = name.removeprefix("product=")
        record = lake.record("evaluation", product)
        if record is not None:
            OUT.print(f"[bold]{product}[/]: {record['verdict']}")
            OUT.print(f"  {settings.data / 'evaluation' / name / 'report.html'}", soft_wrap=True)


def _print_runs(settings: Settings) -> None:
    from volatility_pipeline.cli.orchestrator import orchestrator

    with orchestrator(settings) as running:
        table = Table("started (UTC)", "job", "days or product", "status", box=box.SIMPLE)
        for record in running.instance.get_run_records(limit=5):
            tags = record.dagster_run.tags
            covered = tags.get("dagster/partition") or " to ".join(
                tags[f"dagster/asset_partition_range_{end}"]
                for end in ("start", "end")
                if f"dagster/asset_partition_range_{end}" in tags
            )
            started = f"{record.create_timestamp:%Y-%m-%d %H:%M:%S}"
            table.add_row(
                started,
                record.dagster_run.job_name,
                covered,
                record.dagster_run.status.value.lower(),
            )
        OUT.print(table)


def _add_rows(table: Table, landed: "Landed") -> None:
    note = "" if landed.is_new else "there already"
    if landed.is_torn:
        note = f"{note} torn: kept what decodes".strip()
    for day, lines in sorted(landed.lines.items()):
        table.add_row(landed.source, day.isoformat(), f"{lines:,}", note)
    if not landed.lines:
        table.add_row(landed.source, "–", "0", "empty: nothing to import")


def bytes_progress() -> Progress:
    """A progress bar of bytes read, on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=ERRORS,
        transient=True,
        disable=not ERRORS.is_terminal,
    )
