-- How often was a market unusually volatile? The spike rate per product and day.
select
    product_id,
    ts::date as "day",
    count(*) as decision_times,
    round(avg(is_spike::int), 4) as spike_rate,
    round(1e4 * avg(realized_volatility_60s), 4) as volatility_bps_per_second
from training_rows
group by product_id, ts::date
order by product_id, "day"
