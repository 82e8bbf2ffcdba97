"""Champions: which registered version of a product's models serves, and how that came about.

The rules are `domain/promotion`; asking many rows is `predictions`. The registry's alias `champion`
says which version it is; what a version says of itself is `served_model`. Decisions are appended to
`champion/product=…/decisions.jsonl` before anything is done, and done again where that was cut off.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility_pipeline.domain import promotion
from volatility_pipeline.domain.controls import Control
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.evaluation import Estimate
from volatility_pipeline.domain.ladder import LADDER, MODEL_INPUTS
from volatility_pipeline.domain.latency import latency
from volatility_pipeline.domain.models import Forecast, probabilities, scores
from volatility_pipeline.domain.promotion import Candidate, Comparison, Decision, Facts
from volatility_pipeline.domain.splits import ROLES
from volatility_pipeline.resources.lake import Lake, read_json
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.training import SEED, code_digest, evaluated_models

if TYPE_CHECKING:
    import pandas as pd

CHAMPION = "champion"
CHALLENGER = "challenger"
DECISIONS = "decisions.jsonl"
CODE = ("bootstrap.py", "evaluation.py", "promotion.py", "verdict.py")
MODEL_DAYS = 30.0
LATENCY_SECONDS = 0.2
VERSION_DIGITS = 9  # more are no version of any registry, and overflow some
TOO_GOOD = "too good to be true"
"""The control for which there is a rule of its own: a person may overrule it."""


@dataclass(frozen=True)
class Champions:
    """Finds, loads and appoints registered models.

    Attributes:
        lake: The partitions, and the decisions.
        tracking: The registry.
        model_days: Age in days from which on a model is stale; it still serves, marked so.
    """

    lake: Lake
    tracking: Tracking
    model_days: float = MODEL_DAYS

    # Using models

    def find(self, product: str, name: str | None = None) -> ServedModel | None:
        """A registered model of a product.

        Args:
            product: The market.
            name: None for the champion, a rung for its newest version, or a version's number.

        Returns:
            The model; None where the champion was asked for and there is none.

        Raises:
            BadInputError: There is no such rung or version.
        """
        if name is None:
            champion = self.tracking.aliases(product).get(CHAMPION)
            return None if champion is None else self._named(product, champion)
        return self._named(product, name)

    def _named(self, product: str, name: str) -> ServedModel:
        if name.isdecimal():
            is_number = len(name) <= VERSION_DIGITS
            found = self.tracking.version(product, name) if is_number else None
        elif name in LADDER:
            found = self.tracking.newest(product, name)
        else:
            raise BadInputError(
                f"{name}: no model; name a version's number or one of {', '.join(LADDER)}."
            )
        if found is None:
            what = f"version {name}" if name.isdecimal() else name
            raise BadInputError(f"{product}: no {what} is registered; `volatility train` makes it.")
        return ServedModel.of(product, found)

    def load(self, served: ServedModel) -> Any:
        """The model's estimator.

        Raises:
            BadInputError: Its inputs are not those of today, its archive is gone, is not the one
                that was recorded, or holds types that are not trusted.
        """
        if served.columns != MODEL_INPUTS:
            others = sorted({*served.columns} ^ {*MODEL_INPUTS}) or ["their order"]
            raise BadInputError(
                f"{served.product}: version {served.version} was trained on other inputs than "
                f"there are now ({', '.join(others)}); `volatility train` makes a new one."
            )
        return self.tracking.fetch(served.stored)

    def is_stale(self, served: ServedModel, now: datetime) -> bool:
        """Whether a model is older than models may get."""
        return served.age(now) > timedelta(days=self.model_days)

    def describe(self, product: str, now: datetime) -> str:
        """The product's champion and its age, or why there is none, for a person."""
        champion = self.find(product)
        if champion is not None:
            text = f"{champion.title}, {_days(champion.age(now))} old"
            if champion.source == "simulated":
                text += ", trained on SIMULATED DATA"
            if self.is_stale(champion, now):
                text += f", STALE: older than {self.model_days:g} days"
            return text
        history = self.history(product)
        if history and (was := history[-1].champion) is not None:
            lacks = f"version {was}" if was not in self.tracking.archives(product) else "champion"
            return (
                f"none; version {was} was, but the registry has no {lacks} any more: "
                "`volatility train` decides anew."
            )
        if history:
            return f"none; {history[-1].outcome}: {history[-1].reason}"
        return "none; nothing is decided yet: `volatility train` does that."

    # Decisions

    def history(self, product: str) -> list[Decision]:
        """All decisions, the oldest first."""
        return [Decision(**line["decision"]) for line in self._lines(product)]

    def standing(self, product: str) -> list[Decision]:
        """Those decisions whose models the registry still has, the oldest first."""
        archives = self.tracking.archives(product).items()
        return [
            decision for decision in self.history(product) if decision.archives.items() <= archives
        ]

    def is_current(self, product: str, *, controls: Sequence[Control] = ()) -> bool:
        """Whether these models were decided on, by these rules and findings, and it still holds."""
        record = self.lake.record(CHAMPION, product)
        return (
            record is not None
            and record["made_from"] == self._made_from(product, controls)
            and record["decision"]["champion"] == self.tracking.aliases(product).get(CHAMPION)
        )

    def _made_from(self, product: str, controls: Sequence[Control]) -> dict[str, Any]:
        return {
            "code": code_digest(CODE),
            "inputs": {
                stage: self.lake.content(stage, product)
                for stage in ("models", "walk_forward", "evaluation")
            },
            "failed_controls": [control.name for control in controls if control.passed is False],
        }

    def decide(
        self,
        product: str,
        *,
        now: datetime,
        controls: Sequence[Control] = (),
        drift: str | None = None,
    ) -> Decision:
        """Decides whether the best of the newest models becomes the champion, and makes it so.

        The same models on the same data are decided on once: asked again, nothing is recorded.
        A change by hand waits until it is done; one made in the registry itself is decided on anew.

        Args:
            product: The market.
            now: The time, UTC.
            controls: What the controls found.
            drift: Why the champion is in drift, a clause that continues "The champion …"; None
                where it is not.

        Raises:
            BadInputError: There are no models, or no evaluation of them.
        """
        with self._alone(product):
            self._finish(product)
            while not self.is_current(product, controls=controls):
                made_from = self._made_from(product, controls)
                decision = self._decide(product, now, controls, drift)
                if self.tracking.aliases(product).get(CHAMPION) == decision.numbers["replaced"]:
                    self.tracking.move_alias(product, CHALLENGER, decision.challenger)
                    self._enact(decision, made_from)
            return self.history(product)[-1]

    def _decide(
        self, product: str, now: datetime, controls: Sequence[Control], drift: str | None
    ) -> Decision:
        import pandas as pd

        models = evaluated_models(self.lake, product)["models"]
        result = read_json(self.lake.folder("evaluation", product) / "evaluation.json")
        if result is None:
            raise BadInputError(f"{product}: no evaluated models; `volatility train` makes them.")
        rung = promotion.choose_challenger(
            {name: entry["validation_average_precision"] for name, entry in models.items()}
        )
        challenger = self._named(product, models[rung]["stored"]["version"])
        champion = self.find(product)
        frame = pd.read_parquet(self.lake.file("splits", product))
        served = [model for model in (challenger, champion) if model is not None]
        frame = promotion.unknown_to([model.fitted_until for model in served], frame)
        test = frame[frame["role"] == ROLES[-1]]
        estimators, fault = self._load_all(served)
        weaknesses = []
        if champion and self.is_stale(champion, now):
            weaknesses.append(
                f"is stale: {_days(champion.age(now))} old, {self.model_days:g} are allowed"
            )
        judged = next(model for model in result["models"] if model["name"] == rung)
        lift, judged_on = _estimate(judged["lift"]), "the test"
        folds = (self.lake.record("walk_forward", product) or {"result": {}})["result"]
        if lift is not None and lift.low is None and folds.get("pooled"):
            by_rung = {score["name"]: score["lift"] for score in folds["pooled"]["models"]}
            lift = _estimate(by_rung[rung])
            judged_on = (
                f"{len(folds['folds'])} walk-forward folds, some of whose rows are those by which "
                "it was chosen"
            )
        facts = Facts(
            product=product,
            at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            challenger=_candidate(challenger),
            champion=_candidate(champion) if champion else None,
            is_simulated=challenger.source == "simulated",
            newest_row=test["ts"].max().isoformat() if len(test) else None,
            last_tested=promotion.last_tested(self.standing(product)),
            insufficient=tuple(result["insufficient"]),
            suspicious=tuple(result["suspicious"]),
            failed_controls=tuple(
                control.sentence
                for control in controls
                if control.passed is False and control.name != TOO_GOOD
            ),
            unjudged_controls=tuple(control.name for control in controls if control.passed is None),
            fault=fault,
            latency_ms=_milliseconds(challenger, estimators[0], test)
            if estimators and len(test)
            else None,
            base_rate=result["base_rate"],
            average_precision=_estimate(judged["average_precision"]),
            lift=lift,
            lift_judged_on=judged_on,
            lift_refusal=result["lift_refusal"] or result["blocks"]["refusal"],
            weaknesses=(*weaknesses, *([drift] if drift else [])),
        )

        def compare() -> Comparison:
            persistence = self._named(product, models["persistence"]["stored"]["version"])
            asked = (*estimators, self.load(persistence))
            forecasts = [
                _forecast(model, estimator, test)
                for model, estimator in zip((*served, persistence), asked, strict=True)
            ]
            return promotion.compare(
                frame,
                challenger=forecasts[0],
                champion=forecasts[1],
                persistence=forecasts[2],
                product=product,
                policy=challenger.policy,
                seed=SEED,
            )

        return _naming(promotion.decide(facts, compare), served)

    def _load_all(self, served: Sequence[ServedModel]) -> tuple[list[Any], str | None]:
        """The estimators, or why one of them is not to be had."""
        estimators = []
        for model in served:
            try:
                estimators.append(self.load(model))
            except BadInputError as error:
                return [], f"{model.title} cannot be loaded, so there is no test: {error}"
        return estimators, None

    # By hand

    def appoint(self, product: str, name: str, *, reason: str, now: datetime) -> Decision:
        """Makes a version, or a rung's newest, the champion, for a person's reason.

        Raises:
            BadInputError: No reason, no such model, one that cannot be loaded, or the champion.
        """
        return self._by_hand(product, "set by hand", name, reason=reason, now=now)

    def roll_back(self, product: str, *, reason: str, now: datetime) -> Decision:
        """Makes the champion before this one the champion again, for a person's reason.

        Raises:
            BadInputError: No reason, no champion before, or one that cannot be loaded.
        """
        champion = self.tracking.aliases(product).get(CHAMPION)
        before = promotion.champion_before(self.standing(product), champion)
        if before is None:
            raise BadInputError(
                f"{product}: no champion was there before; `volatility champion {product} --set` "
                "makes any version the champion."
            )
        return self._by_hand(product, "rolled back", before, reason=reason, now=now)

    def remove(self, product: str, *, reason: str, now: datetime) -> Decision:
        """Leaves the product without a champion, for a person's reason.

        Raises:
            BadInputError: No reason, or no champion.
        """
        return self._by_hand(product, "removed", None, reason=reason, now=now)

    def _by_hand(
        self,
        product: str,
        outcome: promotion.Outcome,
        name: str | None,
        *,
        reason: str,
        now: datetime,
    ) -> Decision:
        if not reason.strip():
            raise BadInputError('A change by hand is recorded with its reason: --reason "…".')
        with self._alone(product):
            self._finish(product)
            version = self.tracking.aliases(product).get(CHAMPION)
            appointed = None if name is None else self._named(product, name)
            if (appointed.version if appointed else None) == version:
                what = f"{appointed.title} is the champion already" if appointed else "no champion"
                raise BadInputError(f"{product}: {what}; nothing is changed.")
            if appointed is not None:
                self.load(appointed)
            decision = Decision(
                product=product,
                at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
                outcome=outcome,
                reason=reason.strip(),
                challenger=None,
                challenger_model=None,
                champion=appointed.version if appointed else None,
                champion_model=appointed.model if appointed else None,
                numbers={"replaced": version},
            )
            decision = _naming(decision, [appointed] if appointed else [])
            record = self.lake.record(CHAMPION, product) or {}
            self._enact(decision, record.get("made_from"))
        return decision

    # Recording

    @contextmanager
    def _alone(self, product: str) -> Iterator[None]:
        """Waits until no other process, or thread, decides about a product, and keeps them off."""
        path = self._path(product).with_name(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _enact(self, decision: Decision, made_from: Mapping[str, Any] | None) -> None:
        """Records a decision, then does what it says."""
        line = {"decision": asdict(decision), "made_from": made_from}
        path = self._path(decision.product)
        with path.open("ab+") as file:
            # A line that a crash cut off stays by itself, and is no decision.
            is_torn = file.tell() > 0 and not path.read_bytes().endswith(b"\n")
            file.write(b"\n" * is_torn + json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._apply(line)

    def _finish(self, product: str) -> None:
        """Does what the newest decision says, where a crash came between."""
        lines = self._lines(product)
        record = self.lake.record(CHAMPION, product)
        if lines and (record is None or record["decision"] != lines[-1]["decision"]):
            self._apply(lines[-1])

    def _apply(self, line: Mapping[str, Any]) -> None:
        decision = Decision(**line["decision"])
        product, version = decision.product, decision.champion
        standing = self.tracking.aliases(product).get(CHAMPION)
        if version != standing:
            self.tracking.move_alias(product, CHAMPION, version)
            if version is not None:
                tags = {"promotion_reason": decision.reason, "promoted_at": decision.at}
                self.tracking.tag_version(product, version, tags)
        champion = self.find(product)
        content = f"{version} {champion.stored.sha256}" if champion else ""
        self.lake.write_record(
            CHAMPION,
            product,
            {
                "rows": int(champion is not None),
                "bytes": None,
                "sha256": hashlib.sha256(content.encode()).hexdigest() if champion else None,
                **line,
            },
        )

    def _path(self, product: str) -> Path:
        return self.lake.folder(CHAMPION, product) / DECISIONS

    def _lines(self, product: str) -> list[dict[str, Any]]:
        path = self._path(product)
        found = []
        for text in path.read_text().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(text))
            except ValueError:  # cut off: it was never done
                continue
        return found


def _candidate(served: ServedModel) -> Candidate:
    return Candidate(
        version=served.version,
        model=served.model,
        policy=served.policy,
        columns=served.columns,
        fitted_until=served.fitted_until,
    )


def _estimate(facts: Mapping[str, Any] | None) -> Estimate | None:
    return None if facts is None else Estimate(**facts)


def _forecast(served: ServedModel, estimator: Any, rows: "pd.DataFrame") -> Forecast:
    return Forecast(
        served.model,
        scores(estimator, rows),
        probabilities(estimator, rows),
        served.decision_threshold,
    )


def _naming(decision: Decision, served: Sequence[ServedModel]) -> Decision:
    """A decision with the hashes of the models that it names."""
    named = (decision.challenger, decision.champion)
    archives = {model.version: model.stored.sha256 for model in served if model.version in named}
    return replace(decision, archives=archives)


def _milliseconds(served: ServedModel, estimator: Any, rows: "pd.DataFrame") -> float:
    """Processor time of one row, the mean: what the clock says is other processes' doing, too."""
    found = latency(
        estimator,
        rows.tail(1),
        rows=1,
        seconds=LATENCY_SECONDS,
        decision_threshold=served.decision_threshold,
    )
    return round(1000 * found.cpu, 3)


def _days(age: timedelta) -> str:
    return "1 day" if age.days == 1 else f"{age.days} days"
