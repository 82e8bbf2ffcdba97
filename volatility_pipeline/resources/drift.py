"""The drift stage over the lake: the newest finished day held against what its champion has seen.

What drift is and when it is severe is `domain/drift` and `domain/drift_verdict`; how it looks is
`reports/drift`. Alerts and retraining follow elsewhere, from the record that is kept here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain.day_sketch import DaySketch, sketch
from volatility_pipeline.domain.drift import Reference, compare
from volatility_pipeline.domain.drift_verdict import (
    PERFORMANCE_DAYS,
    Verdict,
    decide,
    performance,
)
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.domain.schemas import DRIFT, TABLES
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import Lake, read_json, write_json
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.resources.training import code_digest
from volatility_pipeline.resources.warehouse import Warehouse, connect, create_view

if TYPE_CHECKING:
    import pandas as pd

STAGE = "drift"
SKETCH_CODE = ("day_sketch.py",)
CODE = (*SKETCH_CODE, "drift.py", "drift_verdict.py")
PAGE, EVIDENTLY = "drift.html", "evidently.html"
PROBABILITY_STRIDE = 10
"""Every n-th row is asked for its probability: their distribution over a day is what counts."""


@dataclass(frozen=True)
class DriftWatch:
    """Judges one product's newest finished day at a time.

    Attributes:
        lake: The partitions.
        warehouse: The SQL over them.
        champions: Which model serves.
    """

    lake: Lake
    warehouse: Warehouse
    champions: Champions

    def newest_day(self, product: str, today: date) -> date | None:
        """The newest day of a product that is over, has ticks, and whose features were made.

        Features alone do not make a day: bars carried over midnight give the next one a few.
        """
        built = set(self.lake.days("features"))
        over = [day for day in self.lake.days("ticks") if day < today and day in built]
        return next(
            (day for day in reversed(over) if product in self.warehouse.products([day])), None
        )

    def made_from(self, day: date, served: ServedModel) -> dict[str, Any]:
        """What decides a day's verdict: the day, its features, its predictions, the champion."""
        return {
            "code": code_digest(CODE),
            "day": str(day),
            "champion": served.version,
            "sha256": served.stored.sha256,
            "inputs": {
                stage: self.lake.content(stage, day) for stage in ("features", "predictions")
            },
        }

    def state(self, day: date, served: ServedModel) -> str:
        """A short hash of what decides a day's verdict."""
        made_from = json.dumps(self.made_from(day, served), sort_keys=True)
        return hashlib.sha256(made_from.encode()).hexdigest()[:16]

    def is_current(self, product: str, today: date) -> bool:
        """Whether there is nothing to judge, or it is judged already."""
        served, day = self.champions.find(product), self.newest_day(product, today)
        if served is None or day is None or day <= _day(served.seen_until):
            return True
        record = self.record(product)
        return record is not None and record["made_from"] == self.made_from(day, served)

    def record(self, product: str) -> dict[str, Any] | None:
        """The newest verdict of a product and what it was made from; None before the first."""
        return self.lake.record(STAGE, product)

    def in_drift(self, product: str) -> str | None:
        """Why the champion is in drift, a clause that continues "The champion …"; None if not."""
        record, served = self.record(product), self.champions.find(product)
        if record is None or served is None or not is_of(record, served):
            return None
        verdict = record["verdict"]
        if verdict["action"] not in ("retrain", "retrain_now"):
            return None
        day, severity = verdict["day"], verdict["severity"]
        causes = []
        if severity in ("medium", "high"):
            causes.append(f"is in drift on {day} (severity {severity})")
        if verdict["performance"] == "below_floor":
            causes.append(f"is below its performance floor on {day}")
        return " and ".join(causes)

    def page(self, product: str) -> Path:
        """Where the product's page lies."""
        return self.lake.folder(STAGE, product) / PAGE

    def judge(
        self, product: str, *, today: date, progress: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Judges the newest finished day, adds it to the history, and writes the pages.

        Args:
            product: The market.
            today: The present UTC day, which is not over.
            progress: Told what begins.

        Returns:
            The record: the verdict, and what it was made from.

        Raises:
            BadInputError: There is no champion, or no day later than those that it has seen.
        """
        served, day = self.champions.find(product), self.newest_day(product, today)
        if served is None:
            raise BadInputError(f"{product}: no champion to watch; `volatility champion` says why.")
        if day is None or day <= _day(served.seen_until):
            raise BadInputError(
                f"{product}: no finished day after {_day(served.seen_until)}, the last that its "
                "champion has seen; import or record a later one."
            )
        estimator = self.champions.load(served)
        first, last = _day(served.seen_from), _day(served.seen_until)
        sketches: list[DaySketch] = []
        for each in self.lake.days("features"):
            if first <= each <= day:
                progress(f"{product}: looking at {each}")
                sketches.append(self._sketch(product, each, served, estimator))
        seen = [found for found in sketches if found.day <= str(last)]
        later = [found for found in sketches if found.day > str(last)]
        reference = Reference.of(seen)
        drift = reference.judge(later)
        performed = performance(self._performed(product, day, served), policy=served.policy)
        verdict = decide(product, drift, performed)
        record = self._keep(product, day, served, verdict)
        progress(f"{product}: drawing {day}")
        self._draw(product, verdict, drift, performed, reference, sketches, served)
        return record

    def _sketch(self, product: str, day: date, served: ServedModel, estimator: Any) -> DaySketch:
        """A day's sketch, kept for as long as day and champion stay."""
        path = self.lake.folder(STAGE, product) / "sketches" / f"date={day}.json"
        books = (self.lake.record("ticks", day) or {}).get("books", ())
        made_from = {
            "features": self.lake.content("features", day),
            "ticks": self.lake.content("ticks", day),
            "books": hashlib.sha256(json.dumps(books).encode()).hexdigest(),
            "model": served.stored.sha256,
            "code": code_digest(SKETCH_CODE),
        }
        known = read_json(path)
        if known is not None and known["made_from"] == made_from:
            return DaySketch.from_dict(known["sketch"])
        rows = self._features(product, day)
        asked = rows.iloc[::PROBABILITY_STRIDE]
        asked = asked.assign(threshold=_threshold(asked, served))
        found = sketch(
            str(day),
            rows,
            probability=probabilities(estimator, asked[asked["threshold"].notna()]),
            bad_shares={
                "faulty lines": self._faulty_share(product, day),
                "seconds without features": 1 - min(1.0, len(rows) / 86_400),
            },
        )
        write_json(path, {"made_from": made_from, "sketch": found.to_dict()})
        return found

    def _features(self, product: str, day: date) -> "pd.DataFrame":
        """A product's feature rows of a day with the trailing threshold, in time order."""
        with connect(self.warehouse.threads) as connection:
            for stage in ("features", "labels"):
                create_view(connection, TABLES[stage], [self.lake.file(stage, day)])
            found: pd.DataFrame = (
                connection.sql(
                    "select features.*, labels.trailing_threshold from features "
                    "left join labels using (product_id, ts) "
                    "where product_id = $product order by ts",
                    params={"product": product},
                )
                .to_arrow_table()
                .to_pandas()
            )
        return found

    def _faulty_share(self, product: str, day: date) -> float:
        """Share of faulty lines among a product's ticks and the faulty lines that name it.

        A line that names no product is nobody's, except where the day has but one.
        """
        # A blob reads as its printable characters, but for quotes and backslashes: \\x22, \\x5C.
        sql = (
            "with own as (select count(*) as n from quarantine "
            "where contains(raw::varchar, $named) "
            "or (select count(distinct product_id) = 1 from ticks)), "
            "sound as (select count(*) as n from ticks where product_id = $product) "
            "select coalesce(own.n / nullif(own.n + sound.n, 0), 0) from own, sound"
        )
        values = {"product": product, "named": f"\\x22{product}\\x"}
        with connect(self.warehouse.threads) as connection:
            for stage in ("ticks", "quarantine"):
                create_view(connection, TABLES[stage], [self.lake.file(stage, day)])
            return float(connection.execute(sql, values).fetchall()[0][0])

    def _performed(self, product: str, day: date, served: ServedModel) -> "pd.DataFrame":
        """The champion's own newest predictions, beside what persistence would have said.

        Those later than all rows that it was made or judged by: its test earned its promotion.
        """
        days = [each for each in self.lake.days("predictions") if each <= day]
        with connect(self.warehouse.threads) as connection:
            for stage in ("features", "predictions"):
                files = [self.lake.file(stage, each) for each in days[-PERFORMANCE_DAYS:]]
                create_view(connection, TABLES[stage], files)
            found: pd.DataFrame = (
                connection.sql(
                    "select ts, probability, out_of_sample, is_spike, "
                    "realized_volatility_60s / threshold as persistence "
                    "from predictions inner join features using (product_id, ts) "
                    "where product_id = $product and model_version = $version "
                    "and threshold > 0 and ts > $seen_until::timestamp order by ts",
                    params={
                        "product": product,
                        "version": served.version,
                        "seen_until": served.seen_until,
                    },
                )
                .to_arrow_table()
                .to_pandas()
            )
        return found

    def _keep(
        self, product: str, day: date, served: ServedModel, verdict: Verdict
    ) -> dict[str, Any]:
        """Adds a verdict to the product's history, in the place of an earlier one of the day."""
        import pandas as pd
        import pyarrow as pa

        judged_at = datetime.now(UTC).replace(tzinfo=None)
        facts = {
            **verdict.to_dict(),
            "judged_at": judged_at,
            "champion_version": served.version,
        }
        others = [row for row in self.history(product) if row["day"] != verdict.day]
        names = [column.name for column in DRIFT.columns]
        rows = pd.DataFrame([*others, facts], columns=names).sort_values("day")
        return self.warehouse.write_rows(
            STAGE,
            product,
            pa.Table.from_pandas(rows, preserve_index=False),
            self.made_from(day, served),
            {"verdict": {**verdict.to_dict(), "judged_at": judged_at.isoformat()}},
        )

    def history(self, product: str) -> list[dict[str, Any]]:
        """The verdicts of a product, as `Verdict.to_dict` gives them, in time order."""
        import pandas as pd

        path = self.lake.file(STAGE, product)
        if not path.exists():
            return []
        rows = pd.read_parquet(path).assign(day=lambda found: found["day"].astype(str))
        return [
            {str(name): None if pd.isna(value) else value for name, value in row.items()}
            for row in rows.to_dict("records")
        ]

    def _draw(
        self,
        product: str,
        verdict: Verdict,
        drift: Any,
        performed: Any,
        reference: Reference,
        sketches: list[DaySketch],
        served: ServedModel,
    ) -> None:
        """Writes the product's page, Evidently's beside it, and the verdict as JSON."""
        import pandas as pd

        from volatility_pipeline.reports.drift import Context, evidently_page, render

        is_simulated = served.source == "simulated"
        folder = self.lake.folder(STAGE, product)
        current = self._features(product, date.fromisoformat(verdict.day))
        seen = [date.fromisoformat(found.day) for found in reference.days]
        stretches = [self._features(product, day).iloc[:: max(1, len(seen))] for day in seen]
        has_evidently = bool(len(current) and stretches)
        if has_evidently:
            limits = reference.daily.wasserstein_limits if reference.daily else {}
            page = evidently_page(
                pd.concat(stretches, ignore_index=True),
                current,
                title=f"{product}, {verdict.day} against {seen[0]} to {seen[-1]}",
                limits=limits,
                is_simulated=is_simulated,
            )
            self.lake.write_text(folder / EVIDENTLY, page)
        fitted, half = served.fitted_until[:10], len(sketches) // 2
        context = Context(
            is_simulated=is_simulated,
            history=self.history(product),
            train_against_test=compare(
                [found for found in sketches if found.day < served.trained_until[:10]],
                [found for found in sketches if fitted < found.day <= served.seen_until[:10]],
            ),
            early_against_late=compare(sketches[:half], sketches[half:]),
            evidently=EVIDENTLY if has_evidently else None,
        )
        self.lake.write_text(self.page(product), render(verdict, drift, performed, context))
        write_json(folder / "drift.json", verdict.to_dict())


def _day(time: str) -> date:
    return datetime.fromisoformat(time).date()


def _threshold(rows: "pd.DataFrame", served: ServedModel) -> Any:
    return rows["trailing_threshold"] if served.policy == "trailing" else served.constant_threshold


def is_of(record: Mapping[str, Any], served: ServedModel) -> bool:
    """Whether a verdict is of this champion: versions are counted anew in another registry."""
    return bool(record["made_from"].get("sha256") == served.stored.sha256)
