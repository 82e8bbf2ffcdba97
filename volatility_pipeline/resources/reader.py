"""The reader of raw segments: the fast SQL reader where it vouches, the plain one for the rest.

It turns one day's segments into the relations that `sql/00_raw.sql` and `sql/10_ticks.sql` read.
What a line means is said in `sql/05_messages.sql` and `domain/messages.py`, which must agree.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.messages import Message, Ticker, read_line, screen
from volatility_pipeline.resources.segments import Decoded, Segment
from volatility_pipeline.resources.warehouse import sql_text

if TYPE_CHECKING:
    import duckdb

PLAIN_BATCH = 50_000
_DECIMAL = "decimal(28, 10)"
_COLUMNS = {
    "segment": "varchar",
    "line": "bigint",
    "item": "integer",
    "product_id": "varchar",
    "event_time": "timestamp",
    "capture_time": "timestamp",
    "sequence": "bigint",
    "trade_id": "bigint",
    "price": _DECIMAL,
    "best_bid": _DECIMAL,
    "best_ask": _DECIMAL,
    "bid_size": _DECIMAL,
    "ask_size": _DECIMAL,
    "last_size": _DECIMAL,
    "side": "varchar",
    "volume_24h": _DECIMAL,
}
_ENVELOPES = {
    "segment": "varchar",
    "line": "bigint",
    "connection": "varchar",
    "sequence_num": "bigint",
    "is_ticker": "boolean",
    "time": "timestamp",
}
_BOOKS = {"segment": "varchar", "messages": "bigint", "other": "bigint", "tickers": "bigint"}


@dataclass(frozen=True)
class Day:
    """One day's raw input: its folder, its described segments, and its bounds (naive UTC)."""

    folder: Path
    segments: Sequence[Segment]
    start: datetime
    latest: datetime

    @property
    def end(self) -> datetime:
        """The day's end, exclusive."""
        return self.start + timedelta(days=1)


@contextmanager
def messages(
    connection: "duckdb.DuckDBPyConnection", day: Day, *, is_plain_only: bool = False
) -> Iterator[None]:
    """Reads a day and creates the relations that hold what was found.

    `messages`: the sound tickers, typed, by (segment, line, item). `envelopes`: the messages with
    a sequence number. `quarantine`: the faulty lines and tickers with their bytes.
    `gap_lines`: the recorder's own gap lines. `line_books`: per segment the counts of ticker
    messages, other lines and tickers. `is_plain_only` is for comparing the two readers.
    """
    with tempfile.TemporaryDirectory(prefix="volatility-raw-") as folder:
        reading = _Reading(connection, day, Path(folder))
        reading.create()
        fast = [] if is_plain_only else list(day.segments)
        doubtful = reading.read_fast([segment for segment in fast if segment.lines])
        if is_plain_only:
            doubtful = {segment.name: None for segment in day.segments}
        for segment in day.segments:
            if segment.name in doubtful:
                reading.read_plain(segment, doubtful[segment.name])
        reading.finish()
        yield


