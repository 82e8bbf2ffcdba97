-- The fast reader of raw lines.
-- Grain: one row per line of the files, in their order.
-- Reads: the raw segments $files, every line of which is exactly one JSON object.
-- `kind` vouches for a line: `ticker` (one sound ticker of the day [$start, $end) that is not
-- later than $latest) or `other` (a message that is no ticker). Where it is null the plain reader
-- (domain/messages.py) decides; where it is not, the plain reader would say the same.
-- (The linter takes a struct and its field for a table and its column.)
-- noqa: disable=RF03
with lines as (
    select
        file_index,
        raw,
        channel,
        connection,
        payload,
        events,
        "time",
        "timestamp",
        case
            when coalesce(raw.channel, channel) in ('ticker', 'ticker_batch')
                then coalesce(raw.events, events)[1].tickers[1]
        end as item,
        coalesce(raw.channel, channel) as message_channel,
        case when raw is null then "type" else raw.type end as message_type,
        coalesce(raw.sequence_num, sequence_num) as message_sequence_num,
        coalesce(
            received_at, ingest_time, case when channel is null then "timestamp" end, ts
        ) as capture,
        product_id,
        pair,
        price,
        best_bid,
        best_ask,
        best_bid_size,
        best_bid_quantity,
        best_ask_size,
        best_ask_quantity,
        last_size,
        volume_24h,
        volume_24_h,
        side,
        trade_id,
        "sequence",
        sequence_num
    from read_json(
        $files,
        columns = {
            received_at: 'varchar', ingest_time: 'varchar', "timestamp": 'varchar', ts: 'varchar',
            "time": 'varchar', "type": 'varchar', channel: 'varchar', connection: 'json',
            payload: 'json', product_id: 'varchar', pair: 'varchar', price: 'varchar',
            best_bid: 'varchar', best_ask: 'varchar', best_bid_size: 'varchar',
            best_bid_quantity: 'varchar', best_ask_size: 'varchar', best_ask_quantity: 'varchar',
            last_size: 'varchar', volume_24h: 'varchar', volume_24_h: 'varchar', side: 'varchar',
            trade_id: 'varchar', "sequence": 'varchar', sequence_num: 'varchar',
            events: 'struct(tickers struct(
                product_id varchar, pair varchar, price varchar, best_bid varchar,
                best_ask varchar, best_bid_size varchar, best_bid_quantity varchar,
                best_ask_size varchar, best_ask_quantity varchar, last_size varchar,
                volume_24h varchar, volume_24_h varchar, side varchar, trade_id varchar,
                "sequence" varchar, sequence_num varchar, "time" varchar)[])[]',
            raw: 'struct(
                "type" varchar, channel varchar, "timestamp" varchar, "time" varchar,
                product_id varchar, pair varchar, price varchar, best_bid varchar,
                best_ask varchar, best_bid_size varchar, best_bid_quantity varchar,
                best_ask_size varchar, best_ask_quantity varchar, last_size varchar,
                volume_24h varchar, volume_24_h varchar, side varchar, trade_id varchar,
                "sequence" varchar, sequence_num varchar,
                events struct(tickers struct(
                    product_id varchar, pair varchar, price varchar, best_bid varchar,
                    best_ask varchar, best_bid_size varchar, best_bid_quantity varchar,
                    best_ask_size varchar, best_ask_quantity varchar, last_size varchar,
                    volume_24h varchar, volume_24_h varchar, side varchar, trade_id varchar,
                    "sequence" varchar, sequence_num varchar, "time" varchar)[])[])'
        },
        format = 'newline_delimited', records = 'true', hive_partitioning = false,
        maximum_object_size = 16777216
    )
),

