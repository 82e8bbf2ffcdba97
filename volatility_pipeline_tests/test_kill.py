"""SIGKILL at any moment of a build leaves only whole partitions, and the next build completes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.test_build import hashes

KILLS = 3
COMMAND = [Path(sys.executable).with_name("volatility"), "build", "--data"]


def test_killed_build_leaves_whole_partitions_and_the_next_build_completes(tmp_path: Path) -> None:
    root, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    market = Market(("BTC-USD", "ETH-USD"), datetime(2026, 3, 1, 12, tzinfo=UTC), 24)
    land_simulation(Lake(root), market)
    shutil.copytree(root, undisturbed)
    assert volatility("build", data=undisturbed).code == 0
    expected = hashes(undisturbed)
    moments = random.Random(20260301)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*COMMAND, root], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # The first partition shows that the work has begun; a build lasts a few seconds more.
        wait_for_work(process, root)
        time.sleep(moments.uniform(0, 2.5))
        killed += process.poll() is None
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        for name, digest in hashes(root).items():
            assert digest == expected[name], name
            with duckdb.connect() as connection:
                assert connection.read_parquet(str(root / name)).fetchone() is not None
        # The next round has work to do again.
        for record in (root / "bars").glob("*.json"):
            record.unlink()

    answer = volatility("build", data=root)

    assert answer.code == 0, answer.errors
    assert killed >= KILLS // 2
    assert hashes(root) == expected
    with duckdb.connect(str(root / "feature_store.duckdb"), read_only=True) as store:
        rows = store.execute("select count(*) from labels").fetchone()
    lake = Lake(root)
    assert rows == (sum(lake.record("labels", day)["rows"] for day in lake.days("labels")),)


def wait_for_work(process: subprocess.Popen[bytes], root: Path) -> None:
    deadline = time.monotonic() + 60
    runs = root / "dagster" / "history" / "runs"
    before = len(list(runs.glob("*.db"))) if runs.exists() else 0
    while process.poll() is None and time.monotonic() < deadline:
        if runs.exists() and len(list(runs.glob("*.db"))) > max(before, 1):
            return
        time.sleep(0.02)
