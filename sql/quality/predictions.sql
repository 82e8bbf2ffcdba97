-- Quality of predictions: what the suite of predictions looks at.
-- Grain: one row per product and hour with a row.
-- Reads: predictions of a day, in the order of the file; $start, $end of the day.
with followed as (
    select
        *,
        lag(product_id) over () as previous_product,
        lag(ts) over () as previous_ts
    from predictions
)

select
    product_id,
    date_trunc('hour', ts) as "hour",
    count(*) as "rows",
    count(*) filter (
        where
        product_id is null or ts is null or probability is null or is_alert is null
        or threshold is null or decision_threshold is null or model_name is null
        or model_version is null or trained_until is null or out_of_sample is null
    ) as incomplete_rows,
    count(*) filter (
        where
        probability not between 0 and 1 or not isfinite(decision_threshold)
        or threshold < 0 or not isfinite(threshold)
        or is_alert != (probability >= decision_threshold)
        or (out_of_sample and ts <= trained_until)
        or (is_spike is null) != (future_volatility_60s is null)
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
