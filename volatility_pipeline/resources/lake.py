"""The lake: where every file of the data root lies, how it is committed, and its record.

A partition is a Parquet file, or absent where it would hold no row. Beside it stands its record, a
small JSON file that says from which contents it was made: what is recorded need not be made again.
What the files hold is said in `domain/schemas.py`; making them belongs to the warehouse.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.resources.segments import (
    SUFFIXES,
    Segment,
    commit,
    describe,
    file_sha256,
)

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
COMPACTED = "compacted-"
COMPACTED_SUFFIX = ".ndjson.zst"


@dataclass(frozen=True)
class Lake:
    """The files under one data root."""

    root: Path

    def folder(self, stage: str, product: str) -> Path:
        """The folder of a stage and a product."""
        return self.root / stage / f"product={product}"

    def file(self, stage: str, key: date | str, suffix: str = ".parquet") -> Path:
        """The file of a stage and a day (`date=…`) or a product (`product=…`)."""
        name = f"product={key}" if isinstance(key, str) else f"date={key:%Y-%m-%d}"
        return self.root / stage / f"{name}{suffix}"

    def files(self, stage: str) -> list[Path]:
        """All partitions of a stage, in order."""
        return sorted((self.root / stage).glob("*=*.parquet"))

    def days(self, stage: str) -> list[date]:
        """The days for which a data stage has a record or a file, in order."""
        names = {path.stem for path in (self.root / stage).glob("date=*")}
        return sorted(date.fromisoformat(name.removeprefix("date=")) for name in names)

    def products(self, stage: str) -> list[str]:
        """The products for which a model stage has a table, in order."""
        paths = (self.root / stage).glob("product=*.parquet")
        return sorted(path.stem.removeprefix("product=") for path in paths)

    # Raw segments

    def raw_folder(self, day: date) -> Path:
        """The folder of one day's segments."""
        return self.root / "raw" / f"date={day:%Y-%m-%d}"

    def raw_days(self) -> list[date]:
        """The days that hold a raw segment or a manifest, in order."""
        folders = (self.root / "raw").glob("date=*")
        return sorted(
            date.fromisoformat(folder.name.removeprefix("date="))
            for folder in folders
            if self._listing(folder) or (folder / MANIFEST).exists()
        )

    def segments(self, day: date) -> list[Path]:
        """One day's segments, by name."""
        folder = self.raw_folder(day)
        return [folder / name for name in sorted(self._listing(folder))]

    def landed_names(self, day: date) -> set[str]:
        """The names of all segments that a day ever held, those that were compacted included."""
        folder = self.raw_folder(day)
        names = set(self._listing(folder))  # first: a sidecar is there before its originals go
        for path in folder.glob(f"{COMPACTED}*.json"):
            names.update(replaced(read_json(path) or {}))
        return names

    def manifest(self, day: date) -> dict[str, Any] | None:
        """One day's manifest as it was last written, if it was, by this version of the reader.

        Where the segments were moved away, nothing can be read anew: any version has to do.
        """
        manifest = read_json(self.raw_folder(day) / MANIFEST)
        is_usable = manifest and (
            manifest.get("version") == MANIFEST_VERSION or manifest.get("moved")
        )
        return manifest if is_usable else None

    def moved(self, day: date) -> list[Path]:
        """Where those of a day's segments are that retention removed and nobody has put back."""
        manifest = self.manifest(day) or {}
        if not manifest.get("moved"):
            return []
        listing = self._listing(self.raw_folder(day))
        return [
            Path(manifest["moved"]["to"]) / entry["name"]
            for entry in manifest["segments"]
            if listing.get(entry["name"]) != entry["bytes"]
        ]

    def check_not_moved(self, day: date) -> None:
        """Raises RefusedError where a day cannot be made anew, since its segments are elsewhere."""
        moved = self.moved(day)
        if moved:
            raise RefusedError(
                f"{day}: its raw segments were moved away; copy {', '.join(map(str, moved))} back "
                f"to {self.raw_folder(day)} to make it anew."
            )

    def describe_raw(self, day: date) -> list[Segment]:
        """Every segment of a day; those that the manifest holds at this size are not read again."""
        known = {
            entry["name"]: Segment(**entry)
            for entry in (self.manifest(day) or {"segments": []})["segments"]
        }
        found = []
        for path in self.segments(day):
            entry = known.get(path.name)
            is_known = entry is not None and entry.bytes == path.stat().st_size
            found.append(entry if entry is not None and is_known else describe(path))
        return found

    def write_manifest(
        self,
        day: date,
        segments: Iterable[Segment],
        gaps: list[dict[str, Any]],
        moved: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Commits a day's manifest; `moved` says where (`to`) and when (`at`) its segments went."""
        manifest = {
            "version": MANIFEST_VERSION,
            "segments": [asdict(segment) for segment in segments],
            "gaps": gaps,
            **({"moved": dict(moved)} if moved else {}),
        }
        write_json(self.raw_folder(day) / MANIFEST, manifest)
        return manifest

    def is_simulated(self, day: date) -> bool:
        """Whether lines of the day, or of the eve that its first rows come from, are made up."""
        manifests = [self.manifest(near) for near in (day - timedelta(days=1), day)]
        segments = [entry for found in manifests if found for entry in found["segments"]]
        return any(entry["is_simulated"] for entry in segments)

    def is_manifest_current(self, day: date) -> bool:
        """Whether the manifest speaks of exactly the segments that are there, at their sizes.

        Of those that were moved away it may speak as well.
        """
        manifest = self.manifest(day)
        listing = self._listing(self.raw_folder(day))
        if manifest is None:
            return not listing
        described = {entry["name"]: entry["bytes"] for entry in manifest["segments"]}
        return listing == described or (
            bool(manifest.get("moved")) and listing.items() <= described.items()
        )

    @staticmethod
    def _listing(folder: Path) -> dict[str, int]:
        """The segments and their sizes, without those that a compacted one stands for."""
        if not folder.is_dir():
            return {}
        listing = {}
        stems = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith("."):
                    try:
                        listing[entry.name] = entry.stat().st_size
                    except FileNotFoundError:  # a compaction removes it: look at what is there now
                        return Lake._listing(folder)
                if entry.name.startswith(COMPACTED):
                    stems.add(entry.name.split(".")[0])
        for stem in stems:
            compacted = f"{stem}{COMPACTED_SUFFIX}"
            if listing.keys() <= {compacted}:  # as nearly always, and a sidecar may be long
                continue
            if compacted in listing or (read_json(folder / MANIFEST) or {}).get("moved"):
                for name in replaced(read_json(folder / f"{stem}.json") or {}):
                    listing.pop(name, None)
        return listing

    # Partitions and their records

    def content(self, stage: str, key: date | str) -> str | None:
        """What a partition holds, as a hash; None where it is absent."""
        if stage == "raw":
            manifest = self.manifest(key) if isinstance(key, date) else None
            if manifest is None or not manifest["segments"]:
                return None
            names = [(entry["name"], entry["sha256"]) for entry in manifest["segments"]]
            return hashlib.sha256(json.dumps(names).encode()).hexdigest()
        record = self.record(stage, key)
        return None if record is None else record["sha256"]

    def record(self, stage: str, key: date | str) -> dict[str, Any] | None:
        """A partition's record, if it still speaks of the file that is there."""
        record = read_json(self.file(stage, key, ".json"))
        path = self.file(stage, key)
        size = path.stat().st_size if path.exists() else None
        return record if record is not None and record["bytes"] == size else None

    def write_partition(
        self,
        stage: str,
        key: date | str,
        write: Callable[[Path], int],
        made_from: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Writes a partition whole, then its record, and returns the record.

        Args:
            stage: Its stage.
            key: Its day or product.
            write: Writes the file at the path it is given and returns its rows; none, no file.
            made_from: What it was made from; a plan compares it with what is there.
            facts: More for the record to hold, looked at once the file is written.
        """
        final = self.file(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        try:
            rows = write(temporary)
            if rows:
                sha256 = file_sha256(temporary)
                size = temporary.stat().st_size
                commit(temporary, final)
            else:
                sha256, size = None, None
                final.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)
        record = {"rows": rows, "bytes": size, "sha256": sha256, "made_from": dict(made_from)}
        record |= facts or {}
        self.write_record(stage, key, record)
        return record

    def write_record(self, stage: str, key: date | str, record: Mapping[str, Any]) -> None:
        """Commits the record of a partition that is there."""
        write_json(self.file(stage, key, ".json"), record)

    def write_text(self, path: Path, text: str) -> None:
        """Commits a text file, whole."""
        self.write_bytes(path, text.encode())

    def write_bytes(self, path: Path, content: bytes) -> None:
        """Commits a file, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        commit(temporary, path)

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raises BadInputError in words where the data root cannot take the data."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"{self.root}: cannot be made a data root ({error.strerror}); "
                "name another folder with --data or VOLATILITY_DATA."
            ) from error
        if not os.access(self.root, os.W_OK):
            raise BadInputError(
                f"{self.root}: not writable; mend its permissions or name another with --data."
            )
        if shutil.disk_usage(self.root).free < needed_bytes:
            raise BadInputError(f"{self.root}: less than {needed_bytes >> 20} MB free; make room.")


def replaced(sidecar: Mapping[str, Any]) -> Iterator[str]:
    """The names of the segments that a compacted one stands for, as the file beside it says."""
    for kind in ("originals", "folded"):
        yield from (entry["name"] for entry in sidecar.get(kind, ()))


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's object; None where it is absent, or no JSON."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # which not even being text is, too
        return None
    return loaded


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Commits a file of an object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")
    commit(temporary, path)
