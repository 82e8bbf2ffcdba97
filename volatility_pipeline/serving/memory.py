"""The memory of the live features: lines in, feature rows out, by the SQL files of the batch.

Here belongs what is held, for how long, and which part of it a second's SQL has to read. Where the
lines come from, and when a second is due, belongs to `live`, the minutes behind the thresholds to
`thresholds`; what a feature is stands in `sql/`.

A row at `ts` knows the events before `ts` that were added before it was made, and equals the row
that the batch makes from exactly these. An event that comes later counts as late: rows already made
stay as they are, rows made from then on know it.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from volatility_pipeline.domain.messages import Ticker, read_line
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS, TABLES
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect, create_view, sql_text
from volatility_pipeline.serving.thresholds import DAY, Thresholds

if TYPE_CHECKING:
    import pyarrow as pa

SECOND = timedelta(seconds=1)
BARS = timedelta(seconds=3602)  # what the SQL of the features looks back at
NEAR_BARS = timedelta(seconds=302)  # what all but its windows of 900 s and 3600 s need
TICKS = timedelta(hours=2)  # what the SQL of the bars looks back at
LOOK_BACK = BARS + TICKS  # of a start
LATEST = timedelta(minutes=2)  # how far events may come out of order and still be taken in
TIDY_EVERY = timedelta(minutes=1)

_DECIMAL = "decimal(28, 10)"
_NUMBERS = ("price", "best_bid", "best_ask", "bid_size", "ask_size", "last_size", "volume_24h")
_MESSAGES = {
    column.name: _DECIMAL if column.name in _NUMBERS else column.type
    for column in TABLES["ticks"].columns
}
# `settled` are the ticks before their product's cut, whose duplicates are gone; `messages` are the
# sound tickers since. `fresh` are the latter without duplicates.
_TICKS = "create view ticks as select * from settled union all by name select * from fresh"
# The bars since a second, which for products with late ticks is an earlier one.
_FORGET = """
delete from bars using dirty
where bars.product_id = dirty.product_id and bars."second" >= dirty.since
"""
_KEEP = """
insert into bars
select made.* from made left join dirty using (product_id)
where made."second" >= coalesce(dirty.since, $since)
"""
# Before a product's cut, of every stretch of `max_gap_seconds` the first and the last tick remain.
# That is all the bars to come need of them: no silence that ends a run fits into a stretch, so the
# silences between consecutive ticks stay as they are, and with them where each run began.
# A cut never moves back: of what lies before it no more than that is left.
_CUTS = """
create or replace temp table cuts as
select
    product_id,
    greatest(time_bucket($stretch, max(event_time) - $depth), max(cuts.cut)) as cut,
    max(event_time) - $look_back as oldest
from ticks left join cuts using (product_id) where event_time < $until group by product_id
"""
_SETTLE = """
create or replace table settled as
select ticks.* from ticks inner join cuts using (product_id)
where event_time < cut and event_time >= oldest
window stretch as (partition by ticks.product_id, time_bucket($stretch, event_time))
qualify
    row_number() over (stretch order by event_time) = 1
    or row_number() over (stretch order by event_time desc) = 1
"""
_UNSETTLED = """
create or replace table messages as
select messages.* from messages left join cuts using (product_id)
where cut is null or event_time >= cut
"""
# The SQL of the features, twice: on the bars that all but its two longest windows need, and on all
# bars for those two, where DuckDB leaves out whatever they do not need. It is a third of the work.
_FEATURES = """
with
    near as (
        with bars as (select * from main.bars where "second" >= $near)
        select * from ({sql})
    ),
    far as (
        select product_id, ts, realized_volatility_900s, realized_volatility_3600s from ({sql})
    )
select
    near.* replace (
        far.realized_volatility_900s as realized_volatility_900s,
        far.realized_volatility_3600s as realized_volatility_3600s
    )
