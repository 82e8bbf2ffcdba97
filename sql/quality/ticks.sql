-- Quality of ticks: what the suite of ticks looks at.
-- Grain: one row per product and hour with a tick.
-- Reads: ticks and quarantine of a day, eve (the ticks of the day before); $start, $end of the day.
-- One pass makes minutes of the ticks; all else is told from those. A source is an imported file or
-- a partition of a topic: within it, lines come in order and carry the same columns.
with followed as (
    select
        *,
        (best_bid + best_ask) / 2 as mid,
        product_id is null or event_time is null or price is null or best_bid is null
        or best_ask is null or segment is null or line is null or item is null as is_incomplete,
        lag(product_id) over () as previous_product,
        lag(event_time) over () as previous_time,
        lag(segment) over () as previous_segment,
        lag(line) over () as previous_line,
        lag(item) over () as previous_item
    from ticks
),

pieces as (
    select
        product_id,
        segment,
        date_trunc('minute', event_time) as "minute",
        count(*) as ticks,
        count(*) filter (where is_incomplete) as incomplete_rows,
        count(*) filter (
            where
            price <= 0 or best_bid <= 0 or best_ask < best_bid or bid_size < 0 or ask_size < 0
            or not isfinite(price + best_bid + best_ask + coalesce(bid_size + ask_size, 0))
        ) as impossible_rows,
        count(*) filter (where event_time < $start or event_time >= $end) as strayed_rows,
        count(*) filter (
            where
            product_id < previous_product
            or (product_id = previous_product and event_time < previous_time)
        ) as misplaced_rows,
        count(*) filter (
            where
            segment = previous_segment and line = previous_line and item = previous_item
        ) as repeated_rows,
        count(*) filter (
            where abs(epoch_us(capture_time) - epoch_us(event_time)) > 60000000
        ) as misclocked_ticks,
        count(bid_size) as bid_sizes,
        count(ask_size) as ask_sizes,
        count(last_size) as last_sizes,
        min(event_time) as first_time,
        max(event_time) as last_time,
        arg_min(line, event_time) as first_time_line,
        arg_max(line, event_time) as last_time_line,
        arg_min(mid, event_time) as first_mid,
        arg_max(mid, event_time) as last_mid,
        min(mid) as lowest_mid,
        max(mid) as highest_mid,
        min(price) as lowest_price,
        max(price) as highest_price,
        min(best_bid) as lowest_bid,
        max(best_bid) as highest_bid,
        min(best_ask) as lowest_ask,
        max(best_ask) as highest_ask
    from followed
    group by product_id, segment, date_trunc('minute', event_time)
),

-- A line's place in its source: which segment, and where in that.
segments as (
    select
        segment,
        regexp_replace(segment, '-\d{20}-\d{20}\.ndjson.*$', '') as source,
        100000000000 * row_number() over (order by segment) as place
    from (
        select segment from pieces
        union
        select segment from quarantine
    ) as named
),

placed as (
    select
        pieces.*,
        segments.source,
        segments.place + pieces.first_time_line as first_time_place,
        segments.place + pieces.last_time_line as last_time_place
    from pieces
    inner join segments on pieces.segment is not distinct from segments.segment
),

faulty_lines as (
    select
        segments.source,
        segments.place + quarantine.line as place
    from quarantine
    inner join segments on quarantine.segment = segments.segment
),

-- Lines in the order of their file: where a source's time goes back by more than ten minutes.
blocks as (
    select
        product_id,
        segment,
        line // 500 as block,
        count(*) as ticks,
        median(epoch(event_time)) as seconds
    from ticks
    group by product_id, segment, line // 500
),

backward as (
    select
        blocks.*,
        max(blocks.seconds) over (
            partition by blocks.product_id, segments.source
            order by segments.place + blocks.block
        ) - blocks.seconds > 600 as is_back
    from blocks
    inner join segments on blocks.segment = segments.segment
),

backs as (
    select
        product_id,
        date_trunc('hour', make_timestamp((1000000 * seconds)::bigint)) as "hour",
        sum(ticks) as ticks
    from backward
    where is_back
    group by product_id, "hour"
),

