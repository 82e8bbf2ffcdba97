"""Captured lines of every shape that DESIGN names, and nasty mutations of them, for tests.

What belongs here: how lines look. What does not: what any reader should make of them.

A line is made from a tree (objects as lists of pairs, so that keys can repeat; scalars as JSON
text), which is mutated, written in one of several styles, and sometimes cut or soiled as bytes.
Everything is drawn from one `random.Random`, so that hypothesis can shrink it (`st.randoms()`) and
a long run can use a plain seed.
"""

import json
from collections.abc import Callable
from random import Random

Pairs = list[tuple[str, "Tree"]]
Tree = str | list["Tree"] | Pairs  # a scalar is JSON text; a list is an array or an object

DAY = "2026-04-04"
PRODUCTS = ("BTC-USD", "ETH-USD", "X.1-usd", "1INCH-USD")
CONNECTIONS = ("c0ffee", "a_b-C", "9f", "9", "true", "none", "é", "")

ODD_VALUES = (
    *("true", "false", "null", "{}", "[]", "[1]", '{"price":"1"}', '[{"tickers":[{}]}]'),
    *('""', '" "', '"NaN"', '"inf"', '"Infinity"', '"null"', '"true"', '"none"', "5", '"5"'),
    *('"1_000"', '" 1 "', '"١"', '"+5"', '"05"', '"5."', '".5"', '"0x10"', '"1,5"', '"1e2"'),
    *("NaN", "Infinity", "1e400", "-1e400", '"1e400"', '"-1e400"', "1e-400", '"1e-400"', "1e2"),
    *("0", "-0", "-0.0", '"0"', '"-0"', '"0.0"', "-1", '"-1"', "-0.5", '"-0.5"', "1.5", '"1.5"'),
    *('"0.00000000005"', '"0.00000000004999999999"', '"0.00000000014999999"', "5e-11"),
    *("0.1000000000000000055511151231257827", "67000.123456789012345678", "100.10", "100.0"),
    *("12345678901234567", "123456789012345678", '"99999999999999999.99999999999"'),
    *('"999999999999999999.99999999999"', "1e17", "1e16", "123456789012345678901234567890"),
    *('"123456789012345678901234567890"', '"' + "9" * 400 + '"', '"0.' + "3" * 400 + '"'),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "5.0", '"5.0"'),
    *('"9223372036854775807"', '"9223372036854775808"', '"999999999999999999"'),
    *('"BTC|USD"', '"btc-usd"', '"BTC USD"', r'"BTC\u0000USD"', r'"\ud800"', r'"B\u0054C-USD"'),
    *(r'"\"BTC-USD\""', r'"\n"', '"BTC-USD\\n"', '"' + "B" * 64 + '"', '"' + "B" * 65 + '"'),
    *('"buy"', '"SELL"', '"hold"', '"ticker"', '"ticker_batch"', '"heartbeats"', '"heartbeat"'),
    *('"subscriptions"', '"l2_data"', '"error"', '"gap"', '"snapshot"', '"Ticker"'),
    *(f'"{DAY}"', '"12:00:00"', '"epoch"', '"infinity"', '"now"', f'"{DAY}T12:00"'),
    *(f'"{DAY}T12:00:00"', f'"{DAY} 12:00:00Z"', f'"{DAY}T12:00:00z"', f'"{DAY} 12:00:00 UTC"'),
    *(f'"{DAY}T12:00:00+00"', f'"{DAY}T01:00:00+02:00"', f'"{DAY}T23:30:00-0100"'),
    *(f'"{DAY}T12:00:00.1Z"', f'"{DAY}T12:00:00.123456789Z"', f'"{DAY}T12:00:00.9999999999"'),
    *(f'"{DAY}T12:00:00.Z"', f'"{DAY}T24:00:00Z"', f'"{DAY}T12:00:60Z"', f'" {DAY}T12:00:00Z"'),
    *('"2026-02-30T12:00:00Z"', '"2026-04-03T23:59:59.999999999Z"', '"2026-04-05T00:00:00Z"'),
    *('"2026-4-4T12:00:00Z"', '"12026-04-04T12:00:00Z"', '"0999-04-04T12:00:00Z"'),
    *("1775304000", "1775304000.123456789", "1775304000123", "1775304000123456", "1.775304e9"),
    *('"1775304000"', '"1775304000.5"', '"1775304000123"', "-1775304000", "99999999999999999"),
    *('"2999-01-01T00:00:00Z"', r'"2026-04-04T12:00:0\u0030Z"', '"2026\u201004-04T12:00:00Z"'),
)
KNOWN_KEYS = (
    *("raw", "payload", "events", "tickers", "channel", "type", "connection", "product_id"),
    *("pair", "price", "best_bid", "best_ask", "best_bid_size", "best_bid_quantity"),
    *("best_ask_size", "best_ask_quantity", "last_size", "volume_24h", "volume_24_h", "side"),
    *("trade_id", "sequence", "sequence_num", "time", "timestamp", "received_at", "ingest_time"),
    *("ts", "Price", "PRICE", " price", "pr\\u0069ce", "", "filename", "kind", "date", "source"),
)
RUBBISH = (
    *(b"", b" ", b"\t\r", b"\r", b"42", b"[]", b"null", b'"text"', b"true", b"{", b"}", b"{}"),
    *(b"\x00", b"\x00" * 40, b"\xff\xfe", b"\xef\xbb\xbf{}", b"{'price': 1}", b'{"price":1,}'),
    *(b'{"price":1}}', b'{"price":1} x', b'{"type":"heartbeat"} {"type":"heartbeat"}', b"\x0b"),
    *(b'{"type":"heartbeat"},', b'[{"type":"heartbeat"}]', b'{"a":NaN}', b'{"a":"\xff"}', b"{} {}"),
    *(b'{"raw":42}', b'{"raw":""}', b'{"raw":"{}"}', b'{"raw":{}}', b'{"raw":[]}', b'{"raw":null}'),
    *(b'{"a":' * 90 + b"1" + b"}" * 90, b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 5000),
    *(b'{"price":"1","a":' + b"[" * 940 + b"]" * 940 + b"}", b'{"x":"' + b"x" * 70_000 + b'"}'),
)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(rng: Random, value: str) -> str:
    """A number as Coinbase writes it, a string; now and then as a JSON number."""
    return value if rng.random() < 0.1 else _text(value)


