"""The files that the fast reader is given: a large segment as it lies, small ones joined.

A file costs DuckDB some milliseconds whatever its size, and a day can have thousands of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from volatility_pipeline.domain.messages import may_repeat_keys, screen
from volatility_pipeline.resources.segments import Decoded, Segment, copy_lines, stem_and_suffix

SMALL_BYTES = 1 << 20  # of a segment that is better copied than opened by itself
PART_BYTES = 64 << 20


@dataclass(frozen=True)
class Part:
    """A file, and the segments whose lines it holds, one segment after the other."""

    path: Path
    segments: tuple[Segment, ...]
    is_screened: bool

    @property
    def lines(self) -> int:
        """The lines that it has to give."""
        return sum(segment.lines for segment in self.segments)


class Parts:
    """Makes the parts of a day's segments, in a temporary folder."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.made = 0

    def divide(self, segments: Sequence[Segment]) -> list[Part]:
        """All segments that still have their lines, as parts."""
        parts = []
        small: list[Segment] = []
        size = 0
        for segment in segments:
            if segment.bytes <= SMALL_BYTES:
                small.append(segment)
                size += segment.bytes
            elif segment.is_plain:
                parts.append(self._link(segment))
            else:
                parts.append(self.join([segment], is_screened=True))
            if size >= PART_BYTES:
                parts.append(self.join(small))
                small, size = [], 0
        if small:
            parts.append(self.join(small))
        return [part for part in parts if part.segments]

    def again(self, part: Part) -> list[Part]:
        """What to try after a part at which the fast reader failed: screened, then in halves."""
        if not part.is_screened:
            return [self.join(part.segments, is_screened=True)]
        half = len(part.segments) // 2
        halves = (part.segments[:half], part.segments[half:]) if half else ()
        return [self.join(segments, is_screened=True) for segments in halves]

    def join(self, segments: Sequence[Segment], *, is_screened: bool = False) -> Part:
        """One file of the lines of some segments, but for those that have not their lines any more.

        In a segment that is not plain, or where it `is_screened`, each line that the fast reader
        may misread or fail at becomes an empty object.
        """
        path = self._path(".ndjson")
        kept = []
        with path.open("wb") as file:
            for segment in segments:
                start = file.tell()
                copy = copy_lines if segment.is_plain and not is_screened else _screen_lines
                if copy(Decoded(self.source / segment.name), file.write) == segment.lines:
                    kept.append(segment)
                else:
                    file.seek(start)
                    file.truncate()
        return Part(path, tuple(kept), is_screened)

    def _link(self, segment: Segment) -> Part:
        """The segment by a name of ours: in its own, or its folder's, DuckDB may see a pattern."""
        path = self.source / segment.name
        link = self._path(stem_and_suffix(path)[1])
        link.symlink_to(path.absolute())
        return Part(link, (segment,), False)

    def _path(self, suffix: str) -> Path:
        self.made += 1
        return self.folder / f"{self.made}{suffix}"


def _screen_lines(decoded: Decoded, write: Callable[[bytes], object]) -> int:
    """Like `copy_lines`, but a line that the fast reader may misread or fail at is an empty object.

    DuckDB fails at a known key that a line repeats, and lets NaN and trailing commas pass.
    """
    lines = 0
    for line in decoded.lines():
        lines += 1
        read = screen(line)
        is_fit = read is not None and not may_repeat_keys(line, read)
        write((line if is_fit else b"{}") + b"\n")
    return lines
