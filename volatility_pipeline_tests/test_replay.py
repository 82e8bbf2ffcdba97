"""`replay` sends recordings as they are; `check-kafka` says whether data is flowing."""

import asyncio
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.test_land import lands

RECORDING = "flat_btc_20251108_43s.ndjson"


@pytest.fixture
def topic(broker: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker)
    return f"ticks-{uuid.uuid4().hex[:8]}"


def test_replayed_lines_land_as_they_were(
    broker: str, topic: str, recordings: Path, tmp_path: Path
) -> None:
    files = sorted(recordings.glob("*.ndjson"))
    answer = volatility("replay", *files, "--speed", "0", "--topic", topic, data=tmp_path)
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    assert answer.code == 0, answer.errors
    assert f"{len(lines):,} lines sent to {topic}" in answer.out

    lake = Lake(tmp_path)
    asyncio.run(lands(lake, broker, topic, len(lines)))
    landed = [
        line
        for day in lake.raw_days()
        for path in lake.segments(day)
        for line in path.read_bytes().splitlines()
    ]
    assert Counter(landed) == Counter(lines)

    answer = volatility("check-kafka", "--topic", topic, "--min", len(lines), data=tmp_path)
    assert answer.code == 0, answer.errors
    assert f"{topic} holds {len(lines):,} messages." in answer.out
    assert "The newest message is" in answer.out
    not_landed = [row.split("│")[5].strip() for row in answer.out.splitlines() if "│" in row]
    assert not_landed == ["0", "0", "0"]
    answer = volatility("check-kafka", "--topic", topic, "--min", len(lines) + 1, data=tmp_path)
    assert answer.code == 1
    assert "fewer than" in answer.errors


def test_replay_keeps_the_recordings_pace(topic: str, recordings: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    path = recordings / RECORDING  # 43 seconds
    answer = volatility("replay", path, "--speed", "20", "--topic", topic, data=tmp_path)
    assert answer.code == 0
    assert time.monotonic() - started > 43 / 20


def test_looking_at_a_topic_changes_nothing(topic: str, tmp_path: Path) -> None:
    answer = volatility("check-kafka", "--topic", topic, data=tmp_path / "root")
    assert answer.code == 1
    assert "no such topic" in answer.errors
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nowhere", 2, "is no host:port"),
        ("localhost:0", 2, "is no host:port"),
        ("a:b:c", 2, "is no host:port"),
        (None, 1, "does not answer"),
    ],
)
def test_a_wrong_address_is_one_sentence(
    address: str | None, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address or f"127.0.0.1:{free_port()}")
    answer = volatility("check-kafka", data=tmp_path)
    assert answer.code == code
    assert said in answer.errors


def test_a_recording_that_is_not_there_is_one_sentence(topic: str, tmp_path: Path) -> None:
    answer = volatility("replay", tmp_path / "none.ndjson", "--topic", topic, data=tmp_path)
    assert answer.code == 2
    assert "no such file" in answer.errors


def test_replay_without_kafka_is_one_sentence(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    answer = volatility("replay", recordings / RECORDING, "--speed", "0", data=tmp_path)
    assert answer.code == 2
    assert "does not answer" in answer.errors
    assert "0 lines were sent" in answer.errors
