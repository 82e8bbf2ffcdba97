"""What was answered live, kept: appended as it is said, committed by a rename, never rewritten.

One file an hour, and a new one with each day and process start:
`predictions_live/date=…/answers-<start>-<n>.parquet`, with the champion's and the challenger's
answers side by side. What a champion would have said of a whole day is the table `predictions`;
asking the models belongs to `predictor`, reading the log to `resources/live_answers`.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from volatility_pipeline.domain.schemas import ANSWERS
from volatility_pipeline.resources import live_answers
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import commit
from volatility_pipeline.resources.warehouse import connect, create_view, write_parquet

COLUMNS: Mapping[str, str] = {column.name: column.type for column in ANSWERS.columns}
"""Of a line, with their types."""

OPEN_SUFFIX = ".ndjson.zst.tmp"
FILE_SPAN = timedelta(hours=1)
"""How much later than its first row a file may reach before it is committed."""


class AnswerLog:
    """Writes answers as they are made; each second's are on disk before the next.

    A file is lines of JSON under a temporary name for as long as it grows, and locked by its
    writer; a thread then makes Parquet of it, while the next one grows. What a killed writer left
    is committed at the next start, up to its last whole line.
    """

    def __init__(self, lake: Lake, say: Callable[[str], None]) -> None:
        self.lake = lake
        self.folder = lake.root / live_answers.FOLDER
        self.say = say
        self.lost = 0
        self._started = datetime.now(UTC)
        self._count = 0
        self._day: date | None = None
        self._until: datetime | None = None
        self._path = Path()
        self._file: BinaryIO | None = None
        self._compressor: Any = None
        self._committing: threading.Thread | None = None
        self._is_in_trouble = False
        self._take_over()

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines of `COLUMNS`, times UTC; where the disk takes none, they are counted."""
        by_day: dict[date, list[Mapping[str, Any]]] = {}
        for line in lines:
            by_day.setdefault(line["ts"].date(), []).append(line)
        for day, of_day in by_day.items():
            try:
                self._write(day, of_day)
                self._is_in_trouble = False
            except OSError as error:
                self.lost += len(of_day)
                if not self._is_in_trouble:
                    self.say(f"{self.folder}: {error.strerror}; answers are not kept, mend it.")
                self._is_in_trouble = True
                self._abandon()

    def close(self) -> None:
        """Commits the file, and waits until that is done."""
        self._finish()
        if self._committing is not None:
            self._committing.join()

    def since(self, time: datetime) -> list[dict[str, Any]]:
        """The committed answers about rows from a time (UTC) on, as `COLUMNS`, in time order."""
        with connect() as connection:
            create_view(connection, ANSWERS, live_answers.files(self.lake, time.date()))
            rows = connection.execute(
                "select * from answers where ts >= $since order by ts, product_id, role",
                {"since": time.replace(tzinfo=None)},
            ).fetchall()
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def _write(self, day: date, lines: Sequence[Mapping[str, Any]]) -> None:
        import zstandard

        newest = max(line["ts"] for line in lines)
        if self._day != day or (self._until is not None and newest >= self._until):
            self._finish()
        if self._file is None:
            name = f".answers-{self._started:%Y%m%dT%H%M%S%f}-{self._count:05d}{OPEN_SUFFIX}"
            self._path = self.folder / f"date={day}" / name
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._compressor = zstandard.ZstdCompressor().compressobj()
            self._day, self._until = day, newest + FILE_SPAN
            self._count += 1
        option = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
        text = b"".join(orjson.dumps(line, option=option) for line in lines)
        self._file.write(self._compressor.compress(text))
        self._file.write(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        self._file.flush()

    def _finish(self) -> None:
        """Ends the file and has it committed, beside what is written next."""
        if self._file is None:
            return
        try:
            self._file.write(self._compressor.flush())
            self._file.flush()
        except OSError as error:
            self.say(f"{self._path}: {error.strerror}; the next start commits it.")
            self._abandon()
            return
        if self._committing is not None:
            self._committing.join()
        path, file, self._file = self._path, self._file, None
        self._committing = threading.Thread(target=self._commit, args=(path, file), name="answers")
        self._committing.start()

    def _commit(self, path: Path, file: BinaryIO) -> None:
        """Makes Parquet of a file that grows no more, and that `file` keeps locked until then."""
        import duckdb

        with file:
            try:
                _to_parquet(path)
            except (OSError, duckdb.Error) as error:
                self.say(f"{path}: {error}; the next start tries again.")

    def _abandon(self) -> None:
        """Leaves the file as it is; the next lines go to a new one."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:  # the same trouble again, with what was still in its buffer
                return

    def _take_over(self) -> None:
        """Commits what killed writers left."""
        for path in sorted(self.folder.glob(f"date=*/.answers-*{OPEN_SUFFIX}")):
            file = path.open("rb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its writer lives
                file.close()
            else:
                self._commit(path, file)


def _to_parquet(path: Path) -> None:
    """Commits the whole lines of an open file as Parquet, and removes it."""
    final = path.with_name(path.name.removeprefix(".").removesuffix(OPEN_SUFFIX) + ".parquet")
    temporary = path.with_name(f".{final.name}.{os.getpid()}.tmp")
    # A line that was cut off is a row of nulls.
    sql = (
        "select * from read_json($path, columns = $columns, compression = 'zstd', "
        "format = 'newline_delimited', records = 'true', ignore_errors = true, "
        "hive_partitioning = false) where ts is not null order by product_id, ts, role"
    )
    try:
        with connect(threads=1) as connection:
            parameters = {"path": str(path), "columns": dict(COLUMNS)}
            if write_parquet(connection, ANSWERS, sql, parameters, temporary):
                commit(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    path.unlink()
