"""What one captured line says: every shape, every fault, every odd number and time of DESIGN."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from volatility_pipeline.domain.messages import (
    DEEPEST,
    Message,
    Ticker,
    may_repeat_keys,
    read_day,
    read_line,
    read_object,
    screen,
)
from volatility_pipeline.domain.values import Number, parse_integer, parse_number, parse_time

DAY = date(2026, 4, 4)
NOW = datetime(2026, 4, 4, 18)  # noqa: DTZ001  UTC without a zone, as everywhere
TIME = "2026-04-04T09:30:00.250000Z"
NOON = "2026-04-04T12:00:00Z"
SOUND = {"product_id": "BTC-USD", "price": "70000.5", "best_bid": "70000", "best_ask": "70001"}
TIMED = {**SOUND, "time": TIME}

EXCHANGE_TICKER = """\
{"type":"ticker","sequence":901,"product_id":"BTC-USD","price":"70000.50","open_24h":"69000",\
"volume_24h":"812.25","low_24h":"68000.1","high_24h":"71000","volume_30d":"30000",\
"best_bid":"70000.49","best_bid_size":"0.25","best_ask":"70000.50","best_ask_size":"1.5",\
"side":"buy","time":"2026-04-04T09:30:00.250000Z","trade_id":77,"last_size":"0.001"}"""
ADVANCED_TICKER = """\
{"channel":"ticker","client_id":"","timestamp":"2026-04-04T09:30:00.250000999Z","sequence_num":12,\
"events":[{"type":"update","tickers":[{"type":"ticker","product_id":"ETH-USD","price":"3500.1",\
"volume_24_h":"99.5","low_24_h":"3400","best_bid":"3500","best_bid_quantity":"2",\
"best_ask":"3500.2","best_ask_quantity":"3"}]}]}"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def read(line: str | bytes | dict[str, Any], **more: Any) -> Message:
    """A line read as one of the day 2026-04-04, on its evening."""
    if isinstance(line, dict):
        line = json.dumps(line)
    data = line.encode() if isinstance(line, str) else line
    return read_line(data, **{"day": DAY, "now": NOW, **more})


def one(line: str | bytes | dict[str, Any], **more: Any) -> Ticker:
    """The only ticker of a line."""
    message = read(line, **more)
    assert message.kind == "ticker"
    assert len(message.tickers) == 1
    return message.tickers[0]


def reason(**changed: Any) -> str | None:
    """The fault of a sound, timed ticker with some fields changed; None drops a field."""
    fields = {**TIMED, **changed}
    return one({name: value for name, value in fields.items() if value is not None}).reason


# --- the two feeds, bare


def test_exchange_ticker_is_read_whole() -> None:
    assert read(EXCHANGE_TICKER) == Message(
        "ticker",
        tickers=(
            Ticker(
                item=0,
                reason=None,
                product_id="BTC-USD",
                event_time=at("2026-04-04 09:30:00.250000"),
                sequence=901,
                trade_id=77,
                price=Decimal("70000.5"),
                best_bid=Decimal("70000.49"),
                best_ask=Decimal("70000.5"),
                bid_size=Decimal("0.25"),
                ask_size=Decimal("1.5"),
                last_size=Decimal("0.001"),
                side="buy",
                volume_24h=Decimal("812.25"),
            ),
        ),
        time=at("2026-04-04 09:30:00.250000"),
    )


def test_exchange_ticker_batch_is_a_ticker() -> None:
    batch = EXCHANGE_TICKER.replace('"type":"ticker"', '"type":"ticker_batch"')
    assert read(batch) == read(EXCHANGE_TICKER)


def test_advanced_ticker_takes_event_time_and_sequence_from_its_envelope() -> None:
    assert read(ADVANCED_TICKER) == Message(
        "ticker",
        tickers=(
            Ticker(
                item=0,
                reason=None,
                product_id="ETH-USD",
                event_time=at("2026-04-04 09:30:00.250000"),
                sequence=12,
                price=Decimal("3500.1"),
                best_bid=Decimal("3500"),
                best_ask=Decimal("3500.2"),
                bid_size=Decimal("2"),
                ask_size=Decimal("3"),
                volume_24h=Decimal("99.5"),
            ),
        ),
        time=at("2026-04-04 09:30:00.250000"),
        channel="ticker",
        sequence_num=12,
    )


