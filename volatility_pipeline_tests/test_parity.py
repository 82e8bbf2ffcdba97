"""Live features through a real Kafka: the rows of `ticks.features` are the batch's, bit for bit."""

import asyncio
import json
import os
import random
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from volatility_pipeline.domain.messages import read_line
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.domain.simulation import Market, simulate
from volatility_pipeline.feed.kafka import Cluster, OrderedProducer
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.serving.feature_topic import FeatureTopic
from volatility_pipeline.serving.kafka_source import KafkaSource, ends_of_ticks
from volatility_pipeline.serving.live import FeatureRow, LiveFeatures
from volatility_pipeline_tests.broker import Broker
from volatility_pipeline_tests.live_run import GRACE, Answer, Arrival, answered, expected, written
from volatility_pipeline_tests.test_land import lands
from volatility_pipeline_tests.tick_lake import SECOND, Key, build_all, walk

IS_ENDURANCE = os.environ.get("VOLATILITY_ENDURANCE") == "1"
HOURS = 10.0 if IS_ENDURANCE else 0.1
MIDNIGHT = datetime(2026, 4, 5)  # noqa: DTZ001  (naive UTC)
# When the live features are restarted: every time some of what has landed is not built yet.
RESTARTS = [MIDNIGHT + timedelta(seconds=10)]
RESTARTS += [MIDNIGHT + timedelta(hours=hours) for hours in (1.5, 4, 7.25) if IS_ENDURANCE]
RECORDINGS = (
    (
        ("flat_btc_20251108_43s", None),
        ("flat_btc_20251201_10min", None),
        ("advanced_btc_20260404_15min", None),
        ("exchange_btc_20251112_4pieces", None),
        ("flat_btc_eth_20260404_2h", None),
    )
    if IS_ENDURANCE
    else (("flat_btc_20251201_10min", 340),)
)
GENEROUS = 3.0  # seconds of grace for a machine that is busy with other tests
EVER = timedelta(days=3650)  # a replay's stamps are those of its recording


@pytest.fixture
def names() -> tuple[str, str]:
    """Topics of the test's own: for lines, for features."""
    own = uuid.uuid4().hex[:8]
    return f"ticks-{own}", f"features-{own}"


def recorded(path: Path) -> list[Arrival]:
    """A recording's lines, each arriving at its own event time."""
    found: list[Arrival] = []
    for value in path.read_bytes().splitlines():
        time = read_line(value).time or found[-1].at
        found.append(Arrival(max(time, found[-1].at) if found else time, value))
    return found


def simulated(hours: float) -> list[Arrival]:
    """A made-up market's lines."""
    market = Market(
        ("BTC-USD", "ETH-USD"), datetime(2026, 4, 4, 23, 54, 50, tzinfo=UTC), hours, seed=3
    )
    values = [line for _, chunk in simulate(market) for line in chunk.splitlines()]
    return [Arrival(read_line(value).time or datetime.min, value) for value in values]  # noqa: DTZ901


def disturbed(found: Sequence[Arrival], seed: int) -> list[Arrival]:
    """The same lines, out of order within the grace, and some of them twice."""
    rng = random.Random(seed)
    again = [one for one in found if rng.random() < 0.1]
    return sorted(
        (Arrival(one.at + rng.random() * GRACE * 0.99, one.value) for one in [*found, *again]),
        key=lambda one: one.at,
    )


def end_of(found: Sequence[Arrival]) -> Arrival:
    """A line that moves a replay's clock to after all rows."""
    return Arrival(found[-1].at + 45 * SECOND, b'{"type": "heartbeat"}')


async def send(cluster: Cluster, topic: str, found: Sequence[Arrival]) -> None:
    """Sends lines, stamped with their times of arrival."""
    producer = OrderedProducer(cluster, topic)
    await producer.start()
    await producer.send(
        (b"-", round(1000 * one.at.replace(tzinfo=UTC).timestamp()), one.value) for one in found
    )
    await producer.stop()