def _price(rng: Random) -> tuple[str, str, str]:
    """Price, bid and ask of a sound quote, few enough for duplicates."""
    bid = 6_700_000 + rng.randrange(4)
    ask = bid + rng.randrange(3)
    return tuple(f"{cents / 100:.2f}" for cents in (rng.choice((bid, ask)), bid, ask))  # type: ignore[return-value]


def _size(rng: Random) -> str:
    return rng.choice(("0", "0.00000001", "0.5", "12.25000000", "3", "0.123456785"))


def _iso(rng: Random, day: str = DAY) -> str:
    second = rng.choice((0, 0, 1, 43_200, 43_200, 43_201, 43_290, 86_399))
    fraction = rng.choice(("", ".5", ".000001", ".123456789", ".999999999", ".25"))
    zone = rng.choice(("Z", "Z", "Z", ""))
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"{day}{rng.choice('TT ')}{clock}{fraction}{zone}"


def _epoch(rng: Random) -> str:
    second = 1_775_260_800 + rng.choice((0, 1, 43_200, 43_201, 86_399))
    return rng.choice(
        (f"{second}", f"{second}.25", f"{second}001", f"{second}001002", f'"{second}.5"')
    )


def _capture(rng: Random) -> Pairs:
    name = rng.choice(("received_at", "ingest_time", "timestamp", "ts"))
    return [(name, _text(_iso(rng)) if rng.random() < 0.8 else _epoch(rng))]


