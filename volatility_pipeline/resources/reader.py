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

from volatility_pipeline.domain.messages import (
    TICKER_NAMES,
    Message,
    Ticker,
    read_line,
)
from volatility_pipeline.resources.parts import Part, Parts
from volatility_pipeline.resources.segments import Decoded, Segment
from volatility_pipeline.resources.warehouse import sql_text

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

PLAIN_BATCH_ROWS = 50_000
PLAIN_BATCH_BYTES = 64 << 20
MOST_REPEATED_BYTES = 1 << 20
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
_PLAIN_TABLES = {
    "plain": {**_COLUMNS, "reason": "varchar", "raw": "blob"},
    "plain_envelopes": _ENVELOPES,
    "plain_books": {
        "segment": "varchar",
        "messages": "bigint",
        "other": "bigint",
        "tickers": "bigint",
    },
    "gap_lines": {"segment": "varchar", "line": "bigint", "gap": "varchar"},
}
_FILES = {"file_index": "integer", "segment": "varchar", "first": "bigint"}


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
        fast = [] if is_plain_only else [segment for segment in day.segments if segment.lines]
        doubtful = reading.read_fast(fast)
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
        self.parts = Parts(day.folder, folder)
        self.read: list[Part] = []
        self.join = "inner join files on lines.file_index = files.file_index"  # the cheaper one
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _PLAIN_TABLES}
        self.held_bytes = 0

    def create(self) -> None:
        """Creates the relations that are filled row by row."""
        for name, columns in {**_PLAIN_TABLES, "files": _FILES}.items():
            listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            self.connection.execute(f"create or replace temp table {name} ({listed})")

    def read_fast(self, segments: list[Segment]) -> dict[str, list[int] | None]:
        """Reads what the fast reader can; returns each segment's lines that it cannot (None: all).

        The rows of the table `lines` are in the order of parts and lines, so that a row number
        is a line number, as long as every part gave as many rows as it has lines.
        """
        readable = self._try(self.parts.divide(segments))
        if self.read != readable:  # else `lines` would hold the last few that were tried alone
            readable = readable if self._try(readable) == readable == self.read else []
            if not readable:
                self._create_lines([])
        doubtful: dict[str, list[int] | None] = {segment.name: None for segment in segments}
        known: list[tuple[int, str, int]] = []
        row = 0
        for index, part in enumerate(readable):
            for segment in part.segments:
                del doubtful[segment.name]
                known.append((index, segment.name, row))
                row += segment.lines
        if known:
            columns = [list(column) for column in zip(*known, strict=True)]
            sql = "insert into files select unnest(?), unnest(?), unnest(?)"
            self.connection.execute(sql, columns)
        if len(known) > len(readable):
            self.join = "asof join files on lines.rowid >= files.first"
        for name, line in self.connection.execute(
            f"select files.segment, lines.rowid - files.first + 1 as line from lines {self.join} "
            "where lines.kind is null order by lines.rowid"
        ).fetchall():
            found = doubtful.setdefault(name, [])
            if found is not None:
                found.append(line)
        return doubtful

    def _try(self, parts: list[Part]) -> list[Part]:
        """The parts that read without an error and with every line; they are left in `lines`.

        Where an error hides which part it is, the halves are tried alone, and in the end what can
        be made of the one that it is.
        """
        import duckdb

        try:
            self._create_lines([part.path for part in parts])
        except (duckdb.InvalidInputException, duckdb.IOException):
            if not parts:
                raise
            if len(parts) == 1:
                return self._try(self.parts.again(parts[0]))
            half = len(parts) // 2
            return self._try(parts[:half]) + self._try(parts[half:])
        sql = "select file_index, count(*) from lines group by file_index"
        counts = dict(self.connection.execute(sql).fetchall())
        self.read = parts
        return [part for index, part in enumerate(parts) if counts.get(index) == part.lines]

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
        chosen = None if wanted is None else set(wanted)
        for number, line in enumerate(Decoded(self.day.folder / segment.name).lines(), start=1):
            if chosen is not None and number not in chosen:
                continue
            message = read_line(line, day=self.day.start.date(), now=self.day.latest - _DAY)
            place = (segment.name, number)
            if message.kind == "not_json":
                self._hold("plain", [(*place, *_FAULTY_LINE, "not_json", line)], len(line))
            elif message.kind == "other":
                books["other"] += 1
                if message.gap is not None:
                    self._hold("gap_lines", [(*place, json.dumps(message.gap))], len(line))
            else:
                books["messages"] += 1
                books["tickers"] += len(message.tickers)
                self._hold("plain", *_rows(place, message.tickers, line))
            if message.channel is not None and message.sequence_num is not None:
                self._hold("plain_envelopes", [_envelope(place, message)])
        self._hold("plain_books", [(segment.name, *books.values())])

    def _hold(self, table: str, rows: list[tuple[Any, ...]], size: int = 0) -> None:
        """Keeps rows to insert, and inserts once there are many, or many bytes in them."""
        self.rows[table] += rows
        self.held_bytes += size
        if len(self.rows[table]) >= PLAIN_BATCH_ROWS or self.held_bytes >= PLAIN_BATCH_BYTES:
            self._insert()

    def _insert(self) -> None:
        for table, rows in self.rows.items():
            if not rows:
                continue
            import pyarrow as pa  # a quarter of a second, and clean days need none of it

            arrays = {
                name: pa.array(column, _arrow_type(kind))
                for (name, kind), column in zip(
                    _PLAIN_TABLES[table].items(), zip(*rows, strict=True), strict=True
                )
            }
            self.connection.register("rows_to_insert", pa.table(arrays))
            self.connection.execute(f"insert into {table} select * from rows_to_insert")
            self.connection.unregister("rows_to_insert")
            self.rows[table] = []
        self.held_bytes = 0

    def finish(self) -> None:
        """Creates the views on both readers' results."""
        self._insert()
        columns = ", ".join(
            f'"{name}"' for name in _COLUMNS if name not in ("segment", "line", "item")
        )
        fast_lines = (
            "select files.segment, lines.rowid - files.first + 1 as line, 0::integer as item, "
            f"lines.* exclude (file_index) from lines {self.join} "
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
                "count(*) filter (where kind = 'ticker') as tickers "
                "from fast_lines group by segment "
                "union all select * from plain_books) group by segment"
            ),
        }.items():
            self.connection.execute(f"create or replace temp view {name} as {sql}")


