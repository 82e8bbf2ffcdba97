"""What ages: champions, the feed and the pipeline itself raise one alert each, and recover."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from volatility_pipeline import timing
from volatility_pipeline.checks.ticks import ticks_are_recent
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.jobs import REASON, TRAIN
from volatility_pipeline.resources.alerts import Alerts
from volatility_pipeline.resources.champions import Champions
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.tracking import Tracking
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline.schedules import retrain_daily, retrain_weekly
from volatility_pipeline.sensors.upkeep import upkeep_sensor
from volatility_pipeline_tests.registered_models import appoint, champions, register
from volatility_pipeline_tests.tick_lake import built_lake, tick, walk, write_ticks

PRODUCT = "BTC-USD"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of a few hours long ago, with a champion that was registered now."""
    root = tmp_path_factory.mktemp("upkeep")
    built_lake(root, walk("2026-04-04 00:00:00", 3 * 3600, seed=1))
    register(root, PRODUCT, ["persistence"], policy="training")
    appoint(root, PRODUCT, "persistence")
    return root


def look(
    root: Path, alerts: Alerts, instance: dg.DagsterInstance, *, model_days: float = 30
) -> None:
    registry = champions(root)
    context = dg.build_sensor_context(
        instance=instance,
        resources={
            "alerts": alerts,
            "champions": Champions(registry.lake, registry.tracking, model_days),
            "warehouse": Warehouse(Lake(root)),
        },
    )
    assert isinstance(upkeep_sensor(context), dg.SkipReason)


def kinds(alerts: Alerts) -> list[tuple[str, str]]:
    return sorted((entry.alert.kind, entry.alert.product) for entry in alerts.open())