def test_advanced_ticker_batch_of_several_events_numbers_its_items_through() -> None:
    message = read(
        {
            "channel": "ticker_batch",
            "timestamp": TIME,
            "sequence_num": 0,
            "events": [
                {"type": "snapshot", "tickers": [SOUND, {**SOUND, "product_id": "ETH-USD"}]},
                {"type": "update", "tickers": []},
                {"type": "update", "tickers": [{**SOUND, "best_ask": "1"}]},
            ],
        }
    )
    found = [(ticker.item, ticker.product_id, ticker.reason) for ticker in message.tickers]
    assert found == [(0, "BTC-USD", None), (1, "ETH-USD", None), (2, "BTC-USD", "crossed")]
    assert {ticker.sequence for ticker in message.tickers} == {0}
    assert {ticker.event_time for ticker in message.tickers} == {at("2026-04-04 09:30:00.25")}


def test_item_that_is_no_object_is_a_fault_of_that_item_alone() -> None:
    events = [{"tickers": [5, SOUND, None, "x"]}]
    message = read({"channel": "ticker", "timestamp": TIME, "events": events})
    assert [ticker.reason for ticker in message.tickers] == ["not_json", None] + ["not_json"] * 2
    assert message.time == at("2026-04-04 09:30:00.25")


def test_ticker_in_an_envelope_may_have_a_time_of_its_own() -> None:
    events = [{"tickers": [{**SOUND, "time": NOON}]}]
    ticker = one({"channel": "ticker", "timestamp": TIME, "events": events})
    assert ticker.event_time == at("2026-04-04 12:00:00")


@pytest.mark.parametrize(
    "events",
    [[], None, 5, "x", {}, [None], [5], [[]], [{}], [{"tickers": None}], [{"tickers": {}}]],
)
def test_ticker_envelope_without_tickers_is_other(events: Any) -> None:
    message = read({"channel": "ticker", "timestamp": TIME, "sequence_num": 3, "events": events})
    assert (message.kind, message.tickers, message.sequence_num) == ("other", (), 3)
    assert message.time == at("2026-04-04 09:30:00.25")


def test_events_of_a_message_without_a_channel_are_not_looked_into() -> None:
    ticker = one({**TIMED, "type": "ticker", "events": [{"tickers": [{"price": "1"}]}]})
    assert ticker.price == Decimal("70000.5")


# --- wrappers


@pytest.mark.parametrize("name", ["raw", "payload"])
@pytest.mark.parametrize("is_text", [False, True], ids=["object", "text"])
@pytest.mark.parametrize("message", [EXCHANGE_TICKER, ADVANCED_TICKER], ids=["exch", "adv"])
def test_wrapped_message_reads_as_the_bare_one_with_a_capture_time(
    name: str, is_text: bool, message: str
) -> None:
    value = message if is_text else json.loads(message)
    bare = one(message)
    found = one({"received_at": "2026-04-04T09:30:01Z", name: value})
    assert found.capture_time == at("2026-04-04 09:30:01")
    assert bare.capture_time is None
    assert {**vars(found), "capture_time": None} == vars(bare)


@pytest.mark.parametrize("name", ["received_at", "ingest_time", "timestamp", "ts"])
@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2026-04-04T12:00:01.5Z", "01.5"),
        ("2026-04-04 12:00:01.5", "01.5"),
        ("2026-04-04T14:00:01.5+02:00", "01.5"),
        (1775304001, "01"),
        (1775304001.25, "01.25"),
        ("1775304001.25", "01.25"),
        (1775304001123, "01.123"),
        (1775304001123456, "01.123456"),
        ("1775304001123456", "01.123456"),
    ],
)
def test_capture_time_stands_under_any_name_as_text_or_epoch(
    name: str, written: Any, seconds: str
) -> None:
    ticker = one({name: written, "raw": SOUND})
    assert ticker.capture_time == at(f"2026-04-04 12:00:{seconds}")
    assert ticker.event_time == ticker.capture_time


def test_first_capture_name_that_is_not_null_counts() -> None:
    names = {"ts": 1775304004, "timestamp": "2026-04-04T12:00:03Z"}
    names |= {"ingest_time": "2026-04-04T12:00:02Z", "received_at": None}
    assert one({**names, "raw": SOUND}).capture_time == at("2026-04-04 12:00:02")


def test_wrapper_gives_the_product_that_its_message_lacks() -> None:
    ticker = {name: value for name, value in TIMED.items() if name != "product_id"}
    assert one({"pair": "SOL-USD", "raw": ticker}).product_id == "SOL-USD"
    assert one({"pair": "X-Y", "product_id": "SOL-USD", "raw": ticker}).product_id == "SOL-USD"
    assert one({"pair": "SOL-USD", "raw": TIMED}).product_id == "BTC-USD"


