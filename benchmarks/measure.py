"""Timing and memory: every measurement runs in a process of its own, started for it alone.

So each one meets the same conditions: nothing imported by another, no memory left warm, and a peak
that is its own. The file that all read lies in the page cache.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
SETTINGS = ("VOLATILITY_", "MLFLOW_", "KAFKA_", "ALERT_", "DAGSTER_")


@dataclass(frozen=True)
class Run:
    """One measurement: wall and processor seconds, peak memory, and what it gave back.

    `start_seconds` is what the process took beside that: Python's start, imports, its end.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    start_seconds: float = 0.0
    result: Any = None


@dataclass(frozen=True)
class Runs:
    """Several runs of the same: the best one counts, the median stands beside it."""

    runs: Sequence[Run]

    @property
    def best(self) -> Run:
        """The run that the rest of the machine disturbed least."""
        return min(self.runs, key=lambda run: run.seconds)

    @property
    def seconds(self) -> float:
        """Wall seconds of the best run."""
        return self.best.seconds

    @property
    def median(self) -> float:
        """Median of the wall seconds."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        """The highest peak of all runs."""
        return max(run.peak_bytes for run in self.runs)

    def part(self, name: str) -> "Runs":
        """One entry of the results, where these are runs by name."""
        return Runs([Run(**run.result[name]) for run in self.runs])

    def parts(self, *names: str) -> "Runs":
        """Several entries of each result added up."""
        return Runs([_added([Run(**run.result[name]) for name in names]) for run in self.runs])


def _added(runs: Sequence[Run]) -> Run:
    return Run(
        sum(run.seconds for run in runs),
        sum(run.processor_seconds for run in runs),
        max(run.peak_bytes for run in runs),
    )


class Stopwatch:
    """Measures the block that it is opened for."""

    def __enter__(self) -> "Stopwatch":
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, processor_seconds = self._start
        self.run = Run(
            time.perf_counter() - seconds, time.process_time() - processor_seconds, peak_bytes()
        )


def peak_bytes() -> int:
    """The most memory that this process has held so far (`VmHWM`; elsewhere than on Linux, 0)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) << 10


def fresh(function: str, *arguments: str | int | Sequence[str]) -> Run:
    """Runs a function of this package in a new process.

    Args:
        function: Module and name, like `day:write_day`.
        arguments: What it takes, all fit for JSON, as its result has to be.
    """
    command = [sys.executable, "-m", "benchmarks.measure", function, json.dumps(arguments)]
    with Stopwatch() as whole:
        done = subprocess.run(
            command, cwd=PROJECT, env=_environment(), stdout=subprocess.PIPE, check=True
        )
    run = Run(**json.loads(done.stdout.splitlines()[-1]))
    return Run(**{**run.__dict__, "start_seconds": whole.run.seconds - run.seconds})


def command(*arguments: str | Path, data: Path) -> Run:
    """Runs the real `volatility` command on a data root, start and all.

    Raises:
        SystemExit: The command failed; what it said is the message.
    """
    script = Path(sys.executable).with_name("volatility")
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [script, *arguments],
            cwd=data.parent,
            env=_environment() | {"VOLATILITY_DATA": str(data)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"volatility {arguments[0]} failed:\n{said.read()}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def _environment() -> dict[str, str]:
    """This process's environment without any setting of the pipeline."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


def _serve() -> None:
    """The other end of `fresh`: the module's imports stay out of what is measured."""
    module, name = sys.argv[1].split(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    arguments = json.loads(sys.argv[2])
    with Stopwatch() as watch:
        result = function(*arguments)
    print(json.dumps({**watch.run.__dict__, "result": result}))


if __name__ == "__main__":
    _serve()
