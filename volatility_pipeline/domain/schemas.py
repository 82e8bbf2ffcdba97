"""What every table holds: column order, DuckDB types, comments and a version, in one place.

Files carry the version; the feature store's views carry the comments; a stage whose SQL yields
anything else than what stands here fails before it writes. How the values come about is said in
`sql/`.
"""

from dataclasses import dataclass

WINDOWS = (30, 60, 300)


@dataclass(frozen=True)
class Column:
    """One column: its name, its DuckDB type as `describe` prints it, and what it is."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Table:
    """One table: its columns in order. `version` changes when a reader would have to."""

    name: str
    version: int
    comment: str
    columns: tuple[Column, ...]

    def empty_select(self) -> str:
        """A typed select of no rows."""
        fields = ", ".join(f'null::{column.type} as "{column.name}"' for column in self.columns)
        return f"select {fields} where false"


def _table(name: str, version: int, comment: str, *columns: tuple[str, str, str]) -> Table:
    return Table(name, version, comment, tuple(Column(*column) for column in columns))


def _window_columns(seconds: int) -> list[tuple[str, str, str]]:
    w = f"{seconds}s"
    return [
        (f"log_return_{w}", "DOUBLE", f"ln(mid now / mid {seconds} s ago)"),
        (
            f"realized_volatility_{w}",
            "DOUBLE",
            f"sample standard deviation of the last {seconds} one-second log returns",
        ),
        (f"price_velocity_{w}", "DOUBLE", "mean absolute change of the mid per second, in dollars"),
        (f"spread_mean_{w}", "DOUBLE", "mean spread over the ticks, in dollars; null with no tick"),
        (
            f"order_book_imbalance_{w}",
            "DOUBLE",
            "mean of bid size / (bid size + ask size), 0 to 1; null with no sizes",
        ),
        (f"trade_intensity_{w}", "BIGINT", "ticks in the window"),
        (f"volume_velocity_{w}", "DOUBLE", "traded size in the window; null where none is given"),
    ]


_KEY = [("product_id", "VARCHAR", "the market, like BTC-USD")]
_ROW = [
    *_KEY,
    (
        "ts",
        "TIMESTAMP",
        "decision time, UTC: the row is complete at this instant and knows nothing later",
    ),
]

TICKS = _table(
    "ticks",
    1,
    "one row per ticker update, duplicates dropped, in total order",
    *_KEY,
    ("event_time", "TIMESTAMP", "the exchange's clock where the message carries it, UTC"),
    ("capture_time", "TIMESTAMP", "the recorder's clock, UTC"),
    ("sequence", "BIGINT", "Advanced Trade: sequence_num of the connection; Exchange: sequence"),
    ("trade_id", "BIGINT", "Exchange: the match that caused the update"),
    ("price", "DOUBLE", "price of the last trade, in dollars"),
    ("best_bid", "DOUBLE", "best bid, in dollars"),
    ("best_ask", "DOUBLE", "best ask, in dollars"),
    ("bid_size", "DOUBLE", "size at the best bid, in units of the product"),
    ("ask_size", "DOUBLE", "size at the best ask, in units of the product"),
    ("last_size", "DOUBLE", "size of the last trade, in units of the product"),
    ("side", "VARCHAR", "side of the last trade"),
    ("volume_24h", "DOUBLE", "traded size of the last 24 hours"),
    ("segment", "VARCHAR", "the raw segment it was read from"),
    ("line", "BIGINT", "its line there, counted from 1"),
    ("item", "INTEGER", "its position in the message, counted from 0"),
)

QUARANTINE = _table(
    "quarantine",
    1,
    "one row per line, or ticker of a line, that could not be used",
    ("segment", "VARCHAR", "the raw segment"),
    ("line", "BIGINT", "the line there, counted from 1"),
    ("item", "INTEGER", "position in the message; null where the line itself is at fault"),
    (
        "reason",
        "VARCHAR",
        "not_json, no_product, no_time, bad_price, bad_quote, crossed or wrong_day",
    ),
    ("raw", "BLOB", "the line's bytes"),
)

BARS = _table(
    "bars",
    1,
    "one row per product and second whose newest tick is at most max_gap_seconds old at its end",
    *_KEY,
    ("second", "TIMESTAMP", "start of the bar [second, second + 1 s), UTC"),
    ("mid", "DOUBLE", "(bid + ask) / 2 of the newest tick, carried forward"),
    ("spread", "DOUBLE", "ask - bid of the newest tick, carried forward"),
    ("microprice", "DOUBLE", "size-weighted mid of the newest tick with sizes"),
    ("tick_count", "INTEGER", "ticks in the second"),
    ("spread_sum", "DECIMAL(38,10)", "sum of ask - bid over them"),
    ("imbalance_sum", "HUGEINT", "sum of round(1e12 * bid size / (bid size + ask size))"),
    ("imbalance_count", "INTEGER", "ticks in that sum"),
    ("volume", "DECIMAL(38,10)", "sum of last_size; null where no tick carries one"),
    ("seconds_since_tick", "INTEGER", "second minus the second of the newest tick"),
    ("continuous_seconds", "INTEGER", "bars of this run up to this one, at most 3601"),
)

FEATURES = _table(
    "features",
    1,
    "one row per product and second with 301 bars of one run behind it",
    *_ROW,
    *(column for seconds in WINDOWS for column in _window_columns(seconds)),
    ("mid", "DOUBLE", "mid of the last bar, in dollars"),
    ("realized_volatility_900s", "DOUBLE", "the same over 900 s; null until the run is that long"),
    ("realized_volatility_3600s", "DOUBLE", "the same over 3600 s; null until the run is so long"),
    ("spread_bps", "DOUBLE", "1e4 * spread / mid of the last bar"),
    ("microprice_gap_bps", "DOUBLE", "1e4 * (microprice / mid - 1) of the last bar"),
    ("seconds_since_tick", "INTEGER", "seconds since the newest tick, at the last bar"),
    ("time_of_day_sin", "DOUBLE", "sine of the time of day"),
    ("time_of_day_cos", "DOUBLE", "cosine of the time of day"),
)

LABELS = _table(
    "labels",
    1,
    "the features' rows again, with what happened in the 60 seconds after",
    *_ROW,
    ("future_volatility_60s", "DOUBLE", "realized volatility of the next 60 s; null if unknown"),
    (
        "trailing_threshold",
        "DOUBLE",
        "90th percentile of realized_volatility_60s at the whole minutes of the last 24 h",
    ),
)

SPLITS = _table(
    "splits",
    1,
    "labelled rows with their role: train, validation or test",
    *((column.name, column.type, column.comment) for column in FEATURES.columns),
    ("future_volatility_60s", "DOUBLE", "realized volatility of the next 60 s"),
    ("threshold", "DOUBLE", "the volatility that makes the row a spike, by the threshold policy"),
    ("is_spike", "BOOLEAN", "future volatility reached the threshold and was not zero"),
    ("role", "VARCHAR", "train, validation or test"),
)

PREDICTIONS = _table(
    "predictions",
    1,
    "what each product's champion answered, one row per decision time, with what then happened",
    *_ROW,
    ("probability", "DOUBLE", "calibrated probability that the next 60 s are a spike"),
    ("is_alert", "BOOLEAN", "the probability reached the decision threshold"),
    ("threshold", "DOUBLE", "the volatility that makes the row a spike, by the model's policy"),
    ("decision_threshold", "DOUBLE", "the probability from which on the model alerts"),
    ("model_name", "VARCHAR", "the rung that answered"),
    ("model_version", "VARCHAR", "its version in the product's registered model"),
    (
        "trained_until",
        "TIMESTAMP",
        "the newest row that the model has seen: it is fitted on training rows, calibrated and "
        "given its decision threshold on validation rows; this is the last of both",
    ),
    (
        "out_of_sample",
        "BOOLEAN",
        "ts is later than trained_until + 60 s + the embargo; performance counts these rows alone",
    ),
    ("future_volatility_60s", "DOUBLE", "realized volatility of the next 60 s; null if unknown"),
    ("is_spike", "BOOLEAN", "it reached the threshold and was not zero; null if unknown"),
)

ANSWERS = _table(
    "answers",
    1,
    "one row per answer that was given live, as it was logged",
    *_ROW,
    ("role", "VARCHAR", "champion, whose answer was given out, or challenger, asked beside it"),
    ("probability", "DOUBLE", "calibrated probability that the next 60 s are a spike"),
    ("threshold", "DOUBLE", "the volatility that makes the row a spike, by the model's policy"),
    ("decision_threshold", "DOUBLE", "the probability from which on the model alerts"),
    ("is_alert", "BOOLEAN", "the probability reached the decision threshold"),
    ("model_name", "VARCHAR", "the rung that answered"),
    ("model_version", "VARCHAR", "its version in the product's registered model"),
    ("trained_until", "TIMESTAMP", "the newest row that the model has seen, as in predictions"),
    ("realized_volatility_60s", "DOUBLE", "that of the minute before ts"),
    ("seconds_since_tick", "DOUBLE", "seconds since the newest tick, at the last bar"),
    ("answered_at", "TIMESTAMP", "when it was answered, UTC"),
)

PREDICTIONS_LIVE = _table(
    "predictions_live",
    1,
    "what champion and challenger answered live, one row per answer, with what then happened",
    *((column.name, column.type, column.comment) for column in ANSWERS.columns),
    ("future_volatility_60s", "DOUBLE", "realized volatility of the next 60 s; null if unknown"),
    ("is_spike", "BOOLEAN", "it reached the threshold and was not zero; null if unknown"),
)

_JUDGED = {
    "features": "columns of the day",
    "window": "columns of the last seven days",
    "predictions": "the distribution of probabilities",
    "quality": "shares of bad rows",
}

DRIFT = _table(
    "drift",
    1,
    "one row per product and judged day: how unusual it was, how its champion did, what to do",
    ("product_id", "VARCHAR", "the market, like BTC-USD"),
    ("day", "DATE", "the UTC day that was judged"),
    ("judged_at", "TIMESTAMP", "when that was"),
    ("champion_version", "VARCHAR", "the model whose days are the reference"),
    ("severity", "VARCHAR", "of drift: none, low, medium, high or insufficient"),
    ("performance", "VARCHAR", "holding, below_floor or insufficient"),
    ("action", "VARCHAR", "none, watch, retrain, retrain_now, mend or insufficient"),
    ("reasons", "VARCHAR", "why, in sentences"),
    ("reference_days", "INTEGER", "whole days of the reference"),
    ("widest_excess", "DOUBLE", "the widest effect, in times of its limit"),
    *(
        (f"{subject}_{severity}", "INTEGER", f"{about}: how many lie beyond what {severity} asks")
        for subject, about in _JUDGED.items()
        for severity in ("low", "medium", "high")
    ),
    ("rows", "BIGINT", "out-of-sample predictions of the day whose label is known"),
    ("base_rate", "DOUBLE", "share of spikes among them"),
    ("average_precision", "DOUBLE", "PR-AUC on them; null with too few spikes"),
    ("persistence", "DOUBLE", "that of persistence on the same rows"),
    ("brier", "DOUBLE", "mean squared error of the probabilities"),
    ("pooled_lift", "DOUBLE", "lift over the last days as one"),
    ("pooled_lift_high", "DOUBLE", "upper end of its 95 % interval"),
    ("pooled_gain", "DOUBLE", "PR-AUC minus persistence's over the last days as one"),
    ("pooled_gain_high", "DOUBLE", "upper end of its 95 % interval"),
)

TABLES = {
    table.name: table
    for table in (TICKS, QUARANTINE, BARS, FEATURES, LABELS, SPLITS, PREDICTIONS, DRIFT)
}
FEATURE_COLUMNS = tuple(
    column.name for column in FEATURES.columns if column.name not in ("product_id", "ts")
)
