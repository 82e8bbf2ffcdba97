"""Predictions over the lake: what each product's champion says of a day, beside what happened.

A day's predictions are a record of what was answered, and a promotion does not rewrite it: a day
stays until its features or labels change, or until it is asked for anew. A day that is over then
keeps the model that answered for it; today, and what is asked for anew, gets the present champion.
A product that had no champion gets its rows once it has one. What a row means is
`sql/60_predictions.sql`; which model is champion is `champions`.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.domain.realized import realized_day
from volatility_pipeline.domain.schemas import PREDICTIONS, TABLES
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS
from volatility_pipeline.resources.champions import CHAMPION, Champions
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.resources.warehouse import (
    Warehouse,
    connect,
    create_view,
    sql_text,
    write_parquet,
)

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

STAGE = PREDICTIONS.name
SOURCES = ("features", "labels")
SQL_FILE = "60_predictions.sql"
ANSWERS = (
    "product_id",
    "ts",
    "probability",
    "threshold",
    "decision_threshold",
    "model_name",
    "model_version",
    "trained_until",
)
"""What the models say; the SQL derives the other columns from it and from the labels."""

COLUMNS = [column.name for column in PREDICTIONS.columns]


def unserved(record: Mapping[str, Any]) -> list[str]:
    """The products of a day that had no champion when it was made."""
    return [product for product, found in record["products"].items() if found["model"] is None]


def predictions_code() -> str:
    """Hash of the code that decides what predictions hold, besides the models: SQL and schema."""
    text = f"{sql_text(SQL_FILE)}{PREDICTIONS.version}{HORIZON_SECONDS}/{EMBARGO_SECONDS}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Answers:
    """What is said of a product's rows of a day: by which model, and of how many it cannot be.

    Attributes:
        model: The rung; None without a champion.
        version: Its version.
        sha256: Its archive's; a number alone can be given anew once a registry was deleted.
        threshold_unknown: Rows that are not predicted, since nobody knows what a spike is yet.
        frame: The columns `ANSWERS`, one row a decision time; None without a champion.
    """

    model: str | None
    version: str | None
    sha256: str | None
    threshold_unknown: int
    frame: "pd.DataFrame | None"


@dataclass(frozen=True)
class Predictions:
    """Makes the predictions of one day at a time.

    Attributes:
        lake: The partitions.
        warehouse: The SQL over them.
        champions: Which model answers for a product.
    """

    lake: Lake
    warehouse: Warehouse
    champions: Champions
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def made_from(self, day: date) -> dict[str, Any]:
        """What decides whether a day's predictions still stand: its features and labels, the code.

        Which models answered stands in the record, under `products`.
        """
        contents = {f"{stage}/{day}": self.lake.content(stage, day) for stage in SOURCES}
        return {
            "inputs": {name: content for name, content in contents.items() if content},
            "code": predictions_code(),
        }

    def is_current(self, day: date) -> bool:
        """Whether a day is predicted from what is there now, for each product with a champion."""
        made_from = self.made_from(day)
        record = self.lake.record(STAGE, day)
        if record is None:
            return not made_from["inputs"] and not self.lake.file(STAGE, day).exists()
        return bool(record["made_from"] == made_from) and not any(
            self.champion(product) for product in unserved(record)
        )

    def champion(self, product: str) -> str | None:
        """The version that serves a product by its last decision; the registry is not asked."""
        record = self.lake.record(CHAMPION, product)
        version: str | None = record["decision"]["champion"] if record else None
        return version

    def serving(self) -> dict[str, str]:
        """The version that serves each product that has one."""
        found = {product: self.champion(product) for product in self.lake.products("splits")}
        return {product: version for product, version in found.items() if version}

    def state(self, first: date, last: date) -> str:
        """A hash of all that decides what is said of some days: what they hold, and who serves."""
        days = [first + timedelta(days=count) for count in range((last - first).days + 1)]
        facts = [self.serving(), *map(self.made_from, days)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def days(self, is_partition: Callable[[date], bool]) -> list[date]:
        """The days that have features, or once had and are predicted, in order."""
        days = {*self.lake.days("features"), *self.lake.days(STAGE)}
        return sorted(day for day in days if is_partition(day))

    def predict(
        self,
        day: date,
        *,
        model: str | None = None,
        products: Collection[str] = (),
        force: bool = False,
    ) -> dict[str, Any]:
        """Predicts a day for all its products, writes the partition, and returns its record.

        Args:
            day: The day.
            model: A rung, or a version's number, that answers for the chosen products in the place
                of their champions.
            products: The chosen ones; none for all.
            force: Whether rows of chosen products are made again where the day's features and
                labels have not changed; other rows are kept then as they are.

        Raises:
            BadInputError: The named model does not exist, or a model cannot be trusted to be the
                one that was registered.
        """
        made_from = self.made_from(day)
        before = self.lake.record(STAGE, day)
        is_unchanged = before is not None and before["made_from"] == made_from
        said = before["products"] if before is not None else {}
        kept = said if is_unchanged else {}
        facts: dict[str, Any] = {"is_simulated": self.lake.is_simulated(day), "products": {}}

        def write(path: Path) -> int:
            with connect(self.warehouse.threads) as connection:
                self._open(connection, day)
                found: dict[str, Answers] = {}
                for product in _products(connection):
                    is_chosen = not products or product in products
                    is_kept = bool(kept.get(product, {}).get("model"))
                    if is_kept and not (is_chosen and force):
                        found[product] = _kept(connection, product, kept[product])
                    else:
                        name = model if is_chosen else None
                        if name is None and not (is_chosen and force):
                            name = self._recorded(product, day, said)
                        served = self.champions.find(product, name)
                        found[product] = self._answers(connection, product, served)
                rows = _write(connection, found, path)
            facts["products"] = _facts(found, path if rows else None)
            return rows

        return self.lake.write_partition(STAGE, day, write, made_from, facts)

    def _recorded(self, product: str, day: date, said: Mapping[str, Any]) -> str | None:
        """The version that answered for a day that is over: a promotion does not rewrite it."""
        before = said.get(product, {})
        version: str | None = before.get("version")
        if version is None or day >= datetime.now(UTC).date():
            return None
        found = self.champions.tracking.version(product, version)
        is_the_same = found is not None and found.stored.sha256 == before.get("sha256")
        return version if is_the_same else None

    def newest_rows(self, product: str, served: ServedModel, count: int) -> "pd.DataFrame":
        """The newest rows of a product that a model can be asked about, in time order."""
        import pandas as pd

        found: list[pd.DataFrame] = []
        for day in reversed(self.lake.days(SOURCES[0])):
            if sum(map(len, found)) >= count:
                break
            with connect(self.warehouse.threads) as connection:
                self._open(connection, day)
                found.insert(0, _asked(connection, product, served)[0])
        rows = [frame for frame in found if len(frame)]
        return pd.concat(rows).tail(count) if rows else pd.DataFrame()

    def newest_answers(self, since: datetime) -> "dict[str, pd.DataFrame]":
        """What was said from a time (UTC) on, by product, in time order."""
        days = [day for day in self.lake.days(STAGE) if day >= since.date()]
        with connect(self.warehouse.threads) as connection:
            create_view(connection, PREDICTIONS, [self.lake.file(STAGE, day) for day in days])
            found = connection.sql(
                "select * from predictions where ts >= $since order by product_id, ts",
                params={"since": since.replace(tzinfo=None)},
            )
            rows = found.to_arrow_table().to_pandas()
        return dict(iter(rows.groupby("product_id")))

    def no_champion(self, product: str) -> str:
        """That a product has no champion, and why, for a person."""
        history = self.champions.history(product)
        why = history[-1].reason if history else "`volatility train` decides on one."
        return f"{product} has no champion: {why}"

    def _open(self, connection: "duckdb.DuckDBPyConnection", day: date) -> None:
        for stage in (*SOURCES, STAGE):
            create_view(connection, TABLES[stage], [self.lake.file(stage, day)])

    def _answers(
        self,
        connection: "duckdb.DuckDBPyConnection",
        product: str,
        served: ServedModel | None,
    ) -> Answers:
        """What a model says of a product's rows."""
        import pandas as pd

        if served is None:
            return Answers(None, None, None, 0, None)
        asked, unknown = _asked(connection, product, served)
        frame = pd.DataFrame(
            {
                "product_id": product,
                "ts": asked["ts"],
                "probability": probabilities(self._load(served), asked),
                "threshold": asked["threshold"],
                "decision_threshold": served.decision_threshold,
                "model_name": served.model,
                "model_version": served.version,
                "trained_until": pd.Timestamp(served.fitted_until),
            }
        )
        return Answers(served.model, served.version, served.stored.sha256, unknown, frame)

    def _load(self, served: ServedModel) -> Any:
        """The model, loaded and held against its hash once."""
        key = served.stored.sha256
        if key not in self._loaded:
            self._loaded[key] = self.champions.load(served)
        return self._loaded[key]


