"""Data quality: runs the suites of `domain/expectations.py` with Great Expectations.

A day's table is asked once: its outcome is kept under `data/quality/<table>/date=….json` and stands
until the table's contents or the suite are others. Great Expectations takes seconds to import, so
that happens here alone, once in a process, and only where something has to be asked. What a day is
asked about is a profile that DuckDB tells of it (`sql/quality/`); what is to hold is in the domain.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.expectations import SUITES, Outcome, Suite, failure
from volatility_pipeline.domain.schemas import QUARANTINE, TABLES, TICKS
from volatility_pipeline.resources.lake import Lake, read_json, write_json
from volatility_pipeline.resources.warehouse import (
    Warehouse,
    connect,
    create_table,
    create_view,
    sql_text,
)

if TYPE_CHECKING:
    import pandas as pd

STAGE = "quality"
PAGE = "quality.html"
# While a day grows it is built every few seconds, by a new process each time: what is in order
# then is asked again after ten minutes, and once the day is over.
OPEN_DAY_PAUSE = timedelta(minutes=10)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Quality:
    """Runs the suites over the lake's data stages, a table and a day at a time.

    Attributes:
        lake: The partitions, and the outcomes.
        warehouse: Its settings and threads serve the profiles.
        now: The clock.
    """

    lake: Lake
    warehouse: Warehouse
    now: Callable[[], datetime] = _now

    @property
    def page(self) -> Path:
        """Where the page of the last outcomes is."""
        return self.lake.root / STAGE / PAGE

    def outcome(self, table: str, day: date) -> Outcome | None:
        """What a table's suite last said of a day; None where it was never asked."""
        facts = read_json(self._file(table, day))
        return None if facts is None else Outcome.from_dict(facts)

    def days(self) -> list[date]:
        """The days of which something was asked, in order."""
        return sorted({day for table in SUITES for day in self.lake.days(f"{STAGE}/{table}")})

    def validate(self, table: str, day: date) -> Outcome | None:
        """What a table's suite says of a day, asked anew if anything has changed.

        None, and nothing is kept, where the table has no row. Today's table is asked at most every
        ten minutes, unless something critical was found in it.

        Raises:
            RuntimeError: An expectation could not be asked.
        """
        suite = SUITES[table]
        is_read = table == QUARANTINE.name and self._books(day)  # which may well leave it empty
        if not is_read and not self.lake.file(table, day).exists():
            self._file(table, day).unlink(missing_ok=True)
            return None
        fingerprint = self._fingerprint(suite, day)
        last = self.outcome(table, day)
        now = self.now()
        if last is not None and (last.fingerprint == fingerprint or self._is_recent(last, now)):
            return last
        profile = self._profile(suite, day)
        outcome = Outcome(
            table=table,
            day=day.isoformat(),
            fingerprint=fingerprint,
            validated_at=now.isoformat(timespec="seconds"),
            profile_rows=len(profile),
            is_simulated=self.lake.is_simulated(day),
            failures=tuple(
                failure(suite, suite.expectations[number], rows)
                for number, rows in _failed(suite, profile)
            ),
        )
        write_json(self._file(table, day), outcome.to_dict())
        return outcome

    def validate_days(self, table: str, days: Iterable[date]) -> list[Outcome]:
        """What a table's suite says of some days; the page is written if any says anything new."""
        found, is_new = [], not self.page.exists()
        for day in days:
            last, outcome = self.outcome(table, day), self.validate(table, day)
            is_new |= outcome != last
            if outcome is not None:
                found.append(outcome)
        if is_new:
            self.write_page()
        return found

    def write_page(self) -> None:
        """Writes the page of the last outcomes of the newest days."""
        from volatility_pipeline.reports.quality import SHOWN_DAYS, render

        days = self.days()[-SHOWN_DAYS:]
        found = [self.outcome(table, day) for day in days for table in SUITES]
        self.lake.write_text(self.page, render([each for each in found if each is not None]))

    def _file(self, table: str, day: date) -> Path:
        return self.lake.file(f"{STAGE}/{table}", day, ".json")

    def _is_recent(self, last: Outcome, now: datetime) -> bool:
        """Whether an outcome of an unfinished day may stand a little longer."""
        is_open = date.fromisoformat(last.day) >= now.date()
        age = now - datetime.fromisoformat(last.validated_at)
        return is_open and last.status != "failed" and age < OPEN_DAY_PAUSE

    def _fingerprint(self, suite: Suite, day: date) -> str:
        """A hash of what decides an outcome: the suite, its SQL, and what it reads."""
        contents = [
            (source, offset, self.lake.content(source, day + timedelta(days=offset)))
            for source, offsets in suite.reads.items()
            for offset in offsets
        ]
        facts = [
            asdict(suite),
            sql_text(_sql(suite)),
            self.warehouse.max_gap_seconds,
            contents,
            self._books(day) if suite.table == QUARANTINE.name else [],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _books(self, day: date) -> list[dict[str, Any]]:
        books: list[dict[str, Any]] = (self.lake.record("ticks", day) or {}).get("books", [])
        return books

    def _profile(self, suite: Suite, day: date) -> "pd.DataFrame":
        sql = sql_text(_sql(suite))
        start = datetime(day.year, day.month, day.day)  # noqa: DTZ001  (naive UTC)
        values = {
            "start": start,
            "end": start + timedelta(days=1),
            "max_gap_seconds": self.warehouse.max_gap_seconds,
        }
        with connect(self.warehouse.threads) as connection:
            for source in suite.reads:
                create_view(connection, TABLES[source], [self.lake.file(source, day)])
            if suite.table == TICKS.name:
                eve = self.lake.file(TICKS.name, day - timedelta(days=1))
                create_view(connection, replace(TICKS, name="eve"), [eve])
            if suite.table == QUARANTINE.name:
                create_table(connection, "books", self._books(day))
            parameters = {name: value for name, value in values.items() if f"${name}" in sql}
            found = connection.sql(sql, params=parameters).to_arrow_table()
        profile: pd.DataFrame = found.to_pandas()
        return profile


def _sql(suite: Suite) -> str:
    return f"quality/{suite.table}.sql"


def _failed(suite: Suite, profile: "pd.DataFrame") -> list[tuple[int, list[dict[str, Any]]]]:
    """The expectations that fail, by number, and the rows of the profile in which each does."""
    if profile.empty:
        return []
    gx, context = _great_expectations()
    asked = gx.ExpectationSuite(
        suite.table,
        expectations=[
            gx.expectations.ExpectColumnValuesToBeBetween(
                column=each.name,
                min_value=0,
                max_value=each.at_most,
                severity=each.severity,
                meta={"number": number},
            )
            for number, each in enumerate(suite.expectations)
        ],
    )
    batch = context.data_sources.pandas_default.read_dataframe(profile)
    answer = batch.validate(asked, result_format="COMPLETE")
    failed = []
    for result in answer.results:
        config = result.expectation_config
        number = config.meta["number"]
        if result.exception_info.get("raised_exception") or "element_count" not in result.result:
            raise RuntimeError(f"{suite.table}: {config.kwargs}: {result.exception_info}")
        if not result.success:
            rows = profile.loc[result.result["unexpected_index_list"]].to_dict("records")
            failed.append((number, rows))
    return sorted(failed, key=lambda each: each[0])


@cache
def _great_expectations() -> tuple[Any, Any]:
    """The library and its context: in memory, silent, and telling nobody."""
    with warnings.catch_warnings():
        # Its own: modules of Python that will go.
        warnings.filterwarnings("ignore", "module 'sre_.*' is deprecated")
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return gx, context
