"""The lander: each message lands once, whatever is killed, stopped, made anew or full."""

import asyncio
import fcntl
import json
import os
import random
import signal
import uuid
from datetime import date
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.feed.kafka import Cluster, OrderedProducer
from volatility_pipeline.feed.lander import Lander
from volatility_pipeline.feed.offsets import Offsets
from volatility_pipeline.feed.segment_files import OpenSegment
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.broker import Broker, free_port
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.landing_run import Landers, produce
from volatility_pipeline_tests.test_journal import files_of_at_most

IS_ENDURANCE = os.environ.get("VOLATILITY_ENDURANCE") == "1"
TOTAL = 500_000 if IS_ENDURANCE else 24_000
KILLS = 100 if IS_ENDURANCE else 5


@pytest.fixture
def topic() -> str:
    return f"ticks-{uuid.uuid4().hex[:8]}"


async def lands(
    lake: Lake, address: str, topic: str, total: int, *, cluster: Cluster | None = None
) -> list[str]:
    """Runs a lander in this process until so many lines more are on disk; what it said."""
    said: list[str] = []
    landed = Landers(lake.root, address, topic)
    before = landed.count()
    lander = Lander(
        lake, cluster or Cluster(address), topic, said.append,
        first_day=date(2025, 1, 1), roll_seconds=0.3, roll_bytes=1 << 20,
    )  # fmt: skip
    task = asyncio.create_task(lander.run())
    try:
        async with asyncio.timeout(40):
            while landed.count() - before < total and not task.done():
                await asyncio.sleep(0.05)
    finally:
        if not task.done():
            task.cancel()
        await asyncio.wait({task})
        await lander.close()
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]
    return said


@pytest.mark.timeout(900)
def test_kills_at_random_moments_lose_and_double_nothing(
    broker: str, topic: str, tmp_path: Path
) -> None:
    landers = Landers(tmp_path, broker, topic)

    async def play() -> None:
        pause = 0.25 * KILLS / 50 if not IS_ENDURANCE else 0.3
        producing = asyncio.create_task(produce(broker, topic, TOTAL, pause=pause))
        chance = random.Random(4)
        for _ in range(KILLS):
            process = landers.start()
            await asyncio.sleep(chance.uniform(0.8, 3.5))
            landers.end(process, signal.SIGKILL)
        await producing
        await landers.start_and_wait()
        await landers.wait_for(TOTAL)
        assert landers.end(landers.running[0], signal.SIGTERM) == 0

    try:
        asyncio.run(play())
    finally:
        landers.end_all()
    landers.check(TOTAL)


@pytest.mark.timeout(900)
def test_two_landers_share_partitions_while_they_join_and_leave(
    broker: str, topic: str, tmp_path: Path
) -> None:
    landers = Landers(tmp_path, broker, topic)
    total = TOTAL // 2

    async def play() -> None:
        rounds = 12 if IS_ENDURANCE else 1
        pause = rounds * 7 / (total / 1000)
        producing = asyncio.create_task(produce(broker, topic, total, pause=pause))
        landers.start()
        for turn in range(rounds):
            await asyncio.sleep(3)
            other = await landers.start_and_wait()
            await asyncio.sleep(4)
            landers.end(other if turn % 2 else landers.running[0], [15, 9][turn % 2])
        await producing
        await landers.wait_for(total)
        assert landers.end(landers.running[0], signal.SIGTERM) == 0

    try:
        asyncio.run(play())
    finally:
        landers.end_all()
    landers.check(total)


