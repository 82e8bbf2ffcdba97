-- Quality of what was read: shares of duplicates and faults.
-- Grain: one row per source, an imported file or a partition of a topic, that has lines.
-- Reads: books (one row per segment) and quarantine of a day. Fewer than ten faults, or duplicates,
-- are no share: one bad line says nothing of the 200 lines of a short segment.
with sources as (
    select
        regexp_replace(segment, '-\d{20}-\d{20}\.ndjson.*$', '') as source,
        sum(lines) as lines,
        sum(tickers) as tickers,
        sum(duplicates) as duplicates
    from books
    group by source
),

reasons as (
    select
        regexp_replace(segment, '-\d{20}-\d{20}\.ndjson.*$', '') as source,
        reason,
        count(*) as faults
    from quarantine
    group by source, reason
    having count(*) >= 10
),

counted as (
    select
        source,
        sum(faults) filter (where reason = 'not_json') as not_json,
        sum(faults) filter (where reason = 'no_product') as no_product,
        sum(faults) filter (where reason = 'no_time') as no_time,
        sum(faults) filter (where reason = 'bad_price') as bad_price,
        sum(faults) filter (where reason = 'bad_quote') as bad_quote,
        sum(faults) filter (where reason = 'crossed') as crossed,
        sum(faults) filter (where reason = 'wrong_day') as wrong_day
    from reasons
    group by source
)

select
    sources.source,
    sources.lines::bigint as lines,
    case when sources.duplicates >= 10 then sources.duplicates / sources.tickers else 0 end::double
        as duplicate_share,
    (coalesce(counted.not_json, 0) / sources.lines)::double as not_json_share,
    (coalesce(counted.no_product, 0) / sources.lines)::double as no_product_share,
    (coalesce(counted.no_time, 0) / sources.lines)::double as no_time_share,
    (coalesce(counted.bad_price, 0) / sources.lines)::double as bad_price_share,
    (coalesce(counted.bad_quote, 0) / sources.lines)::double as bad_quote_share,
    (coalesce(counted.crossed, 0) / sources.lines)::double as crossed_share,
    (coalesce(counted.wrong_day, 0) / sources.lines)::double as wrong_day_share
from sources
left join counted on sources.source = counted.source
where sources.lines > 0
order by sources.source
