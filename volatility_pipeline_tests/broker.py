"""A real one-node Apache Kafka (KRaft) from its published Java artifacts: no Docker, no daemon.

`make kafka` starts one on localhost:9092; the tests start their own on free ports.
"""

import argparse
import fcntl
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
POM = ROOT / "docker" / "kafka" / "pom.xml"
KEPT = ROOT / ".kafka"  # the jars, and the data of `make kafka`
CLUSTER_ID = "dm9sYXRpbGl0eS1rYWZrYQ"  # base64url, 16 bytes
START_SECONDS = 90
STOP_SECONDS = 30


def missing_tools() -> str | None:
    """Why no broker can be started on this machine, if none can."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not installed: Kafka's broker needs them" if missing else None


def jars() -> Path:
    """The folder of Kafka's jars, fetched with Maven once per version.

    Raises RuntimeError where Maven cannot fetch them.
    """
    folder, mark = KEPT / "lib", KEPT / "pom.xml"
    wanted = POM.read_text()
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as lock:  # the tests' processes ask side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            mark.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            options = ["-q", "-B", "-f", POM, "dependency:copy-dependencies"]
            chosen = [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
            if subprocess.run(["mvn", *options, *chosen], cwd=ROOT).returncode:
                raise RuntimeError(f"Maven could not fetch the jars that {POM} names.")
            mark.write_text(wanted)
    return folder


def free_port() -> int:
    """A TCP port of localhost that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Broker:
    """A broker whose data lies in `folder`; it can be stopped and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What KAFKA_BOOTSTRAP_SERVERS is to say."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the broker and waits until it listens.

        Raises RuntimeError where it does not.
        """
        if self._is_listening():
            raise RuntimeError(f"{self.address} is taken: another Kafka runs there already.")
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in self.properties().items()]
        (self.folder / "server.properties").write_text("".join(lines))
        if not (self.folder / "data").exists():
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c").wait()
        self.process = self._java("kafka.Kafka")
        deadline = time.monotonic() + START_SECONDS
        while not self._is_listening():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Kafka did not start; {self.folder / 'log'} says why.")
            time.sleep(0.1)

    def stop(self, *, how: int = signal.SIGTERM) -> None:
        """Stops the broker; its data stay."""
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:  # whoever started us may have had it ignore SIGTERM
                self.process.kill()
                self.process.wait()
            self.process = None

    def _java(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{jars()}/*"]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, main, *arguments, str(self.folder / "server.properties")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def properties(self) -> dict[str, str]:
        """The broker's settings."""
        controller = f"127.0.0.1:{self.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }


def main() -> None:
    """Runs a broker until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--folder", type=Path, default=KEPT / "broker")
    chosen = parser.parse_args()
    reason = missing_tools()
    if reason:
        raise SystemExit(f"{reason}; on Debian: apt install default-jre-headless maven")
    broker = Broker(chosen.folder.absolute(), chosen.port)
    try:
        broker.start()
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    assert broker.process is not None
    sys.stdout.write(f"Kafka listens on {broker.address}, its data lie in {broker.folder}.\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise SystemExit(broker.process.wait())
    except KeyboardInterrupt:
        broker.stop()


if __name__ == "__main__":
    main()
