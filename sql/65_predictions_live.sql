-- Live predictions: what champion and challenger answered live, beside what then happened.
-- Grain: one row per answer. Reads: answers, the log as it was written; labels.
-- The log is never rewritten: whether an answer's minute was a spike is looked up when it is asked,
-- under the threshold that the answer itself named, and null until its label is built.
select
    answers.product_id,
    answers.ts,
    answers.role,
    answers.probability,
    answers.threshold,
    answers.decision_threshold,
    answers.is_alert,
    answers.model_name,
    answers.model_version,
    answers.trained_until,
    answers.realized_volatility_60s,
    answers.seconds_since_tick,
    answers.answered_at,
    labels.future_volatility_60s,
    labels.future_volatility_60s >= answers.threshold and labels.future_volatility_60s > 0
        as is_spike
from answers
left join labels
    on answers.product_id = labels.product_id and answers.ts = labels.ts
