"""The compose file: well-formed, safe by default, and each service's very command runs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from aiokafka.errors import UnknownTopicOrPartitionError

from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.settings import Settings
from volatility_pipeline_tests.broker import POM, Broker, free_port
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.conftest import start_broker

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
KAFKA = COMPOSE["services"]["kafka"]
KNOWN_KEYS = {
    "build", "image", "init", "restart", "environment", "volumes", "command", "ports",
    "healthcheck", "depends_on", "stop_grace_period",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
SETTINGS = {name.upper(): field for name, field in Settings.model_fields.items()}
FOR_TESTS = {"VOLATILITY_RECORDINGS"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_is_well_formed_and_listens_on_localhost_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert set(service) <= KNOWN_KEYS
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    for other in service.get("depends_on", {}):
        assert "healthcheck" in COMPOSE["services"][other], "healthy is what is waited for"
    health = service.get("healthcheck", {"test": ["NONE"]})
    assert set(health) <= HEALTH_KEYS
    assert health["test"][0] in ("CMD", "CMD-SHELL", "NONE")
    for key in ("interval", "timeout", "start_period"):
        assert re.fullmatch(r"\d+[sm]", health.get(key, "0s"))
    assert re.fullmatch(r"\d+[sm]", service.get("stop_grace_period", "0s"))
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()


def test_image_is_pinned_and_runs_as_no_root() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("FROM ")]
    assert base.count(".") == 2
    assert "latest" not in base
    assert "USER volatility" in lines


# Settings


def test_env_example_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    text = (ROOT / ".env.example").read_text()
    found = re.findall(r"^# .+[.:]\n(#?)([A-Z_]+)=(.+)$", text, re.MULTILINE)
    assert len(found) == text.count("="), "a line that says what it does, above each"
    assert {name for _, name, _ in found} == {*SETTINGS, *FOR_TESTS}
    for mark, name, value in found:
        if not mark:
            monkeypatch.setenv(name, value)
        elif name in SETTINGS:
            assert SETTINGS[name].default is None
    assert Settings(_env_file=None) == defaults  # type: ignore[call-arg]


@pytest.mark.parametrize("name", OURS)
def test_our_services_set_or_pass_on_every_setting(name: str) -> None:
    environment = OURS[name]["environment"]
    assert set(environment) == {*SETTINGS, "DAGSTER_HOME"}
    fixed = {key: value for key, value in environment.items() if value is not None}
    assert fixed == {
        "VOLATILITY_DATA": "/data",
        "DAGSTER_HOME": "/data/dagster",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:19092",
        "VOLATILITY_UNATTENDED": "true",
    }


# Kafka


def kafka_properties() -> dict[str, str]:
    """What the image makes of the service's environment: a line of server.properties each."""
    return {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): str(value)
        for name, value in KAFKA["environment"].items()
        if name.startswith("KAFKA_") and not name.endswith("_OPTS")
    }


@dataclass
class ComposedBroker(Broker):
    """The service `kafka` on free ports of this machine; `port` is the host's."""

    inside_port: int = field(default_factory=free_port)

    def properties(self) -> dict[str, str]:
        """The service's own, but for addresses and the folder."""
        ports = {"19092": self.inside_port, "9092": self.port, "9093": self.controller_port}
        here = {
            name: re.sub(r"[\w.]*:(\d+)", lambda found: f"127.0.0.1:{ports[found[1]]}", value)
            for name, value in kafka_properties().items()
        }
        return here | {"log.dirs": str(self.folder / "data")}


@pytest.fixture(scope="module")
def composed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedBroker]:
    own = ComposedBroker(tmp_path_factory.mktemp("composed"))
    start_broker(own)
    yield own
    own.stop()


def test_kafka_is_of_the_version_that_the_tests_run() -> None:
    found = ElementTree.parse(POM).findall(".//dependency")
    versions = {one.findtext("artifactId"): one.findtext("version") for one in found}
    assert KAFKA["image"] == f"apache/kafka:{versions['kafka_2.13']}"


def test_kafka_is_set_up_as_the_tests_broker_but_for_its_addresses(tmp_path: Path) -> None:
    ours, tests = kafka_properties(), Broker(tmp_path).properties()
    addresses = {"listeners", "controller.quorum.voters", "log.dirs"}
    of_tests = {"group.min.session.timeout.ms"}
    of_two_networks = {
        "advertised.listeners", "listener.security.protocol.map", "inter.broker.listener.name",
    }  # fmt: skip
    assert set(ours) - of_two_networks == set(tests) - of_tests
    assert all(ours[name] == tests[name] for name in set(ours) & set(tests) - addresses)
    assert ours["log.dirs"] in [volume.split(":")[1] for volume in KAFKA["volumes"]]


