"""The compose file: well-formed, safe by default, and each service's very command runs."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
KNOWN_KEYS = {
    "build", "image", "restart", "environment", "volumes", "command", "ports", "healthcheck",
    "depends_on",
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_is_well_formed_and_listens_on_localhost_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert set(service) <= KNOWN_KEYS
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()


def test_image_is_pinned_and_runs_as_no_root() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("FROM ")]
    assert base.count(".") == 2
    assert "latest" not in base
    assert "USER volatility" in lines


def test_services_commands_start_and_the_webserver_answers(tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    environment = os.environ | {"VOLATILITY_DATA": str(tmp_path), "DAGSTER_HOME": str(home)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = {}
    try:
        for name, service in COMPOSE["services"].items():
            program, *arguments = shlex.split(service["command"])
            # In a container the host is the container's own; here it is this machine.
            arguments = [{"0.0.0.0": "127.0.0.1", "3000": str(port)}.get(a, a) for a in arguments]
            started[name] = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        assert b"dagster_webserver_version" in answer(f"http://127.0.0.1:{port}/server_info")
        assert b"volatility_pipeline" in answer(
            f"http://127.0.0.1:{port}/graphql?query={{workspaceOrError{{...on+Workspace{{locationEntries{{name}}}}}}}}"
        )
        assert {name: process.poll() for name, process in started.items()} == {
            "webserver": None,
            "daemon": None,
        }
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        for process in started.values():
            process.wait(timeout=30)


def answer(url: str) -> bytes:
    """What a server says once it listens, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return bytes(response.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
