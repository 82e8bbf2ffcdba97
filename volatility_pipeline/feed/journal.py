"""Records on their way to Kafka, on disk: in order, bounded, and still there after a kill.

The recorder appends, the sender takes and acknowledges. While Kafka answers, the files live for
milliseconds and seldom leave the page cache; while it does not, they are the spool. Appended
records reach the operating system at the next turn of the event loop: a killed process loses none
of them, a machine that loses power may lose the last seconds.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from volatility_pipeline.domain.errors import BadInputError

FILE_BYTES = 16 << 20
HELD_BYTES = 32 << 20  # what is kept in memory while the disk takes nothing
RETRY_SECONDS = 1.0

Record = tuple[bytes, int, bytes]  # key, epoch milliseconds, value without LF


class Journal:
    """A folder of numbered files of records, and the position up to which they were acknowledged.

    Raises BadInputError where another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, limit_bytes: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.say = say
        self.trouble: str | None = None
        self.appended = asyncio.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a")
        except OSError as error:
            raise BadInputError(
                f"{folder}: cannot be written ({error.strerror}); mend it or name another data "
                "root with --data."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BadInputError(
                f"{folder}: another recorder is at work here; stop it or name another data root "
                "with --data."
            ) from None
        self._position = os.open(folder / "position", os.O_RDWR | os.O_CREAT)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._taken = 0  # bytes read from disk and not acknowledged
        self._lent = 0  # records lent from memory and not acknowledged
        self._retry: asyncio.TimerHandle | None = None
        self._recover()

    def _recover(self) -> None:
        text = os.pread(self._position, 64, 0).split()
        number, offset = (int(text[0]), int(text[1])) if len(text) == 2 else (0, 0)
        files = self._files()
        for path in files[:]:
            if int(path.stem) < number:
                path.unlink()
                files.remove(path)
        if files:
            self._cut(files[-1])
        if not files or int(files[0].stem) != number:
            number, offset = int(files[0].stem) if files else number, 0
        else:  # a power cut may have kept the position and lost the end of the file
            offset = min(offset, files[0].stat().st_size)
        self._first = number
        self._last = int(files[-1].stem) if files else number
        self._size = files[-1].stat().st_size if files else 0
        self._offset = offset if files else 0
        self.backlog_bytes = sum(path.stat().st_size for path in files) - self._offset
        self._writer = os.open(self._path(self._last), os.O_WRONLY | os.O_CREAT)
        self._reader = self._path(self._first).open("rb")
        self._reader.seek(self._offset)
        if self.backlog_bytes:
            self.appended.set()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.records"))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:020d}.records"

    @staticmethod
    def _cut(path: Path) -> None:
        """Cuts off a last record that a power cut left torn."""
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)

    def append(self, key: bytes, timestamp: int, value: bytes, *, is_owed: bool = False) -> bool:
        """Takes a record in; False where the spool is full, and the record is not in it.

        What is owed (a line that says what is missing) is taken in all the same.
        """
        record = b"%b\t%d\t%b\n" % (key, timestamp, value)
        is_full = self.backlog_bytes + self._buffered + len(record) > self.limit_bytes
        if (is_full or self._buffered + len(record) > HELD_BYTES) and not is_owed:
            return False
        if not self._buffer:
            asyncio.get_running_loop().call_soon(self.flush)
        self._buffer.append(record)
        self._buffered += len(record)
        return True

    def flush(self) -> None:
        """Hands what was appended to the operating system; keeps it where the disk takes nothing.

        What a full disk holds up is lent to the sender from memory.
        """
        if not self._buffer or self._retry is not None:
            return
        if self._lent:
            self._retry_later()
            return
        data = b"".join(self._buffer)
        try:
            if self._size >= FILE_BYTES:
                os.close(self._writer)
                self._writer, self._size = -1, 0
                self._last += 1
            if self._writer < 0:
                self._writer = os.open(self._path(self._last), os.O_WRONLY | os.O_CREAT)
            written = os.pwrite(self._writer, data, self._size)
            while written < len(data):
                written += os.pwrite(self._writer, data[written:], self._size + written)
        except OSError as error:
            self._note_trouble(error)
            if self._writer >= 0:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._writer, self._size)
            self._retry_later()
        else:
            if self.trouble is not None:
                self.say(f"{self.folder}: takes messages again.")
            self.trouble = None
            self._size += len(data)
            self.backlog_bytes += len(data)
            self._buffer, self._buffered = [], 0
        self.appended.set()

    def _retry_later(self) -> None:
        def again() -> None:
            self._retry = None
            self.flush()

        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, again)

    def take(self, most_bytes: int) -> list[Record]:
        """The oldest records that are not acknowledged, up to some bytes; empty where none are."""
        self._seek()
        lines = self._reader.readlines(most_bytes)
        if not lines and self._first < self._last:
            self._next_file()
            lines = self._reader.readlines(most_bytes)
        self._taken = sum(map(len, lines))
        if not lines and self._buffer and self.trouble:
            lines = self._buffer[:]
            self._lent = len(lines)
        if not lines:
            self.appended.clear()
        return [(key, int(stamp), value[:-1]) for key, stamp, value in map(_split, lines)]

    def acknowledge(self) -> None:
        """What was last taken is where it belongs, and need not be kept."""
        if self._lent:
            self._buffered -= sum(map(len, self._buffer[: self._lent]))
            del self._buffer[: self._lent]
            self._lent = 0
            return
        self._offset += self._taken
        self.backlog_bytes -= self._taken
        self._taken = 0
        self._note_position()

    def release(self) -> None:
        """What was last taken did not arrive: it will be taken again."""
        self._taken = self._lent = 0

    def close(self) -> None:
        """Writes what is left to disk, and says what that does not take.

        A spool that is empty leaves no records behind.
        """
        self._lent = 0
        self._cancel_retry()
        self.flush()
        self._cancel_retry()
        if self._buffer:
            self.say(f"{len(self._buffer):,} messages are lost: {self.folder}: {self.trouble}.")
        os.close(self._writer)
        self._reader.close()
        if not self.backlog_bytes:
            for path in self._files():
                path.unlink()
        os.close(self._position)
        self._lock.close()

    def _note_position(self) -> None:
        try:
            os.pwrite(self._position, b"%020d %020d\n" % (self._first, self._offset), 0)
        except OSError as error:
            self._note_trouble(error)

    def _note_trouble(self, error: OSError) -> None:
        if self.trouble is None:
            self.say(f"{self.folder}: {error.strerror}; messages wait in memory, mend it.")
        self.trouble = error.strerror

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _seek(self) -> None:
        if self._reader.tell() != self._offset:
            self._reader.seek(self._offset)

    def _next_file(self) -> None:
        self._reader.close()
        self._path(self._first).unlink()
        self._first += 1
        while self._first < self._last and not self._path(self._first).exists():
            self._first += 1
        self._offset = 0
        self._reader = self._path(self._first).open("rb")
        self._note_position()


def _split(line: bytes) -> list[bytes]:
    return line.split(b"\t", 2)