@pytest.mark.timeout(900)
def test_a_broker_that_stops_and_starts_again_loses_and_doubles_nothing(
    own_broker: Broker, topic: str, tmp_path: Path
) -> None:
    landers = Landers(tmp_path / "data", own_broker.address, topic)
    total, stops = (TOTAL, 5) if IS_ENDURANCE else (TOTAL // 2, 1)

    async def play() -> None:
        pause = (8 * stops) / (total / 1000)
        producing = asyncio.create_task(produce(own_broker.address, topic, total, pause=pause))
        landers.start()
        for turn in range(stops):
            await asyncio.sleep(4)
            how = [signal.SIGKILL, signal.SIGTERM][turn % 2]
            await asyncio.to_thread(own_broker.stop, how=how)
            await asyncio.sleep(2)
            await asyncio.to_thread(own_broker.start)
        await producing
        await landers.wait_for(total, seconds=90)
        assert landers.end(landers.running[0], signal.SIGTERM) == 0

    try:
        asyncio.run(play())
    finally:
        landers.end_all()
    landers.check(total)


def test_what_kafka_was_told_counts_for_nothing(broker: str, topic: str, tmp_path: Path) -> None:
    """A lander of another data root lands all; the first lands nothing twice."""

    async def play() -> None:
        await produce(broker, topic, 1000, pause=0)
        await lands(Lake(tmp_path / "a"), broker, topic, 1000)
        await lands(Lake(tmp_path / "b"), broker, topic, 1000)
        (tmp_path / "a" / "raw" / "offsets.json").unlink()  # the segments say it as well
        await produce(broker, topic, 1000, pause=0)
        await lands(Lake(tmp_path / "a"), broker, topic, 1000)

    asyncio.run(play())
    Landers(tmp_path / "b", broker, topic).check(1000)
    assert Landers(tmp_path / "a", broker, topic).count() == 2000


def test_offsets_outlive_segments_that_retention_removed(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)

    async def play() -> None:
        await produce(broker, topic, 300, pause=0)
        await lands(lake, broker, topic, 300)
        for day in lake.raw_days():
            for path in lake.segments(day):
                path.unlink()
        await produce(broker, topic, 30, pause=0)
        await lands(lake, broker, topic, 30)

    asyncio.run(play())
    assert Landers(tmp_path, broker, topic).count() == 30


def test_messages_deleted_by_retention_are_said_and_stand_in_the_manifest(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    cluster = Cluster(broker, partitions=1)

    async def send(first: int, count: int) -> None:
        producer = OrderedProducer(cluster, topic)
        await producer.start()
        line = b'{"type": "status", "time": "2026-04-01T00:00:00Z", "number": %d}'
        await producer.send((b"k", 0, line % number) for number in range(first, first + count))
        await producer.stop()

    async def play() -> list[str]:
        await send(0, 10)
        await lands(lake, broker, topic, 10, cluster=cluster)
        await send(10, 20)
        admin = AIOKafkaAdminClient(bootstrap_servers=broker)
        await admin.start()
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(17)})
        await admin.close()
        return await lands(lake, broker, topic, 13, cluster=cluster)

    said = asyncio.run(play())
    assert any("7 messages, 10 to 16, are lost: Kafka's retention" in text for text in said)
    (lost,) = json.loads((tmp_path / "raw" / "offsets.json").read_text())["lost"]
    assert (lost["first"], lost["last"]) == (10, 16)
    manifest = Ingest(lake, Warehouse(lake, 30)).write_manifest(date(2026, 4, 1))
    (gap,) = [gap for gap in manifest["gaps"] if gap["kind"] == "offsets"]
    assert (gap["first"], gap["last"], gap["missing"]) == (10, 16, 7)