def exchange(rng: Random) -> Pairs:
    """An Exchange `ticker` or `ticker_batch`."""
    price, bid, ask = _price(rng)
    return [
        ("type", _text(rng.choice(("ticker", "ticker_batch")))),
        ("sequence", str(rng.randrange(100, 105))),
        ("product_id", _text(rng.choice(PRODUCTS))),
        ("price", _number(rng, price)),
        ("open_24h", '"66000"'),
        ("volume_24h", _number(rng, "1234.5")),
        ("best_bid", _number(rng, bid)),
        ("best_bid_size", _number(rng, _size(rng))),
        ("best_ask", _number(rng, ask)),
        ("best_ask_size", _number(rng, _size(rng))),
        ("side", _text(rng.choice(("buy", "sell")))),
        ("time", _text(_iso(rng))),
        ("trade_id", str(rng.randrange(900, 904))),
        ("last_size", _number(rng, _size(rng))),
    ]


def advanced_ticker(rng: Random) -> Pairs:
    """One ticker of an Advanced Trade envelope."""
    price, bid, ask = _price(rng)
    pairs: Pairs = [
        ("type", '"ticker"'),
        ("product_id", _text(rng.choice(PRODUCTS))),
        ("price", _number(rng, price)),
        ("volume_24_h", _number(rng, "2401.16")),
        ("best_bid", _number(rng, bid)),
        ("best_ask", _number(rng, ask)),
    ]
    if rng.random() < 0.8:
        pairs += [
            ("best_bid_quantity", _number(rng, _size(rng))),
            ("best_ask_quantity", _number(rng, _size(rng))),
        ]
    return pairs


def envelope(rng: Random, channel: str, events: list[Tree]) -> Pairs:
    """An Advanced Trade envelope."""
    return [
        ("channel", _text(channel)),
        ("timestamp", _text(_iso(rng))),
        ("sequence_num", str(rng.randrange(6))),
        ("events", events),
    ]


def advanced(rng: Random) -> Pairs:
    """An Advanced Trade `ticker` or `ticker_batch`, of one ticker or several."""
    counts = rng.choice(((1,), (1,), (1,), (2,), (1, 2), (0, 1), (0,), ()))
    events: list[Tree] = [
        [("type", '"update"'), ("tickers", [advanced_ticker(rng) for _ in range(count)])]
        for count in counts
    ]
    return envelope(rng, rng.choice(("ticker", "ticker_batch")), events)


def no_ticker(rng: Random) -> Pairs:
    """A message that is sound and no ticker."""
    beat: Tree = [("current_time", '"2026-04-04 12:00:00"'), ("heartbeat_counter", '"7"')]
    return rng.choice(
        (
            lambda: envelope(rng, "heartbeats", [beat]),
            lambda: envelope(rng, "subscriptions", [[("subscriptions", [("ticker", ['"A"'])])]]),
            lambda: [("type", '"heartbeat"'), ("product_id", '"BTC-USD"'), ("sequence", "5")],
            lambda: [("type", '"subscriptions"'), ("channels", [])],
            lambda: [("type", '"error"'), ("message", '"no"'), ("time", _text(_iso(rng)))],
            lambda: [("type", '"gap"'), ("product_id", '"BTC-USD"'), ("from", '"x"')],
            lambda: [("hello", '"world"')],
        )
    )()


def flat(rng: Random) -> Pairs:
    """A flat line: a ticker's own fields and a capture time."""
    pairs = exchange(rng) if rng.random() < 0.3 else advanced_ticker(rng)
    pairs = [pair for pair in pairs if pair[0] != "time" or rng.random() < 0.5]
    return [*_capture(rng), *pairs]


def flat_nested(rng: Random) -> Pairs:
    """A flat line that carries the ticker again under `raw`."""
    return [*flat(rng), ("raw", advanced_ticker(rng))]


def wrapped(rng: Random) -> Pairs:
    """A message under `raw` or `payload`, as an object or a JSON string, beside a capture time."""
    message = rng.choice((exchange, advanced, advanced_ticker, no_ticker))(rng)
    value: Tree = _text(write(rng, message)) if rng.random() < 0.2 else message
    pairs = _capture(rng)
    if rng.random() < 0.3:
        pairs.append((rng.choice(("product_id", "pair")), _text(rng.choice(PRODUCTS))))
    return [*pairs, (rng.choice(("raw", "raw", "raw", "payload")), value)]


