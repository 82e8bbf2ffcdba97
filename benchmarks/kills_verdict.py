"""What the API answered while processes were killed (`kills`): was it fresh, right and true?

Here belongs what is judged, and how it is shown. Who is killed and who asks belongs to `kills`.

An answer is right if the batch, built afterwards from what landed, has its features and threshold,
and the same version of the model says its probability of them (to rounding: rows that are asked
together differ from one alone in the last digit). Where that is not so, it has to be right without
the events that reached Kafka last: either they came after the row's grace, or they were there and
read late. Both are counted; whatever is left is a fault.
"""

import math
import os
import shutil
import statistics
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.feed import spans
from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.feed.kafka import TICKS, Cluster
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect, sql_text
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.predictor import LoadedModel
from volatility_pipeline_tests.live_run import GRACE
from volatility_pipeline_tests.registered_models import champions
from volatility_pipeline_tests.tick_lake import build_all

MAX_AGE = 10.0  # seconds, VOLATILITY_MAX_AGE_SECONDS
TOLERANCE = 0.5  # seconds between an answer's making and its receipt on a busy machine
READING = 0.1  # seconds from a message's arrival in Kafka to whoever reads it
UNREAD = 60.0  # seconds for which an event may have been there, at most, where it is looked for
ROUNDING = 1e-12  # relative
BARS_BACK, TICKS_BACK = timedelta(seconds=3602), timedelta(hours=2)  # what the SQL looks back at
MAX_GAP = 30  # seconds, VOLATILITY_MAX_GAP_SECONDS
LANDED_SECONDS = 120.0
MOST_SHOWN = 20


class Said(NamedTuple):
    """What was answered about a decision time (epoch seconds)."""

    product: str
    ts: float
    probability: float
    threshold: float
    version: str


class Poll(NamedTuple):
    """A request and its answer; without one, `body` names what went wrong. Times are epoch s."""

    path: str
    sent: float
    received: float
    status: int | None
    body: Any

    @property
    def product(self) -> str | None:
        """Of a request for the newest answer, about which product."""
        return self.path.removeprefix("/predict/") if self.path.startswith("/predict/") else None

    @property
    def outcome(self) -> str:
        """The answer in a word or two."""
        if self.status is None:
            return "no answer" if self.body == "TimeoutError" else "no connection"
        return f"{self.status} {self.body['reason']}" if self.status == 503 else str(self.status)


@dataclass
class Kill:
    """A process that was killed, told to end, or stopped from `at` to `until` (epoch seconds).

    `healthy_at` is when it did its own work again.
    """

    service: str
    how: str
    at: float
    until: float
    healthy_at: float | None = None


@dataclass(frozen=True)
class Run:
    """Everything that happened. Times are epoch seconds.

    Attributes:
        products: What was asked about.
        begun: When the killing began.
        killed_until: When it ended.
        kills: What was killed, in time order.
        polls: All that was asked.
        history: What the answers of `/history` said, whose polls have no body.
        starts: When each service was started.
        is_well: Whether everything was answered well in the end.
    """

    products: Sequence[str]
    begun: float
    killed_until: float
    kills: Sequence[Kill]
    polls: Sequence[Poll]
    history: Set[Said]
    starts: Mapping[str, Sequence[float]]
    is_well: bool


@dataclass
class Found:
    """The verdict: faults in words, how many answers were of which kind, the longest `unread`."""

    faults: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    unread: float = 0.0


def epoch(text: str) -> float:
    """A time as the API writes it, in epoch seconds."""
    return datetime.fromisoformat(text).timestamp()


def said(poll: Poll) -> Iterator[Said]:
    """What an answer says of decision times."""
    if poll.status != 200 or not isinstance(poll.body, dict):
        return
    points = [poll.body] if poll.product else poll.body.get("points", [])
    for point in points:
        yield Said(
            poll.body["product"],
            epoch(point["ts"]),
            point["probability"],
            point["threshold"],
            point["version"],
        )


# Was it fresh?


def too_old(polls: Iterable[Poll]) -> Iterator[str]:
    """Answers that were older when they came than an answer may be, or that misstate their age."""
    for poll in polls:
        if poll.status != 200 or poll.product is None:
            continue
        ts, age = epoch(poll.body["ts"]), poll.body["age_seconds"]
        least, most = poll.sent - ts, poll.received - ts
        if most > MAX_AGE + TOLERANCE or most < 0:
            yield f"{_at(poll.received)} {poll.path}: 200, and {most:.2f} s old."
        if not least - 0.01 <= age <= most + 0.01:
            yield f"{_at(poll.received)} {poll.path}: says {age} s, is {least:.2f} to {most:.2f}."