def test_kafka_tells_containers_and_the_host_an_address_that_they_reach() -> None:
    advertised = kafka_properties()["advertised.listeners"].split(",")
    inside, host = (one.split("://")[1] for one in advertised)
    assert inside == OURS["land"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert KAFKA["ports"] == [f"{host}:9092"]
    assert f"localhost:{inside.split(':')[1]}" in KAFKA["healthcheck"]["test"]


def test_composed_kafka_makes_no_topic_that_nobody_asked_for(
    composed_broker: ComposedBroker,
) -> None:
    import asyncio

    from aiokafka import AIOKafkaProducer

    async def send() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=composed_broker.address, request_timeout_ms=2000
        )
        await producer.start()
        try:
            await producer.send_and_wait("misspelt", b"lost")
        finally:
            await producer.stop()

    with pytest.raises(UnknownTopicOrPartitionError):
        asyncio.run(send())


# Our services


class Service:
    """A service's command as a process of this machine; what it says goes to a file."""

    def __init__(self, name: str, root: Path, *, port: int = 0, **environment: str) -> None:
        self.here = {"/data": str(root), "localhost:3000": f"localhost:{port}"}
        self.health = OURS[name].get("healthcheck", {}).get("test")
        self.log = root / f"{name}.log"
        home = root / "dagster"
        home.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
        given = {key: value for key, value in OURS[name]["environment"].items() if value}
        own = {"VOLATILITY_DATA": str(root), "DAGSTER_HOME": str(home)}
        program, *arguments = shlex.split(OURS[name]["command"])
        # In a container the host is the container's own; here it is this machine.
        arguments = [{"0.0.0.0": "127.0.0.1", "3000": str(port)}.get(a, a) for a in arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=ROOT,
                env=os.environ | given | own | environment,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        """All that it said so far."""
        return self.log.read_text()

    @property
    def is_healthy(self) -> bool:
        """What its health check says."""
        kind, *command = self.health
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        for there, here in self.here.items():
            command = [part.replace(there, here) for part in command]
        command = [sys.executable if part == "python" else part for part in command]
        return subprocess.run(command, capture_output=True).returncode == 0

    def stop(self) -> int:
        """Stops it as `docker compose stop` does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a service over the test's data root."""
    started: list[Service] = []

    def start_one(name: str, **options: Any) -> Service:
        started.append(Service(name, tmp_path, **options))
        return started[-1]

    yield start_one
    for service in started:
        service.stop()


def test_dagsters_services_start_and_the_webserver_answers(start: Callable[..., Service]) -> None:
    port = free_port()
    webserver, daemon = start("webserver", port=port), start("daemon")
    assert not webserver.is_healthy
    wait_until(lambda: webserver.is_healthy)
    query = "query={workspaceOrError{...on+Workspace{locationEntries{name}}}}"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/graphql?{query}", timeout=30) as answer:
        assert b"volatility_pipeline" in answer.read()
    assert (webserver.process.poll(), daemon.process.poll()) == (None, None)


def test_record_says_that_coinbase_does_not_answer_and_goes_on_trying(
    composed_broker: ComposedBroker, start: Callable[..., Service], tmp_path: Path
) -> None:
    # A proxy that is not there, lest this test should reach Coinbase where there is an internet.
    proxy = f"http://127.0.0.1:{free_port()}"
    kafka = f"127.0.0.1:{composed_broker.inside_port}"
    record = start("record", KAFKA_BOOTSTRAP_SERVERS=kafka, wss_proxy=proxy, no_proxy="")
    wait_until(lambda: record.said.count("connecting again in") > 2)
    assert "Recording BTC-USD, ETH-USD from wss://advanced-trade-ws.coinbase.com" in record.said
    assert "Traceback" not in record.said
    (records,) = (tmp_path / "spool").glob("*/*.records")
    assert record.is_healthy, "it has just begun"
    an_age_ago = time.time() - 90
    os.utime(records, (an_age_ago, an_age_ago))
    assert not record.is_healthy
    assert record.stop() == 0
    assert "Stopped. not connected" in record.said


def test_land_lands_what_is_replayed(
    composed_broker: ComposedBroker,
    start: Callable[..., Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = tmp_path / "recording.ndjson"
    ticker = {"type": "ticker", "product_id": "BTC-USD", "price": "100"}
    quotes = {"best_bid": "99", "best_ask": "101", "time": "2026-04-01T12:00:00Z"}
    lines = [json.dumps(ticker | quotes | {"trade_id": number}).encode() for number in range(300)]
    recording.write_bytes(b"\n".join(lines) + b"\n")
    land = start("land", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{composed_broker.inside_port}")
    offsets = tmp_path / "raw" / "offsets.json"
    wait_until(offsets.exists)
    an_age_ago = time.time() - 180
    os.utime(offsets, (an_age_ago, an_age_ago))
    assert not land.is_healthy, "nothing has landed for three minutes"

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", composed_broker.address)
    answer = volatility("replay", recording, "--speed", 0, data=tmp_path)
    assert "300 lines sent to ticks.raw" in answer.out
    lake = Lake(tmp_path)
    wait_until(lambda: bool(lake.raw_days() and lake.segments(lake.raw_days()[0])))
    assert land.is_healthy
    (segment,) = lake.segments(lake.raw_days()[0])
    assert segment.read_bytes().splitlines() == lines
    assert land.process.poll() is None
    assert land.stop() == 0
    assert "Traceback" not in land.said


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.25)