class _Reading:
    def __init__(self, connection: "duckdb.DuckDBPyConnection", day: Day, folder: Path) -> None:
        self.connection = connection
        self.day = day
        self.folder = folder

    def create(self) -> None:
        for name, columns in {
            "plain": {**_COLUMNS, "reason": "varchar", "raw": "blob"},
            "plain_envelopes": _ENVELOPES,
            "plain_books": _BOOKS,
            "gap_lines": {"segment": "varchar", "line": "bigint", "gap": "varchar"},
            "files": {"filename": "varchar", "segment": "varchar", "first": "bigint"},
        }.items():
            listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            self.connection.execute(f"create or replace temp table {name} ({listed})")

    def read_fast(self, segments: list[Segment]) -> dict[str, list[int] | None]:
        """Reads what the fast reader can; returns each segment's lines that it cannot (None: all).

        The rows of the table `lines` are in the order of files and lines, so that a row number
        is a line number, as long as every file gave as many rows as it has lines.
        """
        paths = {segment.name: self._fast_path(segment) for segment in segments}
        doubtful: dict[str, list[int] | None] = {}
        readable = self._readable(segments, paths, doubtful)
        row = 0
        known = []
        for segment in readable:
            known.append((str(paths[segment.name]), segment.name, row))
            row += segment.lines
        if known:
            self.connection.executemany("insert into files values (?, ?, ?)", known)
        for name, line in self.connection.execute(
            "select files.segment, lines.rowid - files.first + 1 as line from lines "
            "inner join files using (filename) where lines.kind is null order by lines.rowid"
        ).fetchall():
            found = doubtful.setdefault(name, [])
            if found is not None:
                found.append(line)
        return doubtful

    def _fast_path(self, segment: Segment) -> Path:
        """The segment itself, or a copy in which each line that may mislead is an empty object."""
        path = self.day.folder / segment.name
        if segment.is_plain:
            return path
        copy = self.folder / f"{segment.name}.ndjson"
        with copy.open("wb") as file:
            for line in Decoded(path).lines():
                file.write((line if screen(line) is not None else b"{}") + b"\n")
        return copy

    def _readable(
        self,
        segments: list[Segment],
        paths: dict[str, Path],
        doubtful: dict[str, list[int] | None],
    ) -> list[Segment]:
        """Fills `lines` from the segments that can be read strictly; the rest become doubtful."""
        import duckdb

        def attempt(some: list[Segment]) -> list[Segment]:
            """The segments of `some` that read without an error and with every line."""
            try:
                self._create_lines([paths[segment.name] for segment in some])
            except duckdb.Error:
                if len(some) == 1:
                    return []
                half = len(some) // 2
                return attempt(some[:half]) + attempt(some[half:])
            counts = dict(
                self.connection.execute(
                    "select filename, count(*) from lines group by all"
                ).fetchall()
            )
            return [
                segment for segment in some if counts.get(str(paths[segment.name])) == segment.lines
            ]

        readable = attempt(segments) if segments else []
        if len(readable) < len(segments) or not segments:
            self._create_lines([paths[segment.name] for segment in readable])
        kept = {segment.name for segment in readable}
        doubtful.update({segment.name: None for segment in segments if segment.name not in kept})
        return readable

    def _create_lines(self, paths: list[Path]) -> None:
        sql = sql_text("05_messages.sql")
        files = [str(path) for path in paths]
        if not files:
            nothing = self.folder / "nothing.ndjson"
            nothing.touch()
            files = [str(nothing)]
        self.connection.execute(
            f"create or replace temp table lines as {sql}",
            {
                "files": files,
                "start": self.day.start,
                "end": self.day.end,
                "latest": self.day.latest,
            },
        )

    def read_plain(self, segment: Segment, wanted: list[int] | None) -> None:
        """Reads the given lines of a segment (None: all) with the plain reader."""
        books = {"messages": 0, "other": 0, "tickers": 0}
        tickers: list[tuple[Any, ...]] = []
        envelopes: list[tuple[Any, ...]] = []
        gaps: list[tuple[Any, ...]] = []
        chosen = None if wanted is None else set(wanted)
        for number, line in enumerate(Decoded(self.day.folder / segment.name).lines(), start=1):
            if chosen is not None and number not in chosen:
                continue
            message = read_line(line, day=self.day.start.date(), now=self.day.latest - _DAY)
            place = (segment.name, number)
            if message.kind == "not_json":
                tickers.append((*place, *_fault_line(), "not_json", line))
            elif message.kind == "other":
                books["other"] += 1
                if message.gap is not None:
                    gaps.append((*place, json.dumps(message.gap)))
            else:
                books["messages"] += 1
                books["tickers"] += len(message.tickers)
                tickers += [_row(place, ticker, line) for ticker in message.tickers]
            if message.channel is not None and message.sequence_num is not None:
                envelopes.append(_envelope(place, message))
            if len(tickers) >= PLAIN_BATCH:
                self._insert("plain", tickers)
                tickers = []
        self._insert("plain", tickers)
        self._insert("plain_envelopes", envelopes)
        self._insert("gap_lines", gaps)
        self._insert("plain_books", [(segment.name, *books.values())])

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        import pyarrow as pa

        if not rows:
            return
        names = self.connection.execute(f"select * from {table} limit 0").to_arrow_table().schema
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(zip(*rows, strict=True), names, strict=True)
        ]
        self.connection.register("rows_to_insert", pa.Table.from_arrays(arrays, schema=names))
        self.connection.execute(f"insert into {table} select * from rows_to_insert")
        self.connection.unregister("rows_to_insert")

    def finish(self) -> None:
        columns = ", ".join(
            f'"{name}"' for name in _COLUMNS if name not in ("segment", "line", "item")
        )
        fast_lines = (
            "select files.segment, lines.rowid - files.first + 1 as line, 0::integer as item, "
            "lines.* exclude (filename) from lines inner join files using (filename) "
            "where lines.kind is not null"
        )
        for name, sql in {
            "fast_lines": fast_lines,
            "messages": (
                f"select segment, line, item, {columns} from fast_lines where kind = 'ticker' "
                f"union all select segment, line, item, {columns} from plain where reason is null"
            ),
            "envelopes": (
                "select segment, line, connection, sequence_num, kind = 'ticker' as is_ticker, "
                "event_time as time from fast_lines where sequence_num is not null "
                "union all select * from plain_envelopes"
            ),
            "quarantine": (
                "select segment, line, item, reason, raw from plain where reason is not null"
            ),
            "line_books": (
                "select segment, sum(messages)::bigint as messages, sum(other)::bigint as other, "
                "sum(tickers)::bigint as tickers from ("
                "select segment, count(*) filter (where kind = 'ticker') as messages, "
                "count(*) filter (where kind = 'other') as other, "
                "count(*) filter (where kind = 'ticker') as tickers from fast_lines group by segment "
                "union all select * from plain_books) group by segment"
            ),
        }.items():
            self.connection.execute(f"create or replace temp view {name} as {sql}")


_DAY = timedelta(days=1)
_TICKER_FIELDS = [field.name for field in fields(Ticker) if field.name not in ("item", "reason")]


def _row(place: tuple[str, int], ticker: Ticker, line: bytes) -> tuple[Any, ...]:
    values = (getattr(ticker, name) for name in _TICKER_FIELDS)
    return (*place, ticker.item, *values, ticker.reason, line if ticker.reason else None)


def _fault_line() -> tuple[None, ...]:
    return (None,) * (1 + len(_TICKER_FIELDS))


def _envelope(place: tuple[str, int], message: Message) -> tuple[Any, ...]:
    return (
        *place,
        message.connection,
        message.sequence_num,
        message.kind == "ticker",
        message.time,
    )
