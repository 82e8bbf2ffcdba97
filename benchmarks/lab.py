"""The laboratory: the folder with the made-up days, and the measurements that can be made there."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agreement import disagreements
from benchmarks.measure import Run, command, fresh
from benchmarks.pipeline import make_root


class Lab:
    """The days' files in one folder, all else in another of its file system, for links to do.

    `step` is told what is being done.
    """

    def __init__(self, days: Path, work: Path, step: Callable[[str], None]) -> None:
        self.days = days
        self.work = work
        self.step = step

    def write_day(self, day: str, ticks: int) -> Path:
        """A made-up day's file; one that was kept is taken as it is."""
        return self._write(f"{day}-{ticks}.ndjson", "day:write_day", day, ticks)

    def write_head(self, source: Path, lines: int) -> Path:
        """A file's first lines as a file."""
        name = f"{source.stem}-first-{lines}.ndjson"
        return self._write(name, "day:write_head", str(source), lines)

    def _write(self, name: str, function: str, *arguments: str | int) -> Path:
        path = self.days / name
        self.step(f"writing {name}")
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            fresh(function, str(unfinished), *arguments)
            unfinished.rename(path)
        return path

    def settle(self, source: Path) -> None:
        """Waits until written files are on the disk, and has the one that all read in memory."""
        self.step("waiting for the disk")
        os.sync()
        with source.open("rb") as file:
            while file.read(1 << 20):
                pass

    def bare_read(self, source: Path) -> Run:
        """DuckDB alone, one column."""
        self.step("bare read")
        return fresh("pipeline:bare_read", str(source))

    def sql(self, sources: Mapping[str, Path]) -> Run:
        """Raw to labels without Dagster; the result holds a run for each stage."""
        self.step(f"raw to labels as SQL, {_named(sources)}")
        with self._root(sources) as root:
            return fresh("pipeline:build", str(root), list(sources))

    def polars(self, source: Path) -> Run:
        """The same features and labels in polars."""
        self.step("polars")
        return fresh("polars_features:write_features", str(source), str(self._polars_file))

    def polars_with_ticks(self, source: Path) -> Run:
        """The same, and the ticks written as the pipeline writes them."""
        self.step("polars, the ticks too")
        return fresh("polars_features:write_ticks_too", str(source), str(self._polars_file))

    def incremental(self, source: Path, lines: int) -> Run:
        """Features tick by tick in Python, over the first lines."""
        self.step("incremental Python")
        return fresh("incremental:count_features", str(source), lines)

    def compare(self, day: str, source: Path) -> dict[str, int]:
        """Rows at odds per column between the pipeline and polars."""
        self.step("comparing with polars, row by row")
        with self._root({day: source}) as root:
            fresh("pipeline:build", str(root), [day])
            fresh("polars_features:write_features", str(source), str(self._polars_file))
            return disagreements(str(root), day, str(self._polars_file))

    def build_command(self, sources: Mapping[str, Path]) -> Run:
        """`volatility build` on a fresh data root whose raw files are in place."""
        self.step(f"volatility build, {_named(sources)}")
        with self._root(sources) as root:
            return command("build", data=root)

    def import_command(self, source: Path) -> Run:
        """`volatility import` into a fresh data root."""
        self.step("volatility import")
        with self._root({}) as root:
            return command("import", source, data=root)

    @property
    def _polars_file(self) -> Path:
        return self.work / "polars.parquet"

    @contextmanager
    def _root(self, sources: Mapping[str, Path]) -> Iterator[Path]:
        """A fresh data root, gone afterwards."""
        root = self.work / "root"
        try:
            yield make_root(root, sources)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _named(sources: Mapping[str, Path]) -> str:
    return next(iter(sources.values())).stem if len(sources) == 1 else f"{len(sources)} days"
