-- Ticks: the day's sound tickers without duplicates, in total order.
-- Grain: one row per ticker update.
-- Reads: messages, the sound tickers of one day (from the fast reader or the plain one).
-- Duplicates are alike in `alike`, nulls alike; the first in file order stays. Looking for equal
-- hashes first keeps the exact comparison to the few rows that need it.
with hashed as (
    select
        *,
        hash(
            product_id, event_time, "sequence", trade_id, price, best_bid, best_ask, bid_size,
            ask_size
        ) as alike
    from messages
),

repeated as (
    select alike
    from hashed
    group by alike
    having count(*) > 1
),

kept as (
    select hashed.*
    from hashed
    anti join repeated on hashed.alike = repeated.alike
    union all by name
    select hashed.*
    from hashed
    semi join repeated on hashed.alike = repeated.alike
    qualify row_number() over (
        partition by
            hashed.product_id, hashed.event_time, hashed."sequence", hashed.trade_id,
            hashed.price, hashed.best_bid, hashed.best_ask, hashed.bid_size, hashed.ask_size
        order by hashed.segment, hashed.line, hashed.item
    ) = 1
)

select
    product_id::varchar as product_id,
    event_time::timestamp as event_time,
    capture_time::timestamp as capture_time,
    "sequence"::bigint as "sequence",
    trade_id::bigint as trade_id,
    price::double as price,
    best_bid::double as best_bid,
    best_ask::double as best_ask,
    bid_size::double as bid_size,
    ask_size::double as ask_size,
    last_size::double as last_size,
    side::varchar as side,
    volume_24h::double as volume_24h,
    segment::varchar as segment,
    line::bigint as line,
    item::integer as item
from kept
order by product_id, event_time, "sequence" nulls last, segment, line, item
