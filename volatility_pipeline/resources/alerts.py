"""Alerts that outlive processes: a ledger of what was raised, and its delivery over channels.

An alert and what is to be delivered of it are one transaction of an SQLite ledger under the data
root. So raising is exactly once, whoever raises and whatever is killed; delivery follows, at least
once under an id that stays the same: twice only where the process died, or the answer came too
late, between a channel's taking it and the ledger's noting so. What alerts say is
`domain/alerts.py`; where they go is `alert_channels`.
"""

import fcntl
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from volatility_pipeline.domain.alerts import (
    FRESH,
    SEVERITIES,
    Alert,
    Number,
    as_json,
    from_json,
    recovery,
    spike_alerts,
    spike_end,
)
from volatility_pipeline.resources.alert_channels import LOGGER, Channel, Log, Rejected, attempt

if TYPE_CHECKING:
    import pandas as pd

BUSY_SECONDS = 10.0
PASS_SECONDS = 10.0
"""How long one `deliver` goes on with a channel that answers slowly; the next one continues."""

FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 900.0
GIVE_UP = timedelta(days=7)

SCHEMA = """
create table alerts (
    id integer primary key,
    kind text not null, product text not null, partition text not null,
    body text not null,  -- the alert as it was last told
    last_at text not null,  -- its newest event
    recovered_at text
);
create unique index one_open on alerts (kind, product, partition) where recovered_at is null;
create index newest on alerts (kind, product, partition, id);
create table messages (
    number integer primary key,
    id text not null unique,
    alert integer not null references alerts,
    body text not null,
    queued_at text not null
);
create table deliveries (
    message integer not null references messages,
    channel text not null,
    state text not null default 'pending',  -- pending, sent or given_up
    attempts integer not null default 0,
    reason text,  -- why the last attempt failed
    primary key (message, channel)
) without rowid;
create index pending on deliveries (channel, message) where state = 'pending';
create table silent_channels (
    name text primary key,
    failures integer not null,
    retry_at text not null
);
"""


@dataclass(frozen=True)
class Delivery:
    """How far one message of an alert came on one channel."""

    channel: str
    state: Literal["pending", "sent", "given_up"]
    attempts: int
    reason: str | None