def not_to_be(polls: Iterable[Poll]) -> Iterator[str]:
    """Answers that are no answers: neither 200 nor, where there is none to give, 503."""
    for poll in polls:
        expected = (200,) if poll.path.startswith(("/health", "/history")) else (200, 503)
        if poll.status not in (None, *expected):
            yield f"{_at(poll.received)} {poll.path}: {poll.status} {poll.body}"


class Log:
    """When the rows were answered, as the service itself noted it."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.said: list[Said] = []
        self.answered_at: dict[tuple[str, float], float] = {}
        self._times: dict[str, list[float]] = defaultdict(list)
        self._newest: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            product, ts = row["product_id"], row["ts"].replace(tzinfo=UTC).timestamp()
            values = row["probability"], row["threshold"], row["model_version"]
            self.said.append(Said(product, ts, *values))
            at = row["answered_at"].replace(tzinfo=UTC).timestamp()
            self.answered_at[product, ts] = at
            self._times[product].append(at)
            self._newest[product].append(ts)

    def newest(self, product: str, at: float) -> float:
        """The newest decision time that was answered by then; minus infinity before the first."""
        found = bisect_right(self._times[product], at)
        return self._newest[product][found - 1] if found else -np.inf


def untrue(polls: Iterable[Poll], log: Log) -> Iterator[str]:
    """What was claimed of freshness and is not so by the service's own log.

    True is what held at some moment between question and answer.
    """
    for poll in polls:
        for product, is_fresh in _claims(poll):
            was_fresh = poll.sent - log.newest(product, poll.received) <= MAX_AGE
            before = log.newest(product, poll.sent - TOLERANCE)
            was_always_fresh = poll.received - before <= MAX_AGE
            if is_fresh and not was_fresh:
                yield f"{_at(poll.received)} {poll.path}: calls {product} fresh, which it is not."
            if not is_fresh and was_always_fresh:
                yield f"{_at(poll.received)} {poll.path}: calls {product} stale, and it is fresh."


def _claims(poll: Poll) -> Iterator[tuple[str, bool]]:
    """Which products an answer calls fresh, or stale."""
    if poll.path == "/ready" and poll.status is not None:
        products = poll.body["products"]
        yield from ((product, one["data_fresh"]) for product, one in products.items())
    elif poll.product is not None and poll.status == 200:
        yield poll.product, True
    elif poll.product is not None and poll.outcome == "503 stale":
        yield poll.product, False


# Was it right?


def contradictions(answers: Iterable[Said]) -> Iterator[str]:
    """Decision times of which more than one thing was said."""
    first: dict[tuple[str, float], Said] = {}
    for one in answers:
        other = first.setdefault((one.product, one.ts), one)
        if other != one:
            yield f"{_at(one.ts)} {one.product}: {other[2:]} and {one[2:]}."


class Arrivals:
    """Each product's events: when Kafka had them (epoch seconds), and their times (naive UTC)."""

    def __init__(self, lines: Iterable[tuple[bytes, float]]) -> None:
        first: dict[tuple[str, datetime], float] = {}
        for value, at in lines:
            for ticker in read_line(value).tickers:
                if ticker.reason is None and ticker.event_time is not None:
                    key = str(ticker.product_id), ticker.event_time
                    first[key] = min(at, first.get(key, at))
        self.of: dict[str, list[tuple[float, datetime]]] = defaultdict(list)
        for (product, happened), at in sorted(first.items(), key=lambda item: item[1]):
            self.of[product].append((at, happened))

    def before(self, product: str, ts: float) -> list[tuple[float, datetime]]:
        """Those that happened before a decision time, the last to arrive first."""
        end = datetime.fromtimestamp(ts, UTC).replace(tzinfo=None)
        return [pair for pair in reversed(self.of[product]) if pair[1] < end]


