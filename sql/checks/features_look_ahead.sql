-- Feature rows that do not say what the bars before them say: a row at ts knows the bar at
-- ts - 1 s and earlier ones, and nothing else.
-- Reads: features of a day and the bars of the day and the day before; $start, $end of the day.
with known as (
    select
        product_id,
        "second" + interval 1 second as ts,
        mid,
        seconds_since_tick,
        ln(mid / lag(mid, 30) over in_time) as log_return_30s,
        ln(mid / lag(mid, 60) over in_time) as log_return_60s,
        ln(mid / lag(mid, 300) over in_time) as log_return_300s,
        sum(tick_count) over (in_time rows 29 preceding) as trade_intensity_30s,
        sum(tick_count) over (in_time rows 59 preceding) as trade_intensity_60s,
        sum(tick_count) over (in_time rows 299 preceding) as trade_intensity_300s
    from bars
    where "second" >= $start - interval 302 seconds and "second" < $end
    window in_time as (partition by product_id order by "second")
)

select
    features.product_id,
    features.ts
from features
left join known on features.product_id = known.product_id and features.ts = known.ts
where
    features.mid is distinct from known.mid
    or features.seconds_since_tick is distinct from known.seconds_since_tick
    or features.log_return_30s is distinct from known.log_return_30s
    or features.log_return_60s is distinct from known.log_return_60s
    or features.log_return_300s is distinct from known.log_return_300s
    or features.trade_intensity_30s is distinct from known.trade_intensity_30s
    or features.trade_intensity_60s is distinct from known.trade_intensity_60s
    or features.trade_intensity_300s is distinct from known.trade_intensity_300s
order by features.product_id, features.ts
