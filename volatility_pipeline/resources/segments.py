"""Raw segments as files: decoding, describing, and writing them whole.

What a line means belongs to `domain/messages.py`; which days there are belongs to the lake.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volatility_pipeline.domain.messages import screen

BLOCK = 1 << 20
PIECE = 16 << 10  # of a compressed file: what a fault in it can cost
SUFFIXES = (".ndjson", ".ndjson.gz", ".ndjson.zst")
# A segment that was landed from Kafka, and the offsets that it holds.
LANDED = re.compile(
    r"(?P<log>(?P<topic>.+)-[0-9a-f]{8}-(?P<partition>\d+))"
    r"-(?P<first>\d{20})-(?P<last>\d{20})\.ndjson(?:\.gz|\.zst)?"
)
LONGEST_STEM = 180  # bytes of the 255 that a file name may have


class Decoded:
    """The decoded bytes of a segment, block by block; `is_torn` once its end proved missing.

    How it is compressed is said by the `suffix`, of its name if no other is given.
    """

    def __init__(self, path: Path, suffix: str | None = None) -> None:
        self.path = path
        self.suffix = path.suffix if suffix is None else suffix
        self.is_torn = False

    def __iter__(self) -> Iterator[bytes]:
        is_compressed = self.suffix in (".gz", ".zst")
        with self.path.open("rb") as file:
            if is_compressed:
                yield from self._inflate(iter(lambda: file.read(PIECE), b""))
            else:
                yield from iter(lambda: file.read(BLOCK), b"")

    def _inflate(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """All that decodes, of any number of members or frames; a tear ends it, not an error.

        A file that was cut off keeps all it has. Where a byte is wrong, the piece at which the
        decoder notices is lost; what it made up before that, nothing can tell.
        """
        import zstandard

        is_gzip = self.suffix == ".gz"
        decoder: Any = None
        for piece in pieces:
            rest = piece
            while rest:
                if decoder is None:
                    decoder = (
                        zlib.decompressobj(wbits=31)
                        if is_gzip
                        else zstandard.ZstdDecompressor().decompressobj()
                    )
                try:
                    yield decoder.decompress(rest)
                except (zlib.error, zstandard.ZstdError):
                    self.is_torn = True
                    return
                rest = decoder.unused_data if decoder.eof else b""
                if decoder.eof:
                    decoder = None
        self.is_torn = decoder is not None

    def lines(self) -> Iterator[bytes]:
        """The lines without their LF; the last may lack one."""
        carry = b""
        for block in self:
            pieces = (carry + block).split(b"\n")
            carry = pieces.pop()
            yield from pieces
        if carry:
            yield carry


def copy_lines(decoded: Decoded, write: Callable[[bytes], object]) -> int:
    """Writes a segment's lines as they are, each with its LF, and returns how many they are."""
    lines = 0
    last = b"\n"
    for block in decoded:
        write(block)
        lines += block.count(b"\n")
        last = block[-1:] or last
    if last != b"\n":
        write(b"\n")
        lines += 1
    return lines


@dataclass(frozen=True)
class Segment:
    """One raw file as the manifest records it; `lines` counts the decoded stream.

    `is_plain` says that every line is exactly one JSON object that the fast reader can be given:
    no blank line, nothing looser than JSON, no message inside a string.
    """

    name: str
    bytes: int
    lines: int
    sha256: str
    is_plain: bool
    is_torn: bool
    is_simulated: bool


def describe(path: Path) -> Segment:
    """Reads a segment once, to its end."""
    digest = file_sha256(path)
    decoded = Decoded(path)
    lines = 0
    is_plain = True
    is_simulated = False
    for line in decoded.lines():
        lines += 1
        message = screen(line)
        if message is None:
            is_plain = False
        elif not is_simulated:
            inner = message.get("raw")
            marks = (message, inner if type(inner) is dict else {})
            is_simulated = any(one.get("source") == "simulated" for one in marks)
    return Segment(
        path.name,
        path.stat().st_size,
        lines,
        digest,
        is_plain and not decoded.is_torn,
        decoded.is_torn,
        is_simulated,
    )


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def segment_name(stem: str, source_sha256: str, suffix: str) -> str:
    """An imported segment's file name: `<stem>-<first 16 hex of the source's SHA-256>`."""
    return f"{stem}-{source_sha256[:16]}{suffix}"


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """`btc.ndjson.zst` is (`btc`, `.ndjson.zst`); another ending counts as `.ndjson`.

    The stem makes a file name that is not hidden, is UTF-8, and leaves room for what is added.
    """
    name = path.name.lstrip(".")
    compression = path.suffix if path.suffix in (".gz", ".zst") else ""
    suffix = next((one for one in reversed(SUFFIXES) if path.name.endswith(one)), None)
    stem = name.split(".")[0] if suffix is None else path.name.removesuffix(suffix).lstrip(".")
    stem = os.fsencode(stem)[:LONGEST_STEM].decode(errors="ignore")
    return stem or "recording", suffix or f".ndjson{compression}"


def commit(temporary: Path, final: Path) -> None:
    """Flushes a finished temporary file and renames it: from here on it is there, whole."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
