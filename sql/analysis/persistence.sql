-- Does volatility persist? The spike rate by how the last minute compares with the threshold.
select
    product_id,
    round(least(floor(4 * realized_volatility_60s / trailing_threshold), 8) / 4, 2)
        as volatility_over_threshold_from,
    count(*) as decision_times,
    round(avg(is_spike::int), 4) as spike_rate
from training_rows
where trailing_threshold > 0
group by all
order by product_id, volatility_over_threshold_from