async def play(live: LiveFeatures, total: int) -> list[FeatureRow]:
    """The rows of a replay, once all of its lines are read."""
    found: list[FeatureRow] = []
    task = asyncio.create_task(live.run(found.extend))
    while live.status().messages < total and not task.done():
        await asyncio.sleep(0.05)
    live.stop()
    await task
    return found


async def published(cluster: Cluster, topic: str) -> dict[Key, Answer]:
    """The rows that a topic holds."""
    parts = [TopicPartition(topic, number) for number in range(cluster.partitions)]
    consumer = AIOKafkaConsumer(**cluster.options, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        answers: dict[Key, Answer] = {}
        while any([await consumer.position(part) < ends[part] for part in parts]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    row = json.loads(record.value)
                    assert record.key.decode() == row["product_id"]
                    assert list(row)[2:-3] == list(FEATURE_COLUMNS)
                    ts = datetime.fromisoformat(row["ts"]).replace(tzinfo=None)
                    features = {name: repr(row[name]) for name in FEATURE_COLUMNS}
                    answer = (features, repr(row["trailing_threshold"]))
                    assert answers.setdefault((row["product_id"], ts), answer) == answer
        return answers
    finally:
        await consumer.stop()


def check_parity(found: dict[Key, Answer], lake: Lake, *, first: datetime, last: datetime) -> None:
    """Asserts that features and thresholds are the lake's in (first, last], and some are there."""
    batch = {key: one for key, one in expected(lake).items() if first < key[1] <= last}
    found = {key: one for key, one in found.items() if first < key[1] <= last}
    assert found.keys() == batch.keys()
    assert [key for key in batch if found[key] != batch[key]] == []


@pytest.mark.timeout(7200 if IS_ENDURANCE else 300)
@pytest.mark.parametrize(("name", "seconds"), RECORDINGS)
def test_recordings_make_the_rows_of_the_batch(
    name: str,
    seconds: int | None,
    names: tuple[str, str],
    broker: str,
    recordings: Path,
    tmp_path: Path,
) -> None:
    found = recorded(recordings / f"{name}.ndjson")
    if seconds is not None:
        found = [one for one in found if one.at < found[0].at + seconds * SECOND]
    cluster = Cluster(broker, partitions=1, retention_hours=1e6)
    lake = Lake(tmp_path)

    async def run() -> dict[Key, Answer]:
        await send(cluster, names[0], [*found, end_of(found)])
        features = FeatureTopic(cluster, names[1])
        source = KafkaSource(cluster, lake, names[0], look_back=EVER)
        live = LiveFeatures(lake, Warehouse(lake), source, publish=features, is_replay=True)
        await play(live, len(found) + 1)
        assert (live.status().late, features.trouble) == (0, None)
        await lands(lake, broker, names[0], len(found) + 1, cluster=cluster)
        return await published(cluster, names[1])

    rows = asyncio.run(run())
    build_all(lake)
    assert rows or "10min" not in name
    check_parity(rows, lake, first=found[0].at, last=found[-1].at + 44 * SECOND)


@pytest.mark.timeout(7200 if IS_ENDURANCE else 300)
def test_a_simulated_market_with_restarts_makes_the_rows_of_the_batch(
    names: tuple[str, str], broker: str, tmp_path: Path
) -> None:
    found = disturbed(simulated(HOURS), seed=1)
    cluster = Cluster(broker, partitions=1, retention_hours=1e6)
    lake = Lake(tmp_path)
    ends = [bisect_left(found, at, key=lambda one: one.at) for at in RESTARTS]
    pieces = [found[first:last] for first, last in pairwise([0, *ends, len(found)])]
    pieces[-1].append(end_of(found))

    async def run() -> dict[Key, Answer]:
        sent = 0
        for number, piece in enumerate(pieces):
            await send(cluster, names[0], piece)
            sent += len(piece)
            known = sum(ends_of_ticks(lake).values())
            assert (known > 0) == (number > 0)
            source = KafkaSource(cluster, lake, names[0], look_back=EVER)
            features = FeatureTopic(cluster, names[1])
            live = LiveFeatures(lake, Warehouse(lake), source, publish=features, is_replay=True)
            rows = await play(live, sent - known)
            assert len(rows) == features.sent
            assert (live.status().late, live.status().lag) == (0, None)
            await lands(lake, broker, names[0], len(piece), cluster=cluster)
            if (
                number < len(pieces) - 1
            ):  # built, but for the last segments: these have to be replayed
                unbuilt = lake.segments(lake.raw_days()[-1])[-1:]
                for path in unbuilt:
                    path.rename(tmp_path / path.name)
                build_all(lake)
                for path in unbuilt:
                    (tmp_path / path.name).rename(path)
        return await published(cluster, names[1])

    rows = asyncio.run(run())
    build_all(lake)
    assert len({product for product, _ in rows}) == 2
    check_parity(rows, lake, first=found[0].at, last=found[-1].at + 44 * SECOND)


def test_started_from_the_lake_it_answers_by_the_clock_as_the_batch_also_after_a_stall(
    names: tuple[str, str], broker: str, tmp_path: Path
) -> None:
    start = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    found = [
        Arrival(one.event_time, written(one)) for one in walk(start - 600 * SECOND, 660, step=0.5)
    ]
    landed = sum(one.at < start - 20 * SECOND for one in found)
    cluster = Cluster(broker, partitions=1)
    lake = Lake(tmp_path)
    rows: list[FeatureRow] = []
    is_over = threading.Event()

    async def keep_sending(sent: int) -> int:
        while not is_over.wait(0.05):
            until = datetime.now(UTC).replace(tzinfo=None)
            due = [one for one in found[sent:] if one.at <= until]
            if due:
                await send(cluster, names[0], due)
            sent += len(due)
        return sent

    async def until_there_are(count: int, task: asyncio.Task[None]) -> None:
        while not task.done() and len(rows) < count:
            await asyncio.sleep(0.05)

    async def run() -> None:
        await send(cluster, names[0], found[:landed])
        await lands(lake, broker, names[0], landed, cluster=cluster)
        build_all(lake)
        source = KafkaSource(cluster, lake, names[0])
        live = LiveFeatures(lake, Warehouse(lake), source, grace_seconds=GENEROUS)
        task = asyncio.create_task(live.run(rows.extend))
        sending = asyncio.create_task(asyncio.to_thread(asyncio.run, keep_sending(landed)))
        await until_there_are(3, task)
        time.sleep(GENEROUS + 3)  # nothing is read meanwhile
        await until_there_are(12, task)
        is_over.set()
        sent = await sending
        assert live.status().newest_event.keys() == {"BTC-USD"}
        live.stop()
        await task
        assert live.status().late == 0
        await lands(lake, broker, names[0], sent - landed, cluster=cluster)

    asyncio.run(run())
    build_all(lake)
    batch = expected(lake)
    live_rows = answered(rows)
    times = sorted(ts for _, ts in live_rows)
    assert [later - one for one, later in pairwise(times)] == [SECOND] * (len(times) - 1)
    assert all(batch[key] == answer for key, answer in live_rows.items())


@pytest.mark.timeout(300)
def test_an_outage_of_kafka_is_said_and_loses_nothing(own_broker: Broker, tmp_path: Path) -> None:
    cluster = Cluster(own_broker.address, partitions=2)
    ticks = [
        Arrival(datetime.now(UTC).replace(tzinfo=None), written(one)) for one in walk(MIDNIGHT, 20)
    ]

    async def run() -> None:
        source = KafkaSource(cluster, Lake(tmp_path))
        await source.start()
        assert not source.is_caught_up
        await send(cluster, "ticks.raw", ticks[:5])
        offsets = [line.offset for line in await source.read(5)]
        assert (source.is_caught_up, source.lag) == (True, 0)
        await asyncio.to_thread(own_broker.stop)
        while source.trouble is None:
            assert await source.read(0.2) == []
        assert "does not answer" in source.name
        assert source.lag is None
        await asyncio.to_thread(own_broker.start)
        await send(cluster, "ticks.raw", ticks[5:])
        while len(offsets) < len(ticks):
            offsets += [line.offset for line in await source.read(0.2)]
        assert source.trouble is None
        assert offsets == list(range(len(ticks)))
        await source.close()

    asyncio.run(run())
