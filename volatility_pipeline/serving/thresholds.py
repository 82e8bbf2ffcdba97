"""The trailing thresholds of live rows, from the volatilities at whole minutes of a day.

Here belongs which minutes are held, which of them the lake tells and which the memory, and what is
known to lack. What a threshold is stands in `sql/40_labels.sql`.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Self

from volatility_pipeline.domain.schemas import TABLES
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect, create_view, sql_text

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

Reading = tuple[str, datetime, float | None]  # a product, a decision time, its volatility of 60 s

# Until when the lake knows the market: a row after it is carried forward, and may be undone.
_KNOWN = "select max(ts - to_seconds(seconds_since_tick)) from stored"
_FOUND = """
create or replace temp table found as
select product_id, ts, realized_volatility_60s from stored
where ts > $after and ts <= $until and ts = date_trunc('minute', ts)
"""
_FORGET = "delete from features where ts > $after and ts <= $until"


class Thresholds:
    """What `realized_volatility_60s` was at the whole minutes of the last 24 hours.

    Args:
        max_gap_seconds: As in the batch.
        threads: Of DuckDB.
    """

    def __init__(self, *, max_gap_seconds: int, threads: int | None) -> None:
        self.max_gap_seconds = max_gap_seconds
        self.threads = threads
        self.hole: tuple[datetime, datetime] | None = None
        self._lake: Lake | None = None
        self._known: datetime | None = None  # until when the lake tells the minutes
        self._found: dict[str, tuple[datetime, float | None]] = {}
        self._leave = ExitStack()

    def __enter__(self) -> Self:
        self._minutes = self._leave.enter_context(connect(self.threads))
        self._minutes.execute(
            "create table features "
            "(product_id varchar, ts timestamp, realized_volatility_60s double)"
        )
        self._minutes.execute(f"create view bars as {TABLES['bars'].empty_select()}")
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave.close()

    def load(self, lake: Lake, at: datetime) -> None:
        """Takes in the lake's minutes of the 24 hours before a time (naive UTC)."""
        self._lake = lake
        self._known = self._read(at - DAY, at)

    def _read(self, after: datetime, until: datetime) -> datetime | None:
        """Puts the lake's minutes in (after, until] in the place of those held.

        Returns until when the lake tells them; what is held of later ones stays.
        """
        if self._lake is None:
            return None
        days = [day for day in self._lake.days("features") if day >= after.date()]
        stored = replace(TABLES["features"], name="stored")
        create_view(self._minutes, stored, [self._lake.file("features", day) for day in days])
        known: datetime | None = self._minutes.execute(_KNOWN).fetchall()[0][0]
        if known is not None:
            span = {"after": after, "until": min(known, until)}
            self._minutes.execute(_FOUND, span)
            self._minutes.execute(_FORGET, span)
            self._minutes.execute("insert into features select * from found")
        return known

    def take_over(self, since: datetime, until: datetime, readings: Sequence[Reading]) -> None:
        """Puts the memory's own minutes in [since, until) in the place of the lake's.

        The lake's may be older than its ticks, or end in what was carried forward. Those between
        the lake's end and `since` nobody knows: they are the hole.
        """
        span = {"after": since - timedelta(microseconds=1), "until": until}
        self._minutes.execute(_FORGET, span)
        self._insert(readings)
        self._note_hole(self._known or until - DAY, since)

    def mend(self, until: datetime) -> None:
        """Fills the hole, once the lake has been built that far; forgets it after a day."""
        import duckdb

        if self.hole is not None:
            known, since = self.hole
            with suppress(duckdb.Error):  # a file was replaced at this moment: in a minute, then
                found = self._read(known, since)
                if found is not None and found > known:
                    self._found.clear()
                    known = found
            self._note_hole(max(known, until - DAY), since)

    def _note_hole(self, known: datetime, since: datetime) -> None:
        has_minute = _minute(known) + MINUTE < since
        self.hole = (known, since) if has_minute else None

    def of(
        self, readings: Iterable[Reading], until: datetime
    ) -> dict[tuple[str, datetime], float | None]:
        """The thresholds by product and minute, for readings in time order up to `until`.

        One holds for all rows of a minute, so the SQL runs for the first row of each.
        """
        found = {(product, minute): one for product, (minute, one) in self._found.items()}
        firsts: dict[tuple[str, datetime], Reading] = {}
        for one in readings:
            key = (one[0], _minute(one[1]))
            if key not in found:
                firsts.setdefault(key, one)
        if firsts:
            self._insert(list(firsts.values()))
            asked = self._minutes.execute(
                sql_text("40_labels.sql"),
                {
                    "start": min(ts for _, ts, _ in firsts.values()),
                    "end": until + timedelta(seconds=1),
                    "max_gap_seconds": self.max_gap_seconds,
                },
            ).fetchall()
            for product, ts, _, threshold in asked:
                found[product, _minute(ts)] = threshold
                self._found[product] = (_minute(ts), threshold)
            self._minutes.execute("delete from features where ts <= $old", {"old": until - DAY})
        return found

    def _insert(self, readings: Sequence[Reading]) -> None:
        if readings:
            sql = "insert into features select unnest(?), unnest(?), unnest(?)"
            self._minutes.execute(sql, [list(column) for column in zip(*readings, strict=True)])


def _minute(ts: datetime) -> datetime:
    return ts.replace(second=0, microsecond=0)
