"""The compose file: well-formed, safe by default, and each service's very command runs."""

import json
import os
import re
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
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
from volatility_pipeline_tests.composed import (
    COMPOSE,
    KEY,
    ROOT,
    SERVICES,
    Database,
    Machine,
    Prometheus,
    Service,
    missing_programs,
)
from volatility_pipeline_tests.conftest import start_broker

OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DEMO = {name: service for name, service in SERVICES.items() if "demo" in service["profiles"]}
KAFKA = SERVICES["kafka"]
KNOWN_KEYS = {
    "build", "image", "init", "restart", "environment", "volumes", "command", "ports", "profiles",
    "healthcheck", "depends_on", "stop_grace_period", "security_opt", "logging", "user", "configs",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
SETTINGS = {name.upper(): field for name, field in Settings.model_fields.items()}
FOR_TESTS = {"VOLATILITY_RECORDINGS"}
FOR_COMPOSE = {"COMPOSE_PROFILES", "DAGSTER_POSTGRES_URL"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_well_formed_and_listens_on_localhost_only(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KNOWN_KEYS
    assert set(service["profiles"]) <= {"core", "monitoring", "demo"}
    assert service["restart"] == ("no" if name == "seed" else "unless-stopped")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for other, link in service.get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[other], "healthy is what is waited for"
        is_there = set(service["profiles"]) <= set(SERVICES[other]["profiles"])
        assert is_there or link["required"] is False
    health = service.get("healthcheck", {"test": ["NONE"]})
    assert set(health) <= HEALTH_KEYS
    assert health["test"][0] in ("CMD", "CMD-SHELL", "NONE")
    for key in ("interval", "timeout", "start_period"):
        assert re.fullmatch(r"\d+[sm]", health.get(key, "0s"))
    assert re.fullmatch(r"\d+[sm]", service.get("stop_grace_period", "0s"))
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()
    assert set(service.get("configs", [])) <= set(COMPOSE["configs"])


def test_each_host_port_is_one_service_s() -> None:
    ports = [
        port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])
    ]
    assert len(set(ports)) == len(ports)


def test_images_are_pinned_and_ours_runs_as_no_root() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    (base,) = [line.removeprefix("FROM ") for line in lines if line.startswith("FROM ")]
    others = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    for image in (base, *others):
        assert re.search(r":v?\d+(\.\d+)+", image)
    assert "USER volatility" in lines


def test_no_password_is_written_down() -> None:
    for service in SERVICES.values():
        named = [
            key for key in service.get("environment", {}) if re.search("PASSWORD|SECRET|TOKEN", key)
        ]
        assert named == []


def test_instance_is_the_root_s_but_for_its_storage() -> None:
    root, composed = (
        yaml.safe_load((folder / "dagster.yaml").read_text()) for folder in (ROOT, ROOT / "docker")
    )
    storage = composed.pop("storage")
    assert composed == root
    assert storage == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}


def test_demo_is_the_whole_but_for_its_market() -> None:
    whole = {
        name
        for name, service in SERVICES.items()
        if {"core", "monitoring"} & {*service["profiles"]}
    }
    assert set(DEMO) - whole == {"exchange", "record-demo", "seed"}
    assert whole - set(DEMO) == {"record"}
    assert "ws://exchange:8765" in DEMO["record-demo"]["command"]


# Settings


def test_env_example_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    text = (ROOT / ".env.example").read_text()
    found = re.findall(r"^# .+[.:]\n(#?)([A-Z_]+)=(.+)$", text, re.MULTILINE)
    assert len(found) == text.count("="), "a line that says what it does, above each"
    assert {name for _, name, _ in found} == {*SETTINGS, *FOR_TESTS, *FOR_COMPOSE}
    for mark, name, value in found:
        if not mark:
            monkeypatch.setenv(name, value)
        elif name in SETTINGS:
            assert SETTINGS[name].default is None
    assert Settings(_env_file=None) == defaults  # type: ignore[call-arg]


