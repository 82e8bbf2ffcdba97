"""Whether the opponent computed the same: polars' columns beside the pipeline's, row by row."""

from pathlib import Path

import duckdb

from volatility_pipeline.domain.schemas import FEATURES, LABELS

RELATIVE = 1e-9
ABSOLUTE = 1e-14
# Differences of numbers that are nearly equal: the doubles of a price end at 1e-11 dollars, those
# of a ratio near 1 at 1e-16, of which a basis point is 1e4.
ABSOLUTE_OF = {
    "price_velocity_30s": 1e-10,
    "price_velocity_60s": 1e-10,
    "price_velocity_300s": 1e-10,
    "microprice_gap_bps": 1e-11,
}


def disagreements(root: str, day: str, polars_file: str) -> dict[str, int]:
    """Compares all features and labels of a day, nulls included.

    Returns:
        For each column the rows at odds; under `ts` those that only one of the two has.
    """
    with duckdb.connect() as connection:
        for stage in ("features", "labels"):
            path = Path(root) / stage / f"date={day}.parquet"
            connection.read_parquet(str(path)).create_view(stage)
        connection.read_parquet(polars_file).create_view("theirs")
        connection.execute(
            "create view ours as select * from features inner join labels using (product_id, ts)"
        )
        names = [row[0] for row in connection.execute("describe ours").fetchall()]
        known = {column.name for column in (*FEATURES.columns, *LABELS.columns)}
        if set(names) != known:
            raise ValueError(f"compared {sorted(names)}, not {sorted(known)}")
        faults = ", ".join(
            f'count(*) filter ({_is_fault(name)}) as "{name}"'
            for name in names
            if name not in ("product_id", "ts")
        )
        found = connection.execute(
            f"select count(*) filter (ours.ts is null or theirs.ts is null) as ts, {faults} "
            "from ours full join theirs using (product_id, ts)"
        )
        columns = [column[0] for column in found.description or ()]
        return dict(zip(columns, found.fetchone() or (), strict=True))


def _is_fault(name: str) -> str:
    ours, theirs = f'ours."{name}"', f'theirs."{name}"'
    bound = ABSOLUTE_OF.get(name, ABSOLUTE)
    return (
        f"({ours} is null) != ({theirs} is null) or "
        f"not abs({ours} - {theirs}) <= greatest({bound}, {RELATIVE} * abs({ours}))"
    )
