"""The audit over a lake: noise markets through the whole pipeline, a cut-off future, and products.

What a control or a flattering protocol is, and when one holds, is `domain/controls` and
`domain/leakage`; how it is drawn is `reports/audit`.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain import controls
from volatility_pipeline.domain.controls import AuditSection, Control
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import LADDER
from volatility_pipeline.domain.leakage import labelled, leakage_audit, rank, title
from volatility_pipeline.domain.simulation import Market
from volatility_pipeline.domain.splits import ROLES, LeakyRowsError, Policy, require_honest
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake, read_json, write_json
from volatility_pipeline.resources.landing import land_simulation
from volatility_pipeline.resources.tracking import library_versions
from volatility_pipeline.resources.training import code_digest
from volatility_pipeline.resources.warehouse import DOMAIN, SQL, Warehouse

if TYPE_CHECKING:
    import pandas as pd

NOISE_START = datetime(2026, 3, 1, tzinfo=UTC)
NOISE_HOURS = 12.0
NOISE_MARKETS = 10
LEAST_NOISE_HOURS = 6.0
NOISE_PRODUCT = "BTC-USD"
NOISE_MODELS = tuple(name for name, rung in LADDER.items() if rung.columns)
CUTS = 3
SEED = 0


@dataclass(frozen=True)
class Audit:
    """Runs controls and leakage audit over one lake.

    Attributes:
        lake: The partitions.
        warehouse: The SQL over them.
        noise_markets: How many noise markets the pipeline pools; 0 leaves that control out.
    """

    lake: Lake
    warehouse: Warehouse
    noise_markets: int = NOISE_MARKETS

    def noise(
        self,
        seeds: int,
        *,
        hours: float = NOISE_HOURS,
        progress: Callable[[str], None] = lambda _: None,
    ) -> AuditSection:
        """Judges every rung on simulated noise markets, and one of them by leaky protocols."""
        outcomes, rows = self._noise(seeds, hours=hours, progress=progress)
        return AuditSection(
            subject="simulated noise",
            is_simulated=True,
            facts={"markets": seeds, "hours": hours, "policy": "trailing"},
            controls=tuple(controls.noise_control(*found) for found in outcomes.items()),
            leakage=leakage_audit(
                rows, seed=SEED, progress=lambda text: progress(f"noise: {text}")
            ),
        )

    def _noise(
        self, seeds: int, *, hours: float, progress: Callable[[str], None]
    ) -> tuple[dict[str, list[controls.Outcome]], "pd.DataFrame"]:
        """How every rung ranked the test rows of each noise market, and the first one's rows."""
        outcomes: dict[str, list[controls.Outcome]] = {name: [] for name in NOISE_MODELS}
        markets = []
        for seed in range(seeds):
            said = f"noise market {seed + 1} of {seeds}"
            progress(said)
            rows = self.simulated_rows(seed, hours=hours)
            markets += [rows] if not seed else []
            policy, frame = labelled(rows, "honest", policy="trailing")
            train, validation, test = (frame[frame["role"] == role] for role in ROLES)
            ts = test["ts"].to_numpy(dtype="datetime64[s]")
            target = test["is_spike"].to_numpy(dtype=bool)
            for name, found in outcomes.items():
                progress(f"{said}: {title(name)}")
                score = rank(name, train, validation, test, policy=policy, seed=SEED)
                outcome = controls.separate_rows(ts, target, score)
                found += [outcome] if outcome else []
        return outcomes, markets[0]

    def simulated_rows(
        self, seed: int, *, hours: float, is_noise: bool = True, product: str = NOISE_PRODUCT
    ) -> "pd.DataFrame":
        """A simulated market's labelled rows, through the SQL, in a data root of its own."""
        market = Market((product,), NOISE_START, hours, seed, is_noise)
        with tempfile.TemporaryDirectory(prefix="volatility-audit-") as root:
            lake = Lake(Path(root))
            warehouse = replace(self.warehouse, lake=lake)
            ingest = Ingest(lake, warehouse)
            land_simulation(lake, market)
            days = lake.raw_days()
            for day in days:
                ingest.write_manifest(day)
                ingest.build_ticks(day)
            for stage in ("bars", "features", "labels"):
                for day in days:
                    warehouse.build(stage, day)
            rows: pd.DataFrame = warehouse.labelled_rows(product).to_pandas()
        return rows

    def truncation(self, *, progress: Callable[[str], None] = lambda _: None) -> Control:
        """Builds the newest day again without its future, at a few instants, and compares."""
        built = [
            day
            for day in self.lake.days("features")
            if all(self.lake.file(stage, day).exists() for stage in ("ticks", "features"))
        ]
        day = max(built, default=None)
        if day is None:
            return controls.future_truncation(())
        for stage in ("bars", "features", "labels"):
            if not self.warehouse.is_current(stage, day):
                name = "future truncation"
                return Control(
                    name,
                    None,
                    {"day": f"{day}"},
                    f"Not judged: {stage} of {day} are stale; `volatility build` makes them anew.",
                )
        whole = _known(self.lake, day)
        ts = whole["ts"].sort_values(ignore_index=True)
        found = []
        for number in range(1, CUTS + 1):
            at = ts[len(ts) * number // (CUTS + 1)].to_datetime64()
            progress(f"cutting off the future at {at.astype('datetime64[s]')}")
            found.append(controls.past_rows(whole, self._known_without_future(day, at), at))
        return controls.future_truncation(found)

    def _known_without_future(self, day: date, at: Any) -> "pd.DataFrame":
        """The day's features and thresholds, built from ticks before an instant alone."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory(prefix="volatility-audit-") as root:
            lake = Lake(Path(root))
            eve = day - timedelta(days=1)
            for stage in ("ticks", "bars", "features"):
                for path in (self.lake.file(stage, eve, end) for end in (".parquet", ".json")):
                    if path.exists():
                        link = lake.root / stage / path.name
                        link.parent.mkdir(exist_ok=True)
                        link.symlink_to(path)
            ticks = pq.ParquetFile(self.lake.file("ticks", day)).read()
            ticks = ticks.filter(pc.less(ticks["event_time"], pa.scalar(at, "timestamp[us]")))

            def write(path: Path) -> int:
                pq.write_table(ticks, path)
                return int(ticks.num_rows)

            lake.write_partition("ticks", day, write, {"cut": str(at)})
            warehouse = replace(self.warehouse, lake=lake)
            for stage in ("bars", "features", "labels"):
                warehouse.build(stage, day)
            return _known(lake, day)

    def known_noise(
        self, *, progress: Callable[[str], None] = lambda _: None
    ) -> tuple[Control, ...]:
        """The noise control of every rung, judged anew once code or libraries are others.

        The markets are shorter than the audit's, so that a first run waits half a minute at most.
        """
        if not self.noise_markets:
            reason = "Not judged: VOLATILITY_NOISE_MARKETS=0 leaves it out."
            return (Control("noise", None, {}, reason),)
        made_from = {
            "code": _code_hash(),
            "libraries": library_versions(("duckdb", "numpy", "scikit-learn", "xgboost")),
            "markets": self.noise_markets,
            "max_gap_seconds": self.warehouse.max_gap_seconds,
        }

        def judge() -> tuple[Control, ...]:
            hours = LEAST_NOISE_HOURS
            outcomes, _ = self._noise(self.noise_markets, hours=hours, progress=progress)
            return tuple(controls.noise_control(*found) for found in outcomes.items())

        return self._known("noise", made_from, judge)

    def known_truncation(self, *, progress: Callable[[str], None] = lambda _: None) -> Control:
        """The control of a cut-off future, judged anew once the newest day or the code changed."""
        days = self.lake.days("features")
        made_from = {
            "code": _code_hash(),
            "days": {str(day): self.lake.content("features", day) for day in days[-1:]},
        }
        return self._known(
            "future_truncation", made_from, lambda: (self.truncation(progress=progress),)
        )[0]

    def _known(
        self, name: str, made_from: dict[str, Any], judge: Callable[[], tuple[Control, ...]]
    ) -> tuple[Control, ...]:
        """What was judged before of the same things, or is now."""
        path = self.lake.root / "audit" / f"{name}.json"
        known = read_json(path)
        if known is None or known["made_from"] != made_from:
            found = [asdict(control) for control in judge()]
            known = {"made_from": made_from, "controls": found}
            if all(control["passed"] is not None for control in found):
                write_json(path, known)
        return tuple(Control(**control) for control in known["controls"])

    def product(
        self, product: str, *, progress: Callable[[str], None] = lambda _: None
    ) -> AuditSection:
        """Controls of a product's splits and evaluation, and its rows by leaky protocols.

        Raises:
            BadInputError: It has no splits, or leaky ones.
        """
        import pandas as pd

        record = self.lake.record("splits", product)
        if record is None or not record["rows"]:
            raise BadInputError(f"{product}: no splits; `volatility train` makes them.")
        frame = pd.read_parquet(self.lake.file("splits", product))
        try:
            require_honest(frame["role"])
        except LeakyRowsError as error:
            raise BadInputError(
                f"{product}: its splits leak on purpose; `volatility train` makes honest ones."
            ) from error
        policy: Policy = record["policy"]
        source = record["source"]["kind"]

        def say(text: str) -> None:
            progress(f"{product}: {text}")

        say("overlap")
        found = [
            controls.overlap(frame),
            *controls.permuted_labels(frame, policy=policy, seed=SEED, progress=say),
            self._too_good(product, is_simulated=source == "simulated"),
        ]
        rows = self.warehouse.labelled_rows(product).to_pandas()
        return AuditSection(
            subject=product,
            is_simulated=source == "simulated",
            facts={
                "source": source,
                "policy": policy,
                "days": f"{record['days'][0]} to {record['days'][-1]}",
                "data_fingerprint": record["sha256"],
            },
            controls=tuple(found),
            leakage=leakage_audit(rows, policy=policy, seed=SEED, progress=say),
        )

    def _too_good(self, product: str, *, is_simulated: bool) -> Control:
        result = read_json(self.lake.folder("evaluation", product) / "evaluation.json")
        if result is None:
            name = "too good to be true"
            return Control(name, None, {}, "Not judged: there is no evaluation yet.")
        return controls.too_good(result["suspicious"], is_simulated=is_simulated)

    def write(self, sections: Sequence[AuditSection]) -> tuple[Path, Path]:
        """Writes `audit/audit.json` and its picture; returns their paths."""
        from volatility_pipeline.reports.audit import draw

        path = self.lake.root / "audit" / "audit.json"
        write_json(path, {"sections": [plain(section) for section in sections]})
        picture = path.with_suffix(".png")
        self.lake.write_bytes(picture, draw(sections))
        return path, picture


def _code_hash() -> str:
    """Hash of all code from which a control's finding could come: `domain/` and the SQL."""
    return code_digest([*sorted(DOMAIN.glob("*.py")), *sorted(SQL.glob("*.sql"))])


def plain(section: AuditSection) -> dict[str, Any]:
    """A section as plain JSON, each number of the leakage audit with its label."""
    made = asdict(section)
    for entry, row in zip(made["leakage"], section.leakage, strict=True):
        entry |= {"protocol": row.protocol.name, "label": row.label, "lift": row.lift}
    loaded: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    return loaded


def _known(lake: Lake, day: date) -> "pd.DataFrame":
    """What is known at each decision time of a day: the features and the trailing threshold."""
    import pandas as pd

    tables = [
        pd.read_parquet(path) if path.exists() else None
        for path in (lake.file("features", day), lake.file("labels", day))
    ]
    features, labels = tables
    if features is None or labels is None:
        return pd.DataFrame({"product_id": [], "ts": pd.Series([], dtype="datetime64[us]")})
    columns = ["product_id", "ts", "trailing_threshold"]
    return features.merge(labels[columns], how="left", on=columns[:2])