@pytest.mark.parametrize("name", OURS)
def test_our_services_set_or_pass_on_every_setting(name: str) -> None:
    environment = OURS[name]["environment"]
    assert set(environment) == {*SETTINGS, "DAGSTER_HOME", "DAGSTER_POSTGRES_URL"}
    fixed = {key: value for key, value in environment.items() if value is not None}
    assert fixed == {
        "VOLATILITY_DATA": "/data",
        "DAGSTER_HOME": "/data/dagster",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:19092",
        "VOLATILITY_UNATTENDED": "true",
        "DAGSTER_POSTGRES_URL": "${DAGSTER_POSTGRES_URL:-"
        "postgresql+psycopg2://dagster@/dagster?host=/run/postgresql}",
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


# Services as processes of this machine

KINDS = {"postgres": Database, "prometheus": Prometheus}


@pytest.fixture
def start(composed_broker: ComposedBroker, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a service over the test's data root."""
    machine = Machine(tmp_path, f"127.0.0.1:{composed_broker.inside_port}")
    started: list[Service] = []

    def start_one(name: str, **environment: str) -> Service:
        started.append(KINDS.get(name, Service)(name, machine, **environment))
        return started[-1]

    yield start_one
    for service in reversed(started):
        service.stop()
    shutil.rmtree(machine.socket)


def test_record_says_that_coinbase_does_not_answer_and_goes_on_trying(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    # A proxy that is not there, lest this test should reach Coinbase where there is an internet.
    proxy = f"http://127.0.0.1:{free_port()}"
    record = start("record", wss_proxy=proxy, no_proxy="")
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
    # A line of another day ends the segment at once, which else would grow for 15 seconds.
    tomorrow = json.dumps(ticker | quotes | {"time": "2026-04-02T00:00:00Z"}).encode()
    recording.write_bytes(b"\n".join([*lines, tomorrow]) + b"\n")
    land = start("land")
    offsets = tmp_path / "raw" / "offsets.json"
    wait_until(offsets.exists)
    an_age_ago = time.time() - 180
    os.utime(offsets, (an_age_ago, an_age_ago))
    assert not land.is_healthy, "nothing has landed for three minutes"

    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", composed_broker.address)
    answer = volatility("replay", recording, "--speed", 0, data=tmp_path)
    assert "301 lines sent to ticks.raw" in answer.out
    lake = Lake(tmp_path)
    wait_until(lambda: bool(lake.raw_days() and lake.segments(lake.raw_days()[0])))
    assert land.is_healthy
    (segment,) = lake.segments(lake.raw_days()[0])
    assert segment.read_bytes().splitlines() == lines
    assert land.process.poll() is None
    assert land.stop() == 0
    assert "Traceback" not in land.said


@pytest.mark.timeout(600)
def test_demo_starts_in_order_and_every_part_does_its_work(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    reason = missing_programs()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    order = TopologicalSorter({name: one.get("depends_on", {}) for name, one in DEMO.items()})
    # Kafka runs already; Grafana is no package here; what `seed` does is `test_run`'s to tell.
    elsewhere = {"kafka", "grafana", "seed"}
    running: dict[str, Service] = {}
    for name in order.static_order():
        if name in elsewhere:
            continue
        running[name] = start(name, VOLATILITY_API_KEY=KEY, VOLATILITY_PRODUCTS="BTC-USD")
        if any(name in one.get("depends_on", {}) for one in DEMO.values()):
            wait_until(lambda: running[name].is_healthy, 120)  # noqa: B023 called at once
            assert_alive(running)
    wait_until(lambda: all(service.is_healthy for service in running.values()), 120)
    ports = running["api"].machine.ports

    def found(port: str, path: str) -> Any:
        address = f"http://127.0.0.1:{ports[port]}{path}"
        request = urllib.request.Request(address, headers={"X-API-Key": KEY})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    # Exchange, recorder, Kafka, lander, then sensor, daemon, code and database: a day is built.
    asked = urllib.parse.quote("{runsOrError{...on Runs{results{status}}}}")

    def is_built() -> bool:
        assert_alive(running)
        runs = found("3000", f"/graphql?query={asked}")["data"]["runsOrError"]["results"]
        assert {"status": "FAILURE"} not in runs
        return {"status": "SUCCESS"} in runs

    wait_until(is_built, 120)
    lake = Lake(tmp_path)
    manifest = lake.manifest(lake.days("ticks")[-1])
    assert manifest is not None
    assert all(segment["is_simulated"] for segment in manifest["segments"])
    assert not list((tmp_path / "dagster" / "history").glob("*")), "what happened is in PostgreSQL"

    # Kafka, live features, API, Prometheus.
    asked = urllib.parse.quote("volatility_messages_total > 0 and on () up == 1")
    wait_until(lambda: bool(found("9090", f"/api/v1/query?query={asked}")["data"]["result"]))
    assert found("8000", "/health") == {"status": "alive"}
    assert_alive(running)
    for name, service in running.items():
        assert "Traceback" not in service.said, f"{name}: {service.said}"


# Four minutes long: `make endurance` runs it.
test_demo_starts_in_order_and_every_part_does_its_work.__test__ = (
    os.environ.get("VOLATILITY_ENDURANCE") == "1"
)


def assert_alive(running: Mapping[str, Service]) -> None:
    """Each runs; else what it said last is shown."""
    for name, service in running.items():
        assert service.process.poll() is None, f"{name}: {service.said[-2000:]}"


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.25)
