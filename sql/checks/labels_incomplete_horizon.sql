-- Label rows with a future volatility although the bars of the next 60 seconds are not all there,
-- in one run with the bar before them.
-- Reads: labels of a day, bars of the day and the day after; $start, $end of the day.
with counted as (
    select
        product_id,
        continuous_seconds,
        "second" - interval 59 seconds as ts,
        date_diff(
            'second',
            lag("second", 59) over (partition by product_id order by "second"),
            "second"
        ) as seconds_back
    from bars
    where "second" >= $start and "second" < $end + interval 60 seconds
)

select
    labels.product_id,
    labels.ts
from labels
left join counted on labels.product_id = counted.product_id and labels.ts = counted.ts
where
    labels.future_volatility_60s is not null
    and (counted.seconds_back is distinct from 59 or counted.continuous_seconds <= 60)
order by labels.product_id, labels.ts