_DAY = timedelta(days=1)
_TICKER_FIELDS = [field.name for field in fields(Ticker) if field.name not in ("item", "reason")]
_FAULTY_LINE = (None,) * (1 + len(_TICKER_FIELDS))


def _rows(
    place: tuple[str, int], tickers: Sequence[Ticker], line: bytes
) -> tuple[list[tuple[Any, ...]], int]:
    """The rows of a message's tickers, and the bytes in them.

    Each faulty ticker's row holds the line. Where a long line has so many that this would come to
    more than `MOST_REPEATED_BYTES`, only the first one's does: a line of a megabyte can hold a
    hundred thousand faults.
    """
    faults = sum(ticker.reason is not None for ticker in tickers)
    is_repeated = faults * len(line) <= MOST_REPEATED_BYTES
    rows = []
    is_held = False
    for ticker in tickers:
        is_shown = ticker.reason is not None and (is_repeated or not is_held)
        is_held = is_held or is_shown
        values = (getattr(ticker, name) for name in _TICKER_FIELDS)
        rows.append((*place, ticker.item, *values, ticker.reason, line if is_shown else None))
    return rows, len(line) * (faults if is_repeated else min(faults, 1))


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {
        "varchar": pa.string(),
        "bigint": pa.int64(),
        "integer": pa.int32(),
        "boolean": pa.bool_(),
        "timestamp": pa.timestamp("us"),
        "blob": pa.large_binary(),
        _DECIMAL: pa.decimal128(28, 10),
    }[kind]


def _envelope(place: tuple[str, int], message: Message) -> tuple[Any, ...]:
    return (
        *place,
        message.connection,
        message.sequence_num,
        message.channel in TICKER_NAMES,
        message.time,
    )
