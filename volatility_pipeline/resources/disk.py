"""The disk under a data root: what takes how much of it, how fast that grows, what is left over."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from volatility_pipeline.domain.schemas import TABLES
from volatility_pipeline.resources.lake import Lake

KINDS = {
    "raw": ("raw",),
    "tables": (*TABLES, "predictions_live"),
    "models": ("models", "evaluation", "mlflow"),
}
GROWTH_DAYS = 7
TEN_YEARS = 3652
LEFT_OVER_SECONDS = 3600
SURELY_LEFT_OVER_SECONDS = 24 * 3600  # whatever process has the writer's number by now
_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)\.tmp")


@dataclass(frozen=True)
class Growth:
    """Raw bytes per day, as a mean over so many full days, and the days until the disk is full."""

    bytes_per_day: float
    days: int
    days_left: float

    def said(self) -> str:
        """The growth in words."""
        per_day = f"{self.bytes_per_day / 1e6:,.1f} MB a day over {self.days} full days"
        left = (
            "more than ten years" if self.days_left > TEN_YEARS else f"{self.days_left:,.0f} days"
        )
        return f"Raw data grew by {per_day}; at that rate the disk is full in {left}."


def usage(root: Path) -> dict[str, int]:
    """Bytes by kind: `raw`, `tables`, `models`, `other`. Of hard links the first counts."""
    kinds = {folder: kind for kind, folders in KINDS.items() for folder in folders}
    used = dict.fromkeys((*KINDS, "other"), 0)
    seen: set[int] = set()
    for path, found in sorted(_files(root), key=lambda one: one[0].parts[0] not in kinds):
        if found.st_ino not in seen:
            used[kinds.get(path.parts[0], "other")] += found.st_size
        if found.st_nlink > 1:
            seen.add(found.st_ino)
    return used


def free(root: Path) -> int:
    """Bytes that are free where a data root is, or will be."""
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def growth(lake: Lake) -> Growth | None:
    """How fast raw data grew in the last full days; None where none was recorded in them."""
    today = datetime.now(UTC).date()
    sizes = [_recorded_bytes(lake, today - timedelta(days=ago + 1)) for ago in range(GROWTH_DAYS)]
    recorded = [size for size in sizes if size]
    if not recorded:
        return None
    per_day = sum(recorded) / len(recorded)
    return Growth(per_day, len(recorded), free(lake.root) / per_day)


def _recorded_bytes(lake: Lake, day: date) -> int:
    manifest = lake.manifest(day) or {"segments": []}
    if any(entry["is_simulated"] for entry in manifest["segments"]):
        return 0
    return sum(path.stat().st_size for path in lake.segments(day))


def left_over(root: Path) -> list[Path]:
    """Temporary files that killed processes left anywhere under a data root."""
    now = datetime.now(UTC).timestamp()
    found = []
    for path, facts in _files(root):
        match = _TEMPORARY.fullmatch(path.name)
        age = now - facts.st_mtime
        if match is None or age < LEFT_OVER_SECONDS:
            continue
        if age > SURELY_LEFT_OVER_SECONDS or not _is_alive(int(match["pid"])):
            found.append(root / path)
    return sorted(found)


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files under a root, by their paths from there, and what is known of them."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # gone in the meantime
                yield path.relative_to(root), path.lstat()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
