"""Putting raw lines into the lake: recordings by event day, and simulated markets.

Every segment is written to a temporary name and renamed; either all of a file's days are there, or
none that was not there before.
"""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BufferedWriter
from pathlib import Path

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.messages import read_day
from volatility_pipeline.domain.simulation import Market, simulate
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import (
    Decoded,
    commit,
    file_sha256,
    segment_name,
    stem_and_suffix,
)

COMPRESSION_LEVEL = 3


@dataclass
class Landed:
    """What came of one source: lines by day, and whether it was there already."""

    source: str
    lines: dict[date, int] = field(default_factory=dict)
    is_torn: bool = False
    is_new: bool = False


def check_recording(path: Path) -> None:
    """Raises BadInputError where there is no file to read at a path."""
    if path.is_dir():
        raise BadInputError(f"{path}: a folder; name the recordings in it, like {path}/*.ndjson.")
    if not path.is_file():
        raise BadInputError(f"{path}: no such file; name a recording (.ndjson, .gz or .zst).")
    if not os.access(path, os.R_OK):
        raise BadInputError(f"{path}: may not be read; mend its permissions.")


def import_file(
    lake: Lake, path: Path, first_day: date, *, progress: Callable[[int], None] = lambda _: None
) -> Landed:
    """Copies a recording's lines, byte for byte, to the raw folders of their event days.

    A line without a readable time stays with the line before it (at the head of the file, with
    the first line that has one). A torn compressed file is read to its end, and the segment of
    its last line is left as torn as it was, so that the manifest can tell.

    Args:
        lake: Where to.
        path: The recording; `.gz` and `.zst` are decoded, and stored compressed likewise.
        first_day: The first daily partition.
        progress: Told the bytes of each line read.

    Raises:
        BadInputError: No such file, a folder, no readable time in it, or a day before the first.
    """
    check_recording(path)
    stem, suffix = stem_and_suffix(path)
    name = segment_name(stem, file_sha256(path), suffix)
    latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    decoded = Decoded(path)
    landed = Landed(path.name)
    with _Writers(lake, name) as writers:
        head: list[bytes] = []
        day: date | None = None
        for number, line in enumerate(decoded.lines(), start=1):
            progress(len(line) + 1)
            day = read_day(line, latest=latest) or day
            if day is None:
                head.append(line)
                continue
            if day < first_day:
                raise BadInputError(
                    f"{path}, line {number}: {day} lies before the first day, {first_day}; "
                    f"set VOLATILITY_FIRST_DAY={day} to take it in."
                )
            for one in (*head, line):
                writers.write(day, one + b"\n")
                landed.lines[day] = landed.lines.get(day, 0) + 1
            head = []
        if decoded.is_torn and not landed.lines and not head:
            raise BadInputError(
                f"{path}: nothing of it decodes; is it really a {path.suffix} file, copied whole?"
            )
        if head:
            raise BadInputError(
                f"{path}, line 1: no line of this file has a readable time; is it a recording of "
                "Coinbase's ticker feed, one JSON message a line?"
            )
        landed.is_torn = decoded.is_torn
        landed.is_new = writers.commit(torn=day if decoded.is_torn else None)
    return landed


def land_simulation(
    lake: Lake, market: Market, *, progress: Callable[[date, int], None] = lambda _, __: None
) -> Landed:
    """Writes a made-up market's messages, compressed, one segment a day, marked as simulated."""
    digest = hashlib.sha256(repr(market).encode()).hexdigest()
    kind = "noise" if market.is_noise else "market"
    name = segment_name(f"simulated-{kind}-seed{market.seed}", digest, ".ndjson.zst")
    landed = Landed(name)
    with _Writers(lake, name) as writers:
        for day, chunk in simulate(market):
            writers.write(day, chunk)
            lines = chunk.count(b"\n")
            landed.lines[day] = landed.lines.get(day, 0) + lines
            progress(day, lines)
        landed.is_new = writers.commit()
    return landed


class _Writers:
    """One temporary segment per day, renamed together once all are written."""

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self.name = name
        self.open: dict[date, tuple[Path, BufferedWriter, _Plain]] = {}
        self.made: list[Path] = []

    def __enter__(self) -> "_Writers":
        return self

    def write(self, day: date, data: bytes) -> None:
        if day not in self.open:
            folder = self.lake.raw_folder(day)
            self.made += [one for one in (folder, *folder.parents) if not one.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f".{self.name}.{os.getpid()}.tmp"
            file = path.open("wb")
            self.open[day] = (path, file, _writer(self.name, file))
        self.open[day][2].write(data)

    def commit(self, torn: date | None = None) -> bool:
        """Renames what is new; whether anything was. The day `torn` gets a segment without end."""
        for day, (_, file, writer) in self.open.items():
            if day == torn:
                writer.cut()
            else:
                writer.finish()
            file.close()
        is_new = False
        for day, (path, _, _) in self.open.items():
            final = path.with_name(self.name)
            is_there = final.exists() and file_sha256(final) == file_sha256(path)
            is_compacted = not final.exists() and self.name in self.lake.landed_names(day)
            if is_there or is_compacted:
                path.unlink()
            else:
                commit(path, final)
                is_new = True
        return is_new

    def __exit__(self, *_error: object) -> None:
        for path, file, _ in self.open.values():
            file.close()
            path.unlink(missing_ok=True)
        for folder in sorted(self.made, key=lambda one: len(one.parts), reverse=True):
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


class _Plain:
    """Writes lines as they are; like the other ways, the same lines as the same bytes."""

    def __init__(self, file: BufferedWriter) -> None:
        self.write = file.write

    def finish(self) -> None:
        """Writes what is left, and the end."""

    def cut(self) -> None:
        """Writes what is left, and no end."""


class _Gzip(_Plain):
    def __init__(self, file: BufferedWriter) -> None:
        self.file = file
        self.compressor = zlib.compressobj(wbits=31)  # a header without a name and a time

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self.file.write(self.compressor.compress(data))

    def finish(self) -> None:
        self.file.write(self.compressor.flush())

    def cut(self) -> None:
        self.file.write(self.compressor.flush(zlib.Z_SYNC_FLUSH))


class _Zstandard(_Plain):
    def __init__(self, file: BufferedWriter) -> None:
        import zstandard

        self.file = file
        self.compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compressobj()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self.file.write(self.compressor.compress(data))

    def finish(self) -> None:
        self.file.write(self.compressor.flush())

    def cut(self) -> None:
        import zstandard

        self.file.write(self.compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))


def _writer(name: str, file: BufferedWriter) -> _Plain:
    kinds = {".gz": _Gzip, ".zst": _Zstandard}
    return kinds.get(Path(name).suffix, _Plain)(file)
