-- Feature rows whose 301 bars are not there in one run of adjoining seconds.
-- Reads: features and bars of a day and the bars of the day before; $start, $end of the day.
with counted as (
    select
        product_id,
        "second",
        continuous_seconds,
        date_diff(
            'second',
            lag("second", 300) over (partition by product_id order by "second"),
            "second"
        ) as seconds_back
    from bars
    where "second" >= $start - interval 302 seconds and "second" < $end
)

select
    features.product_id,
    features.ts
from features
left join counted
    on
        features.product_id = counted.product_id
        and features.ts = counted."second" + interval 1 second
where counted.seconds_back is distinct from 300 or counted.continuous_seconds <= 300
order by features.product_id, features.ts
