"""The sensor that has finished days judged, and turns verdicts into alerts and retraining.

How a day is judged is `domain/drift`; what an alert says, and that none is told twice, is `alerts`.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from volatility_pipeline import timing
from volatility_pipeline.domain.alerts import DRIFT_SEVERITY, KINDS, Alert
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.jobs import TRAIN, WATCH, retraining
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.drift import DriftWatch, is_of
from volatility_pipeline.resources.served_model import ServedModel
from volatility_pipeline.settings import Settings

RETRAINS: Mapping[str, tuple[str, ...]] = {
    "medium": ("retrain", "retrain_now"),
    "high": ("retrain_now",),
    "never": (),
}
"""Which actions retrain by themselves, by `VOLATILITY_RETRAIN_ON_DRIFT`. Never `mend`: what is
learnt from faulty data is the fault."""


@dg.sensor(
    jobs=[WATCH, TRAIN],
    minimum_interval_seconds=timing.WATCH_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultSensorStatus.STOPPED
    ),
)
def drift_sensor(
    context: dg.SensorEvaluationContext,
    drift_watch: dg.ResourceParam[DriftWatch],
    alerts: dg.ResourceParam[Alerts],
) -> dg.SensorResult:
    """Asks for a verdict on each product's newest finished day, and acts on those that are there.

    One alert for as long as drift, or poor performance, lasts; by severity and setting a
    retraining, one per product and week. On with `VOLATILITY_UNATTENDED=true`.
    """
    now = datetime.now(UTC)
    requests: list[dg.RunRequest] = []
    for product in drift_watch.lake.products("splits"):
        try:
            served = drift_watch.champions.find(product)
            day = drift_watch.newest_day(product, now.date())
            if served is None:
                _nobody(alerts, product, now)
            if served is None or day is None:
                continue
            record = drift_watch.record(product)
            if record is not None and is_of(record, served):
                tell(alerts, product, record["verdict"], link=str(drift_watch.page(product)))
                requests += _retraining(context.instance, product, record["verdict"], served, now)
            if not drift_watch.is_current(product, now.date()):
                key = f"drift/{product}/{day}/{drift_watch.state(day, served)}"
                requests.append(dg.RunRequest(key, job_name=WATCH.name, partition_key=product))
        except BadInputError as error:
            context.log.warning("%s", error)
    delivered = alerts.deliver()
    reason = f"Every finished day is judged; {delivered} alerts were delivered late."
    return dg.SensorResult(requests, None if requests else reason)


def tell(alerts: Alerts, product: str, verdict: Mapping[str, Any], *, link: str = "") -> int:
    """Raises or ends a product's alerts of drift and of performance, as its verdict says.

    Telling it again changes nothing. What is not judged leaves an alert as it is.

    Returns:
        How many alerts and recoveries were news.
    """
    judged = datetime.fromisoformat(verdict["judged_at"]).replace(tzinfo=UTC)
    since = datetime.fromisoformat(verdict["day"]).replace(tzinfo=UTC)
    numbers = {name: value for name, value in verdict.items() if isinstance(value, int | float)}
    states = {
        "drift": {"medium": True, "high": True, "none": False, "low": False}.get(
            verdict["severity"]
        ),
        "performance": {"below_floor": True, "holding": False}.get(verdict["performance"]),
    }
    news = 0
    for kind, is_bad in states.items():
        if is_bad:
            news += alerts.raise_(
                Alert(
                    kind,
                    product,
                    "",
                    title=verdict["reasons"],
                    since=since,
                    noticed_at=judged,
                    severity=DRIFT_SEVERITY[verdict["severity"]]
                    if kind == "drift"
                    else KINDS[kind].severity,
                    numbers={"action": verdict["action"], **numbers},
                    link=link,
                )
            )
        elif is_bad is False:
            news += alerts.recover(kind, product, "", at=judged, link=link)
    return news


def _nobody(alerts: Alerts, product: str, now: datetime) -> None:
    """Ends what is said of a champion once there is none."""
    for kind in ("drift", "performance"):
        alerts.recover(kind, product, "", at=now, title="There is no champion any more.")


def _retraining(
    instance: dg.DagsterInstance,
    product: str,
    verdict: Mapping[str, Any],
    served: ServedModel,
    now: datetime,
) -> Iterator[dg.RunRequest]:
    """A retraining, where the verdict and the setting ask for one and none is too recent."""
    if verdict["action"] not in RETRAINS[Settings().volatility_retrain_on_drift]:
        return
    asked = instance.get_run_records(
        dg.RunsFilter(
            job_name=TRAIN.name,
            tags={"dagster/partition": product, "dagster/sensor_name": drift_sensor.name},
            created_after=now - timing.RETRAIN_PAUSE,
        ),
        limit=1,
    )
    if asked:
        return
    cause = "performance" if verdict["performance"] == "below_floor" else "drift"
    reason = f"{cause} on {verdict['day']} (drift {verdict['severity']})"
    key = f"retrain/{product}/{verdict['day']}/{served.version}"
    yield retraining(product, policy=served.policy, reason=reason, run_key=key)
