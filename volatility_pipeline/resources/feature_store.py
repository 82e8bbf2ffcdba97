"""The feature store: one DuckDB file of commented views over the partitions, for analysts.

It holds no rows. DuckDB opens a file several times in one query, so it must not be replaced in
between: the views read hard links to the partitions as they were at the publish, which stay until
nobody reads them. A new catalogue is written beside the old one and renamed, so that a reader never
waits and never meets a half-written file.
"""

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from volatility_pipeline.domain.schemas import (
    ANSWERS,
    LABELS,
    PREDICTIONS_LIVE,
    SPLITS,
    TABLES,
    Column,
    Table,
)
from volatility_pipeline.resources import live_answers
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import commit
from volatility_pipeline.resources.warehouse import sql_text

if TYPE_CHECKING:
    import duckdb

FILE = "feature_store.duckdb"
SNAPSHOTS = ".published"
KEPT_SNAPSHOTS = 2  # the new one, and the one that somebody may be about to open


def publish(lake: Lake) -> Path:
    """Writes the catalogue anew and returns its path."""
    import duckdb

    lake.check_writable()
    final = lake.root / FILE
    temporary = final.with_name(f".{FILE}.{os.getpid()}.tmp")
    snapshot = lake.root.absolute() / SNAPSHOTS / str(time.time_ns())
    try:
        for table in TABLES.values():
            _link(lake.files(table.name), snapshot / table.name)
        _link(live_answers.files(lake), snapshot / ANSWERS.name)
        with duckdb.connect(str(snapshot / FILE)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            for table in TABLES.values():
                _create_view(connection, table.name, table, _source(table, snapshot / table.name))
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
            _create_view(
                connection,
                PREDICTIONS_LIVE.name,
                PREDICTIONS_LIVE,
                f"with answers as ({_source(ANSWERS, snapshot / ANSWERS.name)}) "
                f"{sql_text(live_answers.SQL_FILE)}",
            )
            connection.execute("checkpoint")
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(snapshot / FILE)
        commit(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    for old in sorted(snapshot.parent.iterdir())[:-KEPT_SNAPSHOTS]:
        if not _is_read(old / FILE):
            shutil.rmtree(old, ignore_errors=True)
    return final


def _link(paths: Iterable[Path], folder: Path) -> None:
    """Links a table's files, without their ending, lest anybody takes a link for one."""
    folder.mkdir(parents=True)
    for path in paths:
        try:
            (folder / path.stem).hardlink_to(path)
        except FileNotFoundError:  # a build has just removed it
            continue


def _is_read(catalogue: Path) -> bool:
    """Whether another process has the catalogue open: DuckDB locks what it reads or writes."""
    try:
        with catalogue.open("rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # EAGAIN or EACCES, as POSIX leaves open
        return True
    return False


def _source(table: Table, folder: Path) -> str:
    if not any(folder.iterdir()):
        return table.empty_select()
    columns = ", ".join(
        # Parquet knows no hugeint: DuckDB keeps it there as a double.
        f'"{column.name}"::{column.type} as "{column.name}"'
        for column in table.columns
    )
    pattern = _quoted(f"{glob.escape(str(folder))}/*")
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