from near inner join far using (product_id, ts)
order by product_id, ts
"""
_VOLATILITY = 2 + FEATURE_COLUMNS.index("realized_volatility_60s")
_MINUTES = """
select product_id, ts, realized_volatility_60s from ({sql}) where ts = date_trunc('minute', ts)
"""


@dataclass(frozen=True)
class FeatureRow:
    """What is known of a product at a decision time.

    Attributes:
        product: The market, like BTC-USD.
        ts: The decision time, a whole second, UTC.
        features: `FEATURE_COLUMNS`, in order, as in the table; None where the value is missing.
        trailing_threshold: 90th percentile of `realized_volatility_60s` at the whole minutes of
            the last 24 hours; None with fewer than 60 of them.
        published_at: When the row was made, UTC.
        is_threshold_whole: False while minutes behind the threshold are not known, though there
            may have been some: the batch may have another threshold.
    """

    product: str
    ts: datetime
    features: Mapping[str, float | None]
    trailing_threshold: float | None
    published_at: datetime
    is_threshold_whole: bool = True


@dataclass(frozen=True)
class Line:
    """One line of a source: `offset` orders it within its `log`; `stamp` is when it was sent, UTC.

    A log of Kafka is named as `feed.kafka.Identity.log` does, so that ties are ordered as they are
    once the line has landed.
    """

    log: str
    offset: int
    value: bytes
    stamp: datetime


class Memory:
    """Bars of the last hour, and the ticks that those to come are made from.

    Args:
        max_gap_seconds: As in the batch.
        products: Of which products; None for all that appear.
        threads: Of DuckDB.
    """

    def __init__(
        self,
        *,
        max_gap_seconds: int = 30,
        products: frozenset[str] | None = None,
        threads: int | None = 1,
    ) -> None:
        self.max_gap_seconds = max_gap_seconds
        self.products = products
        self.threads = threads
        self.until: datetime | None = None  # the newest second whose rows are made, naive UTC
        self.messages = 0
        self.faulty = 0
        self.late = 0
        self.newest: dict[str, datetime] = {}
        self._added: list[tuple[Any, ...]] = []
        self._dirty: dict[str, datetime] = {}
        self._late: list[tuple[str, int]] = []
        self._closed: dict[str, datetime] = {}
        self._days: dict[str, date] = {}
        self._tidied: datetime | None = None
        self._lake_end = datetime.min  # noqa: DTZ901  (naive UTC)
        self._resumed: datetime | None = None  # of what came after the lake, the first
        self._thresholds = Thresholds(max_gap_seconds=max_gap_seconds, threads=threads)
        self._leave = ExitStack()

    def __enter__(self) -> Self:
        self._memory = self._leave.enter_context(connect(self.threads))
        self._leave.enter_context(self._thresholds)
        columns = ", ".join(f'"{name}" {kind}' for name, kind in _MESSAGES.items())
        self._memory.execute(f"create table messages ({columns})")
        for name, table in (("settled", "ticks"), ("fresh", "ticks"), ("bars", "bars")):
            self._memory.execute(f"create table {name} as {TABLES[table].empty_select()}")
        self._memory.execute(_TICKS)
        self._memory.execute("create temp table cuts (product_id varchar, cut timestamp)")
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave.close()

    def load(self, lake: Lake, at: datetime | None = None) -> None:
        """Takes in what a lake knows of the time before `at` (naive UTC): ticks, and minutes.

        Without `at` that is all up to its newest tick. The lake holds doubles: a duplicate of one
        of its ticks is known as such where sizes and prices have at most 15 digits.
        """
        days = lake.days("ticks")
        days = days[-2:] if at is None else [day for day in days if day >= at.date() - DAY]
        stored = replace(TABLES["ticks"], name="stored")
        create_view(self._memory, stored, [lake.file("ticks", day) for day in days])
        ((newest,),) = self._memory.execute("select max(event_time) from stored").fetchall()
        if at is None:
            if newest is None:
                return
            at = newest + SECOND
        if newest is not None:
            self._lake_end = min(newest, at)
        self._memory.execute(
            "insert into settled select * from stored "
            "where event_time >= $from and ($products is null or product_id in $products)",
            {"from": at - LOOK_BACK, "products": self.products and sorted(self.products)},
        )
        self._cut(at)
        columns = ", ".join(
            f'"{name}"::varchar::{kind}' if name in _NUMBERS else f'"{name}"'
            for name, kind in _MESSAGES.items()
        )
        recent = (
            "from settled left join cuts using (product_id) where cut is null or event_time >= cut"
        )
        self._memory.execute(f"insert into messages select {columns} {recent}")
        self._memory.execute(
            "create or replace table settled as select settled.* from settled "
            "inner join cuts using (product_id) where event_time < cut"
        )
        self._thresholds.load(lake, at)

    def add(self, line: Line, at: datetime) -> None:
        """Reads a line that arrived at a time (naive UTC), as the batch will once it has landed."""
        self.messages += 1
        message = read_line(line.value.replace(b"\n", b" "), now=at)
        is_dated = message.time is not None and message.time <= at + DAY
        # The day that the lander puts the line into: a ticker of another one is at fault there.
        day = message.time.date() if message.time is not None and is_dated else None
        day = day or self._days.get(line.log) or line.stamp.date()
        self._days[line.log] = day
        self.faulty += message.kind == "not_json"
        for ticker in message.tickers:
            if ticker.reason is not None or _time(ticker).date() != day:
                self.faulty += 1
            elif self.products is None or ticker.product_id in self.products:
                self._take(line, ticker, at)

    def _take(self, line: Line, ticker: Ticker, at: datetime) -> None:
        product, time = str(ticker.product_id), _time(ticker)
        arrived = min(time, at)  # what is dated ahead says nothing newer than that
        self.newest[product] = max(self.newest.get(product, arrived), arrived)
        if self.until is None and time > self._lake_end:
            self._resumed = min(self._resumed or time, time)
        if time < self._closed.get(product, time):
            self.late += self.until is not None
            return
        segment = f"{line.log}-{line.offset:020d}"
        place = {"segment": segment, "line": 1}
        values = vars(ticker) | place
        self._added.append(tuple(values[name] for name in _MESSAGES))
        if self.until is not None and time < self.until:
            second = time.replace(microsecond=0)
            self._dirty[product] = min(self._dirty.get(product, second), second)
            self._late.append((segment, ticker.item))

    def advance(self, until: datetime) -> list[FeatureRow]:
        """The rows of each second after the last one made, up to and including `until`.

        The first time, of `until` alone. Rows come in order of product and `ts`.

        Args:
            until: A whole second, naive UTC, later than that of the last call.
        """
        is_first = self.until is None
        after = until - SECOND if self.until is None else self.until
        self._insert()
        self._memory.execute(f"create or replace table fresh as {sql_text('10_ticks.sql')}")
        self._count_late()
        self._make_bars(until - LOOK_BACK if is_first else after, until)
        first = after + SECOND
        times = {"start": first, "end": until + SECOND, "near": first - NEAR_BARS}
        sql = _FEATURES.format(sql=sql_text("30_features.sql"))
        rows = self._memory.execute(sql, times).fetchall()
        if is_first:
            self._take_over_minutes(until)
        thresholds = self._thresholds.of(((*row[:2], row[_VOLATILITY]) for row in rows), until)
        is_whole = self._thresholds.hole is None
        self.until = until
        made = datetime.now(UTC)
        return [
            FeatureRow(
                product,
                ts.replace(tzinfo=UTC),
                dict(zip(FEATURE_COLUMNS, values, strict=True)),
                thresholds[product, ts.replace(second=0)],
                made,
                is_whole,
            )
            for product, ts, *values in rows
        ]

    def _insert(self) -> None:
        if not self._added:
            return
        import pyarrow as pa

        arrays = {
            name: pa.array(column, _arrow_type(kind))
            for (name, kind), column in zip(
                _MESSAGES.items(), zip(*self._added, strict=True), strict=True
            )
        }
        self._memory.register("added", pa.table(arrays))
        self._memory.execute("insert into messages select * from added")
        self._memory.unregister("added")
        self._added.clear()

    def _count_late(self) -> None:
        """Counts the late ticks, of which a duplicate of a timely one is none."""
        if self._late:
            segments, items = zip(*self._late, strict=True)
            found = self._memory.execute(
                "select count(*) from fresh semi join "
                "(select unnest($segments) as segment, unnest($items) as item) as late "
                "using (segment, item)",
                {"segments": list(segments), "items": list(items)},
            ).fetchone()
            self.late += found[0] if found else 0
            self._late.clear()

    def _make_bars(self, since: datetime, until: datetime) -> None:
        start = max(min([since, *self._dirty.values()]), since - BARS)
        self._memory.execute(
            "create or replace temp table dirty as select "
            "unnest($products::varchar[]) as product_id, unnest($since::timestamp[]) as since",
            {"products": list(self._dirty), "since": list(self._dirty.values())},
        )
        self._memory.execute(
            f"create or replace temp table made as {sql_text('20_bars.sql')}",
            {"start": start, "end": until, "max_gap_seconds": self.max_gap_seconds},
        )
        if self._dirty:
            self._memory.execute(_FORGET)
        self._memory.execute(_KEEP, {"since": since})
        self._dirty.clear()

    def _take_over_minutes(self, until: datetime) -> None:
        """Makes the minutes behind the thresholds from the bars, as far back as these are whole.

        That is to the look-back, or to a silence between the lake's end and what came since.
        """
        since = until - LOOK_BACK + NEAR_BARS + 2 * self._stretch
        resumed = self._resumed or until
        if resumed - self._lake_end > self._stretch:
            since = max(since, resumed + NEAR_BARS)
        sql = _MINUTES.format(sql=sql_text("30_features.sql"))
        readings = self._memory.execute(sql, {"start": since, "end": until}).fetchall()
        self._thresholds.take_over(since, until, readings)

    def tidy(self) -> None:
        """Once a minute, lets go of what no bar and no row to come will need.

        It also asks the lake for minutes that the thresholds lack. To be called after each
        `advance`, once the rows are handed on: they need not wait for it.
        """
        until = self.until
        if until is None or (self._tidied is not None and until - self._tidied < TIDY_EVERY):
            return
        self._thresholds.mend(until)
        self._cut(until)
        self._memory.execute(_SETTLE, {"stretch": self._stretch})
        self._memory.execute(_UNSETTLED)
        self._memory.execute(
            'create or replace table bars as select * from bars where "second" >= $oldest '
            'order by product_id, "second"',
            {"oldest": until - BARS},
        )
        self._tidied = until

    def _cut(self, until: datetime) -> None:
        """Decides before which time each product's ticks are settled.

        A bar to come needs all ticks of its second and of `max_gap_seconds` before.
        """
        needed = self._stretch + 2 * SECOND
        self._memory.execute(
            _CUTS,
            {
                "stretch": self._stretch,
                "depth": LATEST + needed,
                "look_back": BARS + LATEST + 3 * needed,
                "until": until,
            },
        )
        cuts = self._memory.execute("select product_id, cut from cuts").fetchall()
        self._closed = {product: cut + needed for product, cut in cuts}

    @property
    def hole(self) -> tuple[datetime, datetime] | None:
        """From when to when (naive UTC) minutes behind the thresholds are not known."""
        return self._thresholds.hole

    @property
    def _stretch(self) -> timedelta:
        return timedelta(seconds=self.max_gap_seconds)


def _time(ticker: Ticker) -> datetime:
    assert ticker.event_time is not None  # noqa: S101  (of a sound ticker)
    return ticker.event_time


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "TIMESTAMP": pa.timestamp("us"),
        _DECIMAL: pa.decimal128(28, 10),
    }[kind]
