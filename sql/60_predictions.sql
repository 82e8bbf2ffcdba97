-- Predictions: what the models answered, beside what then happened.
-- Grain: one row per row of answers. Reads: answers, which Python holds; labels of the same day.
-- A row is out of sample where it is later than all that its model knows: the newest row that it
-- was fitted, calibrated or given its decision threshold on, that row's 60 s, and the embargo.
with known as (
    select
        *,
        trained_until + to_seconds($horizon_seconds + $embargo_seconds) as known_until
    from answers
)

select
    known.product_id,
    known.ts,
    known.probability,
    known.probability >= known.decision_threshold as is_alert,
    known.threshold,
    known.decision_threshold,
    known.model_name,
    known.model_version,
    known.trained_until::timestamp as trained_until,
    known.ts > known.known_until as out_of_sample,
    labels.future_volatility_60s,
    labels.future_volatility_60s >= known.threshold and labels.future_volatility_60s > 0
        as is_spike
from known
inner join labels
    on known.product_id = labels.product_id and known.ts = labels.ts
order by known.product_id, known.ts
