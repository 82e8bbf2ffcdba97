"""Compaction: a closed day's many segments become one; retention: it then lives in a backup alone.

Beside a compacted segment stands its sidecar, which names what it was made from. The sidecar is
committed first, and the compacted segment's rename is the moment from which on the lake no longer
sees the originals; what is left to do after it (`finish`) can be done at any later time.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.resources.lake import (
    COMPACTED,
    COMPACTED_SUFFIX,
    MANIFEST,
    Lake,
    read_json,
    replaced,
    write_json,
)
from volatility_pipeline.resources.segments import Decoded, Segment, commit, copy_lines, file_sha256
from volatility_pipeline.resources.warehouse import Warehouse

COMPRESSION_LEVEL = 3


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: segments made one, their bytes before, and the one they are now."""

    segments: int
    bytes_before: int
    segment: Segment


def compact(lake: Lake, day: date) -> Compacted | None:
    """Makes one compressed segment of a day's segments; None where it is one already.

    The segments follow each other in the order of their names, so that (segment, line) orders as
    before; torn ones stay as they are.

    Raises:
        BadInputError: The day is not over, holds nothing to compact, or cannot be written.
        RefusedError: The day is not built, its files are not those of its manifest, they were
            moved away, or another compaction is at work.
    """
    if day >= datetime.now(UTC).date():
        raise BadInputError(f"{day} is not over yet; name a day before today (UTC).")
    if not lake.segments(day) and not lake.manifest(day):
        raise BadInputError(f"{day}: no raw data; `volatility status` lists the days that have it.")
    lake.check_not_moved(day)
    try:
        with _alone(lake.raw_folder(day)):
            finish(lake, day)
            return _compact(lake, day)
    except OSError as error:
        raise BadInputError(
            f"{error.filename or lake.raw_folder(day)}: {error.strerror}; mend that and compact "
            "again, nothing is lost."
        ) from error


def _compact(lake: Lake, day: date) -> Compacted | None:
    manifest = lake.manifest(day)
    if manifest is None or not lake.is_manifest_current(day):
        raise RefusedError(f"{day}: its manifest is not current; `volatility build` first.")
    described = [Segment(**entry) for entry in manifest["segments"]]
    segments = sorted((one for one in described if not one.is_torn), key=lambda one: one.name)
    if not segments:
        raise BadInputError(f"{day}: nothing to compact; torn segments stay as they are.")
    if len(segments) == 1 and segments[0].name.startswith(COMPACTED):
        return None
    folder = lake.raw_folder(day)
    temporary = folder / f".{COMPACTED}{os.getpid()}.tmp"
    try:
        stream_sha256, lines = _write(folder, segments, temporary)
        _verify(temporary, stream_sha256, lines)
        stem = f"{COMPACTED}{stream_sha256[:16]}"
        made = Segment(
            f"{stem}{COMPACTED_SUFFIX}",
            temporary.stat().st_size,
            lines,
            file_sha256(temporary),
            is_plain=all(segment.is_plain for segment in segments),
            is_torn=False,
            is_simulated=any(segment.is_simulated for segment in segments),
        )
        write_json(folder / f"{stem}.json", _sidecar(folder, made, segments))
        commit(temporary, folder / made.name)
    finally:
        temporary.unlink(missing_ok=True)
    finish(lake, day)
    return Compacted(len(segments), sum(segment.bytes for segment in segments), made)


def _write(folder: Path, segments: Sequence[Segment], target: Path) -> tuple[str, int]:
    """Writes the segments' lines, compressed; returns the SHA-256 and the lines of the stream."""
    import zstandard

    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
    lines = 0
    with target.open("wb") as file, compressor.stream_writer(file, closefd=False) as writer:

        def write(block: bytes) -> None:
            digest.update(block)
            writer.write(block)

        for segment in segments:
            path = folder / segment.name
            own = copy_lines(Decoded(path), write)
            if own != segment.lines or file_sha256(path) != segment.sha256:
                raise RefusedError(
                    f"{path}: not the {segment.lines} lines that the manifest speaks of; put the "
                    f"segment back as it landed, or remove {folder / MANIFEST} and "
                    "`volatility build` to take it as it is."
                )
            lines += own
    return digest.hexdigest(), lines


