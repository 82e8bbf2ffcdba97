"""Twenty days with nobody watching, in less than an hour: what is alerted, retrained, promoted.

`python -m benchmarks.twenty_days` starts Dagster's daemon as its users start it and lands a made-up
market day by day, its ticks thinned. A person trains the first models after day fifteen. On days
sixteen to eighteen the market is another one: returns four times as large and spreads three times
as wide. Everything else (builds, predictions, verdicts, alerts, retraining, promotion) is the
sensors' doing. What happened is printed as one timeline and drawn. The exit code is 1 if there was
an alert before day sixteen, or if drift was not found, told once, answered by one retraining and
over.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import orjson

from benchmarks.unattended import BIN, ROOT, processes
from volatility_pipeline.definitions import resources
from volatility_pipeline.domain.simulation import Market, simulate
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.drift import DriftWatch
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.settings import Settings

PRODUCT = "BTC-USD"
DAYS, TRAINED_ON = 20, 15
CHANGED = range(16, 19)
RETURNS, SPREADS = 4.0, 3.0
KEPT_TICKS = 8
"""One tick in so many is kept: one every three seconds."""

STEP_SECONDS = 1800.0
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Moment:
    """Something that happened, on which day of the twenty."""

    day: float
    what: str
    text: str


def days(first: date) -> Iterator[list[bytes]]:
    """The twenty days' lines, each day's when it is asked for."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    market = Market((PRODUCT,), start, 24.0 * DAYS)
    lines: list[bytes] = []
    current, number, sequence, anchor = first, 1, 0, 0.0
    for day, chunk in simulate(market):
        if day != current:
            yield lines
            lines, current, number = [], day, number + 1
        for line in chunk.splitlines()[::KEPT_TICKS]:
            message = orjson.loads(line)
            message["sequence_num"] = sequence
            (ticker,) = message["events"][0]["tickers"]
            if number not in CHANGED:
                anchor = float(ticker["price"])
            else:
                _change(ticker, anchor)
            lines.append(orjson.dumps(message) + b"\n")
            sequence += 1
    yield lines


def _change(ticker: dict[str, str], anchor: float) -> None:
    """Another regime: returns since the change, and spreads, are larger."""
    bid, ask = float(ticker["best_bid"]), float(ticker["best_ask"])
    middle = anchor * ((bid + ask) / 2 / anchor) ** RETURNS
    half = SPREADS * (ask - bid) / 2
    ticker["best_bid"], ticker["best_ask"] = f"{middle - half:.4f}", f"{middle + half:.4f}"
    ticker["price"] = f"{middle:.4f}"


def land(lake: Lake, day: date, lines: list[bytes]) -> None:
    """Lands a day as one segment: written aside, then renamed."""
    folder = lake.raw_folder(day)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".day.tmp"
    temporary.write_bytes(b"".join(lines))
    temporary.rename(folder / "simulated-day.ndjson")


