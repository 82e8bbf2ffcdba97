-- Bars: the market second by second.
-- Grain: one row per product and second in [$start, $end) at whose end the newest tick is at most
-- $max_gap_seconds old.
-- Reads: ticks in [$start - 2 h, $end). More than $max_gap_seconds between two consecutive ticks
-- ends a run: nothing is carried across it. Two hours of look-back tell a run's length up to the
-- 3601 bars that the longest window needs.
-- Prices and sizes have ten decimals and lie below 1e18, whose nearest doubles may round up to it.
with recent as (
    select
        product_id,
        event_time,
        "sequence",
        segment,
        line,
        item,
        date_trunc('second', event_time) as tick_second,
        best_bid::decimal(30, 10) as bid,
        best_ask::decimal(30, 10) as ask,
        bid_size,
        ask_size,
        coalesce(bid_size + ask_size > 0, false) as has_sizes,
        last_size::decimal(30, 10) as last_size
    from ticks
    where event_time >= $start - interval 2 hours and event_time < $end
),

ticked as (
    select
        product_id,
        tick_second,
        min(event_time) as first_time,
        max(event_time) as last_time,
        max(event_time) filter (where has_sizes) as last_sized_time,
        count(*) as tick_count,
        sum(ask - bid) as spread_sum,
        sum(round(1e12 * bid_size / nullif(bid_size + ask_size, 0))::bigint) as imbalance_sum,
        count(*) filter (where has_sizes) as imbalance_count,
        sum(last_size) as volume
    from recent
    group by product_id, tick_second
),

-- The newest tick of a second: the last in total order among those at its latest instant.
newest as (
    select
        recent.product_id,
        recent.tick_second,
        recent.bid,
        recent.ask
    from recent
    inner join ticked
        on
            recent.product_id = ticked.product_id
            and recent.tick_second = ticked.tick_second
            and recent.event_time = ticked.last_time
    qualify row_number() over (
        partition by recent.product_id, recent.tick_second
        order by
            recent."sequence" desc nulls first, recent.segment desc, recent.line desc,
            recent.item desc
    ) = 1
),

newest_sized as (
    select
        recent.product_id,
        recent.tick_second,
        -- (bid * ask_size + ask * bid_size) / (bid_size + ask_size), rounded but once
        recent.bid::decimal(38, 18)
        + (
            (recent.ask - recent.bid)::double * recent.bid_size
            / (recent.bid_size + recent.ask_size)
        )::decimal(38, 18) as microprice
    from recent
    inner join ticked
        on
            recent.product_id = ticked.product_id
            and recent.tick_second = ticked.tick_second
            and recent.event_time = ticked.last_sized_time
    where recent.has_sizes
    qualify row_number() over (
        partition by recent.product_id, recent.tick_second
        order by
            recent."sequence" desc nulls first, recent.segment desc, recent.line desc,
            recent.item desc
    ) = 1
),

spaced as (
    select
        ticked.*,
        newest.bid,
        newest.ask,
        newest_sized.microprice,
        coalesce(
            ticked.first_time - lag(ticked.last_time) over in_time
            > to_seconds($max_gap_seconds),
            true
        ) as is_run_start,
        lead(ticked.tick_second) over in_time as next_second
    from ticked
    inner join newest
        on ticked.product_id = newest.product_id and ticked.tick_second = newest.tick_second
    left join newest_sized
        on
            ticked.product_id = newest_sized.product_id
            and ticked.tick_second = newest_sized.tick_second
    window in_time as (partition by ticked.product_id order by ticked.tick_second)
),

runs as (
    select
        *,
        max(case when is_run_start then tick_second end) over in_time as run_start
    from spaced
    window in_time as (partition by product_id order by tick_second)
),

sized as (
    select
        *,
        last_value(microprice ignore nulls) over in_run as newest_microprice,
        max(last_sized_time) over in_run as newest_sized_time
    from runs
    window in_run as (partition by product_id, run_start order by tick_second)
),

-- Each second with ticks is carried to the next one, or to where it grows too old.
carried as (
    select
        *,
        unnest(
            range(
                tick_second,
                least(
                    coalesce(next_second, $end),
                    date_trunc('second', last_time + to_seconds($max_gap_seconds)),
                    $end
                ),
                interval 1 second
            )
        ) as "second"
    from sized
)

select
    product_id::varchar as product_id,
    "second"::timestamp as "second",
    ((bid + ask)::double / 2)::double as mid,
    (ask - bid)::double as spread,
    case
        when newest_sized_time >= "second" + interval 1 second - to_seconds($max_gap_seconds)
            then newest_microprice
    end::double as microprice,
    case when "second" = tick_second then tick_count else 0 end::integer as tick_count,
    case when "second" = tick_second then spread_sum else 0 end::decimal(38, 10) as spread_sum,
    case when "second" = tick_second then coalesce(imbalance_sum, 0) else 0 end::hugeint
        as imbalance_sum,
    case when "second" = tick_second then imbalance_count else 0 end::integer as imbalance_count,
    case when "second" = tick_second then volume end::decimal(38, 10) as volume,
    date_diff('second', tick_second, "second")::integer as seconds_since_tick,
    least(date_diff('second', run_start, "second") + 1, 3601)::integer as continuous_seconds
from carried
where "second" >= $start
order by product_id, "second"