def _verify(path: Path, stream_sha256: str, lines: int) -> None:
    """Decodes what was written, as the pipeline will, and compares."""
    digest = hashlib.sha256()
    found = 0
    decoded = Decoded(path, ".zst")
    for block in decoded:
        digest.update(block)
        found += block.count(b"\n")
    if decoded.is_torn or found != lines or digest.hexdigest() != stream_sha256:
        raise RefusedError(
            f"{path.parent}: what was compressed does not decode to what it was made from; nothing "
            "was changed; look at this machine's memory and disk, and compact again."
        )


def _sidecar(folder: Path, made: Segment, segments: Sequence[Segment]) -> dict[str, Any]:
    """What a compacted segment is, the originals in it, and the compacted ones folded into it."""
    originals: list[dict[str, Any]] = []
    folded = []
    for segment in segments:
        entry = asdict(segment)
        sidecar = _sidecar_of(folder, segment.name)
        if sidecar is None:
            originals.append(entry)
        else:
            originals += sidecar["originals"]
            folded += [*sidecar["folded"], entry]
    folded = [entry for entry in folded if entry["name"] != made.name]  # all else was empty
    return {"segment": asdict(made), "originals": originals, "folded": folded}


def _sidecar_of(folder: Path, name: str) -> dict[str, Any] | None:
    if not name.startswith(COMPACTED):
        return None
    return read_json(folder / f"{name.removesuffix(COMPACTED_SUFFIX)}.json")


def finish(lake: Lake, day: date) -> None:
    """Completes what a rename has decided: the manifest, then the deletion of what was replaced.

    Raises:
        RefusedError: What would be deleted is not what was compacted.
    """
    folder = lake.raw_folder(day)
    for path in lake.segments(day):
        sidecar = _sidecar_of(folder, path.name)
        if sidecar is None:
            continue
        gone = set(replaced(sidecar))
        manifest = lake.manifest(day)
        if manifest and gone & {entry["name"] for entry in manifest["segments"]}:
            kept = [e for e in manifest["segments"] if e["name"] not in {*gone, path.name}]
            entries = sorted([*kept, sidecar["segment"]], key=lambda entry: entry["name"])
            segments = [Segment(**entry) for entry in entries]
            lake.write_manifest(day, segments, manifest["gaps"])
        for entry in (*sidecar["originals"], *sidecar["folded"]):
            original = folder / entry["name"]
            if not original.exists():
                continue
            if file_sha256(original) != entry["sha256"]:
                raise RefusedError(
                    f"{original}: not what {path.name} was made from; give it another name to "
                    "take it in, or remove it."
                )
            original.unlink()
        for other in folder.glob(f"{COMPACTED}*.json"):
            names = set(replaced(read_json(other) or {}))
            if other.stem != path.name.removesuffix(COMPACTED_SUFFIX) and names <= gone:
                other.unlink()


def expire(warehouse: Warehouse, day: date, backup: Path) -> int:
    """Removes a day's compacted raw segments, of which a backup holds equal ones.

    The manifest, which then says where they are, the sidecar and all tables stay.

    Args:
        warehouse: Knows whether the day's ticks, from now on the source, are current.
        day: The day.
        backup: The folder that holds `date=…/` with files of the same names.

    Returns:
        The bytes that were removed.

    Raises:
        RefusedError: The day is not built, not compacted, or not whole in the backup.
    """
    lake = warehouse.lake
    folder = lake.raw_folder(day)
    with _alone(folder):
        finish(lake, day)
        if not all(warehouse.is_current(stage, day) for stage in ("raw", "ticks")):
            raise RefusedError("not built; `volatility build` first")
        manifest = lake.manifest(day) or {"segments": [], "gaps": []}
        segments = [Segment(**entry) for entry in manifest["segments"]]
        if not all(one.is_torn or one.name.startswith(COMPACTED) for one in segments):
            raise RefusedError(f"not compacted; `volatility compact {day}` first")
        copies = backup.absolute() / folder.name
        for segment in segments:
            here, there = folder / segment.name, copies / segment.name
            if not there.is_file() or file_sha256(there) != segment.sha256:
                raise RefusedError(f"no equal copy at {there}; copy {here} there")
            if here.exists() and here.samefile(there):
                raise RefusedError(f"{there} is the very file, no copy; name another --backup")
        moved = {"to": str(copies), "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        lake.write_manifest(day, segments, manifest["gaps"], moved)
        removed = 0
        for path in lake.segments(day):
            removed += path.stat().st_size
            path.unlink()
    return removed


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other compactions off a day's folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RefusedError(f"{folder}: another compaction is at work there.") from error
    else:
        yield
    finally:
        os.close(opened)