def test_silent_feed_is_one_alert_that_ends_with_the_next_tick(root: Path, tmp_path: Path) -> None:
    alerts = Alerts(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        look(root, alerts, instance)
        assert kinds(alerts) == [("stale_feed", PRODUCT)]  # and none for what was never recorded
        (entry,) = alerts.open()
        assert "The newest tick is of 2026-04-04 02:59:" in entry.alert.title
        look(root, alerts, instance)
        assert len(alerts.history()) == 1
        now = datetime.now(UTC).replace(tzinfo=None)
        write_ticks(Lake(root), [tick(now - timedelta(minutes=2))])
        try:
            look(root, alerts, instance)
        finally:
            for path in Lake(root).root.joinpath("ticks").glob(f"date={now.date()}*"):
                path.unlink()
        assert kinds(alerts) == []
        assert alerts.history()[0].alert.is_recovery


def test_stale_champion_is_told_until_there_is_a_younger_one(root: Path, tmp_path: Path) -> None:
    alerts = Alerts(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        look(root, alerts, instance, model_days=1e-9)
        assert ("stale_champion", PRODUCT) in kinds(alerts)
        (entry,) = [e for e in alerts.open() if e.alert.kind == "stale_champion"]
        assert "STALE" in entry.alert.title
        look(root, alerts, instance)
        assert ("stale_champion", PRODUCT) not in kinds(alerts)


def test_pipeline_that_does_not_run_is_told_and_ends_with_a_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = Alerts(tmp_path)
    job, other = (dg.GraphDefinition(name=name).to_job() for name in ("update", "watch"))
    with dg.DagsterInstance.ephemeral() as instance:
        look(root, alerts, instance)
        assert ("no_run", "") not in kinds(alerts)  # nothing ever ran: nothing has stopped
        assert other.execute_in_process(instance=instance).success
        with monkeypatch.context() as patched:
            patched.setattr(timing, "RUN_AGE", timedelta(seconds=-60))
            look(root, alerts, instance)
        assert ("no_run", "") not in kinds(alerts)  # it makes nothing that is missed
        assert job.execute_in_process(instance=instance).success
        with monkeypatch.context() as patched:
            patched.setattr(timing, "RUN_AGE", timedelta(seconds=-60))
            look(root, alerts, instance)
        assert ("no_run", "") in kinds(alerts)
        look(root, alerts, instance)
        assert ("no_run", "") not in kinds(alerts)


def test_broken_registry_silences_nothing_else(root: Path, tmp_path: Path) -> None:
    registry = tmp_path / "garbage.db"
    registry.write_text("no database " * 500)
    broken = Champions(Lake(root), Tracking(f"sqlite:///{registry}", str(tmp_path)))
    with pytest.raises(BadInputError, match="MLflow does not do what is asked"):
        broken.find(PRODUCT)
    alerts = Alerts(tmp_path)
    resources = {"alerts": alerts, "champions": broken, "warehouse": Warehouse(Lake(root))}
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources=resources)
        upkeep_sensor(context)
    assert kinds(alerts) == [("stale_feed", PRODUCT)]
    assert context.cursor is not None  # old runs were deleted


def test_newest_tick_is_found_however_long_ago_it_was(root: Path) -> None:
    assert Warehouse(Lake(root)).newest_tick("DOGE-USD") is None
    later = [datetime(2026, 4, day, 12) for day in (6, 7, 8)]  # noqa: DTZ001
    for at in later:
        write_ticks(Lake(root), [tick(at, product_id="SOL-USD")])
    try:
        newest = Warehouse(Lake(root)).newest_tick(PRODUCT)
    finally:
        for at in later:
            for path in root.joinpath("ticks").glob(f"date={at.date()}*"):
                path.unlink()
    assert newest is not None
    assert newest.date() == date(2026, 4, 4)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [(retrain_weekly, "the weekly schedule"), (retrain_daily, "the daily schedule")],
)
def test_schedules_train_what_was_trained_before_under_its_champion_s_policy_and_say_why(
    root: Path, tmp_path: Path, schedule: dg.ScheduleDefinition, reason: str
) -> None:
    lake = Lake(shutil.copytree(root / "splits", tmp_path / "splits").parent)
    tried = {**(lake.record("splits", PRODUCT) or {}), "policy": "trailing"}
    lake.write_record("splits", PRODUCT, tried)  # by hand, since then
    without = champions(tmp_path)
    for registry, policy in (
        (replace(champions(root), lake=lake), "training"),
        (without, "trailing"),
    ):
        with dg.DagsterInstance.ephemeral() as instance:
            resources = {"champions": registry}
            context = dg.build_schedule_context(instance=instance, resources=resources)
            (request,) = schedule(context)
        assert schedule.job_name == TRAIN.name
        assert request.partition_key == PRODUCT
        assert request.tags[REASON] == reason
        config = {"splits": {"config": {"threshold_policy": policy}}}
        assert request.run_config == {"ops": config}


def test_nothing_starts_by_itself_unless_it_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from volatility_pipeline.definitions import defs

    repository = defs().get_repository_def()
    assert {s.name: s.default_status.value for s in repository.sensor_defs} == {
        "landed_files_sensor": "STOPPED",
        "drift_sensor": "STOPPED",
        "upkeep_sensor": "STOPPED",
        "run_failures_sensor": "STOPPED",
    }
    assert {s.name: s.default_status.value for s in repository.schedule_defs} == {
        "retrain_weekly": "STOPPED",
        "retrain_daily": "STOPPED",
    }


@pytest.mark.parametrize(("minutes", "is_recent"), [(2, True), (40, False)])
def test_feed_s_age_is_a_check_that_warns(tmp_path: Path, minutes: int, is_recent: bool) -> None:
    lake = Lake(tmp_path)
    now = datetime.now(UTC).replace(tzinfo=None)
    old = tick(now - timedelta(minutes=minutes))
    write_ticks(lake, [old, tick(now, product_id="SOL-USD")])
    job = dg.define_asset_job("look", dg.AssetSelection.checks(ticks_are_recent))
    definitions = dg.Definitions(
        assets=[dg.AssetSpec("ticks")],
        asset_checks=[ticks_are_recent],
        jobs=[job],
        resources={"warehouse": Warehouse(lake)},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("look").execute_in_process(instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert result.success
    assert evaluation.passed is is_recent
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert list(evaluation.metadata) == ["newest BTC-USD"]
