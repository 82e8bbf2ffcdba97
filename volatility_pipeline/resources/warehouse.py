"""The warehouse: runs the files of `sql/` over the lake's partitions in short-lived DuckDBs.

It knows which relations a stage's SQL reads and gives them their names; what the SQL means is said
there, and where files lie is the lake's.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.reach import DATA_STAGES, REACH, affected
from volatility_pipeline.domain.schemas import TABLES, Table
from volatility_pipeline.resources.lake import MANIFEST, Lake

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SQL = Path(__file__).parents[2] / "sql"
STAGE_SQL = {
    "raw": ("00_raw.sql", "05_messages.sql"),
    "ticks": ("05_messages.sql", "10_ticks.sql"),
    "bars": ("20_bars.sql",),
    "features": ("30_features.sql",),
    "labels": ("40_labels.sql",),
    "splits": ("50_splits.sql",),
}
TIME_COLUMNS = {"ticks": "event_time", "bars": "second", "features": "ts", "labels": "ts"}
OUTLINES = {
    "bars": "mid",
    "features": "realized_volatility_60s",
    "labels": "future_volatility_60s",
}
DOMAIN = Path(__file__).parents[1] / "domain"
READER = (DOMAIN / "messages.py", DOMAIN / "values.py")


def sql_text(name: str) -> str:
    """The text of a file in `sql/`."""
    return (SQL / name).read_text()


def code_hash(stage: str) -> str:
    """Hash of the code that decides what a data stage holds: its SQL, schema and plain reader."""
    digest = hashlib.sha256()
    for name in STAGE_SQL[stage]:
        digest.update((SQL / name).read_bytes())
    if stage in ("raw", "ticks"):
        for path in READER:
            digest.update(path.read_bytes())
    if stage in TABLES:
        digest.update(str(TABLES[stage].version).encode())
    return digest.hexdigest()[:16]


@contextmanager
def connect(threads: int | None = None) -> Iterator["duckdb.DuckDBPyConnection"]:
    """An in-memory DuckDB in UTC that loads no extension by itself and never asks the network."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="volatility-duckdb-") as spill:
        config: dict[str, Any] = {
            "temp_directory": spill,
            "autoinstall_known_extensions": "false",
        }
        if threads is not None:
            config["threads"] = threads
        connection = duckdb.connect(config=config)
        try:
            connection.execute("set TimeZone = 'UTC'")
            connection.execute("set enable_progress_bar = false")
            # Else a Parquet column is marked optional or required by what the optimizer can prove
            # of its input, and the same rows give other bytes.
            connection.execute("set disabled_optimizers = 'statistics_propagation'")
            yield connection
        finally:
            connection.close()