def test_raw_counts_before_payload_and_null_counts_as_absent() -> None:
    assert one({"raw": TIMED, "payload": {**TIMED, "price": "1"}}).price == Decimal("70000.5")
    assert one({"raw": None, "payload": {**TIMED, "price": "1"}}).price == Decimal(1)


def test_event_time_is_the_tickers_then_its_envelopes_then_capture() -> None:
    wrapper = {"received_at": "2026-04-04T13:00:00Z"}
    timed = {**SOUND, "time": "2026-04-04T11:00:00Z", "timestamp": NOON}
    stamped = {**SOUND, "timestamp": NOON}
    assert one({**wrapper, "raw": timed}).event_time == at("2026-04-04 11:00")
    assert one({**wrapper, "raw": stamped}).event_time == at("2026-04-04 12:00")
    assert one({**wrapper, "raw": SOUND}).event_time == at("2026-04-04 13:00")
    assert one({**wrapper, "raw": SOUND}).capture_time == at("2026-04-04 13:00")


def test_timestamp_of_a_bare_envelope_is_no_capture_time() -> None:
    assert one(ADVANCED_TICKER).capture_time is None


def test_timestamp_of_a_wrapper_is_a_capture_time_even_if_it_names_the_channel() -> None:
    ticker = one({"channel": "ticker", "timestamp": NOON, "raw": SOUND})
    assert ticker.capture_time == ticker.event_time == at("2026-04-04 12:00")
    message = read({"channel": "ticker", "timestamp": NOON, "raw": "<html>"})
    assert message.time == at("2026-04-04 12:00")


def test_wrapped_text_that_is_no_json_is_not_json_and_keeps_its_capture_time() -> None:
    message = read({"received_at": NOON, "connection": "a", "sent": 4, "raw": "<html>"})
    assert message == Message("not_json", time=at("2026-04-04 12:00"))


@pytest.mark.parametrize("raw", [42, True, [], [{}], "", "42", "[]", '{"a":1} x', '"{}"'])
def test_wrapper_around_anything_but_an_object_is_not_json(raw: Any) -> None:
    assert read({"received_at": NOON, "raw": raw}).kind == "not_json"


def test_wrapped_text_is_unpacked_once() -> None:
    assert one({"raw": json.dumps({**TIMED, "raw": "text"})}).price == Decimal("70000.5")


# --- flat lines


def test_flat_line_is_a_bare_ticker_with_a_capture_time() -> None:
    ticker = one({"timestamp": NOON, **SOUND, "volume_24h": 5, "order_book_imbalance": 0.4})
    assert ticker.reason is None
    assert ticker.event_time == ticker.capture_time == at("2026-04-04 12:00")
    assert (ticker.sequence, ticker.bid_size, ticker.volume_24h) == (None, None, Decimal(5))


def test_nested_fields_win_and_flat_ones_fill_in() -> None:
    nested = {"type": "ticker", "price": "9", "best_bid": "8", "best_bid_quantity": "0.5"}
    flat = {"best_bid_size": "7", "best_ask_size": "4", "volume_24h": "3", "side": "sell"}
    ticker = one({"timestamp": NOON, **SOUND, **flat, "best_ask": "10", "raw": nested})
    assert ticker == Ticker(
        item=0,
        reason=None,
        product_id="BTC-USD",
        event_time=at("2026-04-04 12:00"),
        capture_time=at("2026-04-04 12:00"),
        price=Decimal(9),
        best_bid=Decimal(8),
        best_ask=Decimal(10),
        bid_size=Decimal("0.5"),
        ask_size=Decimal(4),
        side="sell",
        volume_24h=Decimal(3),
    )


def test_null_nested_field_is_filled_in_and_a_faulty_one_is_not() -> None:
    assert one({"timestamp": NOON, **SOUND, "raw": {"price": None}}).reason is None
    assert one({"timestamp": NOON, **SOUND, "raw": {"price": ""}}).reason == "bad_price"


@pytest.mark.parametrize("raw", [42, "rubbish", [], True])
def test_flat_line_with_an_unreadable_raw_stands_for_itself(raw: Any) -> None:
    assert one({"timestamp": NOON, **SOUND, "raw": raw}).reason is None


# --- lines that are no tickers