async def delete_topic(address: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()
    await asyncio.sleep(1)


def test_a_topic_made_anew_is_said_and_landed_from_its_beginning(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)

    async def play() -> list[str]:
        await produce(broker, topic, 500, pause=0)
        await lands(lake, broker, topic, 500)
        await delete_topic(broker, topic)
        await produce(broker, topic, 800, pause=0)  # its offsets run past those of the old one
        return await lands(lake, broker, topic, 800)

    said = asyncio.run(play())
    assert any("was made anew" in text for text in said)
    landers = Landers(tmp_path, broker, topic)
    assert landers.count() == 1300
    assert len({log.rsplit("-", 1)[0] for log, *_ in landers.spans()}) == 2, "two identities"


def test_a_topic_that_holds_less_than_was_landed_ends_the_lander(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)

    async def play() -> None:
        await produce(broker, topic, 50, pause=0)
        await lands(lake, broker, topic, 50)
        path = tmp_path / "raw" / "offsets.json"
        state = json.loads(path.read_text())
        for entry in state["logs"].values():
            entry["next"] += 1000
        path.write_text(json.dumps(state))
        await lands(lake, broker, topic, 1)

    with pytest.raises(BadInputError, match="the broker has lost messages; delete the topic"):
        asyncio.run(play())


def test_rubbish_lands_line_by_line_and_stays_with_the_line_before(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    cluster = Cluster(broker, partitions=1)
    values = [
        b"\xff\xfe no JSON",  # the first: the day of its Kafka timestamp
        b'{"type": "status", "time": "2026-04-01T00:00:00Z"}',
        b"",
        b"two\nlines",
        b'{"type": "status", "time": "2026-04-02T00:00:00Z"}',
        b'{"type": "status", "time": "2190-04-02T00:00:00Z"}',  # too late to be true
    ]

    async def play() -> None:
        producer = OrderedProducer(cluster, topic)
        await producer.start()
        at = 1_774_000_000_000  # 2026-03-20
        await producer.send((b"k", at, value) for value in values)
        await producer.stop()
        await lands(lake, broker, topic, len(values), cluster=cluster)

    asyncio.run(play())
    landed = {
        day.isoformat(): [path.read_bytes() for path in lake.segments(day)]
        for day in lake.raw_days()
    }
    assert landed == {
        "2026-03-20": [values[0] + b"\n"],
        "2026-04-01": [values[1] + b"\n\ntwo lines\n"],
        "2026-04-02": [values[4] + b"\n" + values[5] + b"\n"],
    }


def test_a_zombie_cannot_commit_what_another_lander_has_landed(
    broker: str, topic: str, tmp_path: Path
) -> None:
    """A lander stopped in mid-segment wakes up after its partitions were taken over."""
    landers = Landers(tmp_path, broker, topic, roll_seconds=20)

    async def play() -> None:
        await produce(broker, topic, 2000, pause=0)
        zombie = landers.start()
        while len(list((tmp_path / "raw").glob("date=2026-04-02/*.ndjson"))) < 3:
            await asyncio.sleep(0.1)  # the third day's segments stay open
        await asyncio.sleep(0.5)
        zombie.send_signal(signal.SIGSTOP)
        landers.roll_seconds = 0.3
        landers.start()
        await landers.wait_for(2000, seconds=40)
        zombie.send_signal(signal.SIGCONT)
        await asyncio.sleep(1)
        assert landers.end(zombie, signal.SIGTERM) == 0

    try:
        asyncio.run(play())
    finally:
        landers.end_all()
    landers.check(2000)


def test_a_disk_that_takes_nothing_for_a_while_loses_and_doubles_nothing(
    broker: str, topic: str, tmp_path: Path
) -> None:
    total = 6000

    async def play() -> list[str]:
        producing = asyncio.create_task(produce(broker, topic, total, pause=1.0))
        landing = asyncio.create_task(lands(Lake(tmp_path), broker, topic, total))
        for size in (30_000, 100, 0):
            await asyncio.sleep(1)
            with files_of_at_most(size):
                await asyncio.sleep(1)
        await producing
        return await landing

    said = asyncio.run(play())
    assert any("File too large; mend it, the messages wait in Kafka" in text for text in said)
    assert any("takes segments again" in text for text in said)
    assert not any("lost" in text for text in said)
    Landers(tmp_path, broker, topic).check(total)


def test_a_lander_stopped_in_mid_commit_is_named_and_the_others_do_not_hang(
    broker: str, topic: str, tmp_path: Path
) -> None:
    lake = Lake(tmp_path)
    (tmp_path / "raw").mkdir()

    async def play() -> list[str]:
        await produce(broker, topic, 100, pause=0)
        with (tmp_path / "raw" / ".offsets.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            landing = asyncio.create_task(lands(lake, broker, topic, 100))
            await asyncio.sleep(5)
        return await landing

    said = asyncio.run(play())
    assert any("another lander holds it and does not move" in text for text in said)
    Landers(tmp_path, broker, topic).check(100)


def test_unwritable_folder_and_wrong_address_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = volatility("land", data=tmp_path / "file")
    assert answer.code == 2
    assert "a file, not a folder" in answer.errors
    answer = volatility("land", "--minutes", "0.05", data=tmp_path)
    assert answer.code == 0, "Kafka may come up yet"
    offsets = Offsets(Lake(tmp_path))
    assert offsets.group().startswith("volatility-land-")


def test_kafka_that_is_not_there_is_said_and_waited_for(
    tmp_path: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address)
    answer = volatility("land", "--minutes", "0.05", data=tmp_path)
    assert f"Kafka at {address} does not answer" in answer.errors
    assert answer.errors.count("does not answer") == 1


def test_a_commit_or_a_loss_that_comes_late_changes_nothing(tmp_path: Path) -> None:
    lake, day, log = Lake(tmp_path), date(2026, 4, 1), "t-0a1b2c3d-0"
    offsets = Offsets(lake)

    def segment() -> OpenSegment:
        made = OpenSegment(tmp_path / uuid.uuid4().hex)
        made.write(b"{}\n")
        return made

    assert offsets.commit(segment(), log, day, 0, 300)
    late = segment()
    assert not offsets.commit(late, log, day, 0, 200)
    late.discard()
    offsets.skip(log, 100, 200, day, "late")
    assert offsets.logs("t", 0)[log].next == 300
    # A kill between the rename and the note, and then another log's note.
    folder = lake.raw_folder(day)
    (folder / f"{log}-{300:020d}-{399:020d}.ndjson").write_text("{}\n")
    unaware = segment()
    assert not offsets.commit(unaware, log, day, 300, 350)
    unaware.discard()
    assert offsets.logs("t", 0)[log].next == 400
    assert len(lake.segments(day)) == 2
