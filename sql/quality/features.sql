-- Quality of features: what the suite of features looks at.
-- Grain: one row per product and hour with a row.
-- Reads: features of a day, in the order of the file; $start, $end of the day.
with followed as (
    select
        *,
        lag(product_id) over () as previous_product,
        lag(ts) over () as previous_ts
    from features
)

select
    product_id,
    date_trunc('hour', ts) as "hour",
    count(*) as "rows",
    count(*) filter (
        where
        product_id is null or ts is null or mid is null
        or log_return_30s is null or log_return_60s is null or log_return_300s is null
        or realized_volatility_30s is null or realized_volatility_60s is null
        or realized_volatility_300s is null
        or price_velocity_30s is null or price_velocity_60s is null or price_velocity_300s is null
        or trade_intensity_30s is null or trade_intensity_60s is null
        or trade_intensity_300s is null
        or spread_bps is null or seconds_since_tick is null
        or time_of_day_sin is null or time_of_day_cos is null
    ) as incomplete_rows,
    count(*) filter (
        where
        mid <= 0 or spread_bps < 0 or microprice_gap_bps < -10000 or seconds_since_tick < 0
        or realized_volatility_30s < 0 or realized_volatility_60s < 0
        or realized_volatility_300s < 0 or realized_volatility_900s < 0
        or realized_volatility_3600s < 0
        or price_velocity_30s < 0 or price_velocity_60s < 0 or price_velocity_300s < 0
        or spread_mean_30s < 0 or spread_mean_60s < 0 or spread_mean_300s < 0
        or order_book_imbalance_30s not between 0 and 1
        or order_book_imbalance_60s not between 0 and 1
        or order_book_imbalance_300s not between 0 and 1
        or trade_intensity_30s < 0 or trade_intensity_60s < trade_intensity_30s
        or trade_intensity_300s < trade_intensity_60s
        or volume_velocity_30s < 0 or volume_velocity_60s < 0 or volume_velocity_300s < 0
        or abs(time_of_day_sin) > 1 or abs(time_of_day_cos) > 1
        or not isfinite(
            mid + spread_bps + coalesce(microprice_gap_bps, 0)
            + log_return_30s + log_return_60s + log_return_300s
            + realized_volatility_30s + realized_volatility_60s + realized_volatility_300s
            + coalesce(realized_volatility_900s, 0) + coalesce(realized_volatility_3600s, 0)
            + price_velocity_30s + price_velocity_60s + price_velocity_300s
            + coalesce(spread_mean_300s, 0) + coalesce(volume_velocity_300s, 0)
        )
        or ts != date_trunc('second', ts)
    ) as impossible_rows,
    count(*) filter (where ts < $start or ts >= $end) as strayed_rows,
    count(*) filter (
        where
        product_id < previous_product or (product_id = previous_product and ts < previous_ts)
    ) as misplaced_rows,
    count(*) filter (
        where product_id = previous_product and ts = previous_ts
    ) as repeated_rows
from followed
group by product_id, date_trunc('hour', ts)
order by product_id, "hour"
