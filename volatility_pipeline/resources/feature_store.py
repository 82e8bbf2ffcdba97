"""The feature store: one DuckDB file of commented views over the partitions, for analysts.

It holds no rows. A new one is written beside the old one and renamed, so that a reader never waits
and never meets a half-written file.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from volatility_pipeline.domain.schemas import LABELS, SPLITS, TABLES, Column, Table
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import commit

if TYPE_CHECKING:
    import duckdb

FILE = "feature_store.duckdb"


def publish(lake: Lake) -> Path:
    """Writes the catalogue anew and returns its path."""
    import duckdb

    lake.check_writable()
    final = lake.root / FILE
    temporary = final.with_name(f".{FILE}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(temporary)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            for table in TABLES.values():
                _create_view(connection, table.name, table, _source(lake, table))
            _create_view(
                connection,
                "training_rows",
                _training_rows(),
                "select features.*, labels.future_volatility_60s, labels.trailing_threshold, "
                "labels.future_volatility_60s >= labels.trailing_threshold "
                "and labels.future_volatility_60s > 0 as is_spike "
                "from features inner join labels using (product_id, ts) "
                "where labels.future_volatility_60s is not null "
                "and labels.trailing_threshold is not null",
            )
            connection.execute("checkpoint")
        commit(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
        temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)
    return final


def _source(lake: Lake, table: Table) -> str:
    if not lake.files(table.name):
        return table.empty_select()
    pattern = str(lake.root.absolute() / table.name / "*=*.parquet").replace("'", "''")
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    return f"select {columns} from read_parquet('{pattern}', hive_partitioning = false)"


def _training_rows() -> Table:
    columns = {column.name: column for column in (*SPLITS.columns, *LABELS.columns)}
    for name in ("threshold", "role"):
        del columns[name]
    spike = columns.pop("is_spike")
    return Table(
        "training_rows",
        1,
        "features with their labels, every known row; a spike is judged by the trailing threshold",
        (*columns.values(), spike),
    )


def _create_view(
    connection: "duckdb.DuckDBPyConnection", name: str, table: Table, sql: str
) -> None:
    connection.execute(f"create view {name} as {sql}")
    connection.execute(f"comment on view {name} is '{_quoted(table.comment)}'")
    for column in table.columns:
        _comment_column(connection, name, column)


def _comment_column(connection: "duckdb.DuckDBPyConnection", view: str, column: Column) -> None:
    connection.execute(f"comment on column {view}.\"{column.name}\" is '{_quoted(column.comment)}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
