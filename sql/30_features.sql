-- Features: what is known of a market at a decision time.
-- Grain: one row per product and ts in [$start, $end) whose bars ts - 301 s to ts - 1 s are of one
-- run. The row at ts is complete with the bar at ts - 1 s and knows nothing later.
-- Reads: bars in [$start - 3602 s, $end - 1 s).
-- Sums are of integers, so they are exact whatever the partition or the thread, and a window is a
-- running sum minus its lag: x is the log return in units of 1e-15, a step is twice the move of
-- the mid in units of 1e-10. The sample standard deviation of W returns is
-- sqrt((W * sum(x^2) - sum(x)^2) / (W * (W - 1))); doubles take over where 128 bits do not hold it.
-- A move by more than e^43 in a second counts as that: 128 bits hold the squares of a day of them.
with recent as (
    select
        *,
        lag(mid) over (partition by product_id order by "second") as previous_mid
    from bars
    where
        "second" >= $start - interval 3602 seconds
        and "second" < $end - interval 1 second
),

moved as (
    select
        *,
        case
            when continuous_seconds > 1 and previous_mid is not null
                then greatest(least(round(1e15 * ln(mid / previous_mid)), 4.3e16), -4.3e16)
            else 0
        end::hugeint as x,
        case
            when continuous_seconds > 1 and previous_mid is not null
                then abs((2 * mid)::decimal(30, 10) - (2 * previous_mid)::decimal(30, 10))
            else 0
        end as step
    from recent
),

summed as (
    select
        product_id,
        "second",
        mid,
        spread,
        microprice,
        seconds_since_tick,
        continuous_seconds,
        sum(x) over up_to_now as sum_x,
        sum(x * x) over up_to_now as sum_xx,
        sum(step) over up_to_now as steps,
        sum(tick_count) over up_to_now as ticks,
        sum(spread_sum) over up_to_now as spreads,
        sum(imbalance_sum::hugeint) over up_to_now as imbalances,
        sum(imbalance_count) over up_to_now as imbalance_counts,
        sum(coalesce(volume, 0)) over up_to_now as volumes,
        count(volume) over up_to_now as volume_counts
    from moved
    window up_to_now as (partition by product_id order by "second" rows unbounded preceding)
),

windowed as (
    select
        *,
        lag(mid, 30) over in_time as mid_30s,
        lag(mid, 60) over in_time as mid_60s,
        lag(mid, 300) over in_time as mid_300s,
        sum_x - lag(sum_x, 30) over in_time as x_30s,
        sum_x - lag(sum_x, 60) over in_time as x_60s,
        sum_x - lag(sum_x, 300) over in_time as x_300s,
        sum_x - lag(sum_x, 900) over in_time as x_900s,
        sum_x - lag(sum_x, 3600) over in_time as x_3600s,
        sum_xx - lag(sum_xx, 30) over in_time as xx_30s,
        sum_xx - lag(sum_xx, 60) over in_time as xx_60s,
        sum_xx - lag(sum_xx, 300) over in_time as xx_300s,
        sum_xx - lag(sum_xx, 900) over in_time as xx_900s,
        sum_xx - lag(sum_xx, 3600) over in_time as xx_3600s,
        steps - lag(steps, 30) over in_time as steps_30s,
        steps - lag(steps, 60) over in_time as steps_60s,
        steps - lag(steps, 300) over in_time as steps_300s,
        ticks - lag(ticks, 30) over in_time as ticks_30s,
        ticks - lag(ticks, 60) over in_time as ticks_60s,
        ticks - lag(ticks, 300) over in_time as ticks_300s,
        spreads - lag(spreads, 30) over in_time as spreads_30s,
        spreads - lag(spreads, 60) over in_time as spreads_60s,
        spreads - lag(spreads, 300) over in_time as spreads_300s,
        imbalances - lag(imbalances, 30) over in_time as imbalances_30s,
        imbalances - lag(imbalances, 60) over in_time as imbalances_60s,
        imbalances - lag(imbalances, 300) over in_time as imbalances_300s,
        imbalance_counts - lag(imbalance_counts, 30) over in_time as imbalance_counts_30s,
        imbalance_counts - lag(imbalance_counts, 60) over in_time as imbalance_counts_60s,
        imbalance_counts - lag(imbalance_counts, 300) over in_time as imbalance_counts_300s,
        volumes - lag(volumes, 30) over in_time as volumes_30s,
        volumes - lag(volumes, 60) over in_time as volumes_60s,
        volumes - lag(volumes, 300) over in_time as volumes_300s,
        volume_counts - lag(volume_counts, 30) over in_time as volume_counts_30s,
        volume_counts - lag(volume_counts, 60) over in_time as volume_counts_60s,
        volume_counts - lag(volume_counts, 300) over in_time as volume_counts_300s,
        "second" + interval 1 second as ts
    from summed
    window in_time as (partition by product_id order by "second")
)