-- A column that a source has, but not here.
judged as (
    select
        *,
        greatest(
            case when sum(bid_sizes) over in_source > 0 then ticks - bid_sizes else 0 end,
            case when sum(ask_sizes) over in_source > 0 then ticks - ask_sizes else 0 end,
            case when sum(last_sizes) over in_source > 0 then ticks - last_sizes else 0 end
        ) as unsized_ticks
    from placed
    window in_source as (partition by product_id, source)
),

minutes as (
    select
        product_id,
        "minute",
        sum(ticks) as ticks,
        sum(incomplete_rows) as incomplete_rows,
        sum(impossible_rows) as impossible_rows,
        sum(strayed_rows) as strayed_rows,
        sum(misplaced_rows) as misplaced_rows,
        sum(repeated_rows) as repeated_rows,
        sum(unsized_ticks) as unsized_ticks,
        sum(misclocked_ticks) as misclocked_ticks,
        min(first_time) as first_time,
        max(last_time) as last_time,
        arg_min(source, first_time) as first_source,
        arg_max(source, last_time) as last_source,
        arg_min(first_time_place, first_time) as first_place,
        arg_max(last_time_place, last_time) as last_place,
        arg_min(first_mid, first_time) as first_mid,
        arg_max(last_mid, last_time) as last_mid,
        min(lowest_mid) as lowest_mid,
        max(highest_mid) as highest_mid,
        min(lowest_price) as lowest_price,
        min(lowest_bid) as lowest_bid,
        min(lowest_ask) as lowest_ask,
        min(lowest_price) = max(highest_price)
        and min(lowest_bid) = max(highest_bid)
        and min(lowest_ask) = max(highest_ask) as is_still
    from judged
    group by product_id, "minute"
),

eves as (
    select
        product_id,
        max(event_time) as last_time,
        arg_max((best_bid + best_ask) / 2, event_time) as last_mid
    from eve
    group by product_id
),

spaced as (
    select
        minutes.*,
        coalesce(lag(minutes.last_time) over in_time, eves.last_time) as time_before,
        coalesce(lag(minutes.last_mid) over in_time, eves.last_mid) as mid_before,
        lag(minutes.last_source) over in_time as source_before,
        lag(minutes.last_place) over in_time as place_before,
        coalesce(
            minutes.is_still
            and minutes.lowest_price = lag(minutes.lowest_price) over in_time
            and minutes.lowest_bid = lag(minutes.lowest_bid) over in_time
            and minutes.lowest_ask = lag(minutes.lowest_ask) over in_time,
            false
        ) as is_frozen
    from minutes
    left join eves on minutes.product_id = eves.product_id
    window in_time as (partition by minutes.product_id order by minutes."minute")
),

-- Minutes in a row that show the same price and quotes.
stretches as (
    select
        *,
        sum((not is_frozen)::int) over (partition by product_id order by "minute") as stretch
    from spaced
),

frozen as (
    select
        product_id,
        stretch,
        count(*) as frozen_minutes
    from stretches
    group by product_id, stretch
    having sum(ticks) >= 300 and count(*) > 1
),

levels as (
    select
        product_id,
        median(last_mid) as mid
    from minutes
    group by product_id
),

-- Prices that double or halve at once, within a minute or since the one before: no market does so.
moves as (
    select
        product_id,
        "minute",
        lowest_mid as mid_before,
        highest_mid as mid_after
    from spaced
    where lowest_mid > 0
    union all
    select
        product_id,
        "minute",
        mid_before,
        first_mid as mid_after
    from spaced
    where mid_before > 0 and first_mid > 0
),

-- By a power of ten it is the unit; to or from where another product trades, the name.
jumps as (
    select
        moves.product_id,
        moves."minute",
        abs(log10(moves.mid_after / moves.mid_before)) as decades,
        levels.product_id as other_product
    from moves
    left join levels
        on
            moves.product_id != levels.product_id
            and least(
                abs(ln(moves.mid_before / levels.mid)), abs(ln(moves.mid_after / levels.mid))
            ) < 0.1
    where greatest(moves.mid_after / moves.mid_before, moves.mid_before / moves.mid_after) > 2
),

told_jumps as (
    select
        product_id,
        "minute",
        case
            when round(decades) >= 1 and abs(decades - round(decades)) < 0.02 then 'unit'
            when other_product is not null then 'name'
            else 'price'
        end as kind,
        other_product
    from jumps
),

