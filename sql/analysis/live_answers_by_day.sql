-- What was answered live, and was it right? Each version by day, champion or challenger.
select
    product_id,
    ts::date as "day",
    model_version,
    any_value(model_name) as model_name,
    count(*) as answers,
    round(avg(probability), 4) as mean_probability,
    count(is_spike) as judged,
    round(avg(is_spike::int), 4) as spike_rate,
    round(avg(pow(probability - is_spike::int, 2)), 4) as brier,
    round(avg(is_spike::int) filter (where is_alert), 3) as precision_of_alerts,
    round(quantile_cont(epoch(answered_at) - epoch(ts), 0.99), 3) as seconds_to_answer_p99
from predictions_live
group by product_id, ts::date, model_version
order by product_id, "day", model_version
