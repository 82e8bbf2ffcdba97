"""The opponent in polars: the features and labels of DESIGN, section 4, from the same raw file.

Written as a good user of polars would: a lazy query, only the needed fields of the file, bars of a
second first, rolling windows over those. It may do less than `sql/` does: what a number or a time
looks like is not checked and nothing is quarantined, other shapes and the days around are left out,
ticks and bars are not kept, and as every line here carries sizes and none a traded size, it need
not follow the newest tick with sizes, nor sum volumes. `write_ticks_too` keeps the ticks as well.
"""

import math

import polars as pl

from volatility_pipeline.domain.schemas import FEATURES, LABELS

WINDOWS = (30, 60, 300)
LONG_WINDOWS = (900, 3600)
SECOND = pl.duration(seconds=1)
MAX_GAP = 30 * SECOND
COLUMNS = list(dict.fromkeys(column.name for column in (*FEATURES.columns, *LABELS.columns)))
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "timestamp": pl.String,
    "product_id": pl.String,
    "price": pl.String,
    "volume_24h": pl.String,
    "best_bid": pl.String,
    "best_ask": pl.String,
    "raw": pl.Struct({"best_bid_quantity": pl.String, "best_ask_quantity": pl.String}),
}
ALIKE = ("product_id", "time", "price", "best_bid", "best_ask", "bid_size", "ask_size")


def write_features(source: str, target: str) -> None:
    """Reads raw lines and writes features and labels side by side to a Parquet file."""
    _write_rows(ticks(source), target)


def write_ticks_too(source: str, target: str) -> None:
    """The same, and the ticks with all that the lines hold of them to a Parquet file beside it."""
    volume = pl.col("volume_24h").cast(pl.Float64)
    line = pl.int_range(1, pl.len() + 1).alias("line")
    kept = ticks(source, volume, line).collect(engine="in-memory")
    kept.write_parquet(f"{target}.ticks", compression="zstd")
    _write_rows(kept.lazy(), target)


def _write_rows(ticks: pl.LazyFrame, target: str) -> None:
    # Collected in between, as the query would read the file twice if it were left whole.
    seconds = ticked_seconds(ticks).collect(engine="in-memory")
    rows = labels(features(bars(seconds.lazy()))).sort("product_id", "ts").select(COLUMNS)
    rows.collect(engine="in-memory").write_parquet(target, compression="zstd")


def ticks(source: str, *more: pl.Expr) -> pl.LazyFrame:
    """Ticks without duplicates, in time order."""
    sizes = pl.col("raw").struct
    return (
        pl.scan_ndjson(source, schema=SCHEMA)
        .select(
            "product_id",
            pl.col("timestamp")
            .str.to_datetime("%Y-%m-%dT%H:%M:%S%.6f", time_unit="us")
            .alias("time"),
            pl.col("price", "best_bid", "best_ask").cast(pl.Float64),
            sizes.field("best_bid_quantity").cast(pl.Float64).alias("bid_size"),
            sizes.field("best_ask_quantity").cast(pl.Float64).alias("ask_size"),
            *more,
        )
        .unique(ALIKE, keep="first", maintain_order=True)
        .sort("product_id", "time", maintain_order=True)
    )


def ticked_seconds(ticks: pl.LazyFrame) -> pl.LazyFrame:
    """One row per second with ticks, its run numbered."""
    bid, ask, bid_size, ask_size = map(pl.col, ("best_bid", "best_ask", "bid_size", "ask_size"))
    imbalance = bid_size / (bid_size + ask_size)
    spread = (ask - bid).round(8)
    silence = pl.col("first_time") - pl.col("last_time").shift(1)
    return (
        ticks.group_by("product_id", pl.col("time").dt.truncate("1s").alias("second"))
        .agg(
            pl.col("time").first().alias("first_time"),
            pl.col("time").last().alias("last_time"),
            ((bid + ask) / 2).last().alias("mid"),
            spread.last().alias("spread"),
            (bid + (ask - bid) * imbalance).last().alias("microprice"),
            pl.len().cast(pl.Int64).alias("tick_count"),
            spread.sum().alias("spread_sum"),
            imbalance.sum().alias("imbalance_sum"),
            imbalance.count().cast(pl.Int64).alias("imbalance_count"),
        )
        .sort("product_id", "second")
        .with_columns(
            (silence > MAX_GAP).fill_null(False).cum_sum().over("product_id").alias("run"),
            pl.col("second").alias("tick_second"),
        )
    )


