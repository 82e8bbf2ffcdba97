-- Gaps: what the messages of one day prove to be missing.
-- Grain: one row per gap; a hint is a gap that the exchange's batching, or channels that were not
-- kept, may explain. A connection that is not recorded is guessed from the restarts of its numbers,
-- so that its gaps are hints whatever was kept.
-- Reads: envelopes (every message of an Advanced Trade channel with a sequence number) and
-- messages (every sound ticker) of the day.
with numbered as (
    select
        connection,
        segment,
        line,
        sequence_num,
        is_ticker,
        time,
        coalesce(
            sequence_num < lag(sequence_num) over (partition by segment order by line), false
        ) as is_restart
    from envelopes
    where sequence_num is not null
),

connected as (
    select
        coalesce(
            connection,
            segment || '#' || sum(is_restart::int) over (partition by segment order by line)
        ) as connection,
        connection is not null as is_recorded,
        sequence_num,
        is_ticker,
        time
    from numbered
),

kept as (
    select
        connection,
        bool_or(not is_ticker) as is_all_kept
    from connected
    group by connection
),

sequenced as (
    select
        connection,
        is_recorded,
        sequence_num,
        time,
        lag(sequence_num) over (partition by connection order by sequence_num, time) as before,
        lag(time) over (partition by connection order by sequence_num, time) as time_before
    from connected
),

traded as (
    select distinct
        product_id,
        trade_id,
        event_time
    from messages
    where trade_id is not null
),

trades as (
    select
        product_id,
        trade_id,
        event_time,
        lag(trade_id) over (partition by product_id order by trade_id, event_time) as before,
        lag(event_time) over (partition by product_id order by trade_id, event_time) as time_before
    from traded
),

ticked as (
    select distinct
        product_id,
        event_time
    from messages
),

spaced as (
    select
        product_id,
        event_time,
        lag(event_time) over (partition by product_id order by event_time) as time_before
    from ticked
)

select
    'sequence_num' as kind,
    sequenced.connection as subject,
    sequenced.time_before as "from",
    sequenced.time as "to",
    sequenced.sequence_num::hugeint - sequenced.before - 1 as missing,
    not sequenced.is_recorded or not kept.is_all_kept as is_hint
from sequenced
inner join kept on sequenced.connection = kept.connection
where sequenced.sequence_num::hugeint - sequenced.before > 1
union all
select
    'trade_id' as kind,
    product_id as subject,
    min(time_before) as "from",
    max(event_time) as "to",
    sum(trade_id::hugeint - before - 1) as missing,
    true as is_hint
from trades
where trade_id::hugeint - before > 1
group by product_id
union all
select
    'silence' as kind,
    product_id as subject,
    time_before as "from",
    event_time as "to",
    null::hugeint as missing,
    false as is_hint
from spaced
where event_time - time_before > to_seconds($max_gap_seconds)
order by kind, subject, "from", "to", missing
