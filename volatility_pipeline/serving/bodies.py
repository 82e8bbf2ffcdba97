"""What requests and answers of the API hold, as pydantic models; OpenAPI is made from them.

A row's fields are the champion's inputs, which are the same for every champion: one with others is
not loaded (`Champions.load`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.schemas import FEATURES

MOST_ROWS = 1000

# Prices are decimal(28,10): what lies between 1e-10 and 1e18.
RANGES: dict[str, tuple[float, float, float]] = {
    "log_return_": (-100, 100, 2e-05),
    "realized_volatility_": (0, 100, 5e-05),
    "price_velocity_": (0, 1e18, 1.5),
    "spread_mean_": (0, 1e18, 0.01),
    "order_book_imbalance_": (0, 1, 0.5),
    "trade_intensity_": (0, 1e12, 120),
    "volume_velocity_": (0, 1e28, 1.25),
    "mid": (1e-10, 1e18, 85000.0),
    "spread_bps": (0, 20_000, 0.001),
    "microprice_gap_bps": (-10_000, 1e12, 0.0002),
    "seconds_since_tick": (0, 3600, 0),
    "time_of_day_": (-1, 1, 0.7),
    "threshold": (0, 100, 0.0001),
}
"""By the beginning of a column's name, what a value can be, wider than any market, and one that is
usual."""

NULLABLE = (
    "spread_mean_",
    "order_book_imbalance_",
    "volume_velocity_",
    "microprice_gap_bps",
    "realized_volatility_900s",
    "realized_volatility_3600s",
)
"""The beginnings of the columns that are null where there is nothing to tell, as in the table
`features` (`sql/quality/features.sql` holds the table to it)."""

Product = Annotated[str, Field(max_length=40, examples=["BTC-USD"])]


class RowBase(BaseModel):
    """One row of features, as the table `features` has it. Null is missing; there is no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, title="FeatureRow")

    product: Product


class RowsBase(BaseModel):
    """One or many rows, of one product or of several."""

    model_config = ConfigDict(extra="forbid", strict=True, title="FeatureRows")

    rows: Sequence[RowBase]


def rows_model(columns: Sequence[str]) -> type[RowsBase]:
    """Return the model of one or many rows with these inputs of a champion."""
    rows: Any = list[row_model(columns)]  # type: ignore[misc]
    bound = Field(min_length=1, max_length=MOST_ROWS)
    made: type[RowsBase] = create_model(
        "FeatureRows", __base__=RowsBase, rows=(Annotated[rows, bound], ...)
    )
    return made


def row_model(columns: Sequence[str]) -> type[RowBase]:
    """Return the model of a row with these inputs of a champion.

    All are required; `threshold`, the volatility that makes a spike, may be left out or null, and
    is then the live one. Whole numbers may be written as such.
    """
    comments = {column.name: column.comment for column in FEATURES.columns}
    fields: dict[str, Any] = {}
    for name in columns:
        low, high, example = next(
            values for start, values in RANGES.items() if name.startswith(start)
        )
        number: Any = Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]
        about = comments.get(name, "the volatility that makes the row a spike")
        if name == "threshold" or name.startswith(NULLABLE):
            number = number | None
        default = None if name == "threshold" else ...
        fields[name] = (number, Field(default, description=about, examples=[example]))
    made: type[RowBase] = create_model("FeatureRow", __base__=RowBase, **fields)
    return made


if TYPE_CHECKING:
    FeatureRows = RowsBase
else:
    FeatureRows = rows_model(MODEL_INPUTS)


EXAMPLE = {
    "rows": [
        {
            name: (about.examples or [None])[0]
            for name, about in row_model(MODEL_INPUTS).model_fields.items()
        }
    ]
}
"""A body of `POST /predict`."""


class Prediction(BaseModel):
    """What a product's champion says of a row."""

    product: str = Field(examples=["BTC-USD"])
    probability: float = Field(
        description="calibrated, that the next 60 s are a spike", examples=[0.07]
    )
    threshold: float = Field(
        description="the volatility per second that makes them a spike", examples=[1e-4]
    )
    decision_threshold: float = Field(
        description="the probability from which on it is an alert", examples=[0.19]
    )
    is_alert: bool
    model: str = Field(description="the rung of the ladder that answers", examples=["xgboost"])
    version: str = Field(description="its version in the registry", examples=["24"])


class Predictions(BaseModel):
    """One for each row, in the rows' order."""

    predictions: list[Prediction]


class Live(Prediction):
    """The newest of them, about the live features."""

    ts: datetime = Field(description="decision time, UTC: the row knows nothing later")
    age_seconds: float = Field(description="how long ago that is")
    realized_volatility_60s: float | None = Field(description="of the minute before it, per second")
    seconds_since_tick: float | None = Field(description="age of the newest tick then")
    is_threshold_whole: bool = Field(
        description="false while minutes behind the threshold are not known"
    )
    trained_on: str = Field(description="`recorded` or `simulated` data")


class Point(BaseModel):
    """One decision time of a product's history."""

    ts: datetime
    probability: float
    threshold: float
    decision_threshold: float
    is_alert: bool
    realized_volatility_60s: float | None
    model: str
    version: str


class History(BaseModel):
    """What was answered live, in time order; a second without an answer is absent."""

    product: str
    points: list[Point]


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str = Field(examples=["BTC-USD: the newest row is 42 s old; 10 s are allowed."])
    reason: str | None = Field(
        default=None, description="the same, for programs", examples=["stale"]
    )
    age_seconds: float | None = Field(
        default=None, description="where the newest row is too old", examples=[42.0]
    )


class State(BaseModel):
    """A product as the page shows it: its newest prediction, or why there is none."""

    product: str
    live: Live | None
    refusal: Refusal | None
    model_trouble: str | None = Field(description="why the newest reload failed; the old one stays")


class Health(BaseModel):
    """That the process answers; whether it answers well is `/ready`."""

    status: Literal["alive"]


class ProductReady(BaseModel):
    """Whether a product's predictions are to be had."""

    model_loaded: bool
    version: str | None
    model_trouble: str | None = Field(description="why the newest reload failed; the old one stays")
    data_fresh: bool
    data_trouble: str | None
    age_seconds: float | None


class Ready(BaseModel):
    """Ready is: a model is loaded, and each product with one has fresh data, if any is to come."""

    ready: bool
    model_loaded: bool
    data_fresh: bool
    source: str | None = Field(description="where live rows come from, and what is wrong with it")
    products: dict[str, ProductReady]


class ServedVersion(BaseModel):
    """A model that answers."""

    model: str
    version: str
    sha256: str
    trained_until: str
    trained_on: str
    policy: str
    challenger: str | None = Field(description="the version that is asked beside it, for the log")


class Version(BaseModel):
    """What runs here."""

    version: str
    python: str
    started_at: datetime
    models: dict[str, ServedVersion | None]
