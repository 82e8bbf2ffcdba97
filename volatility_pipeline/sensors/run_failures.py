"""The sensor that turns failed runs and blocking checks into alerts, and what mends them into ends.

What an alert says and how it is delivered is said elsewhere. Dagster's own run-failure sensor would
not do: it moves on after an error in its body, leaves out the runs of this project's commands, and
has no tick on which alerts that could not be delivered are tried again.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from volatility_pipeline.domain.alerts import Alert, Number
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.partitions import RANGE_END, RANGE_START, is_covered
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.settings import Settings

PARTITION = "dagster/partition"
WILL_RETRY = "dagster/will_retry"
BY_COMMAND = {"volatility/by": "command"}
"""Tags of a run that a command waits for: it says itself what was wrong with its input."""

MAX_RETRIES = "dagster/max_retries"
INTERVAL_SECONDS = 29
# A run's end is stamped by its own process and stored a moment later: each tick looks again at the
# last minute, and the ledger tells what is known. The first looks back an hour.
OVERLAP = timedelta(minutes=1)
FIRST_LOOK = timedelta(hours=1)
ENDED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]
LONGEST_TEXT = 500


@dg.sensor(
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if Settings().volatility_unattended
        else dg.DefaultSensorStatus.STOPPED
    ),
)
def run_failures_sensor(
    context: dg.SensorEvaluationContext, alerts: dg.ResourceParam[Alerts]
) -> dg.SensorResult:
    """Raises an alert for each run that failed for good and each blocking check that failed.

    An alert is over once the same step, or the same check, has succeeded for the same product and
    days. Delivers what waits, too. On with `VOLATILITY_UNATTENDED=true`.
    """
    seen = (
        datetime.fromisoformat(context.cursor) if context.cursor else datetime.now(UTC) - FIRST_LOOK
    )
    ended = context.instance.get_run_records(
        dg.RunsFilter(statuses=ENDED, updated_after=seen - OVERLAP),
        order_by="update_timestamp",
        ascending=True,
    )
    news = sum(tell(context.instance, alerts, record) for record in ended)
    delivered = alerts.deliver()
    newest = max([seen, *(record.update_timestamp for record in ended)])
    return dg.SensorResult(
        skip_reason=f"{news} alerts and recoveries were news; {delivered} were delivered late.",
        cursor=newest.isoformat(),
    )


def tell(instance: dg.DagsterInstance, alerts: Alerts, record: dg.RunRecord) -> int:
    """Raises or ends alerts by what became of one run; telling it again changes nothing.

    Returns:
        How many alerts and recoveries were news.
    """
    run = record.dagster_run
    end = (
        datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
    )
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return _recover(instance, alerts, run, end)
    # The tag is written just after the failure: until then, a run that asks for retries has them.
    is_asking = instance.run_retries_enabled and MAX_RETRIES in run.tags
    if run.tags.get(WILL_RETRY, str(is_asking).lower()) == "true":
        return 0
    if BY_COMMAND.items() <= run.tags.items() and _is_bad_input(instance, run):
        return 0
    return sum(alerts.raise_(alert) for alert in _failures(instance, alerts, run, end))


def _is_bad_input(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether all that failed in a run is what a person gave it."""
    failed = _events(instance, run, dg.DagsterEventType.STEP_FAILURE)
    return bool(failed) and all(
        any(error.cls_name == BadInputError.__name__ for error in _errors(event))
        for event in failed
    )


def _errors(event: dg.DagsterEvent) -> Iterator[Any]:
    """What a step failed with: Dagster's wrapper, then each cause in turn."""
    error = event.step_failure_data.error
    while error is not None:
        yield error
        error = error.cause