@dataclass(frozen=True)
class Entry:
    """One alert of the ledger.

    Attributes:
        alert: As it was last told; `noticed_at` is its newest event, and `recovered_at` says
            whether it is over.
        deliveries: Of all its messages, in order.
    """

    alert: Alert
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True)
class Alerts:
    """Raises, recovers, lists and delivers alerts of one data root.

    Any process may do so at any time. Raising and recovering take a few disk writes and no network
    beyond one attempt at a channel that is not known to be silent, and no channel's fault is ever
    an error here.

    Attributes:
        root: The data root.
        channels: Where alerts go; each name once.
        ui: The address of Dagster's UI, for links to runs.
        clock: The present time, UTC.
    """

    root: Path
    channels: tuple[Channel, ...] = (Log(),)
    ui: str = "http://localhost:3000"
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run_link(self, run_id: str) -> str:
        """The address of a Dagster run."""
        return f"{self.ui.rstrip('/')}/runs/{run_id}"

    def raise_(self, alert: Alert) -> bool:
        """Raises an alert and delivers it; returns whether a person is told anything new.

        One whose key is open already is told again only when it has become worse. One noticed no
        later than its key's newest event is a repetition, even after a recovery.
        """
        with self._change() as ledger:
            newest = _newest(ledger, alert.key)
            if newest is not None and _stamp(alert.noticed_at) <= newest["last_at"]:
                return False
            if newest is not None and newest["recovered_at"] is None:
                row = newest["id"]
                told = from_json(json.loads(newest["body"]))
                is_news = SEVERITIES.index(alert.severity) > SEVERITIES.index(told.severity)
                body = _body(alert if is_news else told)
                ledger.execute(
                    "update alerts set last_at = ?, body = ? where id = ?",
                    (_stamp(alert.noticed_at), body, row),
                )
            else:
                is_news = True
                row = ledger.execute(
                    "insert into alerts (kind, product, partition, body, last_at) "
                    "values (?, ?, ?, ?, ?)",
                    (*alert.key, _body(alert), _stamp(alert.noticed_at)),
                ).lastrowid
            if is_news:
                self._queue(ledger, row, alert)
        self.deliver()
        return is_news

    def recover(
        self,
        kind: str,
        product: str,
        partition: str,
        *,
        at: datetime,
        title: str | None = None,
        numbers: Mapping[str, Number] | None = None,
        link: str | None = None,
    ) -> bool:
        """Says that an open alert is over; returns whether one was open.

        Args:
            kind: Its kind.
            product: Its product.
            partition: Its partition.
            at: When it was over. An alert that was noticed at or after this stays open.
            title: What to say instead of the alert's own sentence.
            numbers: Instead of the alert's own.
            link: Likewise.
        """
        with self._change() as ledger:
            newest = _newest(ledger, (kind, product, partition))
            if newest is None or newest["recovered_at"] or _stamp(at) <= newest["last_at"]:
                return False
            told = from_json(json.loads(newest["body"]))
            over = recovery(told, at, title=title, numbers=numbers, link=link)
            ledger.execute(
                "update alerts set last_at = ?, recovered_at = ? where id = ?",
                (_stamp(at), _stamp(at), newest["id"]),
            )
            self._queue(ledger, newest["id"], over)
        self.deliver()
        return True

    def open(self, *kinds: str) -> list[Entry]:
        """The alerts that are not over, of some kinds or of all, newest first."""
        entries = self._entries(is_open=True)
        return [entry for entry in entries if not kinds or entry.alert.kind in kinds]

    def history(self) -> list[Entry]:
        """Every alert that was ever raised, newest first."""
        return self._entries(is_open=False)

    def newest(self, kind: str, product: str) -> Alert | None:
        """A product's newest alert of a kind, open or over."""
        with self._look() as ledger:
            if ledger is None:
                return None
            row = ledger.execute(
                "select body, last_at, recovered_at from alerts "
                "where kind = ? and product = ? order by id desc limit 1",
                (kind, product),
            ).fetchone()
            return None if row is None else _told(row)

    def deliver(self) -> int:
        """Delivers what waits, in order, on each channel that is due; returns how much it was.

        A channel that fails is left alone for 5 s, then twice as long each time up to a quarter
        of an hour (less a random part), by every process. What it rejects, or has not taken after
        seven days, is given up, and `history` says so. Of several processes at once, one delivers.
        """
        delivered = 0
        for channel in self.channels:
            end = time.monotonic() + PASS_SECONDS
            # Asked again after each turn: what was queued while it lasted found the door shut.
            while self._due(channel.name) is not None and time.monotonic() < end:
                with self._turn(channel.name) as is_ours:
                    if not is_ours:
                        break
                    delivered += self._send_next(channel)
        return delivered

    # The ledger

    @property
    def _file(self) -> Path:
        return self.root / "alerts" / "alerts.sqlite"

    def _entries(self, *, is_open: bool) -> list[Entry]:
        with self._look() as ledger:
            if ledger is None:
                return []
            rows = ledger.execute(
                "select id, body, last_at, recovered_at from alerts "
                "where recovered_at is null or not ? order by id desc",
                (is_open,),
            ).fetchall()
            deliveries: dict[int, list[Delivery]] = {row["id"]: [] for row in rows}
            for alert, *delivery in ledger.execute(
                "select alerts.id, channel, state, attempts, reason from alerts "
                "join messages on alert = alerts.id join deliveries on message = number "
                "where recovered_at is null or not ? order by number, channel",
                (is_open,),
            ):
                deliveries[alert].append(Delivery(*delivery))
        return [Entry(_told(row), tuple(deliveries[row["id"]])) for row in rows]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(
            sqlite3.connect(self._file, timeout=BUSY_SECONDS, isolation_level=None)
        ) as ledger:
            ledger.row_factory = sqlite3.Row
            yield ledger

    @contextmanager
    def _look(self) -> Iterator[sqlite3.Connection | None]:
        """The ledger to read as it stands; None where nothing was ever raised."""
        if not self._file.exists():
            yield None
            return
        with self._connected() as ledger:
            ledger.execute("begin")
            yield ledger

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, kept if its block ends well."""
        self._make()
        with self._connected() as ledger:
            ledger.execute("begin immediate")
            yield ledger
            ledger.execute("commit")  # else it is rolled back as the connection is closed

    def _make(self) -> None:
        """Makes an empty ledger, whole, where there is none; the first of several stays."""
        if self._file.exists():
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        name = f".{self._file.name}.{os.getpid()}.{threading.get_ident()}.tmp"
        temporary = self._file.with_name(name)
        temporary.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temporary)) as ledger:
                ledger.execute("pragma journal_mode = wal")
                ledger.executescript(SCHEMA)
            os.link(temporary, self._file)
        except FileExistsError:
            return
        finally:
            temporary.unlink(missing_ok=True)

    def _queue(self, ledger: sqlite3.Connection, row: int | None, alert: Alert) -> None:
        message = ledger.execute(
            "insert into messages (id, alert, body, queued_at) values (?, ?, ?, ?)",
            (alert.id, row, _body(alert), _stamp(self.clock())),
        ).lastrowid
        ledger.executemany(
            "insert into deliveries (message, channel) values (?, ?)",
            [(message, channel.name) for channel in self.channels],
        )

    # Delivery

    def _due(self, channel: str) -> sqlite3.Row | None:
        """The first message that waits for a channel, unless the channel is left alone now."""
        with self._look() as ledger:
            if ledger is None:
                return None
            row: sqlite3.Row | None = ledger.execute(
                "select number, body from deliveries join messages on number = message "
                "where channel = :channel and state = 'pending' and not exists "
                "(select 1 from silent_channels where name = :channel and retry_at > :now) "
                "order by number limit 1",
                {"channel": channel, "now": _stamp(self.clock())},
            ).fetchone()
            return row

    @contextmanager
    def _turn(self, channel: str) -> Iterator[bool]:
        """Whether this process may deliver to a channel; the system ends it with the process."""
        with (self._file.parent / f".{channel}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _send_next(self, channel: Channel) -> bool:
        due = self._due(channel.name)  # another may have sent what we saw before our turn
        if due is None:
            return False
        reason = attempt(channel, from_json(json.loads(due["body"])))
        is_rejected = isinstance(reason, Rejected)
        state = "given_up" if is_rejected else "pending" if reason else "sent"
        if is_rejected:
            LOGGER.warning(
                "An alert is given up: the %s does not take it: %s.", channel.name, reason
            )
        with self._change() as ledger:
            ledger.execute(
                "update deliveries set attempts = attempts + 1, reason = ?, state = ? "
                "where message = ? and channel = ?",
                (reason, state, due["number"], channel.name),
            )
            if reason is None or is_rejected:  # it is there, whatever it says of this one
                ledger.execute("delete from silent_channels where name = ?", (channel.name,))
            else:
                self._leave_alone(ledger, channel.name, reason)
        return reason is None

    def _leave_alone(self, ledger: sqlite3.Connection, channel: str, reason: str) -> None:
        """Notes a failure, when to try again, and which messages have waited for too long."""
        now = self.clock()
        row = ledger.execute(
            "select failures from silent_channels where name = ?", (channel,)
        ).fetchone()
        failures = 1 if row is None else row["failures"] + 1
        if failures == 1:
            LOGGER.warning("Alerts wait for the %s: %s.", channel, reason)
        ledger.execute(
            "insert or replace into silent_channels values (?, ?, ?)",
            (channel, failures, _stamp(now + retry_after(failures))),
        )
        ledger.execute(
            "update deliveries set state = 'given_up' where channel = ? and state = 'pending' "
            "and message in (select number from messages where queued_at < ?)",
            (channel, _stamp(now - GIVE_UP)),
        )


def retry_after(failures: int) -> timedelta:
    """Return how long a channel is left alone after so many failures: doubled, half of it random.

    Source: "equal jitter" of M. Brooker, Exponential Backoff and Jitter (2015).
    """
    longest = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_RETRY_SECONDS)
    return timedelta(seconds=longest * random.uniform(0.5, 1))  # noqa: S311  (no secret)


def raise_spikes(
    alerts: Alerts,
    product: str,
    rows: "pd.DataFrame",
    *,
    now: datetime,
    is_simulated: bool = False,
) -> int:
    """Tells what a product's newest predictions have to tell of spikes (see `spike_alerts`).

    Restart-safe: the ledger knows which episode was told, and how far.

    Args:
        alerts: The ledger.
        product: The product.
        rows: Its newest predictions, in time order, a few minutes of them or more.
        now: The present time.
        is_simulated: Whether the market is made up.

    Returns:
        How many alerts and recoveries were news.
    """
    told = alerts.newest("spike", product)
    return sum(
        alerts.recover(*event.key, at=event.recovered_at)
        if event.recovered_at is not None
        else alerts.raise_(event)
        for event in spike_alerts(product, rows, told, now=now, is_simulated=is_simulated)
    )


def end_spikes(alerts: Alerts, *, now: datetime) -> int:
    """Ends the spike alerts that nothing speaks of any more: the feed or the champion is gone.

    Returns:
        How many ended.
    """
    ends = [(entry.alert, spike_end(entry.alert)) for entry in alerts.open("spike")]
    return sum(alerts.recover(*alert.key, at=end) for alert, end in ends if end < now - FRESH)


def _newest(ledger: sqlite3.Connection, key: tuple[str, str, str]) -> sqlite3.Row | None:
    row: sqlite3.Row | None = ledger.execute(
        "select * from alerts where kind = ? and product = ? and partition = ? "
        "order by id desc limit 1",
        key,
    ).fetchone()
    return row


def _told(row: sqlite3.Row) -> Alert:
    """A row's alert, with its newest event and its end."""
    end = row["recovered_at"] and datetime.fromisoformat(row["recovered_at"])
    last = datetime.fromisoformat(row["last_at"])
    return replace(from_json(json.loads(row["body"])), noticed_at=last, recovered_at=end)


def _body(alert: Alert) -> str:
    return json.dumps(as_json(alert))


def _stamp(when: datetime) -> str:
    """A time as text that sorts as time does."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")