def test_recorders_line_gives_connection_and_sequence_number() -> None:
    message = read(
        {"received_at": NOON, "connection": "k1", "sent": 5, "raw": json.loads(ADVANCED_TICKER)}
    )
    assert (message.kind, message.connection, message.sequence_num) == ("ticker", "k1", 12)


def test_recorders_gap_line_is_other_and_told() -> None:
    gap = {"type": "gap", "product_id": "BTC-USD", "from": TIME, "to": NOON, "reason": "closed"}
    message = read(gap)
    assert (message.kind, message.gap) == ("other", gap)


@pytest.mark.parametrize(
    ("line", "channel", "number"),
    [
        ('{"type":"heartbeat","sequence":5,"product_id":"BTC-USD","time":"%s"}', None, None),
        ('{"type":"subscriptions","channels":[{"name":"ticker"}],"time":"%s"}', None, None),
        ('{"type":"error","message":"no","reason":"none","time":"%s"}', None, None),
        ('{"channel":"heartbeats","timestamp":"%s","sequence_num":4,"events":[]}', "heartbeats", 4),
        ('{"channel":"subscriptions","timestamp":"%s","events":[{}]}', "subscriptions", None),
        ('{"channel":"l2_data","timestamp":"%s","sequence_num":"8"}', "l2_data", 8),
        ('{"type":"last_match","price":"1","product_id":"BTC-USD","time":"%s"}', None, None),
        ('{"timestamp":"%s","hello":"world"}', None, None),
    ],
)
def test_message_that_is_no_ticker_is_other_with_its_time(
    line: str, channel: str | None, number: int | None
) -> None:
    message = read(line % NOON)
    expected = Message("other", time=at("2026-04-04 12:00"), channel=channel, sequence_num=number)
    assert message == expected
    wrapped = read({"connection": "k", "ts": 1775304001, "raw": line % NOON})
    assert wrapped == Message(**{**vars(expected), "connection": "k"})


def test_time_of_a_wrapped_other_is_its_capture_time_where_it_has_none() -> None:
    message = read({"received_at": NOON, "raw": {"type": "subscriptions"}})
    assert message.time == at("2026-04-04 12:00")


@pytest.mark.parametrize("line", [b"", b" ", b"\t", b"\r", b" \r\t "])
def test_blank_line_is_other(line: bytes) -> None:
    assert read(line) == Message("other")


def test_object_that_names_nothing_of_a_ticker_is_other_and_one_that_names_any_is_at_fault() -> (
    None
):
    assert read("{}").kind == "other"
    assert read({"type": "ticker"}).kind == "other"
    assert read({"received_at": NOON, "product_id": "BTC-USD", "raw": {"a": 1}}).kind == "other"
    assert one({"product_id": "BTC-USD"}).reason == "no_time"
    assert one({"best_ask": None}).reason == "no_product"
    assert one({"received_at": NOON, "raw": {"pair": "BTC-USD"}}).reason == "bad_price"


# --- faults, in their order


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("no_product", {"product_id": ""}),
    ("no_time", {"time": "yesterday"}),
    ("bad_price", {"price": "0"}),
    ("bad_quote", {"best_bid": "-1"}),
    ("crossed", {"best_bid": "70002"}),
    ("wrong_day", {"time": "2026-04-03T23:59:59.999999999Z"}),
]


@pytest.mark.parametrize(("expected", "fault"), FAULTS, ids=[name for name, _ in FAULTS])
def test_each_fault_alone_has_its_reason(expected: str, fault: dict[str, Any]) -> None:
    assert reason(**fault) == expected


@pytest.mark.parametrize("index", range(len(FAULTS)))
def test_of_several_faults_the_first_in_order_is_the_reason(index: int) -> None:
    faults: dict[str, Any] = {}
    for _, fault in reversed(FAULTS[index:]):
        faults |= fault
    assert reason(**faults) == FAULTS[index][0]


def test_not_json_comes_before_all() -> None:
    assert read(b'{"product_id":"","price":0').kind == "not_json"


@pytest.mark.parametrize(
    "product",
    [None, "", " BTC-USD", "BTC USD", "BTC/USD", "BTC|USD", "BTC\n", "É", "-A", "A" * 65, 5, True],
)
def test_product_that_cannot_name_a_partition_is_no_product(product: Any) -> None:
    assert reason(product_id=product) == "no_product"


@pytest.mark.parametrize("product", ["BTC-USD", "1INCH-USD", "00-USD", "a.b_c", "A" * 64])
def test_product_of_letters_digits_dot_dash_underscore_is_sound(product: str) -> None:
    assert one({**TIMED, "product_id": product}).product_id == product


