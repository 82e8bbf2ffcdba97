"""From raw segments to the manifest, the ticks, the quarantine and the books of a day."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.schemas import QUARANTINE, TICKS
from volatility_pipeline.domain.values import parse_integer
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.reader import Day, messages
from volatility_pipeline.resources.segments import LANDED, Segment
from volatility_pipeline.resources.warehouse import Warehouse, connect, sql_text, write_parquet

if TYPE_CHECKING:
    import duckdb

_BOOKS = """
select
    segments.segment,
    segments.lines,
    coalesce(line_books.messages, 0) as messages,
    coalesce(line_books.other, 0) as other,
    coalesce(faults.lines, 0) as quarantined_lines,
    coalesce(line_books.tickers, 0) as tickers,
    coalesce(kept.ticks, 0) as ticks,
    coalesce(sound.tickers, 0) - coalesce(kept.ticks, 0) as duplicates,
    coalesce(faults.tickers, 0) as quarantined_tickers
from segments
left join line_books using (segment)
left join (
    select segment, count(*) filter (where item is null) as lines, count(item) as tickers
    from quarantine group by segment
) as faults using (segment)
left join (select segment, count(*) as tickers from messages group by segment) as sound
    using (segment)
left join (select segment, count(*) as ticks from kept_ticks group by segment) as kept
    using (segment)
order by segment
"""


@dataclass(frozen=True)
class Ingest:
    """Reads the raw segments of a day."""

    lake: Lake
    warehouse: Warehouse

    def write_manifest(self, day: date) -> dict[str, Any]:
        """Describes the day's segments, finds its gaps, and commits the manifest."""
        self.lake.check_not_moved(day)
        segments = self.lake.describe_raw(day)
        if not segments and not self.lake.raw_folder(day).is_dir():
            return {"segments": [], "gaps": []}
        with (
            connect(self.warehouse.threads) as connection,
            self._messages(connection, day, segments),
        ):
            gaps = self._gaps(connection, day, segments)
        return self.lake.write_manifest(day, segments, gaps)

    def build_ticks(self, day: date) -> dict[str, Any]:
        """Writes the day's ticks and quarantine; the record holds the books per segment.

        The books stand in the ticks' record under `books`: for each segment `lines`, `messages`,
        `other`, `quarantined_lines`, `tickers`, `ticks`, `duplicates`, `quarantined_tickers`.
        """
        self.lake.check_not_moved(day)
        made_from = self.warehouse.made_from("ticks", day)
        manifest = self.lake.manifest(day) or {"segments": []}
        segments = [Segment(**entry) for entry in manifest["segments"]]
        with (
            connect(self.warehouse.threads) as connection,
            self._messages(connection, day, segments),
        ):

            def write_quarantine(path: Path) -> int:
                sql = (
                    "select segment, line, item, reason, raw from quarantine "
                    "order by segment, line, item nulls first"
                )
                return write_parquet(connection, QUARANTINE, sql, {}, path)

            def write_ticks(path: Path) -> int:
                rows = write_parquet(connection, TICKS, sql_text("10_ticks.sql"), {}, path)
                connection.read_parquet(str(path)).create_view("kept_ticks", replace=True)
                facts["books"] = self._books(connection, segments)
                return rows

            facts: dict[str, Any] = {}
            self.lake.write_partition("quarantine", day, write_quarantine, made_from)
            return self.lake.write_partition("ticks", day, write_ticks, made_from, facts)

    def _messages(
        self, connection: "duckdb.DuckDBPyConnection", day: date, segments: list[Segment]
    ) -> Any:
        start = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (naive UTC)
        latest = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
        return messages(connection, Day(self.lake.raw_folder(day), segments, start, latest))

    def _gaps(
        self, connection: "duckdb.DuckDBPyConnection", day: date, segments: list[Segment]
    ) -> list[dict[str, Any]]:
        sql = sql_text("00_raw.sql")
        found = connection.execute(sql, {"max_gap_seconds": self.warehouse.max_gap_seconds})
        names = [column[0] for column in found.description or ()]
        gaps = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        gaps += [
            {"kind": "torn", "subject": segment.name, "is_hint": False}
            for segment in segments
            if segment.is_torn
        ]
        recorded = connection.execute("select gap from gap_lines order by segment, line")
        for (text,) in recorded.fetchall():
            gap = json.loads(text)
            gaps.append(
                {
                    "kind": "recorded",
                    "subject": gap.get("product_id"),
                    "from": gap.get("from"),
                    "to": gap.get("to"),
                    "missing": parse_integer(gap.get("missing")),
                    "reason": gap.get("reason"),
                    "is_hint": False,
                }
            )
        near = [day + timedelta(days=offset) for offset in (-1, 0, 1)]
        landed = {at: self.lake.landed_names(at) for at in near}
        return gaps + missing_offsets(
            landed[day], [name for names in landed.values() for name in names]
        )

    @staticmethod
    def _books(
        connection: "duckdb.DuckDBPyConnection", segments: list[Segment]
    ) -> list[dict[str, Any]]:
        connection.execute(
            "create or replace temp table segments as "
            "select unnest($names::varchar[]) as segment, unnest($lines::bigint[]) as lines",
            {
                "names": [segment.name for segment in segments],
                "lines": [segment.lines for segment in segments],
            },
        )
        found = connection.execute(_BOOKS)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def missing_offsets(names: Iterable[str], near: Iterable[str]) -> list[dict[str, Any]]:
    """The Kafka offsets before a day's landed segments that no segment of the days around holds.

    They are the day's to tell whose segment comes next, so that each is told once: also those
    missing at midnight.

    Args:
        names: The day's segments.
        near: The segments of the day before, the day itself and the day after.
    """
    own: dict[str, list[tuple[int, int]]] = defaultdict(list)
    held: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for found, given in ((own, names), (held, near)):
        for match in filter(None, map(LANDED.fullmatch, given)):
            found[match["log"]].append((int(match["first"]), int(match["last"])))
    gaps = []
    for log, spans in own.items():
        expected = min(held[log])[0]
        for start, end in sorted(held[log]):
            if expected < start and (start, end) in spans:
                gaps.append(
                    {
                        "kind": "offsets",
                        "subject": log,
                        "first": expected,
                        "last": start - 1,
                        "missing": start - expected,
                        "is_hint": False,
                    }
                )
            expected = max(expected, end + 1)
    return gaps
