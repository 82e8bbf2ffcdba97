"""Predictions now: each product's champion, loaded and followed, and what it says of the live rows.

What belongs here: which model answers, what it answers, and whether that may still be given out.
What does not: HTTP (`api`), the rows themselves (`live`), and which version should be champion
(`resources/champions`).

A model is replaced by one assignment, so that a request meets the old one or the new one, whole.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.resources.champions import CHALLENGER, CHAMPION, Champions
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.live import FeatureRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

POLL_SECONDS = 5.0
MAX_AGE_SECONDS = 10.0
AHEAD_SECONDS = 1.0
"""What a clock may be slewed by. A row further ahead of it was made before it was put back, and how
old that is nobody knows."""

HISTORY_SECONDS = 3600

Say = Callable[[str], None]
Reason = Literal["no_champion", "not_loaded", "no_row", "no_threshold", "stale"]


class UnknownProductError(Exception):
    """Asked was about a product that is not served; the message says which are."""


class UnavailableError(Exception):
    """There is no answer now; the message says why, in a sentence.

    Attributes:
        reason: The same, for programs.
        age_seconds: Of the newest answer, where it is too old to be given.
    """

    def __init__(self, reason: Reason, text: str, age_seconds: float | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.age_seconds = age_seconds


@dataclass(frozen=True)
class LoadedModel:
    """A registered version with its estimator, ready to be asked."""

    served: ServedModel
    estimator: Any

    def threshold(self, trailing: float | None) -> float | None:
        """The volatility that makes a spike, given the row's; None where nobody knows it yet."""
        return trailing if self.served.policy == "trailing" else self.served.constant_threshold

    def ask(self, columns: Mapping[str, Sequence[float | None]]) -> "NDArray[np.float64]":
        """The calibrated probabilities, shape (rows,), for columns of `MODEL_INPUTS`."""
        import pandas as pd

        # One matrix: a frame of single columns takes twice as long to make.
        matrix = np.array([columns[name] for name in MODEL_INPUTS], dtype=float)
        return probabilities(self.estimator, pd.DataFrame(matrix.T, columns=MODEL_INPUTS))


@dataclass(frozen=True)
class ProductModels:
    """Who answers for a product.

    Attributes:
        champion: Whose answer is given out; None without one.
        challenger: Who answers beside it, for the log alone.
        trouble: Why the newest look at the registry, or at what it names, failed; None where it
            did not. The models before it stay.
        absence: Why there is no champion; None where there is one.
    """

    champion: LoadedModel | None = None
    challenger: LoadedModel | None = None
    trouble: str | None = None
    absence: str | None = None


@dataclass(frozen=True)
class LivePrediction:
    """What the champion said of a live row.

    Attributes:
        product: The market.
        ts: The decision time, UTC: it knows nothing later.
        probability: Calibrated, that the 60 seconds after it are a spike.
        threshold: The volatility that makes them one, per second.
        model: Who said it.
        realized_volatility_60s: That of the minute before `ts`.
        seconds_since_tick: Age of the newest tick at the row's last bar.
        is_threshold_whole: Whether all minutes behind the threshold are known.
    """

    product: str
    ts: datetime
    probability: float
    threshold: float
    model: ServedModel
    realized_volatility_60s: float | None
    seconds_since_tick: float | None
    is_threshold_whole: bool = True

    @property
    def is_alert(self) -> bool:
        """Whether the probability reached the decision threshold."""
        return self.probability >= self.model.decision_threshold

    def age_seconds(self, now: datetime) -> float:
        """How long ago its decision time is."""
        return (now - self.ts).total_seconds()


@dataclass
class _Live:
    """What is known of a product's live rows."""

    row: FeatureRow | None = None
    history: deque[LivePrediction] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS))

    @property
    def newest(self) -> datetime | None:
        """The newest decision time; None before the first."""
        if self.row is not None:
            return self.row.ts
        return self.history[-1].ts if self.history else None


