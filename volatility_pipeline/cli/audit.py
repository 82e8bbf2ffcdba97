"""The audit: the controls, and the same rows by protocols that flatter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from volatility_pipeline.cli.console import (
    ERRORS,
    OUT,
    DataOption,
    chosen_products,
    load_settings,
    quiet_dagster,
)
from volatility_pipeline.cli.models import ProductsOption
from volatility_pipeline.domain.errors import BadInputError, RefusedError

if TYPE_CHECKING:
    from volatility_pipeline.domain.controls import AuditSection
    from volatility_pipeline.domain.fold_results import FoldScore, WalkForwardResult
    from volatility_pipeline.domain.leakage import LeakageRow
    from volatility_pipeline.resources.lake import Lake

NOISE_SEEDS = 10
VERDICTS = {True: "[green]holds[/]", False: "[bold red]FAILS[/]", None: "[yellow]not judged[/]"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(audit)


def audit(
    products: ProductsOption = None,
    noise_seeds: Annotated[
        int, typer.Option(help="Simulated noise markets to pool; 0 leaves them out.")
    ] = NOISE_SEEDS,
    noise_hours: Annotated[float, typer.Option(help="How long each of them is.")] = 12.0,
    data: DataOption = None,
) -> None:
    """Run the controls and walk-forwards; show what leaky protocols would make of the same rows.

    Exit code 1 where a control fails. Takes some minutes.

    Example: `volatility audit --products BTC-USD --noise-seeds 10`
    """
    settings = load_settings(data)
    from volatility_pipeline.domain.controls import MINIMUM_DRAWS, AuditSection
    from volatility_pipeline.resources.audit import LEAST_NOISE_HOURS

    if noise_seeds and noise_seeds < MINIMUM_DRAWS:
        raise BadInputError(
            f"--noise-seeds {noise_seeds}: a mean needs {MINIMUM_DRAWS} markets at least; "
            "0 leaves them out."
        )
    if not LEAST_NOISE_HOURS <= noise_hours <= 240:
        raise BadInputError(
            f"--noise-hours {noise_hours:g}: give {LEAST_NOISE_HOURS:g} to 240; shorter markets "
            "hold too few spikes to be judged by."
        )
    quiet_dagster()
    from volatility_pipeline.definitions import resources

    made = resources(settings)
    lake, running = made["lake"], made["evaluations"].audit
    chosen = _chosen(lake, products)
    lake.check_writable()
    with ERRORS.status("Auditing") as shown:

        def say(text: str) -> None:
            shown.update(f"Auditing · {text}")

        sections = [made["evaluations"].audit_product(name, progress=say) for name in chosen]
        is_simulated = any(section.is_simulated for section in sections)
        truncation = running.truncation(progress=say)
        sections.append(AuditSection("all products", is_simulated, {}, (truncation,)))
        if noise_seeds:
            sections.append(running.noise(noise_seeds, hours=noise_hours, progress=say))
        path, picture = running.write(sections)
    for section in sections:
        _show(section)
    OUT.print(f"Audit: {path}\nPicture: {picture}", soft_wrap=True)
    failed = [
        f"{section.subject}, {control.name}"
        for section in sections
        for control in section.controls
        if control.passed is False
    ]
    if failed:
        raise RefusedError(
            f"{len(failed)} control{'s' if failed[1:] else ''} failed: {'; '.join(failed)}."
        )


def _chosen(lake: "Lake", products: str | None) -> list[str]:
    known = lake.products("splits")
    if not known:
        raise BadInputError(
            f"{lake.root / 'splits'}: no splits to audit; `volatility train` makes them."
        )
    split = f"no splits; there are those of {', '.join(known)}"
    return chosen_products(products, known, otherwise=split)


def _show(section: "AuditSection") -> None:
    """Prints a section's controls and its leakage audit."""
    mark = "[yellow]SIMULATED DATA[/] " if section.is_simulated else ""
    OUT.print(f"\n{mark}[bold]{section.subject}[/]", soft_wrap=True)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("Control", "", "Finding"):
        table.add_column(column)
    for control in section.controls:
        table.add_row(control.name, VERDICTS[control.passed], control.sentence)
    OUT.print(table)
    if section.leakage:
        show_leakage(section.leakage)
    if any(walk.pooled for walk in section.walks):
        _show_walks(section.walks)


def show_leakage(rows: "Sequence[LeakageRow]") -> None:
    """Prints what each protocol makes of each model, the leaky ones labelled so."""
    from volatility_pipeline.domain.leakage import title

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("Protocol")
    table.add_column("")
    table.add_column("Model", no_wrap=True)
    for column in ("Base", "PR-AUC", "Lift", "Learnt from", "Judged by"):
        table.add_column(column, justify="right")
    previous = None
    for row in rows:
        label = f"[bold red]{row.label}[/]" if row.protocol.is_leaky else row.label
        is_new = row.protocol != previous
        previous = row.protocol
        table.add_row(
            row.protocol.title if is_new else "",
            label,
            title(row.model),
            _number(row.base_rate, ".3f"),
            _number(row.average_precision, ".3f"),
            _number(row.lift, ".2f"),
            f"{row.training_rows:,}",
            f"{row.test_rows:,}",
        )
    OUT.print(table)


def _show_walks(walks: "Sequence[WalkForwardResult]") -> None:
    """Prints the pooled PR-AUC of each model over the folds of each window."""
    from volatility_pipeline.domain.leakage import title

    pooled = {f"{walk.window}, {len(walk.folds)} folds": walk.pooled for walk in walks}
    scores = {
        window: {s.name: s for s in found.models} for window, found in pooled.items() if found
    }
    table = Table("Walk-forward, pooled", box=box.SIMPLE, pad_edge=False)
    for window in scores:
        table.add_column(window, justify="right")
    for name in next(iter(scores.values())):
        table.add_row(title(name), *(_estimate(found[name]) for found in scores.values()))
    OUT.print(table)


def _estimate(score: "FoldScore") -> str:
    found = score.average_precision
    if found is None:
        return "–"
    bounds = f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None else ""
    return f"{found.value:.3f}{bounds}"


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else f"{value:{style}}"