def _failures(
    instance: dg.DagsterInstance, alerts: Alerts, run: dg.DagsterRun, end: datetime
) -> list[Alert]:
    """One alert for each blocking check that failed, and one for all else that did."""
    events = _events(
        instance,
        run,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.RUN_FAILURE,
    )
    product, place, days = _place(run.tags)
    told: dict[str, Number] = {"job": run.job_name, "run": run.run_id, **days}
    link = alerts.run_link(run.run_id)
    found, by_check = [], set()
    for event in events:
        if event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        check = event.asset_check_evaluation_data
        if check.passed or not check.blocking or check.severity != dg.AssetCheckSeverity.ERROR:
            continue
        by_check.add(event.step_key)
        asset = check.asset_key.to_user_string()
        found.append(
            Alert(
                kind="check_failed",
                product=product,
                partition=f"{check.check_name} {place}".strip(),
                title=f"The check {check.check_name} of {asset} failed and stopped the run.",
                since=end,
                numbers={
                    "asset": asset,
                    "check": check.check_name,
                    **{name: _brief(value.value) for name, value in check.metadata.items()},
                    **told,
                    "steps": event.step_key,
                },
                link=link,
            )
        )
    failed = {
        event.step_key: _reason(event)
        for event in events
        if event.event_type == dg.DagsterEventType.STEP_FAILURE and event.step_key not in by_check
    }
    if failed or not found:
        # Without a failed step its process was killed, or never began.
        reasons = list(failed.values()) or [
            event.message or "" for event in events if event.is_run_failure
        ]
        steps = ", ".join(str(step) for step in failed)
        what = f"at {steps}" if steps else "without a failed step"
        found.append(
            Alert(
                kind="run_failed",
                product=product,
                partition=f"{steps or run.job_name} {place}".strip(),
                title=f"The run of {run.job_name} failed {what}: {_first_line(reasons)}",
                since=end,
                numbers={**told, "steps": steps},
                link=link,
            )
        )
    return found


def _recover(
    instance: dg.DagsterInstance, alerts: Alerts, run: dg.DagsterRun, end: datetime
) -> int:
    """Ends the alerts whose steps succeeded in a run of the same product or days."""
    product, _, _ = _place(run.tags)
    waiting = [
        entry.alert
        for entry in alerts.open("run_failed", "check_failed")
        if entry.alert.product == product and _is_same_place(entry.alert, run.tags)
    ]
    if not waiting:
        return 0
    events = _events(instance, run, dg.DagsterEventType.STEP_SUCCESS)
    succeeded = {event.step_key for event in events}
    return sum(
        alerts.recover(*alert.key, at=end, link=alerts.run_link(run.run_id))
        for alert in waiting
        if (
            succeeded.issuperset(str(alert.numbers["steps"]).split(", "))
            if alert.numbers["steps"]
            else alert.numbers["job"] == run.job_name
        )
    )


def _place(tags: Mapping[str, str]) -> tuple[str, str, dict[str, Number]]:
    """A run's product, what to call its days, and these; empty where it has none."""
    first = tags.get(RANGE_START, tags.get(PARTITION, ""))
    last = tags.get(RANGE_END, first)
    try:
        days = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError:
        return first if first == last else f"{first} to {last}", "", {}
    name = first if days[0] == days[1] else f"{first} to {last}"
    return "", name, {"first_day": first, "last_day": last}


def _is_same_place(alert: Alert, tags: Mapping[str, str]) -> bool:
    """Whether a run makes all the days that an alert speaks of."""
    if "first_day" not in alert.numbers:
        return not _place(tags)[2]
    days = (date.fromisoformat(str(alert.numbers[end])) for end in ("first_day", "last_day"))
    return all(is_covered(day, tags) for day in days)


def _events(
    instance: dg.DagsterInstance, run: dg.DagsterRun, *types: dg.DagsterEventType
) -> list[dg.DagsterEvent]:
    entries = instance.all_logs(run.run_id, of_type=set(types))
    return [entry.dagster_event for entry in entries if entry.dagster_event is not None]


def _reason(event: dg.DagsterEvent) -> str:
    """What a step failed with: the fault itself, not Dagster's wrapper around it."""
    errors = list(_errors(event))
    return errors[-1].message if errors else event.message or ""


def _brief(value: object) -> Number:
    return value if isinstance(value, int | float) else str(value)[:LONGEST_TEXT]


def _first_line(reasons: list[str]) -> str:
    lines = [line.strip() for reason in reasons for line in reason.splitlines() if line.strip()]
    return lines[0][:LONGEST_TEXT] if lines else "no reason was recorded."