@pytest.mark.parametrize("time", [None, "", "soon", True, {}, [], "2026-04-05T18:00:00.000001Z"])
def test_missing_unreadable_or_future_time_is_no_time(time: Any) -> None:
    assert reason(time=time) == "no_time"


def test_future_begins_after_one_day_from_now() -> None:
    line = {**TIMED, "time": "2026-04-05T18:00:00Z"}
    assert one(line, day=None).reason is None
    assert one(line, day=None, now=NOW - timedelta(microseconds=1)).reason == "no_time"
    assert one(line, day=None, now=None).reason is None


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-04-04T00:00:00Z", None),
        ("2026-04-04T23:59:59.999999999Z", None),
        ("2026-04-05T00:00:00Z", "wrong_day"),
        ("2026-04-05T01:00:00+02:00", None),
        ("2026-04-03T23:59:59.9999999Z", "wrong_day"),
        ("2026-04-03T23:30:00-00:30", None),
    ],
)
def test_day_is_half_open_in_utc(time: str, expected: str | None) -> None:
    assert reason(time=time) == expected


@pytest.mark.parametrize("price", [None, "", "0", 0, "-1", -1, "NaN", "1e18", "1e-11", {}, True])
def test_price_missing_no_number_not_finite_or_not_positive_is_bad_price(price: Any) -> None:
    assert reason(price=price) == "bad_price"


@pytest.mark.parametrize("side", ["best_bid", "best_ask"])
@pytest.mark.parametrize("quote", [None, "", "0", "-1", "Infinity", "1_000", []])
def test_either_quote_bad_is_bad_quote(side: str, quote: Any) -> None:
    assert reason(**{side: quote}) == "bad_quote"


@pytest.mark.parametrize(
    "name",
    ["best_bid_size", "best_bid_quantity", "best_ask_size", "best_ask_quantity", "last_size"],
)
def test_negative_or_unreadable_size_is_bad_quote_and_zero_or_null_is_not(name: str) -> None:
    bad = [reason(**{name: size}) for size in ("-0.1", "x", True, "", "1e400")]
    assert bad == ["bad_quote"] * 5
    assert [reason(**{name: size}) for size in ("0", 0, "-0", None, "1e-400")] == [None] * 5


def test_locked_book_is_sound_and_one_ten_decimal_step_below_is_crossed() -> None:
    assert reason(best_bid="5", best_ask="5") is None
    assert reason(best_bid="5.0000000001", best_ask="5") == "crossed"
    assert reason(best_bid="5.00000000001", best_ask="5") is None  # alike in ten decimals


def test_unreadable_side_sequence_trade_id_and_volume_are_null_and_no_fault() -> None:
    ticker = one({**TIMED, "side": 5, "sequence": "x", "trade_id": 1.5, "volume_24h": "1_0"})
    found = (ticker.reason, ticker.side, ticker.sequence, ticker.trade_id, ticker.volume_24h)
    assert found == (None, None, None, None, None)


# --- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("-1.50", "-1.5"),
        ("1e3", "1000"),
        ("1E+3", "1000"),
        ("1.5e-3", "0.0015"),
        ("0.00000000005", "0.0000000001"),
        ("0.000000000049999999999999", "0"),
        ("-0.00000000005", "-0.0000000001"),
        ("999999999999999999.9999999999", "999999999999999999.9999999999"),
        ("1e17", "100000000000000000"),
        ("1e-400", "0"),
        ("1e-999999", "0"),
        ("0." + "1" * 5000, "0.1111111111"),
        ("0e999999", "0"),
    ],
)
def test_number_in_text_is_read_digit_for_digit_to_ten_decimals(text: str, value: str) -> None:
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", " 1", "1 ", "1_000", "1,5", "+1", "01", ".5", "5.", "0x10", "1e", "e5", "--1"),
        *("NaN", "nan", "Infinity", "-inf", "١", "１", "1\n", "1e1000000", "true", "½"),
        *("999999999999999999.99999999995", "1e18", "-1e18", "1e400", "1" + "0" * 1_000_000),
    ],
)
def test_text_that_is_no_json_number_or_too_large_is_none(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("value", [None, True, False, 5, 1.5, [], {}, ["1"], Decimal(1)])
def test_only_text_and_json_numbers_are_numbers(value: Any) -> None:
    assert parse_number(value) is None
    assert parse_integer(value) is None
    assert parse_time(value) is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0.1000000000000000055511151231257827", "0.1"),
        ("67000.123456789012345678", "67000.123456789"),
        ("12345678901234567", "12345678901234567"),
        ("12345678901234567.0", "12345678901234568"),
        ("5e-11", "0.0000000001"),
        ("1e400", None),
        ("-1e400", None),
        ("1e-400", "0"),
        ("123456789012345678901", None),
    ],
)
def test_json_number_means_its_double_if_it_has_a_fraction_or_exponent(
    written: str, value: str | None
) -> None:
    read_value = (read_object(f'{{"a":{written}}}') or {})["a"]
    assert type(read_value) is Number
    assert parse_number(read_value) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-5", -5),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("9" * 5000, None),
        ("5.0", None),
        ("1e3", None),
        ("05", None),
        ("+5", None),
        (" 5", None),
        ("", None),
    ],
)
def test_integer_fits_64_bits_or_is_none(text: str, value: int | None) -> None:
    assert parse_integer(text) == value