@dataclass(frozen=True)
class Warehouse:
    """Runs a stage's SQL. `threads` is None for all cores."""

    lake: Lake
    max_gap_seconds: int = 30
    threads: int | None = None

    def made_from(self, stage: str, day: date) -> dict[str, Any]:
        """All that decides the content of a data partition: inputs, code, settings."""
        inputs = {
            f"{source}/{near:%Y-%m-%d}": self.lake.content(source, near)
            for source, near in REACH[stage].days(day)
        }
        made_from: dict[str, Any] = {
            "inputs": {name: content for name, content in inputs.items() if content},
            "code": code_hash(stage),
        }
        if "$max_gap_seconds" in "".join(map(sql_text, STAGE_SQL[stage])):
            made_from["max_gap_seconds"] = self.max_gap_seconds
        return made_from

    def is_current(self, stage: str, day: date) -> bool:
        """Whether a data partition is there, made from what is there now."""
        if stage == "raw":
            return self.lake.is_manifest_current(day)
        made_from = self.made_from(stage, day)
        record = self.lake.record(stage, day)
        if record is None:
            return not made_from["inputs"] and not self.lake.file(stage, day).exists()
        if stage == "ticks" and self.lake.moved(day):
            return True  # they are the source now
        return bool(record["made_from"] == made_from)

    def stale_days(self, is_partition: Callable[[date], bool]) -> list[date]:
        """The days that a build has to look at: what is stale, and what that may change.

        Only a day with raw lines, the day after one, and a day that was built once can hold rows.
        """
        raw = self.lake.raw_days()
        days = {*raw, *(day + timedelta(days=1) for day in raw)}
        for stage in DATA_STAGES:
            days |= set(self.lake.days(stage))
        days = {day for day in days if is_partition(day)}
        stale = {
            (stage, day) for day in days for stage in DATA_STAGES if not self.is_current(stage, day)
        }
        return sorted(days & {day for _, day in affected(stale)})

    def state(self, first: date, last: date) -> str:
        """A hash of all that decides whether some days are stale: it is another once any is.

        That is the code, the settings, and the names, sizes and times of the files of these days
        and of the neighbours that they read.
        """
        digest = hashlib.sha256(str(self.max_gap_seconds).encode())
        for stage in DATA_STAGES:
            digest.update(code_hash(stage).encode())
        for count in range(-1, (last - first).days + 2):
            day = first + timedelta(days=count)
            paths = [*self.lake.segments(day), self.lake.raw_folder(day) / MANIFEST]
            for stage in DATA_STAGES[1:]:
                paths += [self.lake.file(stage, day, suffix) for suffix in (".json", ".parquet")]
            for path in paths:
                with suppress(FileNotFoundError):
                    found = path.stat()
                    digest.update(f"{path}/{found.st_size}/{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def build(self, stage: str, day: date) -> dict[str, Any]:
        """Builds one day of bars, features or labels and returns its record."""
        made_from = self.made_from(stage, day)

        def write(path: Path) -> int:
            with connect(self.threads) as connection:
                for source in {source for source, _ in REACH[stage].days(day)}:
                    files = [
                        self.lake.file(name, near)
                        for name, near in REACH[stage].days(day)
                        if name == source
                    ]
                    create_view(connection, TABLES[source], files)
                sql = sql_text(STAGE_SQL[stage][-1])
                return write_parquet(connection, TABLES[stage], sql, self._bounds(day, sql), path)

        if not made_from["inputs"]:
            return self.lake.write_partition(stage, day, lambda _: 0, made_from)
        return self.lake.write_partition(stage, day, write, made_from)

    def _bounds(self, day: date, sql: str) -> dict[str, Any]:
        start = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (naive UTC)
        values = {
            "start": start,
            "end": start + timedelta(days=1),
            "max_gap_seconds": self.max_gap_seconds,
            "latest": datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1),
        }
        return {name: value for name, value in values.items() if f"${name}" in sql}

    def labelled_rows(self, product: str) -> "pa.Table":
        """All feature rows of a product with their labels, in time order (`50_splits.sql`)."""
        with connect(self.threads) as connection:
            for stage in ("features", "labels"):
                create_view(connection, TABLES[stage], self.lake.files(stage))
            sql = sql_text("50_splits.sql")
            return connection.sql(sql, params={"product": product}).to_arrow_table()

    def write_rows(
        self,
        stage: str,
        product: str,
        rows: "pa.Table",
        made_from: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Writes a model stage's table from rows that are in order; returns its record."""
        table = TABLES[stage]
        columns = ", ".join(
            f'"{column.name}"::{column.type} as "{column.name}"' for column in table.columns
        )

        def write(path: Path) -> int:
            with connect(self.threads) as connection:
                connection.register("rows_to_write", rows)
                return write_parquet(
                    connection, table, f"select {columns} from rows_to_write", {}, path
                )

        return self.lake.write_partition(stage, product, write, made_from, facts)

    def describe(self, stage: str, day: date) -> dict[str, Any]:
        """Rows, bytes, products and time range of a day's table; for labels, the spike rate."""
        path = self.lake.file(stage, day)
        time = TIME_COLUMNS[stage]
        more = (
            ", avg((future_volatility_60s >= trailing_threshold and future_volatility_60s > 0)"
            "::int) as spike_rate, count(future_volatility_60s) as labelled_rows"
            if stage == "labels"
            else ""
        )
        with connect(self.threads) as connection:
            create_view(connection, TABLES[stage], [path])
            facts = _rows(
                connection,
                f'select count(*) as "dagster/row_count", '
                f"coalesce(string_agg(distinct product_id, ', ' order by product_id), '') "
                f'as products, min({time})::varchar as "from", max({time})::varchar as "to"{more} '
                f"from {stage}",
            )[0]
        facts["bytes"] = path.stat().st_size if path.exists() else 0
        return {name: value for name, value in facts.items() if value is not None}

    def outline(self, stage: str, day: date) -> dict[str, list[float]]:
        """What a person would look at first, ten-minute means per product: at most 144 values."""
        if stage not in OUTLINES:
            return {}
        with connect(self.threads) as connection:
            create_view(connection, TABLES[stage], [self.lake.file(stage, day)])
            found = connection.execute(
                f"select product_id, list(value order by slot) from (select product_id, "
                f"time_bucket(interval 10 minutes, {TIME_COLUMNS[stage]}) as slot, "
                f"avg({OUTLINES[stage]}) as value from {stage} "
                "group by all having value is not null) group by all order by all"
            ).fetchall()
        return dict(found)

    def reasons(self, day: date) -> dict[str, int]:
        """The day's quarantined lines and tickers, counted by reason."""
        with connect(self.threads) as connection:
            create_view(connection, TABLES["quarantine"], [self.lake.file("quarantine", day)])
            sql = "select reason, count(*) from quarantine group by reason order by reason"
            return dict(connection.execute(sql).fetchall())

    def products(self, days: Sequence[date] | None = None) -> list[str]:
        """The products in the ticks of some days, or of all, in order."""
        files = (
            self.lake.files("ticks")
            if days is None
            else [self.lake.file("ticks", day) for day in days]
        )
        with connect(self.threads) as connection:
            create_view(connection, TABLES["ticks"], files)
            sql = "select distinct product_id from ticks order by product_id"
            return [row[0] for row in connection.execute(sql).fetchall()]

    def newest_tick(self, product: str) -> datetime | None:
        """The event time of a product's newest tick, UTC; None without any."""
        sql = "select max(event_time) from ticks where product_id = $product"
        with connect(self.threads) as connection:
            for day in reversed(self.lake.days("ticks")):
                create_view(connection, TABLES["ticks"], [self.lake.file("ticks", day)])
                ((found,),) = connection.execute(sql, {"product": product}).fetchall()
                if found is not None:
                    newest: datetime = found.replace(tzinfo=UTC)
                    return newest
        return None

    def bad_rows(
        self,
        check: str,
        days: Mapping[str, Sequence[date]],
        tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        **parameters: Any,
    ) -> list[dict[str, Any]]:
        """The rows that a query in `sql/checks/` finds at fault.

        Args:
            check: The query's file, without its ending.
            days: For each table of the lake that it reads, the days it may see.
            tables: Other tables that it reads, as rows.
            parameters: Its bound parameters.
        """
        with connect(self.threads) as connection:
            for name, chosen in days.items():
                create_view(connection, TABLES[name], [self.lake.file(name, day) for day in chosen])
            for name, rows in (tables or {}).items():
                create_table(connection, name, rows)
            return _rows(connection, sql_text(f"checks/{check}.sql"), parameters)

    def bad_days(
        self, check: str, days: Mapping[str, Sequence[date]], day: date
    ) -> list[dict[str, Any]]:
        """`bad_rows` of a check that is bound to one day by `$start` and `$end`."""
        start = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (naive UTC)
        return self.bad_rows(check, days, start=start, end=start + timedelta(days=1))


def _rows(
    connection: "duckdb.DuckDBPyConnection", sql: str, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    found = connection.execute(sql, parameters or {})
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def create_view(
    connection: "duckdb.DuckDBPyConnection", table: Table, files: Sequence[Path]
) -> None:
    """Names a table's partitions; those that are absent count as empty, all absent as no rows."""
    present = [str(path) for path in files if path.exists()]
    if present:
        connection.read_parquet(present).create_view(table.name, replace=True)
    else:
        connection.execute(f"create or replace temp view {table.name} as {table.empty_select()}")


def create_table(
    connection: "duckdb.DuckDBPyConnection", name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """A temporary table of texts and integers from rows that are alike, of which one at least."""
    columns = ", ".join(
        f'"{column}" {"bigint" if isinstance(value, int) else "varchar"}'
        for column, value in rows[0].items()
    )
    connection.execute(f"create or replace temp table {name} ({columns})")
    lists = ", ".join("unnest(?)" for _ in rows[0])
    values = [[row[column] for row in rows] for column in rows[0]]
    connection.execute(f"insert into {name} select {lists}", values)


def write_parquet(
    connection: "duckdb.DuckDBPyConnection",
    table: Table,
    sql: str,
    parameters: Mapping[str, Any],
    path: Path,
) -> int:
    """Writes what a select yields, if it is the table's columns in order; returns the rows."""
    described = connection.execute(f"describe {sql}", parameters).fetchall()
    expected = [(column.name, column.type) for column in table.columns]
    if [(row[0], row[1]) for row in described] != expected:
        raise TypeError(f"the SQL of {table.name} yields {described}, not {expected}")
    target = str(path).replace("'", "''")
    row = connection.execute(
        f"copy ({sql}) to '{target}' (format parquet, compression zstd, "
        f"kv_metadata {{table_name: '{table.name}', schema_version: '{table.version}'}})",
        parameters,
    ).fetchone()
    return int(row[0]) if row else 0
