-- Labels: what happened in the 60 seconds after each decision time, and what counts as a spike.
-- Grain: one row per row of features with ts in [$start, $end).
-- Reads: features in [$start - 24 h, $end); bars in [$start - 2 s, $end + 91 s + max gap).
-- The future volatility is the formula of the features over the returns into bars ts to ts + 59 s:
-- known where all of these are of the row's run and a tick of that run lies at or after the second
-- ts + 59 s. The trailing threshold is the 90th percentile of the volatilities at the whole minutes
-- in (ts - 24 h, ts], so it is the same for all rows of a minute; known with 60 of them.
with near as (
    select
        *,
        lag(mid) over in_time as previous_mid,
        -- the first second with a tick at or after this one, and how long its run is by then
        first_value(case when tick_count > 0 then "second" end ignore nulls) over from_now
            as next_tick_second,
        "second" - interval 59 seconds as ts
    from bars
    where
        "second" >= $start - interval 2 seconds
        and "second" < $end + interval 91 seconds + to_seconds($max_gap_seconds)
    window
        in_time as (partition by product_id order by "second"),
        from_now as (
            partition by product_id order by "second"
            rows between current row and unbounded following
        )
),

moved as (
    select
        near.*,
        coalesce(
            next_tick.continuous_seconds
            > date_diff('second', near."second", near.next_tick_second),
            false
        ) as is_followed,
        case
            when near.continuous_seconds > 1 and near.previous_mid is not null
                then greatest(
                    least(round(1e15 * ln(near.mid / near.previous_mid)), 4.3e16), -4.3e16
                )
            else 0
        end::hugeint as x
    from near
    left join near as next_tick
        on
            near.product_id = next_tick.product_id
            and near.next_tick_second = next_tick."second"
),

summed as (
    select
        product_id,
        ts,
        continuous_seconds,
        is_followed,
        sum(x) over up_to_now as sum_x,
        sum(x * x) over up_to_now as sum_xx
    from moved
    window up_to_now as (partition by product_id order by "second" rows unbounded preceding)
),

windowed as (
    select
        *,
        sum_x - lag(sum_x, 60) over in_time as x_60s,
        sum_xx - lag(sum_xx, 60) over in_time as xx_60s
    from summed
    window in_time as (partition by product_id order by ts)
),

future as (
    select
        product_id,
        ts,
        sqrt(
            coalesce(
                try(60 * xx_60s - x_60s * x_60s)::double,
                abs(60 * xx_60s::double - x_60s::double * x_60s::double)
            ) / (60 * 59)
        ) / 1e15 as future_volatility_60s
    from windowed
    where continuous_seconds > 60 and is_followed
),

known as (
    select
        product_id,
        ts,
        date_trunc('minute', ts) as "minute",
        case when ts = date_trunc('minute', ts) then realized_volatility_60s end as volatility
    from features
    where ts > $start - interval 24 hours and ts < $end
),

minutes as (
    select
        product_id,
        "minute",
        max(volatility) as volatility
    from known
    group by product_id, "minute"
),

thresholds as (
    select
        product_id,
        "minute",
        case
            when count(volatility) over last_day >= 60
                then quantile_cont(volatility, 0.9) over last_day
        end as trailing_threshold
    from minutes
    window last_day as (
        partition by product_id order by "minute"
        range between interval 1439 minutes preceding and current row
    )
)

select
    known.product_id::varchar as product_id,
    known.ts::timestamp as ts,
    future.future_volatility_60s::double as future_volatility_60s,
    thresholds.trailing_threshold::double as trailing_threshold
from known
inner join thresholds
    on known.product_id = thresholds.product_id and known."minute" = thresholds."minute"
left join future
    on known.product_id = future.product_id and known.ts = future.ts
where known.ts >= $start
order by known.product_id, known.ts