# --- times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-04-04T12:00:00", "2026-04-04 12:00:00"),
        ("2026-04-04 12:00:00", "2026-04-04 12:00:00"),
        ("2026-04-04T12:00:00Z", "2026-04-04 12:00:00"),
        ("2026-04-04T12:00:00z", "2026-04-04 12:00:00"),
        ("2026-04-04T12:00:00+00:00", "2026-04-04 12:00:00"),
        ("2026-04-04T12:00:00+02", "2026-04-04 10:00:00"),
        ("2026-04-04T12:00:00+0530", "2026-04-04 06:30:00"),
        ("2026-04-04T12:00:00-05:30", "2026-04-04 17:30:00"),
        ("2026-04-04T23:59:59-23:59", "2026-04-05 23:58:59"),
        ("2026-04-04T12:00:00.1Z", "2026-04-04 12:00:00.100000"),
        ("2026-04-04T12:00:00.123456Z", "2026-04-04 12:00:00.123456"),
        ("2026-04-04T12:00:00.123456999Z", "2026-04-04 12:00:00.123456"),
        ("2026-04-04T23:59:59.999999999Z", "2026-04-04 23:59:59.999999"),
        ("2024-02-29T00:00:00Z", "2024-02-29 00:00:00"),
        ("1775304000", "2026-04-04 12:00:00"),
        ("1775304000.123456999", "2026-04-04 12:00:00.123456"),
        ("1775304000.1234569999999999999999999999999", "2026-04-04 12:00:00.123456"),
        ("1775304000." + "9" * 70, "2026-04-04 12:00:00.999999"),
        ("1.775304e9", "2026-04-04 12:00:00"),
        ("1775304000123", "2026-04-04 12:00:00.123"),
        ("1775304000123.4567", "2026-04-04 12:00:00.123456"),
        ("1775304000123456", "2026-04-04 12:00:00.123456"),
        ("1775304000123456.9", "2026-04-04 12:00:00.123456"),
        ("99999999999", None),
        ("100000000000", "1973-03-03 09:46:40"),
        ("99999999999999", None),
        ("100000000000000", "1973-03-03 09:46:40"),
        ("0", "1970-01-01 00:00:00"),
        ("-0", "1970-01-01 00:00:00"),
        ("7258118399999999", "2199-12-31 23:59:59.999999"),
        ("7258118400000000", None),
    ],
)
def test_time_is_iso_text_or_an_epoch_cut_to_microseconds(text: str, expected: str | None) -> None:
    assert parse_time(text) == (None if expected is None else at(expected))


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026-04-04", "12:00:00", "2026-04-04T12:00", "2026-04-04T12:00:00.", "now"),
        *("2026-02-29T12:00:00Z", "2026-13-01T12:00:00Z", "2026-04-31T12:00:00Z"),
        *("2026-04-04T24:00:00Z", "2026-04-04T12:60:00Z", "2026-04-04T12:00:60Z"),
        *("2026-4-4T12:00:00Z", "0999-04-04T12:00:00Z", "12026-04-04T12:00:00Z"),
        *("2026-04-04T12:00:00.1234567890Z", "2026-04-04T12:00:00,5Z", " 2026-04-04T12:00:00Z"),
        *("2026-04-04T12:00:00 Z", "2026-04-04T12:00:00 UTC", "2026-04-04T12:00:00+24:00"),
        *("2026-04-04T12:00:00+2", "2026-04-04T12:00:00ZZ", "２026-04-04T12:00:00Z", "epoch"),
        *("-1", "1e18", "1e999999", "0e999999", "NaN", "infinity", "1_775_304_000", " 1775304000"),
        "1" * 1_000_000,
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None


