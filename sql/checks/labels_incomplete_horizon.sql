-- Label rows with a future volatility although a bar of the next 60 seconds is missing.
-- Reads: labels of a day, bars of the day and the day after; $start, $end of the day.
with counted as (
    select
        product_id,
        "second",
        date_diff(
            'second',
            "second",
            lead("second", 59) over (partition by product_id order by "second")
        ) as seconds_ahead
    from bars
    where "second" >= $start and "second" < $end + interval 60 seconds
)

select
    labels.product_id,
    labels.ts
from labels
left join counted
    on labels.product_id = counted.product_id and labels.ts = counted."second"
where labels.future_volatility_60s is not null and counted.seconds_ahead is distinct from 59
order by labels.product_id, labels.ts
