"""What was answered live, as it was logged: where it lies, and two versions of it side by side.

Writing the log is `serving/answer_log`; what its columns are is said in `domain/schemas`, how an
answer gets its label in `sql/65_predictions_live.sql`, and what is measured in `domain/shadow`.
"""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.schemas import ANSWERS, LABELS, PREDICTIONS_LIVE
from volatility_pipeline.domain.splits import EMBARGO_SECONDS, HORIZON_SECONDS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.warehouse import connect, create_view, sql_text

if TYPE_CHECKING:
    import pandas as pd

    from volatility_pipeline.domain.shadow import Shadow
    from volatility_pipeline.resources.champions import Champions
    from volatility_pipeline.resources.served_model import ServedModel

FOLDER = PREDICTIONS_LIVE.name
SQL_FILE = "65_predictions_live.sql"
SHADOW_SQL = "66_shadow.sql"
SHADOW_DAYS = 7
"""How many of the newest days with answers a comparison looks at."""


def files(lake: Lake, first: date = date.min) -> list[Path]:
    """The committed files about rows of a day or later, in order of their days."""
    return [
        path
        for path in sorted((lake.root / FOLDER).glob("date=*/answers-*.parquet"))
        if _day(path) >= first
    ]


def shadow(champions: "Champions", product: str) -> "Shadow | None":
    """Compares the champion with the challenger that is asked beside it now.

    Counted are rows of the newest days that neither model was fitted on, whoever of the two was
    champion when it answered.

    Returns:
        None where the product has no champion or no challenger beside it, or one of them does not
        say what it was made from.
    """
    from volatility_pipeline.domain.shadow import compare
    from volatility_pipeline.resources.champions import CHALLENGER, CHAMPION
    from volatility_pipeline.resources.training import SEED

    aliases = champions.tracking.aliases(product)
    versions = [aliases.get(CHAMPION), aliases.get(CHALLENGER)]
    if None in versions or versions[0] == versions[1]:
        return None
    try:
        served = [champions.find(product, version) for version in versions]
    except BadInputError:
        return None
    champion, challenger = (model for model in served if model is not None)
    return compare(
        _rows(champions.lake, champion, challenger),
        champion=champion.title,
        challenger=challenger.title,
        decision_thresholds=(champion.decision_threshold, challenger.decision_threshold),
        product=product,
        policy=champion.policy,
        seed=SEED,
    )


def _rows(lake: Lake, champion: "ServedModel", challenger: "ServedModel") -> "pd.DataFrame":
    """What `sql/66_shadow.sql` tells of two versions."""
    known = max(datetime.fromisoformat(model.fitted_until) for model in (champion, challenger))
    start = known + timedelta(seconds=HORIZON_SECONDS + EMBARGO_SECONDS)
    answers = files(lake, start.date())
    if answers:
        first = _day(answers[-1]) - timedelta(days=SHADOW_DAYS - 1)
        start = max(start, datetime(first.year, first.month, first.day))  # noqa: DTZ001 naive UTC
        answers = [path for path in answers if _day(path) >= start.date()]
    labels = [lake.file(LABELS.name, day) for day in lake.days(LABELS.name) if day >= start.date()]
    with connect() as connection:
        create_view(connection, ANSWERS, answers)
        create_view(connection, LABELS, labels)
        connection.execute(f"create view {FOLDER} as {sql_text(SQL_FILE)}")
        found = connection.sql(
            sql_text(SHADOW_SQL),
            params={
                "product": champion.product,
                "champion": champion.version,
                "champion_until": champion.fitted_until,
                "challenger": challenger.version,
                "challenger_until": challenger.fitted_until,
                "start": start,
            },
        )
        rows: pd.DataFrame = found.to_arrow_table().to_pandas()
    return rows


def _day(path: Path) -> date:
    return date.fromisoformat(path.parent.name.removeprefix("date="))
