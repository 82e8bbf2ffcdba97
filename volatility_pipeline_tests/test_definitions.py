"""The code location as Dagster and its UI see it."""

import subprocess
import sys

import dagster as dg
import pytest

from volatility_pipeline.assets.evaluation import CONTROLS
from volatility_pipeline.definitions import STAGES, defs
from volatility_pipeline.domain.reach import DATA_STAGES, REACH
from volatility_pipeline.jobs import DATA_GROUPS, MODEL_GROUPS
from volatility_pipeline.partitions import ASSETS


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    loaded = defs()
    dg.Definitions.validate_loadable(loaded)
    return loaded


def test_stages_stand_in_the_order_of_the_flow() -> None:
    assert tuple(STAGES) == (*DATA_GROUPS, *MODEL_GROUPS, "predictions", "drift")
    assert DATA_GROUPS == DATA_STAGES


def test_each_asset_tells_a_person_what_it_is(definitions: dg.Definitions) -> None:
    specs = definitions.resolve_all_asset_specs()
    assert {spec.key.path[-1]: spec.group_name for spec in specs} == {
        "raw_ticks": "raw",
        "ticks": "ticks",
        "quarantine": "ticks",
        "bars": "bars",
        "features": "features",
        "labels": "labels",
        "splits": "splits",
        "models": "models",
        "walk_forward": "evaluation",
        "evaluation": "evaluation",
        "champion": "evaluation",
        "predictions": "predictions",
        "drift": "drift",
    }
    for spec in specs:
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key


def test_data_stages_carry_the_hash_of_their_sql(definitions: dg.Definitions) -> None:
    specs = {spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs()}
    versions = [specs[ASSETS[stage]].code_version for stage in DATA_STAGES]
    assert all(versions)
    assert len(set(versions)) == len(versions)


def test_data_stages_share_one_backfill_policy_of_a_single_run(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    policies = {graph.get(dg.AssetKey(ASSETS[stage])).backfill_policy for stage in DATA_STAGES}
    assert policies == {dg.BackfillPolicy.single_run()}


def test_lineage_shows_how_far_each_stage_reaches(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    labels = graph.get(dg.AssetKey("labels"))
    mapping = labels.partition_mappings[dg.AssetKey("bars")]
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert (mapping.start_offset, mapping.end_offset) == (-1, 1)
    for stage, reach in REACH.items():
        parents = {key.path[-1] for key in graph.get(dg.AssetKey(ASSETS[stage])).parent_keys}
        assert parents == {ASSETS[source] for source in reach.offsets}


def test_checks_that_guard_a_later_stage_block(definitions: dg.Definitions) -> None:
    specs = [spec for check in definitions.asset_checks or [] for spec in check.check_specs]
    assert {(spec.asset_key.path[-1], spec.name, spec.blocking) for spec in specs} == {
        ("ticks", "ticks_books_balance", True),
        ("ticks", "ticks_are_recent", False),
        ("features", "features_span_no_silence", True),
        ("labels", "labels_horizon_complete", True),
        ("splits", "splits_do_not_overlap", True),
        ("features", "features_know_the_past_alone", True),
        ("labels", "labels_are_of_feature_rows", True),
        ("quarantine", "quarantine_expectations", False),
        *(
            (table, f"{table}_expectations", True)
            for table in ("ticks", "bars", "features", "labels", "predictions")
        ),
    }


def test_controls_stand_as_checks_beside_the_evaluation(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    keys = graph.get_check_keys_for_assets({dg.AssetKey("evaluation")})
    assert {key.name for key in keys} == set(CONTROLS)


def test_each_check_tells_a_person_what_it_is(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get_check_spec(key).description, key


def test_today_is_a_partition_and_tomorrow_is_none() -> None:
    from datetime import UTC, datetime, timedelta

    from volatility_pipeline.partitions import is_partition

    today = datetime.now(UTC).date()
    assert is_partition(today)
    assert not is_partition(today + timedelta(days=1))


def test_loading_the_code_location_imports_no_heavy_library() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from volatility_pipeline.definitions import defs; defs()\n"
        "heavy = {'mlflow', 'dagster_mlflow', 'evidently', 'great_expectations', 'sklearn',"
        " 'xgboost', 'matplotlib', 'pandas',"
        " 'duckdb', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
