-- Shadow: what two versions of a product's models answered live, beside what then happened.
-- Grain: one row per fifth second with a label, as in training: neighbours share 55 of their 60
-- seconds. Reads: predictions_live, labels, both of the days that are asked about.
-- A version is the one that was trained until then: a number is given anew once a registry was
-- deleted. Of a row answered twice (by two services) the first answer counts. A probability is
-- null where that version did not answer.
with answered as (
    select
        ts,
        threshold,
        probability,
        is_spike,
        model_version = $champion as is_champion
    from predictions_live
    where
        product_id = $product
        and (
            (model_version = $champion and trained_until = $champion_until::timestamp)
            or (model_version = $challenger and trained_until = $challenger_until::timestamp)
        )
    qualify
        row_number() over (partition by ts, model_version order by answered_at, probability) = 1
)

select
    labels.ts,
    champion.probability as champion,
    challenger.probability as challenger,
    champion.threshold = challenger.threshold as is_same_question,
    champion.is_spike
from labels
left join answered as champion
    on labels.ts = champion.ts and champion.is_champion
left join answered as challenger
    on labels.ts = challenger.ts and not challenger.is_champion
where
    labels.product_id = $product
    and labels.ts >= $start
    and labels.future_volatility_60s is not null
    and epoch(labels.ts) % 5 = 0
order by labels.ts