async def lines_of(address: str) -> list[tuple[bytes, float]]:
    """All lines that Kafka has, each with the time at which it got them."""
    cluster = Cluster(address)
    consumer = AIOKafkaConsumer(**cluster.options, enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [TopicPartition(TICKS, number) for number in range(cluster.partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        found: list[tuple[bytes, float]] = []
        while any([await consumer.position(part) < ends[part] for part in parts]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found += [(record.value, record.timestamp / 1000) for record in records]
        return found
    finally:
        await consumer.stop()


def wait_until_landed(lake: Lake, lines: int) -> str | None:
    """Waits for the lander; what is wrong where it does not land everything."""
    end = time.monotonic() + LANDED_SECONDS
    while (landed := sum(last - first + 1 for _, first, last in spans(lake))) != lines:
        if time.monotonic() > end:
            return f"{lines:,} messages in Kafka, {landed:,} landed."
        time.sleep(1)
    return None


class Batch:
    """What the batch makes of what landed, and what the same models say of it."""

    def __init__(self, root: Path, scratch: Path) -> None:
        shutil.copytree(root / "raw", scratch / "raw", copy_function=os.link)
        lake = Lake(scratch)
        build_all(lake)
        tables = [
            pd.concat([pd.read_parquet(path) for path in lake.files(stage)])
            for stage in ("features", "labels")
        ]
        both = tables[0].merge(tables[1], on=["product_id", "ts"])
        both = both.rename(columns={"trailing_threshold": "threshold"})
        both["ts"] = both["ts"].dt.tz_localize("UTC").map(datetime.timestamp)
        self._rows = both.set_index(["product_id", "ts"])[list(MODEL_INPUTS)].sort_index()
        self._ticks = [str(path) for path in lake.files("ticks")]
        self._registry = champions(root)
        self._models: dict[tuple[str, str], LoadedModel] = {}

    def threshold(self, one: Said) -> float | None:
        """The batch's threshold at a decision time; None where it has no row."""
        key = one.product, one.ts
        return float(self._rows.loc[key, "threshold"]) if key in self._rows.index else None

    def is_said(self, one: Said) -> bool:
        """Whether the model says an answer's probability of the batch's features."""
        key = one.product, one.ts
        return key in self._rows.index and self._is_said(one, self._rows.loc[key].to_dict())

    def without(self, one: Said, hidden: Sequence[datetime]) -> bool:
        """Whether it says it of those that the batch would make without some events."""
        ts = datetime.fromtimestamp(one.ts, UTC).replace(tzinfo=None)
        with connect(1) as connection:
            connection.execute(
                "create table ticks as select * from read_parquet($files) "
                "where product_id = $product and event_time < $ts and event_time >= $from "
                "and not list_contains($hidden::timestamp[], event_time)",
                {
                    "files": self._ticks,
                    "product": one.product,
                    "ts": ts,
                    "from": ts - BARS_BACK - TICKS_BACK,
                    "hidden": list(hidden),
                },
            )
            connection.execute(
                f"create table bars as {sql_text('20_bars.sql')}",
                {"start": ts - BARS_BACK, "end": ts, "max_gap_seconds": MAX_GAP},
            )
            made = connection.execute(
                sql_text("30_features.sql"), {"start": ts, "end": ts + timedelta(seconds=1)}
            ).fetchdf()
        return len(made) == 1 and self._is_said(one, made.iloc[0].to_dict())

    def _is_said(self, one: Said, row: Mapping[str, Any]) -> bool:
        columns = {
            name: [one.threshold if name == "threshold" else row[name]] for name in MODEL_INPUTS
        }
        probability = float(self._model(one).ask(columns)[0])
        return math.isclose(probability, one.probability, rel_tol=ROUNDING)

    def _model(self, one: Said) -> LoadedModel:
        key = one.product, one.version
        if key not in self._models:
            served = self._registry.find(*key)
            assert served is not None
            self._models[key] = LoadedModel(served, self._registry.load(served))
        return self._models[key]


def first_hidden(one: Said, batch: Batch, arrivals: Arrivals) -> float | None:
    """Since when there were events that an answer did not know, and else is right; None for never.

    One partition of Kafka holds a product: what is not known are the last to arrive, most likely
    those that came after the grace.
    """
    events = [pair for pair in arrivals.before(one.product, one.ts) if pair[0] > one.ts - UNREAD]
    grace = one.ts + GRACE.total_seconds()
    likely = sum(at > grace for at, _ in events)
    for count in sorted(range(1, len(events) + 1), key=lambda count: abs(count - likely)):
        if batch.without(one, [happened for _, happened in events[:count]]):
            return events[count - 1][0]
    return None


class Compared(NamedTuple):
    """What an answer is beside the batch's; what is wrong with it, if anything is.

    `unread` is for how many seconds an event had been there that it did not know.
    """

    kind: str
    fault: str | None = None
    unread: float = 0.0


def compare(
    answers: Iterable[Said], batch: Batch, arrivals: Arrivals, log: Log, starts: Sequence[float]
) -> Iterator[Compared]:
    """Holds each answer against the batch.

    Args:
        answers: Each once.
        batch: What it is held against.
        arrivals: When the events came.
        log: When the answers were made.
        starts: When the service was started, epoch seconds: what a threshold knows of its last
            minutes is what their rows knew when they were made, or what was there at the start.
    """
    incomplete: dict[str, list[float]] = defaultdict(list)
    for one in sorted(answers):
        where = f"{_at(one.ts)} {one.product}"
        since = None
        if not batch.is_said(one):
            since = first_hidden(one, batch, arrivals)
            if since is None:
                yield Compared("not the batch's", f"{where}: {one[2:]} is not what the batch says.")
                continue
            incomplete[one.product].append(one.ts)
        begun = max((start for start in starts if start < one.ts), default=-np.inf)
        minutes = [ts for ts in incomplete[one.product] if ts % 60 == 0 and begun < ts]
        grace = one.ts + GRACE.total_seconds()
        if one.threshold != batch.threshold(one) and not minutes:
            fault = f"{where}: its threshold is not the batch's."
            yield Compared("not the batch's threshold", fault)
        elif since is not None and since > grace - READING:
            yield Compared("without an event that came after the grace")
        elif since is not None:
            unread = log.answered_at.get((one.product, one.ts), grace) - since
            fault = f"{where}: an event was there for {unread:.1f} s, and not read."
            kind = "without an event that was read late"
            yield Compared(kind, fault if unread > MAX_AGE else None, unread)
        elif one.threshold != batch.threshold(one):
            yield Compared("with a threshold that knows such an answer")
        else:
            yield Compared("equal")


def judge(run: Run, root: Path, scratch: Path, lines: Sequence[tuple[bytes, float]]) -> Found:
    """Holds a run, all of whose lines have landed, to what it has to be."""
    found = Found()
    log = Log(
        row
        for row in AnswerLog(Lake(root), print).since(datetime.fromtimestamp(run.begun - 60, UTC))
        if row["role"] == "champion"
    )
    answers = {*run.history, *(one for poll in run.polls for one in said(poll))}
    found.faults += [*too_old(run.polls), *not_to_be(run.polls), *untrue(run.polls, log)]
    found.faults += contradictions([*log.said, *answers])
    arrivals, batch = Arrivals(lines), Batch(root, scratch)
    for one in compare(answers, batch, arrivals, log, run.starts["api"]):
        found.answers[one.kind] += 1
        found.faults += [] if one.fault is None else [one.fault]
        found.unread = max(found.unread, one.unread)
    lost = {one[:2] for one in answers if one.ts >= run.begun} - {one[:2] for one in log.said}
    found.answers["given and not in the log"] = len(lost)
    found.faults += [
        f"{_at(kill.at)} {kill.service} did not come back after {kill.how}."
        for kill in run.kills
        if kill.healthy_at is None
    ]
    if not run.is_well:
        found.faults.append("Not everything was answered well in the end.")
    return found


# How it is shown


def recovered(run: Run, kill: Kill) -> float | None:
    """Seconds until the answers about all products knew an event later than a kill."""
    times = []
    for product in run.products:
        for poll in run.polls:
            if poll.received > kill.until and poll.product == product and poll.status == 200:
                newest = epoch(poll.body["ts"]) - 1 - poll.body["seconds_since_tick"]
                if newest >= kill.until:
                    times.append(poll.received - kill.until)
                    break
    return max(times) if len(times) == len(run.products) else None


def meanwhile(run: Run, kill: Kill, seconds: float) -> Counter[str]:
    """How those who asked for predictions fared, from a kill until all was as before."""
    end = kill.until + seconds
    polls = [poll for poll in run.polls if poll.product and kill.at <= poll.sent < end]
    return Counter(poll.outcome for poll in polls)


def show(run: Run, found: Found) -> None:
    """Prints the figures, service by service, and the faults."""
    print(
        f"\n{len(run.kills)} kills in {(run.killed_until - run.begun) / 60:.0f} minutes. Seconds "
        "until the service did its work, and until all answers knew an event after the kill:"
    )
    print("service       n   itself: median    max   answers: median    max   meanwhile")
    for name in run.starts:
        kills = [kill for kill in run.kills if kill.service == name]
        if not kills:
            continue
        itself = [kill.healthy_at - kill.until for kill in kills if kill.healthy_at]
        known = [recovered(run, kill) for kill in kills]
        answers = [one for one in known if one is not None]
        fared: Counter[str] = Counter()
        for kill, one in zip(kills, known, strict=True):
            fared += meanwhile(run, kill, one or 0)
        total = fared.total() or 1
        shares = ", ".join(f"{one} {count / total:.0%}" for one, count in fared.most_common())
        print(
            f"{name:12} {len(kills):2} {_middle(itself):>16} {_most(itself):>6} "
            f"{_middle(answers):>17} {_most(answers):>6}   {shares}"
        )
    polls = [poll for poll in run.polls if poll.sent >= run.begun]
    outcomes = Counter(poll.outcome for poll in polls if poll.product)
    print(f"\n{len(polls):,} requests; for predictions {outcomes.total():,}:")
    for outcome, count in outcomes.most_common():
        print(f"  {count / outcomes.total():7.2%} {outcome}")
    fresh = [poll.received - epoch(poll.body["ts"]) for poll in polls if _is_given(poll)]
    print(f"The oldest answer was {max(fresh, default=0):.2f} s old when it came.")
    ticks = [poll.body["seconds_since_tick"] for poll in polls if _is_given(poll)]
    print(f"The newest event that an answer knew was at most {max(ticks, default=0):g} s older.")
    print("\nDecision times that were answered, against the batch:")
    for what, count in found.answers.most_common():
        print(f"  {count:6,} {what}")
    print(f"What was read late had been there for at most {found.unread:.1f} s.")
    print(f"\n{len(found.faults)} faults" + ("." if not found.faults else ":"))
    for fault in found.faults[:MOST_SHOWN]:
        print(f"  {fault}")
    if len(found.faults) > MOST_SHOWN:
        print(f"  and {len(found.faults) - MOST_SHOWN:,} more")


def draw(run: Run, found: Found, path: Path) -> None:
    """The timeline as a picture: what was killed, and how old the answers were."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(13, 7), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    names = list(run.starts)
    marks = {"SIGKILL": ("x", "#d55e00"), "SIGTERM": ("v", "#0072b2"), "pause": ("|", "#7f7f7f")}
    for how, (mark, colour) in marks.items():
        kills = [kill for kill in run.kills if kill.how == how]
        at = [(kill.at - run.begun) / 60 for kill in kills]
        lanes = [names.index(kill.service) for kill in kills]
        upper.scatter(at, lanes, marker=mark, color=colour, label=how, zorder=3)
        for start, lane, kill in zip(at, lanes, kills, strict=True):
            seconds = (kill.healthy_at or run.killed_until) - kill.at
            upper.barh(lane, seconds / 60, left=start, height=0.5, color=colour, alpha=0.3)
    upper.set_yticks(range(len(names)), names)
    upper.invert_yaxis()
    upper.legend(loc="upper right")
    upper.set_title(
        f"{len(run.kills)} kills, {len(found.faults)} faults; bars: until it did its work again"
    )
    for product in run.products:
        own = [poll for poll in run.polls if poll.product == product]
        given = [poll for poll in own if poll.status == 200]
        lower.plot(
            [(poll.received - run.begun) / 60 for poll in given],
            [poll.received - epoch(poll.body["ts"]) for poll in given],
            ".",
            markersize=2,
            label=product,
        )
        refused = [(poll.received - run.begun) / 60 for poll in own if poll.status != 200]
        lower.plot(refused, [0] * len(refused), "|", color="#d55e00", markersize=8)
    lower.axhline(MAX_AGE, color="#888888", linestyle="--", label="the oldest that may be given")
    lower.set(xlabel="minutes", ylabel="age of answers, s", ylim=(-0.5, MAX_AGE + 1))
    lower.legend(loc="upper left", title="red: no answer was given", markerscale=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _is_given(poll: Poll) -> bool:
    return poll.product is not None and poll.status == 200


def _at(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%H:%M:%S.%f}"[:-3]


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


def _most(values: Sequence[float]) -> str:
    return f"{max(values):.1f}" if values else "-"