jump_counts as (
    select
        product_id,
        "minute",
        count(distinct "minute") filter (where kind = 'unit') as unit_changes,
        count(distinct "minute") filter (where kind = 'name') as name_changes,
        count(distinct "minute") filter (where kind = 'price') as price_jumps
    from told_jumps
    group by product_id, "minute"
),

clocked as (
    select
        minutes.product_id,
        date_trunc('hour', minutes."minute") as "hour",
        greatest(sum(minutes.misclocked_ticks), max(coalesce(backs.ticks, 0)))
        / sum(minutes.ticks) as misclocked_share
    from minutes
    left join backs
        on
            minutes.product_id = backs.product_id
            and date_trunc('hour', minutes."minute") = backs."hour"
    group by minutes.product_id, date_trunc('hour', minutes."minute")
),

clocks as (
    select
        product_id,
        max(misclocked_share) > 0.05 as is_unsound
    from clocked
    group by product_id
),

presence as (
    select
        product_id,
        60 * count(*) as heard_seconds,
        epoch(max(last_time) - min(first_time)) as span_seconds
    from minutes
    group by product_id
),

-- Ten minutes without a tick are a hole, where most minutes have one and more is heard than missed:
-- unless the lines are there, but with a wrong clock, in quarantine, or under another name.
silences as (
    select
        spaced.product_id,
        spaced."minute",
        epoch(spaced.first_time - spaced.time_before) as silent_seconds
    from spaced
    inner join clocks on spaced.product_id = clocks.product_id
    inner join presence on spaced.product_id = presence.product_id
    where
        epoch(spaced.first_time - spaced.time_before) between 600 and presence.heard_seconds
        and 2 * presence.heard_seconds > presence.span_seconds
        and not clocks.is_unsound
        and epoch(spaced.first_time - spaced.time_before) / 30 > (
            select count(*)
            from faulty_lines
            where
                (
                    spaced.source_before is distinct from faulty_lines.source
                    or spaced.place_before < faulty_lines.place
                )
                and (
                    spaced.first_source is distinct from faulty_lines.source
                    or spaced.first_place > faulty_lines.place
                )
        )
        and not exists (
            select 1
            from told_jumps
            where
                told_jumps.kind = 'name'
                and spaced.product_id = told_jumps.other_product
                and told_jumps."minute"
                between spaced.time_before - interval 2 minutes
                and spaced.first_time + interval 2 minutes
        )
)

select
    stretches.product_id,
    date_trunc('hour', stretches."minute") as "hour",
    sum(stretches.ticks)::bigint as ticks,
    sum(stretches.incomplete_rows)::bigint as incomplete_rows,
    sum(stretches.impossible_rows)::bigint as impossible_rows,
    sum(stretches.strayed_rows)::bigint as strayed_rows,
    sum(stretches.misplaced_rows)::bigint as misplaced_rows,
    sum(stretches.repeated_rows)::bigint as repeated_rows,
    (sum(stretches.unsized_ticks) / sum(stretches.ticks))::double as unsized_share,
    coalesce(max(clocked.misclocked_share), 0)::double as misclocked_share,
    coalesce(max(silences.silent_seconds), 0)::double as silent_seconds,
    coalesce(max(frozen.frozen_minutes), 0)::bigint as frozen_minutes,
    coalesce(sum(jump_counts.unit_changes), 0)::bigint as unit_changes,
    coalesce(sum(jump_counts.name_changes), 0)::bigint as name_changes,
    coalesce(sum(jump_counts.price_jumps), 0)::bigint as price_jumps
from stretches
left join frozen
    on stretches.product_id = frozen.product_id and stretches.stretch = frozen.stretch
left join jump_counts
    on
        stretches.product_id = jump_counts.product_id
        and stretches."minute" = jump_counts."minute"
left join clocked
    on
        stretches.product_id = clocked.product_id
        and date_trunc('hour', stretches."minute") = clocked."hour"
left join silences
    on stretches.product_id = silences.product_id and stretches."minute" = silences."minute"
group by stretches.product_id, date_trunc('hour', stretches."minute")
order by stretches.product_id, "hour"
