"""Which of a topic's messages are on disk: what makes landing effectively once.

A log is one partition of one topic of one identity, `<topic>-<first 8 hex of its id>-<partition>`.
A segment's name says which offsets of it the segment holds. `offsets.json` remembers the highest
one when segments are compacted or gone. Both change together, under one lock that all landers of a
data root share, and only from where the log ends: whoever comes late is turned away.
"""

import errno
import fcntl
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any

from volatility_pipeline.feed.segment_files import OpenSegment
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import LANDED, commit

LOCK_SECONDS = 3.0
CLOCK_STEP_SECONDS = 2.0  # of the coarsest file system


@dataclass(frozen=True)
class Landed:
    """How far a log has landed: the offset that comes next, and the day of the last line."""

    next: int
    day: date


class Offsets:
    """The offsets that a data root holds."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.folder = lake.root / "raw"

    def group(self) -> str:
        """The consumer group of this data root: its landers share a topic's partitions."""
        with self._locked() as state:
            return str(state["group"])

    def recover(self) -> None:
        """Notes what a kill kept out of `offsets.json`.

        Only folders that changed after it was written can hold such a segment.
        """
        path = self.folder / "offsets.json"
        found = self._scan(path.stat().st_mtime - CLOCK_STEP_SECONDS if path.exists() else 0.0)
        with self._locked() as state:
            ahead = {
                log: entry
                for log, entry in found.items()
                if entry["next"] > state["logs"].get(log, {"next": 0})["next"]
            }
            if ahead:
                state["logs"] |= ahead
                self._write(state)

    def _scan(self, since: float) -> dict[str, dict[str, Any]]:
        """How far each log has landed, read off the folders that changed since a time."""
        found: dict[str, tuple[int, date]] = {}
        for day in self.lake.raw_days():
            if self.lake.raw_folder(day).stat().st_mtime >= since:
                for match in filter(None, map(LANDED.fullmatch, self.lake.landed_names(day))):
                    last = (int(match["last"]) + 1, day)
                    found[match["log"]] = max(found.get(match["log"], last), last)
        return {log: _entry(*last) for log, last in found.items()}

    def logs(self, topic: str, partition: int) -> dict[str, Landed]:
        """The logs of a topic's partition that were landed, also under other identities."""
        known = self._read()["logs"]
        found = {}
        for log, entry in known.items():
            match = LANDED.fullmatch(f"{log}-{0:020d}-{0:020d}.ndjson")
            if match and match["topic"] == topic and int(match["partition"]) == partition:
                found[log] = Landed(entry["next"], date.fromisoformat(entry["day"]))
        return found

    def commit(self, segment: OpenSegment, log: str, day: date, first: int, after: int) -> bool:
        """Gives a segment of offsets `[first, after)` its name, if the log ends at `first`.

        Returns:
            False where another lander was faster, or the temporary file is gone.
        """
        final = self.lake.raw_folder(day) / f"{log}-{first:020d}-{after - 1:020d}.ndjson"
        with self._locked() as state:
            if not _ends_at(state, log, first) or not segment.path.exists():
                return False
            for path in final.parent.glob(f"{log}-{first:020d}-*"):
                match = LANDED.fullmatch(path.name)  # a kill came between its rename and its note
                if match is not None:
                    state["logs"][log] = _entry(int(match["last"]) + 1, day)
                    self._write(state)
                    return False
            final.parent.mkdir(parents=True, exist_ok=True)
            segment.commit(final)
            state["logs"][log] = _entry(after, day)
            self._write(state)
        return True

    def skip(self, log: str, first: int, after: int, day: date, reason: str) -> None:
        """Notes that the offsets `[first, after)` will never land, if the log ends at `first`."""
        with self._locked() as state:
            if not _ends_at(state, log, first):
                return
            at = datetime.now(UTC).isoformat(timespec="seconds")
            lost = {"log": log, "first": first, "last": after - 1, "reason": reason, "noticed": at}
            state["lost"].append(lost)
            state["logs"][log] = _entry(after, day)
            self._write(state)

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".offsets.lock").open("a") as lock:
            _take(lock)
            state = self._read()
            if "group" not in state:
                state["group"] = f"volatility-land-{uuid.uuid4().hex[:8]}"
                state["logs"] = self._scan(0.0)
                self._write(state)
            yield state

    def _read(self) -> dict[str, Any]:
        path = self.folder / "offsets.json"
        text = path.read_text() if path.exists() else '{"logs": {}, "lost": []}'
        state: dict[str, Any] = json.loads(text)
        return state

    def _write(self, state: dict[str, Any]) -> None:
        path = self.folder / "offsets.json"
        temporary = path.with_name(".offsets.json.tmp")
        temporary.write_text(json.dumps(state, indent=1) + "\n")
        commit(temporary, path)


def _ends_at(state: dict[str, Any], log: str, offset: int) -> bool:
    return log not in state["logs"] or state["logs"][log]["next"] == offset


def _take(lock: IO[str]) -> None:
    """Locks, or raises OSError: one that is stopped in mid-commit must not stop the others."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                said = "another lander holds it and does not move; end that one"
                raise OSError(errno.EBUSY, said, lock.name) from None
            time.sleep(0.01)


def _entry(after: int, day: date) -> dict[str, Any]:
    return {"next": after, "day": day.isoformat()}


@contextmanager
def member_name(folder: Path) -> Iterator[str]:
    """A name in the consumer group that no living lander of this data root has.

    A lander that was killed leaves its name to the next one, which thereby takes its partitions
    over at once, without waiting until Kafka misses the dead one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        with (folder / f".lander-{number}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            yield f"lander-{number}"
            return
