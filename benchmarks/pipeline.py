"""The pipeline's own work, without Dagster: raw segments to labels, stage by stage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.measure import Stopwatch
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse

SQL_STAGES = ("ticks", "bars", "features", "labels")


def bare_read(source: str) -> int:
    """DuckDB reads one column of the raw file and counts it: nobody can read it in less."""
    with duckdb.connect() as connection:
        row = connection.execute(
            "select count(product_id) from read_json($source, "
            "columns = {product_id: 'varchar'}, format = 'newline_delimited')",
            {"source": source},
        ).fetchone()
    return int(row[0]) if row else 0


def build(root: str, days: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Builds days in a data root whose raw files are in place, each stage over all days.

    Returns:
        For each stage, the manifest first, its measured `Run` as a dictionary.
    """
    lake = Lake(Path(root))
    warehouse = Warehouse(lake)
    ingest = Ingest(lake, warehouse)
    chosen = [date.fromisoformat(day) for day in days]
    runs = {}
    for stage in ("manifest", *SQL_STAGES):
        with Stopwatch() as watch:
            for day in chosen:
                if stage == "manifest":
                    ingest.write_manifest(day)
                elif stage == "ticks":
                    ingest.build_ticks(day)
                else:
                    warehouse.build(stage, day)
        runs[stage] = asdict(watch.run)
    return runs


def make_root(root: Path, sources: Mapping[str, Path]) -> Path:
    """A data root that holds a raw segment for each day, linked rather than copied."""
    for day, source in sources.items():
        folder = Lake(root).raw_folder(date.fromisoformat(day))
        folder.mkdir(parents=True)
        (folder / f"recorded-{day}.ndjson").hardlink_to(source)
    return root
