-- Quality of labels: what the suite of labels looks at.
-- Grain: one row per product and hour with a row.
-- Reads: labels of a day, in the order of the file; $start, $end of the day.
with followed as (
    select
        *,
        lag(product_id) over () as previous_product,
        lag(ts) over () as previous_ts
    from labels
)

select
    product_id,
    date_trunc('hour', ts) as "hour",
    count(*) as "rows",
    count(*) filter (where product_id is null or ts is null) as incomplete_rows,
    count(*) filter (
        where
        future_volatility_60s < 0 or trailing_threshold < 0
        or not isfinite(coalesce(future_volatility_60s, 0) + coalesce(trailing_threshold, 0))
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
