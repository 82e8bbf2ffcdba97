"""Commands of the feature store: query, publish."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from volatility_pipeline.cli.console import OUT, DataOption, load_settings
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.resources.lake import Lake

SHOWN_ROWS = 100


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(query)
    app.command()(publish)


def query(
    sql: Annotated[str, typer.Argument(help="A query, or a file that holds one.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="All rows as CSV.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="All rows as JSON, one object a row.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Ask the feature store in SQL; it is opened read-only.

    Example: `volatility query "select product_id, count(*) from features group by all"`
    """
    from volatility_pipeline.resources.feature_store import FILE

    path = load_settings(data).data / FILE
    if not path.exists():
        raise BadInputError(f"{path}: no feature store yet; `volatility build` publishes it.")
    names, rows = _ask(path, sql)
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(dict(zip(names, row, strict=True)), default=str) + "\n")
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    else:
        table = Table(*(Column(name, overflow="fold") for name in names))
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*(_shown(value) for value in row))
        OUT.print(table)
        if len(rows) > SHOWN_ROWS:
            OUT.print(f"… and {len(rows) - SHOWN_ROWS:,} more rows (--csv or --json gives all).")


def _ask(path: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    import duckdb

    if sql.endswith(".sql"):
        try:
            sql = Path(sql).read_text()
        except OSError as error:
            raise BadInputError(f"{sql}: cannot be read ({error.strerror}).") from error
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        try:
            found = connection.execute(sql)
            return [column[0] for column in found.description or ()], found.fetchall()
        except duckdb.Error as error:
            said = " ".join(str(error).split())
            raise BadInputError(
                f'{said}. `volatility query "show tables"` lists what there is.'
            ) from error


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def publish(data: DataOption = None) -> None:
    """Write the feature store's catalogue anew, for example after the data root was moved.

    Example: `volatility publish --data /mnt/market/data`
    """
    from volatility_pipeline.resources.feature_store import publish as publish_store

    settings = load_settings(data)
    if not settings.data.exists():
        raise BadInputError(f"{settings.data}: no such data root; name it with --data.")
    OUT.print(f"Published {publish_store(Lake(settings.data))}", soft_wrap=True)
