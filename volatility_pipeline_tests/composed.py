"""The services of docker-compose.yaml as processes of this machine: their very commands.

What belongs here: how hosts, ports and folders of the containers become those of this machine, and
what an image brings that a program alone does not. What does not: what a service ought to do.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from volatility_pipeline_tests.broker import free_port

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
_ENV = (ROOT / "docker" / "Dockerfile").read_text().partition("\nENV ")[2].partition("\nVOLUME")[0]
IMAGE = dict(re.findall(r"(\w+)=(\S+)", _ENV))  # what the image sets
PORTS = ("3000", "4000", "5000", "8000", "8765", "9090")
KEY = "the-key-of-a-test"


def missing_programs() -> str | None:
    """Why the services of other people's images cannot be started here, if they cannot."""
    programs = [shutil.which(name) for name in ("prometheus", "pg_ctlcluster", "wget")]
    if all(programs):
        return None
    return "not all installed: apt-get install postgresql prometheus wget"


class Machine:
    """The network, the volumes and the image of the compose file, on this machine.

    Args:
        root: The data root, and where all else is put.
        kafka: The address that containers would know as `kafka:19092`.
    """

    def __init__(self, root: Path, kafka: str) -> None:
        self.root = root
        self.app = root / "app"
        self.ports = {port: str(free_port()) for port in PORTS}
        self.ports["19092"] = kafka.rpartition(":")[2]
        # The path of a socket may have 107 characters.
        self.socket = Path(tempfile.mkdtemp(prefix="pg"))
        path = [str(self.app), *filter(None, [os.environ.get("PYTHONPATH")])]
        image = {name: self.here(value) for name, value in IMAGE.items()}
        self.environment = {**os.environ, **image} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path),
            "PGPORT": str(free_port()),
        }
        self._lay_out()

    def here(self, text: str) -> str:
        """Hosts, ports and folders of the containers, as they are on this machine."""
        text = re.sub(rf"\b({'|'.join(SERVICES)})(?=:\d)", "127.0.0.1", text)
        text = re.sub(r"(?<=host: )code$", "127.0.0.1", text, flags=re.MULTILINE)
        text = re.sub(r"\b\d{4,5}\b", lambda found: self.ports.get(found[0], found[0]), text)
        for there, here in {
            "0.0.0.0": "127.0.0.1",
            "/run/postgresql": str(self.socket),
            "/etc/prometheus": str(self.root / "prometheus"),
            "/api-key": str(self.root / "api-key"),
        }.items():
            text = text.replace(there, here)
        text = re.sub(r"(?<!\w)/prometheus\b", f"{self.root}/prometheus", text)
        return re.sub(r"(?<!\w)/data\b", str(self.root), text)

    def _lay_out(self) -> None:
        """What the Dockerfile copies into the image, and what is mounted."""
        self.app.mkdir()
        for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines():
            if not line.startswith("COPY"):
                continue
            *sources, target = [part for part in line.split()[1:] if not part.startswith("--")]
            for source in sources:
                to = self.app / target / Path(source).name if target == "./" else self.app / target
                if source.endswith(".yaml"):
                    to.write_text(self.here((ROOT / source).read_text()))
                else:
                    to.symlink_to(ROOT / source)
        for folder in ("dagster", "mlflow", "prometheus"):
            (self.root / folder).mkdir()
        shutil.copyfile(self.app / "dagster.yaml", self.root / "dagster" / "dagster.yaml")
        config = ROOT / "docker" / "prometheus"
        (self.root / "prometheus" / "rules").symlink_to(config / "rules")
        written = self.here((config / "prometheus.yml").read_text())
        (self.root / "prometheus" / "prometheus.yml").write_text(written)
        (self.root / "api-key").write_text(KEY)


class Service:
    """A service's command as a process; what it says goes to a file."""

    def __init__(self, name: str, machine: Machine, **environment: str) -> None:
        self.name = name
        self.machine = machine
        self.log = machine.root / f"{name}.log"
        given = {
            key: machine.here(re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value))
            for key, value in SERVICES[name].get("environment", {}).items()
            if value
        }
        self.environment = machine.environment | given | environment
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=machine.app,
                env=self.environment,
                stdout=log,
                stderr=log,
                user=self.user,
            )

    user: str | None = None

    def command(self) -> Sequence[str]:
        """What the container runs."""
        return shlex.split(self.machine.here(SERVICES[self.name]["command"]))

    @property
    def said(self) -> str:
        """All that it said so far."""
        return self.log.read_text()

    @property
    def is_healthy(self) -> bool:
        """What its health check says."""
        kind, *command = map(self.machine.here, SERVICES[self.name]["healthcheck"]["test"])
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        return subprocess.run(command, capture_output=True, env=self.environment).returncode == 0

    def stop(self) -> int:
        """Stops it as `docker compose stop` does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


class Database(Service):
    """PostgreSQL, set up as its image does at the first start; it refuses to run as root."""

    user = "postgres" if os.geteuid() == 0 else None

    def command(self) -> Sequence[str]:
        """The container's, on a folder and a socket of its own."""
        (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
        folder = self.machine.socket
        if self.user:
            shutil.chown(folder, self.user)
        initdb = [programs / "initdb", "--username=dagster", "--auth=trust", folder / "data"]
        subprocess.run(initdb, check=True, capture_output=True, user=self.user, cwd=folder)
        single = [programs / "postgres", "--single", "-D", folder / "data", "postgres"]
        subprocess.run(
            single,
            check=True,
            input=b"create database dagster;\n",
            capture_output=True,
            user=self.user,
            cwd=folder,
        )
        program, *arguments = super().command()
        where = ["-D", str(folder / "data"), "-k", str(folder)]
        return [str(programs / program), *where, *arguments]

    def stop(self) -> int:
        """Stops it as its image does: open connections are cut."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


class Prometheus(Service):
    """Prometheus of this machine on the container's configuration."""

    def command(self) -> Sequence[str]:
        """The container's, which is the arguments alone, on a port of its own."""
        address = f"--web.listen-address=127.0.0.1:{self.machine.ports['9090']}"
        return ["prometheus", *map(self.machine.here, SERVICES[self.name]["command"]), address]