def recorded(rng: Random) -> Pairs:
    """Our recorder's line."""
    message = rng.choice((exchange, advanced, advanced, no_ticker))(rng)
    return [
        ("received_at", _text(_iso(rng))),
        ("connection", _text(rng.choice(CONNECTIONS[: rng.choice((1, 2, 8))]))),
        ("sent", "0"),
        ("raw", message),
    ]


SHAPES: tuple[Callable[[Random], Pairs], ...] = (
    *(exchange, advanced, flat, flat_nested, wrapped, recorded, no_ticker),
)


def write(rng: Random, tree: Tree, gap: str = "") -> str:
    """The JSON text of a tree."""
    if isinstance(tree, str):
        return tree
    if all(isinstance(value, tuple) for value in tree) and (tree or rng.random() < 0.5):
        inside = f",{gap}".join(f'"{key}":{gap}{write(rng, value, gap)}' for key, value in tree)  # type: ignore[misc]
        return f"{{{inside}}}"
    return f"[{f',{gap}'.join(write(rng, value, gap) for value in tree)}]"  # type: ignore[arg-type]


def _objects(tree: Tree) -> list[Pairs]:
    """Every object of a tree, its root first."""
    if isinstance(tree, str):
        return []
    pairs = [value for value in tree if isinstance(value, tuple)]
    inside = [value[1] if isinstance(value, tuple) else value for value in tree]
    own = [tree] if pairs or not tree else []
    return own + [found for value in inside for found in _objects(value)]  # type: ignore[return-value]


def _mutate(rng: Random, tree: Pairs) -> None:
    """Changes one thing somewhere in the tree."""
    target = rng.choice(_objects(tree) or [tree])
    index = rng.randrange(len(target)) if target else 0
    kind = rng.randrange(9)
    if not target or kind == 0:
        target.insert(index, (rng.choice(KNOWN_KEYS), rng.choice(ODD_VALUES)))
        return
    key, value = target[index]
    other = rng.randrange(len(target))
    if kind in (1, 2, 3):
        target[index] = (key, rng.choice(ODD_VALUES))
    elif kind == 4:
        del target[index]
    elif kind == 5:
        target.insert(rng.randrange(len(target) + 1), (key, rng.choice(ODD_VALUES)))
    elif kind == 6:
        target[index], target[other] = (key, target[other][1]), (target[other][0], value)
    elif kind == 7:
        target[index] = (rng.choice(KNOWN_KEYS), value)
    else:
        target[index] = (key, rng.choice(([value], [("a", value)], [(key, value)])))  # type: ignore[arg-type]


def _soil(rng: Random, line: bytes) -> bytes:
    """Cuts the line or puts rubbish into it."""
    at = rng.randrange(len(line) + 1)
    junk = rng.choice((b"\x00", b"\xff", b'"', b"{", b"}", b",", b"\\", b" ", b"\r", b"0", b"-"))
    return rng.choice(
        (
            line[:at],
            line[at:],
            line[:at] + junk + line[at:],
            line[:at] + junk + line[at + 1 :],
            line + b" " + line,
            line + line,
            line + rng.choice((b" ", b"\r", b"x", b"}", b",", b"\x00", b"//", b"\xef\xbb\xbf")),
            rng.choice((b" ", b"\t", b"\xef\xbb\xbf", b"\x1e", b",", b"[")) + line,
        )
    )


def line_of(rng: Random, *, nastiness: float = 0.4) -> bytes:
    """A captured line without LF: sound for the most part, else mutated, soiled or rubbish."""
    if rng.random() < nastiness / 8:
        return rng.choice(RUBBISH)
    tree = rng.choice(SHAPES)(rng)
    while rng.random() < nastiness:
        _mutate(rng, tree)
    text = write(rng, tree, rng.choice(("", "", " ")))
    line = text.encode(errors="surrogatepass").replace(b"\n", b" ")
    return _soil(rng, line).replace(b"\n", b" ") if rng.random() < nastiness / 8 else line


def lines_of(rng: Random, count: int, *, nastiness: float = 0.4) -> list[bytes]:
    """Several captured lines, some of them again."""
    lines: list[bytes] = []
    for _ in range(count):
        again = lines and rng.random() < 0.1
        lines.append(rng.choice(lines) if again else line_of(rng, nastiness=nastiness))
    return lines