# --- what is exactly one JSON object


@pytest.mark.parametrize(
    "line",
    [
        *(b"42", b"[]", b"null", b"true", b'"text"', b"{", b"}", b"{}{}", b"{} {}", b"{},", b"{}x"),
        *(b"{'a':1}", b'{"a":1,}', b'{"a":}', b'{"a" 1}', b"{a:1}", b'{"a":01}', b'{"a":+1}'),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":.5}', b'{"a":1.}'),
        *(b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\n"}', b'{"a":"\x00"}', b'{"a":"\\x"}'),
        *(b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"\x00", b"\x1f\x8b\x08", b"{}\x00", b"//{}"),
        *(b'[{"price":"1"}]', b"\x0b{}", b"{}\xc2\xa0", b"[" * 5000, b'{"a":' * 5000),
    ],
)
def test_line_that_is_not_exactly_one_json_object_is_not_json(line: bytes) -> None:
    assert read(line) == Message("not_json")
    assert screen(line) is None


@pytest.mark.parametrize("line", [b" {} ", b"\t{}\r", b"{}\r", b'{"\xc3\xa9":"\xe2\x82\xac"}'])
def test_blanks_around_an_object_and_utf8_within_are_sound(line: bytes) -> None:
    assert read(line) == Message("other")


def test_of_a_duplicate_key_the_first_counts() -> None:
    fields = json.dumps(TIMED)[:-1]
    ticker = one(f'{fields},"price":"1","price":null,"time":"x","product_id":5}}')
    assert (ticker.price, ticker.reason, ticker.product_id) == (Decimal("70000.5"), None, "BTC-USD")
    assert one(f'{{"price":null,{fields[1:]}}}').reason == "bad_price"
    assert one(f'{{"raw":null,{fields[1:]},"raw":{{"price":"1"}}}}').price == Decimal("70000.5")
    assert one('{"pr\\u0069ce":"2",' + fields[1:] + "}").price == Decimal(2)


def test_keys_are_told_apart_by_case_and_blanks() -> None:
    assert one({**TIMED, "Price": "1", " price": "2", "PRICE": None}).price == Decimal("70000.5")


def nested(depth: int, inside: str = "1") -> str:
    """A sound ticker that nests so many objects and arrays, itself included."""
    deep = "[" * (depth - 1) + inside + "]" * (depth - 1)
    return f'{json.dumps(TIMED)[:-1]},"extra":{deep}}}'


def test_depth_has_an_end_that_does_not_depend_on_the_callers_stack() -> None:
    def from_deep_below(calls: int) -> Message:
        return from_deep_below(calls - 1) if calls else read(nested(DEEPEST))

    assert one(nested(DEEPEST)).reason is None
    assert from_deep_below(300) == read(nested(DEEPEST))
    assert read(nested(DEEPEST + 1)) == Message("not_json")
    assert read(nested(100_000)) == Message("not_json")
    assert read({"received_at": NOON, "raw": nested(DEEPEST + 1)}).kind == "not_json"


def test_brackets_side_by_side_or_in_text_are_not_depth() -> None:
    wide = "[]," * 1000 + "[]"
    assert one(f'{json.dumps(TIMED)[:-1]},"extra":[{wide}]}}').reason is None
    text = r'"\"' + "[{" * 1000 + r"\\" + '"'
    assert one(nested(DEEPEST, inside=text)).reason is None
    assert read(nested(DEEPEST + 1, inside=text)).kind == "not_json"


def test_lone_surrogate_is_json_and_the_text_that_holds_it_is_not_used() -> None:
    line = json.dumps({**TIMED, "side": "\ud800", "x": "\udfff"}).encode()
    assert one(line).side is None
    assert one({**TIMED, "product_id": "\ud800"}).reason == "no_product"
    assert screen(line) is None
    other = read({"channel": "\ud800", "connection": "\udc00", "type": "error", "a": 1})
    assert (other.kind, other.channel, other.connection) == ("other", None, None)


def test_line_of_a_megabyte_is_read() -> None:
    assert one({"x": "y" * 1_000_000, **TIMED}).reason is None
    assert read(b'{"x":"' + b"\\" * 1_000_001).kind == "not_json"
    assert read(b"[" * 1_000_000).kind == "not_json"
    assert read(b'{"x":"' + b'\\"' * 500_000).kind == "not_json"


@pytest.mark.parametrize("channel", [5, True, None, {}, ["ticker"], "\ud800"])
def test_channel_that_is_no_text_makes_no_envelope(channel: Any) -> None:
    ticker = one({**TIMED, "channel": channel, "sequence_num": 4})
    assert (ticker.price, ticker.sequence) == (Decimal("70000.5"), 4)
    assert read({**TIMED, "channel": channel}).channel is None


# --- what the fast reader may be given


@pytest.mark.parametrize(
    "fields",
    [
        *({"raw": "{}"}, {"payload": "{}"}, {"raw": 5}, {"raw": []}, {"payload": [1]}),
        *({"events": 5}, {"events": {}}, {"events": [5]}, {"events": [[]]}, {"raw": {"events": 5}}),
        *({"events": [{"tickers": {}}]}, {"raw": {"events": [{"tickers": [5]}]}}),
        *({"x": "y" * (8 << 20)}, {"x": [[]] * 200}),
    ],
)
def test_screen_refuses_what_would_fail_or_mislead_the_fast_reader(fields: dict[str, Any]) -> None:
    assert screen(json.dumps(fields).encode()) is None


@pytest.mark.parametrize(
    "fields",
    [
        *(TIMED, {}, {"raw": None, "payload": None}, {"raw": TIMED}, {"payload": {}}),
        *({"events": None}, {"events": [None, {}, {"tickers": None}, {"tickers": [None, {}]}]}),
    ],
)
def test_screen_returns_the_object_of_a_fit_line(fields: dict[str, Any]) -> None:
    line = json.dumps(fields).encode()
    assert screen(line) == fields
    assert not may_repeat_keys(line, fields)


@pytest.mark.parametrize(
    "line", [b'{"a":1,"a":1}', b'{"raw":{"a":1,"b":2,"a":3}}', b'{"a":1,"\\u0061":2}']
)
def test_repeated_key_is_noticed_at_any_depth(line: bytes) -> None:
    fields = screen(line)
    assert fields is not None
    assert may_repeat_keys(line, fields)


# --- the day a line belongs to


LATEST = NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({**TIMED, "time": "2026-04-03T23:59:59.999999999Z"}, date(2026, 4, 3)),
        ({**TIMED, "time": "2026-04-04T00:30:00+01:00"}, date(2026, 4, 3)),
        ({"ts": 1775260799.9, "raw": SOUND}, date(2026, 4, 3)),
        ({"received_at": "2026-04-04T00:00:00Z", "raw": {**TIMED, "time": None}}, DAY),
        ({"received_at": "2026-04-04T00:00:00Z", "raw": {"time": "x"}}, None),
        ({"received_at": "2026-04-04T00:00:00Z", "raw": {"type": "subscriptions"}}, DAY),
        ({"received_at": "2026-04-04T00:00:00Z", "raw": "<html>"}, DAY),
        ({"timestamp": "2026-02-30T00:00:00Z", **SOUND}, None),
        ({"hello": "world"}, None),
        ({"timestamp": "2026-04-05T18:00:00Z", **SOUND}, date(2026, 4, 5)),
        ({"timestamp": "2026-04-05T18:00:00.000001Z", **SOUND}, None),
        ({"timestamp": "2999-01-01T00:00:00Z", **SOUND}, None),
    ],
)
def test_day_is_that_of_the_lines_own_time(line: dict[str, Any], expected: date | None) -> None:
    assert read_day(json.dumps(line).encode(), latest=LATEST) == expected


def test_day_of_an_envelope_is_its_first_tickers_if_it_is_of_tickers() -> None:
    item = {**SOUND, "time": "2026-04-03T12:00:00Z"}
    line = {"channel": "ticker", "timestamp": NOON, "events": [{"tickers": [item]}]}
    assert read_day(json.dumps(line).encode(), latest=LATEST) == date(2026, 4, 3)
    line["channel"] = "l2_data"
    assert read_day(json.dumps(line).encode(), latest=LATEST) == DAY


def test_day_of_a_repeated_time_is_the_first_ones() -> None:
    line = b'{"time":"2026-04-03T12:00:00Z","price":"1","time":"2026-04-04T12:00:00Z"}'
    assert read_day(line, latest=LATEST) == date(2026, 4, 3)


@pytest.mark.parametrize("line", [b"", b"rubbish", b"[]", b"42", b'{"time":"2026-04-04T1'])
def test_line_that_says_nothing_has_no_day(line: bytes) -> None:
    assert read_day(line, latest=LATEST) is None