def _products(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    sql = "select distinct product_id from features order by product_id"
    return [row[0] for row in connection.execute(sql).fetchall()]


def _asked(
    connection: "duckdb.DuckDBPyConnection", product: str, served: ServedModel
) -> tuple["pd.DataFrame", int]:
    """A product's rows with the model's threshold, and of how many this is not known."""
    found = connection.sql(sql_text("50_splits.sql"), params={"product": product})
    rows = found.to_arrow_table().to_pandas()
    is_trailing = served.policy == "trailing"
    rows["threshold"] = rows["trailing_threshold"] if is_trailing else served.constant_threshold
    is_known = rows["threshold"].notna()
    return rows[is_known], int((~is_known).sum())


def _kept(connection: "duckdb.DuckDBPyConnection", product: str, record: dict[str, Any]) -> Answers:
    """What was said before."""
    sql = "select * from predictions where product_id = $product order by ts"
    frame = connection.sql(sql, params={"product": product}).to_arrow_table().to_pandas()
    return Answers(
        record["model"],
        record["version"],
        record.get("sha256"),
        record["threshold_unknown"],
        frame[list(ANSWERS)],
    )


def _write(connection: "duckdb.DuckDBPyConnection", found: dict[str, Answers], path: Path) -> int:
    import pandas as pd

    frames = [said.frame for said in found.values() if said.frame is not None and len(said.frame)]
    if not frames:
        return 0
    connection.register("answers", pd.concat(frames))
    bounds = {"horizon_seconds": HORIZON_SECONDS, "embargo_seconds": EMBARGO_SECONDS}
    return write_parquet(connection, PREDICTIONS, sql_text(SQL_FILE), bounds, path)


def _facts(found: dict[str, Answers], path: Path | None) -> dict[str, Any]:
    """What the record keeps of each product: the model, and what its predictions came to."""
    import pandas as pd

    written = pd.read_parquet(path) if path else pd.DataFrame(columns=COLUMNS)
    return {
        product: {
            "model": said.model,
            "version": said.version,
            "sha256": said.sha256,
            "threshold_unknown": said.threshold_unknown,
            **asdict(realized_day(written[written["product_id"] == product])),
        }
        for product, said in found.items()
    }
