"""Raw segments that grow while messages come in: to their last line on disk, then renamed."""

import asyncio
import fcntl
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from volatility_pipeline.domain.messages import read_day
from volatility_pipeline.feed.kafka import Say
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.segments import commit

HELD_BYTES = 32 << 20
RETRY_SECONDS = 1.0


class OpenSegment:
    """A raw segment being written under a temporary name, locked while its writer lives."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.bytes = 0
        self.opened = time.monotonic()
        self._file = path.open("wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, lines: bytes) -> None:
        """Writes whole lines and hands them to the operating system.

        Raises OSError where the disk takes nothing; the file is as it was before then.
        """
        try:
            written = self._file.write(lines)
            while written < len(lines):
                written += self._file.write(lines[written:])
        except OSError:
            self._file.truncate(self.bytes)
            self._file.seek(self.bytes)
            raise
        self.bytes += len(lines)

    def commit(self, final: Path) -> None:
        """Flushes the file to the disk and gives it its name."""
        commit(self.path, final)
        self._file.close()

    def discard(self) -> None:
        """Leaves nothing."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class DiskSink:
    """Lines go to segments under `data/raw/`, a new one after some seconds or bytes.

    A segment is there, whole, once it has its name; what a killed recorder left under a temporary
    one is taken over at the next start.
    """

    def __init__(self, lake: Lake, say: Say, *, roll_seconds: float, roll_bytes: int) -> None:
        self.lake = lake
        self.say = say
        self.roll_seconds = roll_seconds
        self.roll_bytes = roll_bytes
        self.segments = 0
        self._started = datetime.now(UTC)
        self._open: dict[date, OpenSegment] = {}
        self._waiting: list[tuple[date, bytes]] = []
        self._held = 0
        self._day: date | None = None
        self._trouble: str | None = None
        self._take_over()

    def put(self, key: bytes, timestamp: int, line: bytes, *, is_owed: bool = False) -> bool:  # noqa: ARG002
        """Takes a line in; it is written at the next turn of the event loop."""
        if self._held + len(line) > HELD_BYTES and not is_owed:
            return False
        now = datetime.fromtimestamp(timestamp / 1000, UTC).replace(tzinfo=None)
        self._day = read_day(line, latest=now + timedelta(days=1)) or self._day or now.date()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((self._day, line + b"\n"))
        self._held += len(line) + 1
        return True

    @property
    def state(self) -> str:
        """How many segments were finished, and the disk's trouble."""
        trouble = f", disk: {self._trouble}" if self._trouble else ""
        return f"{self.segments} segments{trouble}"

    async def run(self) -> None:
        """Finishes segments that are old enough, and tries again what the disk did not take."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            self._flush()
            self._roll(self.roll_seconds)

    async def close(self) -> None:
        """Finishes all segments."""
        self._flush()
        self._roll(0)
        if self._waiting:
            self.say(f"{len(self._waiting)} lines were lost: {self._trouble}.")

    def _flush(self) -> None:
        try:
            while self._waiting:
                day = self._waiting[0][0]
                count = next(
                    (n for n, (other, _) in enumerate(self._waiting) if other != day),
                    len(self._waiting),
                )
                data = b"".join(line for _, line in self._waiting[:count])
                self._segment(day).write(data)
                del self._waiting[:count]
                self._held -= len(data)
                if self._open[day].bytes >= self.roll_bytes:
                    self._finish(day)
        except OSError as error:
            self._note_trouble(error)
        else:
            self._trouble = None

    def _roll(self, seconds: float) -> None:
        now = time.monotonic()
        for day, segment in list(self._open.items()):
            if now - segment.opened >= seconds:
                try:
                    self._finish(day)
                except OSError as error:
                    self._note_trouble(error)

    def _note_trouble(self, error: OSError) -> None:
        if self._trouble is None:
            self.say(
                f"{self.lake.root / 'raw'}: {error.strerror}; lines wait in memory, mend the disk."
            )
        self._trouble = error.strerror

    def _segment(self, day: date) -> OpenSegment:
        if day not in self._open:
            number = self.segments + len(self._open)
            name = f".recorded-{self._started:%Y%m%dT%H%M%S%f}-{number:06d}.ndjson.tmp"
            self._open[day] = OpenSegment(self.lake.raw_folder(day) / name)
        return self._open[day]

    def _finish(self, day: date) -> None:
        segment = self._open[day]
        segment.commit(segment.path.with_name(segment.path.name[1 : -len(".tmp")]))
        del self._open[day]
        self.segments += 1

    def _take_over(self) -> None:
        """Gives the segments of a killed recorder their names, up to their last whole line."""
        for path in (self.lake.root / "raw").glob("date=*/.recorded-*.ndjson.tmp"):
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its writer lives
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
            if b"\n" in data:
                commit(path, path.with_name(path.name[1 : -len(".tmp")]))
                self.say(f"{path.parent.name}: took over what a killed recorder had written.")
            else:
                path.unlink()