layered as (
    select
        file_index,
        connection,
        message_channel,
        message_type,
        message_sequence_num,
        capture,
        payload is null
        and (raw is null or (channel is null and events is null)) as is_known_shape,
        case
            when message_channel is not null
                then
                    message_channel in ('ticker', 'ticker_batch')
                    and item is not null
                    and len(coalesce(raw.events, events)) = 1
                    and len(coalesce(raw.events, events)[1].tickers) = 1
            else coalesce(message_type, 'ticker') in ('ticker', 'ticker_batch')
        end as is_one_ticker,
        coalesce(
            item.time,
            raw.time,
            case when raw is null then "time" end,
            raw.timestamp,
            case when raw is null and channel is not null then "timestamp" end,
            "time",
            capture
        ) as stamp,
        coalesce(
            item.product_id, item.pair, raw.product_id, raw.pair, product_id, pair
        ) as product_id,
        coalesce(item.price, raw.price, price) as price,
        coalesce(item.best_bid, raw.best_bid, best_bid) as best_bid,
        coalesce(item.best_ask, raw.best_ask, best_ask) as best_ask,
        coalesce(
            item.best_bid_size, item.best_bid_quantity, raw.best_bid_size, raw.best_bid_quantity,
            best_bid_size, best_bid_quantity
        ) as bid_size,
        coalesce(
            item.best_ask_size, item.best_ask_quantity, raw.best_ask_size, raw.best_ask_quantity,
            best_ask_size, best_ask_quantity
        ) as ask_size,
        coalesce(item.last_size, raw.last_size, last_size) as last_size,
        coalesce(
            item.volume_24h, item.volume_24_h, raw.volume_24h, raw.volume_24_h, volume_24h,
            volume_24_h
        ) as volume_24h,
        coalesce(item.side, raw.side, side) as side,
        coalesce(item.trade_id, raw.trade_id, trade_id) as trade_id,
        coalesce(
            item.sequence_num, item.sequence, raw.sequence_num, raw.sequence, sequence_num,
            "sequence"
        ) as "sequence"
    from lines
),

typed as (
    select
        file_index,
        connection,
        message_channel,
        message_type,
        message_sequence_num,
        stamp,
        product_id,
        side,
        try_cast(message_sequence_num as bigint) as sequence_num,
        try_cast(stamp as timestamp) as event_time,
        try_cast(capture as timestamp) as capture_time,
        try_cast("sequence" as bigint) as "sequence",
        try_cast(trade_id as bigint) as trade_id,
        try_cast(price as decimal(28, 10)) as price,
        try_cast(best_bid as decimal(28, 10)) as best_bid,
        try_cast(best_ask as decimal(28, 10)) as best_ask,
        try_cast(bid_size as decimal(28, 10)) as bid_size,
        try_cast(ask_size as decimal(28, 10)) as ask_size,
        try_cast(last_size as decimal(28, 10)) as last_size,
        try_cast(volume_24h as decimal(28, 10)) as volume_24h,
        is_known_shape,
        is_one_ticker
        and regexp_full_match(
            concat_ws(
                '|', product_id, stamp, case when capture != stamp then capture else '=' end,
                price, best_bid, best_ask, coalesce(bid_size, '0'), coalesce(ask_size, '0'),
                coalesce(last_size, '0'), coalesce(volume_24h, '0')
            ),
            '([A-Z]|\d{1,9}-?[A-DF-Z])[A-Za-z0-9._-]{0,54}'
            || '(\|(=|[12]\d{3}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?Z?)){2}'
            || '(\|(0|[1-9]\d{0,16})(\.\d{1,30})?){7}'
        )
        and coalesce(side in ('buy', 'sell', 'BUY', 'SELL'), true)
        and coalesce(regexp_full_match(connection::varchar, '"[A-Za-z0-9_-]{1,64}"'), true)
        and coalesce(regexp_full_match("sequence", '0|[1-9]\d{0,17}'), true)
        and coalesce(regexp_full_match(trade_id, '0|[1-9]\d{0,17}'), true)
        and coalesce(regexp_full_match(message_sequence_num, '0|[1-9]\d{0,17}'), true)
            as is_in_form
    from layered
)

select
    file_index::integer as file_index,
    case
        when not is_known_shape then null
        when
            is_in_form
            and event_time >= $start and event_time < $end and event_time <= $latest
            and price > 0 and best_bid > 0 and best_ask >= best_bid
            then 'ticker'
        when
            coalesce(message_channel in ('heartbeats', 'subscriptions'), false)
            and regexp_full_match(
                concat_ws('|', stamp, coalesce(connection, '"none"'), message_sequence_num),
                '[12]\d{3}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?Z?'
                || '\|"[A-Za-z0-9_-]{1,64}"\|(0|[1-9]\d{0,17})'
            )
            then 'other'
        when
            message_channel is null
            and coalesce(message_type in ('heartbeat', 'subscriptions'), false)
            then 'other'
    end as kind,
    product_id,
    event_time,
    capture_time,
    "sequence",
    trade_id,
    price,
    best_bid,
    best_ask,
    bid_size,
    ask_size,
    last_size,
    side,
    volume_24h,
    trim(connection::varchar, '"') as connection,
    case when message_channel is not null then sequence_num end as sequence_num
from typed