class Predictor:
    """Follows the champions, asks them about the live rows, and keeps the last hour's answers.

    `take` is called from the thread of the live features, `refresh` from one of its own, all else
    from anywhere.
    """

    def __init__(
        self,
        champions: Champions,
        log: AnswerLog,
        say: Say,
        *,
        products: Sequence[str] | None = None,
        max_age_seconds: float = MAX_AGE_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Loads nothing yet.

        Args:
            champions: The registry.
            log: Where the live answers are written.
            say: Told what a person should know.
            products: Those to serve; None for all that have training rows or live ones.
            max_age_seconds: How old an answer may be when it is given.
            clock: The time, UTC.
        """
        self.champions = champions
        self.log = log
        self.say = say
        self.max_age_seconds = max_age_seconds
        self.clock = clock
        self.reload_failures = 0
        self.changes = 0
        self.on_answer: Callable[[LivePrediction], None] | None = None
        self._only = None if products is None else tuple(products)
        self._models: dict[str, ProductModels] = {}
        self._live: dict[str, _Live] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # Products and their models

    @property
    def products(self) -> tuple[str, ...]:
        """What is served, in order."""
        return tuple(sorted(self._models))

    def models(self, product: str) -> ProductModels:
        """Who answers for a product.

        Raises:
            UnknownProductError: It is not served.
        """
        found = self._models.get(product)
        if found is None:
            known = ", ".join(self.products) or "none yet"
            raise UnknownProductError(f"There is no such product here; there are: {known}.")
        return found

    def champion(self, product: str) -> LoadedModel:
        """The product's champion.

        Raises:
            UnknownProductError: The product is not served.
            UnavailableError: There is none, or it could not be loaded.
        """
        models = self.models(product)
        if models.champion is not None:
            return models.champion
        if models.trouble is not None:
            raise UnavailableError("not_loaded", f"The model is not loaded: {models.trouble}")
        raise UnavailableError("no_champion", models.absence or f"{product} has no champion.")

    def start(self) -> None:
        """Loads the models and the last hour's answers, then follows the aliases in a thread."""
        self.refresh()
        self._restore()
        self._thread = threading.Thread(target=self._follow, name="champions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and commits the log."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=POLL_SECONDS)
        self.log.close()

    def _follow(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self.refresh()

    def refresh(self) -> None:
        """Loads what the aliases name now; where that fails, what is loaded goes on answering."""
        wanted: Sequence[str] = self.products
        aliases: Mapping[str, Mapping[str, str]] | Exception
        try:
            wanted = self._wanted()
            aliases = self.champions.tracking.all_aliases()
        except Exception as error:  # noqa: BLE001 whatever it is, the old models go on
            aliases = error
        for product in wanted:
            before = self._models.get(product, ProductModels())
            try:
                if isinstance(aliases, Exception):
                    raise aliases
                now = self._reload(product, aliases.get(product, {}), before)
            except Exception as error:  # noqa: BLE001 as above
                self.reload_failures += 1
                trouble = str(error) or type(error).__name__
                if trouble != before.trouble:
                    self.say(f"{product}: {_kept(before)} {trouble}")
                # The champion may be new already, where its challenger is what failed.
                now = replace(self._models.get(product, before), trouble=trouble)
            if now.champion is not before.champion and now.champion is not None:
                self.say(f"{product}: {now.champion.served.title} answers.")
            elif now.absence is not None and now.absence != before.absence:
                self.say(now.absence)
            self._models[product] = now

    def _wanted(self) -> list[str]:
        if self._only is not None:
            return list(self._only)
        return sorted({*self.champions.lake.products("splits"), *self._live, *self._models})

    def _reload(
        self, product: str, aliases: Mapping[str, str], before: ProductModels
    ) -> ProductModels:
        if before.champion is not None and not self.champions.tracking.is_there:
            raise FileNotFoundError(f"MLflow's store is gone: {self.champions.tracking.uri}")
        champion = self._loaded(product, aliases.get(CHAMPION), before.champion)
        absence = None
        if champion is None:
            history = self.champions.history(product)
            why = history[-1].reason if history else "`volatility train` decides on one."
            absence = f"{product} has no champion: {why}"
        # The champion first: a challenger that cannot be loaded does not hold it up.
        now = ProductModels(champion, before.challenger, absence=absence)
        self._models[product] = now
        version = aliases.get(CHALLENGER)
        is_same = champion is not None and champion.served.version == version
        return replace(
            now,
            challenger=None if is_same else self._loaded(product, version, before.challenger),
        )

    def _loaded(
        self, product: str, version: str | None, before: LoadedModel | None
    ) -> LoadedModel | None:
        """The version, loaded: again only if it is another than before."""
        if version is None or (before is not None and before.served.version == version):
            return None if version is None else before
        served = self.champions.find(product, version)
        if served is None:
            return None
        model = LoadedModel(served, self.champions.load(served))
        model.ask(dict.fromkeys(MODEL_INPUTS, (1.0,)))  # one that cannot answer is not loaded
        return model

    # Live rows

    def take(self, rows: Sequence[FeatureRow]) -> None:
        """Asks champion and challenger about live rows, keeps and logs what they say.

        Args:
            rows: Of any products; of each in time order. Those not later than one that was taken
                before, or answered before a restart, are left out.
        """
        answered_at = self.clock()
        lines: list[dict[str, Any]] = []
        for product, given in _by_product(rows).items():
            if self._only is not None and product not in self._only:
                continue
            live = self._live.setdefault(product, _Live())
            found = [row for row in given if live.newest is None or row.ts > live.newest]
            if not found:
                continue
            models = self._models.get(product, ProductModels())
            said = _answers(models.champion, found)
            with self._lock:
                live.row = found[-1]
                live.history.extend(said)
            for role, answers in {
                CHAMPION: said,
                CHALLENGER: _answers(models.challenger, found),
            }.items():
                lines += [_line(role, answer, answered_at) for answer in answers]
            if self.on_answer is not None:
                for answer in said:
                    self.on_answer(answer)
        self.log.write(lines)
        self.changes += 1

    def _restore(self) -> None:
        """Puts back what was answered before a restart; it ages like any other answer."""
        import duckdb

        try:
            lines = self.log.since(self.clock() - timedelta(seconds=HISTORY_SECONDS))
        except duckdb.Error as error:
            self.say(f"The last hour is not shown: {error}")
            return
        versions: dict[tuple[str, str], ServedModel | None] = {}
        for line in lines:
            product, version = line["product_id"], line["model_version"]
            if line["role"] != CHAMPION or product not in self._models:
                continue
            if (product, version) not in versions:
                versions[product, version] = self._noted(product, version)
            model = versions[product, version]
            if model is not None:
                live = self._live.setdefault(product, _Live())
                live.history.append(_restored(line, model))

    def _noted(self, product: str, version: str) -> ServedModel | None:
        """A version that answered before; None where the registry knows it no more."""
        try:
            return self.champions.find(product, version)
        except BadInputError:
            return None

    # Answers

    def newest(self, product: str) -> LivePrediction:
        """The newest live answer, if it is new enough to be given.

        Raises:
            UnknownProductError: The product is not served.
            UnavailableError: Nobody answers, there is no row, its threshold is not known, or the
                answer is too old.
        """
        model = self.champion(product)
        with self._lock:
            live = self._live.get(product)
            row = live.row if live else None
            answer = live.history[-1] if live and live.history else None
        if row is not None and (answer is None or answer.ts < row.ts):
            self._require_fresh(product, row.ts)
            if model.threshold(row.trailing_threshold) is not None:
                raise UnavailableError("no_row", f"{product}: no row since its model was loaded.")
            raise UnavailableError(
                "no_threshold",
                f"{product}: the threshold of the newest row is not known; it takes 60 whole "
                "minutes with features within a day.",
            )
        if answer is None:
            raise UnavailableError("no_row", f"{product}: no live row has come yet.")
        self._require_fresh(product, answer.ts)
        return answer

    def _require_fresh(self, product: str, ts: datetime) -> None:
        age, limit = (self.clock() - ts).total_seconds(), self.max_age_seconds
        if age > limit:
            said = f"{product}: the newest row is {age:,.0f} s old; {limit:g} s are allowed."
            raise UnavailableError("stale", said, age)
        if age < -AHEAD_SECONDS:
            said = f"{product}: the newest row is {-age:,.0f} s ahead of this machine's clock."
            raise UnavailableError("stale", said, age)

    def row_trouble(self, product: str) -> str | None:
        """Why the newest live row is not to be had, whoever may answer; None where it is.

        Raises:
            UnknownProductError: The product is not served.
        """
        live = self._live.get(product)
        try:
            if self.models(product).champion is not None:
                self.newest(product)
            elif live is None or live.newest is None:
                return f"{product}: no live row has come yet."
            else:
                self._require_fresh(product, live.newest)
        except UnavailableError as error:
            return str(error)
        return None

    def age_seconds(self, product: str) -> float | None:
        """Age of the newest live row; None before the first."""
        live = self._live.get(product)
        newest = live.newest if live else None
        return None if newest is None else (self.clock() - newest).total_seconds()

    def trailing_threshold(self, product: str) -> float | None:
        """The trailing threshold of the newest live row, if that is new enough."""
        live = self._live.get(product)
        row = live.row if live else None
        try:
            if row is not None:
                self._require_fresh(product, row.ts)
        except UnavailableError:
            return None
        return None if row is None else row.trailing_threshold

    def history(self, product: str, since: datetime) -> list[LivePrediction]:
        """What was answered about rows from a time (UTC) on, in time order.

        Raises:
            UnknownProductError: The product is not served.
        """
        self.models(product)
        with self._lock:
            live = self._live.get(product)
            return [answer for answer in live.history if answer.ts >= since] if live else []


def _kept(before: ProductModels) -> str:
    if before.champion is None:
        return "no model could be loaded:"
    return f"{before.champion.served.title} goes on answering, for the reload failed:"


def _by_product(rows: Sequence[FeatureRow]) -> dict[str, list[FeatureRow]]:
    found: dict[str, list[FeatureRow]] = {}
    for row in rows:
        found.setdefault(row.product, []).append(row)
    return found


def _answers(model: LoadedModel | None, rows: Sequence[FeatureRow]) -> list[LivePrediction]:
    """What a model says of the rows whose threshold is known."""
    if model is None:
        return []
    asked = [
        (row, threshold)
        for row in rows
        if (threshold := model.threshold(row.trailing_threshold)) is not None
    ]
    if not asked:
        return []
    columns: dict[str, list[float | None]] = {
        name: [row.features[name] for row, _ in asked] for name in MODEL_INPUTS[:-1]
    }
    columns[MODEL_INPUTS[-1]] = [threshold for _, threshold in asked]
    return [
        LivePrediction(
            product=row.product,
            ts=row.ts,
            probability=float(probability),
            threshold=threshold,
            model=model.served,
            realized_volatility_60s=row.features["realized_volatility_60s"],
            seconds_since_tick=row.features["seconds_since_tick"],
            is_threshold_whole=row.is_threshold_whole or model.served.policy != "trailing",
        )
        for (row, threshold), probability in zip(asked, model.ask(columns), strict=True)
    ]


def _restored(line: Mapping[str, Any], model: ServedModel) -> LivePrediction:
    """What a line of the log says."""
    return LivePrediction(
        product=line["product_id"],
        ts=line["ts"].replace(tzinfo=UTC),
        probability=line["probability"],
        threshold=line["threshold"],
        model=model,
        realized_volatility_60s=line["realized_volatility_60s"],
        seconds_since_tick=line["seconds_since_tick"],
    )


def _line(role: str, answer: LivePrediction, answered_at: datetime) -> dict[str, Any]:
    """A line of the log."""
    return {
        "product_id": answer.product,
        "ts": answer.ts,
        "role": role,
        "probability": answer.probability,
        "threshold": answer.threshold,
        "decision_threshold": answer.model.decision_threshold,
        "is_alert": answer.is_alert,
        "model_name": answer.model.model,
        "model_version": answer.model.version,
        "trained_until": answer.model.fitted_until,
        "realized_volatility_60s": answer.realized_volatility_60s,
        "seconds_since_tick": answer.seconds_since_tick,
        "answered_at": answered_at,
    }
