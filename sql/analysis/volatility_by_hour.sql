-- When is a market awake? Volatility, spread and ticks by hour of the day, UTC.
select
    product_id,
    extract('hour' from ts) as "hour",
    round(1e4 * median(realized_volatility_60s), 4) as median_volatility_bps,
    round(avg(spread_bps), 4) as spread_bps,
    round(avg(trade_intensity_60s), 1) as ticks_per_minute
from features
group by product_id, extract('hour' from ts)
order by product_id, "hour"
