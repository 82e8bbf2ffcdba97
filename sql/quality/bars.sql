-- Quality of bars: what the suite of bars looks at.
-- Grain: one row per product and hour with a bar.
-- Reads: bars of a day, in the order of the file; $start, $end of the day, $max_gap_seconds.
with followed as (
    select
        *,
        lag(product_id) over () as previous_product,
        lag("second") over () as previous_second
    from bars
)

select
    product_id,
    date_trunc('hour', "second") as "hour",
    count(*) as "rows",
    count(*) filter (
        where
        product_id is null or "second" is null or mid is null or spread is null
        or tick_count is null or spread_sum is null or imbalance_sum is null
        or imbalance_count is null or seconds_since_tick is null or continuous_seconds is null
    ) as incomplete_rows,
    count(*) filter (
        where
        mid <= 0 or spread < 0 or microprice <= 0 or volume < 0
        or not isfinite(mid + spread + coalesce(microprice, 0))
        or tick_count < 0 or spread_sum < 0 or imbalance_count < 0 or imbalance_count > tick_count
        or imbalance_sum < 0 or imbalance_sum > 1000000000000 * imbalance_count::hugeint
        or (tick_count > 0) != (seconds_since_tick = 0)
        or seconds_since_tick < 0 or seconds_since_tick > $max_gap_seconds
        or continuous_seconds < 1 or continuous_seconds > 3601
        or "second" != date_trunc('second', "second")
    ) as impossible_rows,
    count(*) filter (where "second" < $start or "second" >= $end) as strayed_rows,
    count(*) filter (
        where
        product_id < previous_product
        or (product_id = previous_product and "second" < previous_second)
    ) as misplaced_rows,
    count(*) filter (
        where product_id = previous_product and "second" = previous_second
    ) as repeated_rows
from followed
group by product_id, date_trunc('hour', "second")
order by product_id, "hour"