def bars(ticked_seconds: pl.LazyFrame) -> pl.LazyFrame:
    """One row per second of a run, the newest tick carried forward."""
    first, last = pl.col("second").min(), pl.col("second").max() + MAX_GAP
    seconds = (
        ticked_seconds.group_by("product_id")
        .agg(pl.datetime_range(first, last, "1s").alias("second"))
        .explode("second")
    )
    carried = ("run", "tick_second", "last_time", "mid", "spread", "microprice")
    return (
        seconds.join(ticked_seconds, on=["product_id", "second"], how="left", maintain_order="left")
        .with_columns(
            pl.col(carried).forward_fill().over("product_id"),
            pl.col("tick_count", "spread_sum", "imbalance_sum", "imbalance_count").fill_null(0),
        )
        .filter(pl.col("last_time") + MAX_GAP >= pl.col("second") + SECOND)
    )


def features(bars: pl.LazyFrame) -> pl.LazyFrame:
    """What is known at `ts`, the end of a bar with 301 bars of its run behind it.

    Windows roll over all rows at once, which is much faster than one run at a time: those that
    reach into another run belong to rows without enough bars behind them, and are dropped.
    """
    mid = pl.col("mid")
    run_start = pl.col("second").first().over("product_id", "run")
    moved = bars.with_columns(
        (mid / mid.shift(1)).log().fill_null(0).alias("x"),
        mid.diff().abs().fill_null(0).alias("step"),
        ((pl.col("second") - run_start).dt.total_seconds() + 1).alias("continuous_seconds"),
        pl.col("tick_second").last().over("product_id", "run").alias("last_tick_second"),
        (pl.col("second") + SECOND).alias("ts"),
    )
    seconds_of_day = (pl.col("ts") - pl.col("ts").dt.truncate("1d")).dt.total_seconds()
    angle = seconds_of_day * (2 * math.pi / 86_400)
    return moved.with_columns(
        *(column for seconds in WINDOWS for column in _window(seconds)),
        *(
            pl.when(pl.col("continuous_seconds") > seconds)
            .then(pl.col("x").rolling_std(seconds))
            .alias(f"realized_volatility_{seconds}s")
            for seconds in LONG_WINDOWS
        ),
        (1e4 * pl.col("spread") / mid).alias("spread_bps"),
        (1e4 * (pl.col("microprice") / mid - 1)).alias("microprice_gap_bps"),
        (pl.col("second") - pl.col("tick_second")).dt.total_seconds().alias("seconds_since_tick"),
        angle.sin().alias("time_of_day_sin"),
        angle.cos().alias("time_of_day_cos"),
    )


def _window(seconds: int) -> list[pl.Expr]:
    def total(name: str) -> pl.Expr:
        return pl.col(name).rolling_sum(seconds)

    def mean(name: str, count: str) -> pl.Expr:
        return pl.when(total(count) > 0).then(total(name) / total(count))

    mid = pl.col("mid")
    return [
        (mid / mid.shift(seconds)).log().alias(f"log_return_{seconds}s"),
        pl.col("x").rolling_std(seconds).alias(f"realized_volatility_{seconds}s"),
        pl.col("step").rolling_mean(seconds).alias(f"price_velocity_{seconds}s"),
        mean("spread_sum", "tick_count").alias(f"spread_mean_{seconds}s"),
        mean("imbalance_sum", "imbalance_count").alias(f"order_book_imbalance_{seconds}s"),
        total("tick_count").alias(f"trade_intensity_{seconds}s"),
        pl.lit(None, pl.Float64).alias(f"volume_velocity_{seconds}s"),
    ]


def labels(features: pl.LazyFrame) -> pl.LazyFrame:
    """The day's rows, with the volatility to come and the trailing threshold beside them."""
    volatility = pl.col("realized_volatility_60s")
    # A tick of this run a minute ahead also means that its bars go on that far.
    is_followed = pl.col("last_tick_second") >= pl.col("second") + 60 * SECOND
    midnight = pl.col("second").first().dt.truncate("1d") + 86_400 * SECOND
    rows = features.with_columns(
        pl.when(is_followed).then(volatility.shift(-60)).alias("future_volatility_60s"),
        pl.col("ts").dt.truncate("1m").alias("minute"),
    ).filter(pl.col("continuous_seconds") > max(WINDOWS), pl.col("ts") < midnight)
    threshold = volatility.rolling_quantile_by(
        "minute", "24h", quantile=0.9, interpolation="linear", min_samples=60
    )
    minutes = (
        rows.group_by("product_id", "minute")
        .agg(volatility.filter(pl.col("ts") == pl.col("minute")).first())
        .sort("product_id", "minute")
        .with_columns(threshold.over("product_id").alias("trailing_threshold"))
        .drop("realized_volatility_60s")
    )
    return rows.join(minutes, on=["product_id", "minute"], how="left")