def wait_for(what: str, is_done: Callable[[], bool]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + STEP_SECONDS
    while not is_done():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {STEP_SECONDS:g} s.")
        time.sleep(LOOK_SECONDS)


def command(root: Path, environment: dict[str, str], *arguments: str) -> None:
    """Runs a command of ours to its end."""
    with (root / "commands.log").open("ab") as log:
        subprocess.run(
            [BIN / "volatility", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            check=True,
        )


def live(root: Path, environment: dict[str, str], first: date) -> list[Moment]:
    """Lets the twenty days pass and returns what happened, in order."""
    lake, made = Lake(root), resources(Settings(volatility_data=root))
    watch, alerts, champions = made["drift_watch"], made["alerts"], made["champions"]
    moments: list[Moment] = []
    told: set[str] = set()

    def note(number: float) -> None:
        """Adds what the ledger and the decisions have since the last look."""
        for entry in reversed(alerts.history()):
            alert = entry.alert
            states = {"alert": alert.severity, "recovered": "over" if alert.is_recovery else None}
            for what, state in states.items():
                key = f"{alert.key} {state} {alert.since}"
                if state is not None and key not in told:
                    told.add(key)
                    moments.append(Moment(number, what, f"{alert.kind}, {state}: {alert.title}"))
        for decision in champions.history(PRODUCT):
            if (key := f"{decision.at} {decision.outcome}") not in told:
                told.add(key)
                moments.append(Moment(number, "decision", f"{decision.outcome}: {decision.reason}"))
        print_new(moments)

    shown = 0

    def print_new(found: list[Moment]) -> None:
        nonlocal shown
        for moment in found[shown:]:
            print(f"day {moment.day:4.1f}  {moment.what:<9} {moment.text}", flush=True)
        shown = len(found)

    for number, lines in enumerate(days(first), start=1):
        day = first + timedelta(days=number - 1)
        land(lake, day, lines)
        wait_for(
            f"the build of day {number}",
            lambda day=day: bool(
                (lake.record("labels", day) or {"rows": 0})["rows"]
                and lake.record("predictions", day) is not None
            ),
        )
        moments.append(Moment(number, "landed", f"{day}: {len(lines):,} ticks, built"))
        note(number)
        if number == TRAINED_ON:
            command(root, environment, "train", "--products", PRODUCT)
            command(root, environment, "predict")
            note(number + 0.5)
        if number > TRAINED_ON:
            wait_for(f"the verdict on day {number}", partial(_is_judged, watch, day))
            verdict = watch.record(PRODUCT)["verdict"]
            text = f"drift {verdict['severity']}, performance {verdict['performance']}: "
            moments.append(Moment(number + 0.2, "verdict", text + verdict["action"]))
            wait_for("a look at the verdict", partial(_is_told, alerts, verdict))
            note(number + 0.3)
            open_now = {entry.alert.kind for entry in alerts.open()}
            if "drift" in open_now and number == CHANGED[0]:
                wait_for("the retraining", lambda: _is_retrained(alerts))
                note(number + 0.8)
    return moments


def _is_judged(watch: DriftWatch, day: date) -> bool:
    """Whether the newest verdict is of a day."""
    record = watch.record(PRODUCT)
    return record is not None and record["verdict"]["day"] == str(day)


def _is_told(alerts: Alerts, verdict: dict[str, object]) -> bool:
    """Whether the ledger knows what the verdict says."""
    is_open = any(entry.alert.kind == "drift" for entry in alerts.open())
    return is_open == (verdict["severity"] in ("medium", "high"))


def _is_retrained(alerts: Alerts) -> bool:
    """Whether a retraining has begun and is over."""
    found = [entry.alert for entry in alerts.history() if entry.alert.kind == "retraining"]
    return bool(found) and all(alert.is_recovery for alert in found)


def faults(moments: list[Moment]) -> list[str]:
    """What is not as it should be."""
    alerts = [moment for moment in moments if moment.what == "alert"]
    drift = [moment for moment in alerts if moment.text.startswith("drift")]
    retrained = [moment for moment in alerts if moment.text.startswith("retraining")]
    over = [m for m in moments if m.what == "recovered" and m.text.startswith("drift")]
    decisions = [m for m in moments if m.what == "decision" and m.day > CHANGED[0]]
    found = []
    if any(moment.day < CHANGED[0] for moment in alerts):
        found.append("there was an alert before the change")
    if len(drift) != 1 or drift[0].day >= CHANGED[0] + 2:
        found.append(f"drift was told {len(drift)} times")
    if len(retrained) != 1:
        found.append(f"there were {len(retrained)} retrainings")
    if not decisions:
        found.append("no decision followed")
    if not over:
        found.append("nobody said that drift was over")
    return found


def draw(moments: list[Moment], path: Path) -> None:
    """Draws the timeline: a row for each kind of event."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from volatility_pipeline.reports.plots import STYLE

    rows = ("recovered", "decision", "alert", "verdict", "landed")
    colours = dict(zip(rows, ("#009e73", "#0072b2", "#b30000", "#e69f00", "#7f7f7f"), strict=True))
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.6))
        axes = figure.subplots()
        axes.set_title(f"SIMULATED DATA · {PRODUCT} · Twenty days unattended")
        axes.axvspan(CHANGED[0] - 0.5, CHANGED[-1] + 0.5, color="#fbe9e7", linewidth=0)
        axes.annotate(
            "another market", (CHANGED[1], len(rows) - 0.45), ha="center", va="bottom", fontsize=8
        )
        for height, what in enumerate(rows):
            found = [moment for moment in moments if moment.what == what]
            axes.plot(
                [moment.day for moment in found], [height] * len(found), "o", color=colours[what]
            )
            last = -9.0
            for moment in found if what not in ("landed",) else ():
                text = moment.text.split(":")[0].split(", performance")[0].split(", warning")[0]
                lift = 9 if moment.day - last > 1.6 or what == "verdict" else -13
                last = moment.day
                axes.annotate(
                    text.removeprefix("drift ") if what == "verdict" else text,
                    (moment.day, height),
                    xytext=(0, lift),
                    textcoords="offset points",
                    ha="center",
                    fontsize=6.5,
                )
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(-0.6, len(rows) - 0.1)
        axes.set_xlim(0, DAYS + 1.5)
        axes.set_xticks(range(1, DAYS + 1))
        axes.set_xlabel("Day; first training after day 15")
        axes.grid(axis="y", visible=False)
        figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def main() -> int:
    """Runs the twenty days, prints the timeline, and draws it."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="where to write the timeline as PNG")
    parser.add_argument("--keep", action="store_true", help="keep the data root and its logs")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="volatility-twenty-days-"))
    root = folder / "data"
    (root / "dagster").mkdir(parents=True)
    shutil.copyfile(ROOT / "dagster.yaml", root / "dagster" / "dagster.yaml")
    first = datetime.now(UTC).date() - timedelta(days=DAYS)
    environment = {
        "VOLATILITY_DATA": str(root),
        "DAGSTER_HOME": str(root / "dagster"),
        "VOLATILITY_PRODUCTS": PRODUCT,
        "VOLATILITY_UNATTENDED": "true",
        # These days are past: the feed's age is no matter here.
        "VOLATILITY_FEED_MINUTES": str(60 * 24 * 2 * DAYS),
    }
    os.environ |= environment
    daemon = ["dagster-daemon", "run", "--workspace", str(ROOT / "workspace.yaml")]
    try:
        with processes(folder, {"daemon": daemon}, environment):
            moments = live(root, environment, first)
        if chosen.plot:
            draw(moments, chosen.plot)
    finally:
        if chosen.keep:
            print(f"Kept: {folder}")
        else:
            shutil.rmtree(folder)
    found = faults(moments)
    print("; ".join(found) if found else "As it should be.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
