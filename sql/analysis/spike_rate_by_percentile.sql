-- What if the threshold were another percentile? The spike rate by day, under the trailing policy.
-- The 90th is the label's own: quantiles of the volatilities at the whole minutes of the last 24
-- hours, known with 60 of them, as in 40_labels.sql.
with minutes as (
    select
        product_id,
        date_trunc('minute', ts) as "minute",
        max(case when ts = date_trunc('minute', ts) then realized_volatility_60s end) as volatility
    from features
    group by product_id, date_trunc('minute', ts)
),

thresholds as (
    select
        product_id,
        "minute",
        unnest([80, 85, 90, 95, 99]) as percentile,
        unnest(
            quantile_cont(volatility, [0.80, 0.85, 0.90, 0.95, 0.99]) over last_day
        ) as threshold
    from minutes
    window
        last_day as (
            partition by product_id order by "minute"
            range between interval 1439 minutes preceding and current row
        )
    qualify count(volatility) over last_day >= 60
)

select
    labels.product_id,
    labels.ts::date as "day",
    thresholds.percentile,
    count(*) as decision_times,
    count_if(
        labels.future_volatility_60s >= thresholds.threshold and labels.future_volatility_60s > 0
    ) as spikes,
    round(spikes / decision_times, 4) as spike_rate
from labels
inner join thresholds
    on
        labels.product_id = thresholds.product_id
        and date_trunc('minute', labels.ts) = thresholds."minute"
where labels.future_volatility_60s is not null
group by labels.product_id, labels.ts::date, thresholds.percentile
order by labels.product_id, "day", thresholds.percentile