select
    product_id::varchar as product_id,
    ts::timestamp as ts,
    ln(mid / mid_30s)::double as log_return_30s,
    (sqrt(
        coalesce(
            try(30 * xx_30s - x_30s * x_30s)::double,
            abs(30 * xx_30s::double - x_30s::double * x_30s::double)
        ) / (30 * 29)
    ) / 1e15)::double as realized_volatility_30s,
    (steps_30s / 60)::double as price_velocity_30s,
    (spreads_30s / nullif(ticks_30s, 0))::double as spread_mean_30s,
    (imbalances_30s / nullif(imbalance_counts_30s, 0) / 1e12)::double
        as order_book_imbalance_30s,
    ticks_30s::bigint as trade_intensity_30s,
    case when volume_counts_30s > 0 then volumes_30s end::double as volume_velocity_30s,
    ln(mid / mid_60s)::double as log_return_60s,
    (sqrt(
        coalesce(
            try(60 * xx_60s - x_60s * x_60s)::double,
            abs(60 * xx_60s::double - x_60s::double * x_60s::double)
        ) / (60 * 59)
    ) / 1e15)::double as realized_volatility_60s,
    (steps_60s / 120)::double as price_velocity_60s,
    (spreads_60s / nullif(ticks_60s, 0))::double as spread_mean_60s,
    (imbalances_60s / nullif(imbalance_counts_60s, 0) / 1e12)::double
        as order_book_imbalance_60s,
    ticks_60s::bigint as trade_intensity_60s,
    case when volume_counts_60s > 0 then volumes_60s end::double as volume_velocity_60s,
    ln(mid / mid_300s)::double as log_return_300s,
    (sqrt(
        coalesce(
            try(300 * xx_300s - x_300s * x_300s)::double,
            abs(300 * xx_300s::double - x_300s::double * x_300s::double)
        ) / (300 * 299)
    ) / 1e15)::double as realized_volatility_300s,
    (steps_300s / 600)::double as price_velocity_300s,
    (spreads_300s / nullif(ticks_300s, 0))::double as spread_mean_300s,
    (imbalances_300s / nullif(imbalance_counts_300s, 0) / 1e12)::double
        as order_book_imbalance_300s,
    ticks_300s::bigint as trade_intensity_300s,
    case when volume_counts_300s > 0 then volumes_300s end::double as volume_velocity_300s,
    mid::double as mid,
    (case
        when continuous_seconds > 900
            then sqrt(
                coalesce(
                    try(900 * xx_900s - x_900s * x_900s)::double,
                    abs(900 * xx_900s::double - x_900s::double * x_900s::double)
                ) / (900 * 899)
            ) / 1e15
    end)::double as realized_volatility_900s,
    (case
        when continuous_seconds > 3600
            then sqrt(
                coalesce(
                    try(3600 * xx_3600s - x_3600s * x_3600s)::double,
                    abs(3600 * xx_3600s::double - x_3600s::double * x_3600s::double)
                ) / (3600 * 3599)
            ) / 1e15
    end)::double as realized_volatility_3600s,
    (1e4 * spread / mid)::double as spread_bps,
    (1e4 * (microprice / mid - 1))::double as microprice_gap_bps,
    seconds_since_tick::integer as seconds_since_tick,
    sin(2 * pi() * epoch(ts - date_trunc('day', ts)) / 86400)::double as time_of_day_sin,
    cos(2 * pi() * epoch(ts - date_trunc('day', ts)) / 86400)::double as time_of_day_cos
from windowed
where ts >= $start and ts < $end and continuous_seconds > 300 and mid_300s is not null
order by product_id, ts
