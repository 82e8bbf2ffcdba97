"""What was answered live, kept: appended as it is said, committed by a rename, never rewritten.

One file a day and process start, `predictions_live/date=…/answers-<start>-<n>.ndjson.zst`, with the
champion's and the challenger's answers side by side. What a champion would have said of a whole day
is the table `predictions`; asking the models belongs to `predictor`.
"""

import fcntl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import Decoded, commit
from volatility_pipeline.resources.warehouse import connect

STAGE = "predictions_live"
COLUMNS: Mapping[str, str] = {
    "product_id": "VARCHAR",
    "ts": "TIMESTAMP",
    "role": "VARCHAR",
    "probability": "DOUBLE",
    "threshold": "DOUBLE",
    "decision_threshold": "DOUBLE",
    "is_alert": "BOOLEAN",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "trained_until": "TIMESTAMP",
    "realized_volatility_60s": "DOUBLE",
    "seconds_since_tick": "DOUBLE",
    "answered_at": "TIMESTAMP",
}
"""Of a line, as those of `predictions`. `role` is `champion`, whose answer was given out, or
`challenger`; `answered_at` is when it was made."""

OPEN_SUFFIX = ".tmp"


class AnswerLog:
    """Writes answers as they are made; each second's are on disk before the next.

    A file under its temporary name is locked for as long as its writer lives. What a killed one
    left is committed at the next start, up to its last whole line.
    """

    def __init__(self, lake: Lake, say: Callable[[str], None]) -> None:
        self.folder = lake.root / STAGE
        self.say = say
        self.lost = 0
        self._started = datetime.now(UTC)
        self._count = 0
        self._day: date | None = None
        self._path = Path()
        self._file: BinaryIO | None = None
        self._compressor: Any = None
        self._is_in_trouble = False
        self._take_over()

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines of `COLUMNS`, times UTC; where the disk takes none, they are counted."""
        by_day: dict[date, list[bytes]] = {}
        for line in lines:
            said = orjson.dumps(line, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
            by_day.setdefault(line["ts"].date(), []).append(said + b"\n")
        for day, texts in by_day.items():
            try:
                self._write(day, b"".join(texts))
                self._is_in_trouble = False
            except OSError as error:
                self.lost += len(texts)
                if not self._is_in_trouble:
                    self.say(f"{self.folder}: {error.strerror}; answers are not kept, mend it.")
                self._is_in_trouble = True
                self._abandon()

    def close(self) -> None:
        """Commits the file."""
        if self._file is None:
            return
        try:
            self._file.write(self._compressor.flush())
            self._file.flush()
            commit(self._path, _final(self._path))
            self._file.close()
            self._file = None
        except OSError as error:
            self.say(f"{self._path}: {error.strerror}; the next start commits it.")
            self._abandon()

    def since(self, time: datetime) -> list[dict[str, Any]]:
        """The committed answers about rows from a time (UTC) on, as `COLUMNS`, in time order."""
        files = [
            str(path)
            for path in sorted(self.folder.glob("date=*/answers-*.ndjson.zst"))
            if path.parent.name >= f"date={time.date()}"
        ]
        if not files:
            return []
        with connect() as connection:
            rows = connection.execute(
                "select * from read_json($files, columns = $columns, records = 'true', "
                "format = 'newline_delimited', hive_partitioning = false) "
                "where ts >= $since order by ts, product_id, role",
                {"files": files, "columns": dict(COLUMNS), "since": time.replace(tzinfo=None)},
            ).fetchall()
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def _write(self, day: date, text: bytes) -> None:
        import zstandard

        if self._day != day:
            self.close()
        if self._file is None:
            name = f".answers-{self._started:%Y%m%dT%H%M%S%f}-{self._count:03d}.ndjson.zst"
            self._path = self.folder / f"date={day}" / f"{name}{OPEN_SUFFIX}"
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._compressor = zstandard.ZstdCompressor().compressobj()
            self._day = day
            self._count += 1
        self._file.write(self._compressor.compress(text))
        self._file.write(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        self._file.flush()

    def _abandon(self) -> None:
        """Leaves the file as it is; the next lines go to a new one."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:  # the same trouble again, with what was still in its buffer
                return

    def _take_over(self) -> None:
        """Commits what killed writers left, up to the last whole line."""
        import zstandard

        for path in self.folder.glob(f"date=*/.answers-*{OPEN_SUFFIX}"):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its writer lives
                mended = path.with_name(f"{path.name}.mended")
                with mended.open("wb") as copy:
                    compressor, carry = zstandard.ZstdCompressor().compressobj(), b""
                    for block in Decoded(path, ".zst"):
                        whole, newline, rest = block.rpartition(b"\n")
                        copy.write(compressor.compress(carry + whole + newline if newline else b""))
                        carry = rest if newline else carry + block
                    copy.write(compressor.flush())
                commit(mended, _final(path))
                path.unlink()


def _final(path: Path) -> Path:
    return path.with_name(path.name.removeprefix(".").removesuffix(OPEN_SUFFIX))
