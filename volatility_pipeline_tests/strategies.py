"""Hypothesis strategies that make nasty but plausible ticks of one product for the oracle.

What belongs here: the shape of the feed (when ticks come, in which order, with what missing).
What does not: what any stage should make of them.

A recording is drawn as a few compact pieces (a beat repeated, a burst, a silence, a step to the
edge of a second), so that hundreds of seconds cost hypothesis a handful of choices and still
shrink. The bulk (prices, sizes, order of arrival) comes from one drawn seed.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import cycle

from hypothesis import strategies as st

from volatility_pipeline_tests.oracle import Tick, second_of, total_order

MICROS = 1_000_000  # in a second
GAP = 30 * MICROS  # DESIGN's default max_gap_seconds
MIDNIGHTS = (datetime(2026, 1, 1), datetime(2026, 3, 1), datetime(2026, 4, 5))  # noqa: DTZ001

BEATS = (250_000, 500_000, 999_999, 1_000_000, 1_000_001, 1_700_000, 3_000_000, 7_000_000)
EDGES_OF_GAP = (GAP - 1, GAP, GAP + 1)
SILENCES = (*EDGES_OF_GAP, 31 * MICROS, 45 * MICROS, 60 * MICROS, 61 * MICROS, 400 * MICROS)
PHASES = (0, 1, 500_000, 999_999)

# Which sizes a tick may carry, and recordings by the mixture of them.
SIZE_MIXTURES = (
    ("both",),
    ("none",),
    ("zeros",),
    ("both", "both", "both", "none"),
    ("both", "zeros", "none"),
    ("both", "none", "zeros", "only_bid", "only_ask", "no_bid", "no_ask", "tie"),
)
LAST_SIZE_MIXTURES = (
    ("some",),
    ("none",),
    ("zero",),
    ("some", "none", "zero"),
    ("none",) * 40 + ("some",),
)
STEP_MIXTURES = (
    (-1, 0, 1),
    (-5, -2, 0, 2, 5),
    (-300, 7, 290),
    (0,) * 30 + (-1, 1),
    (0,) * 50 + (-300, 300),
    (0,),
)
SPREAD_MIXTURES = ((1,), (0,), (1, 1, 1, 2, 10), (0, 1, 7))
SEQUENCES = (
    "per_moment",
    "increasing",
    "per_moment",
    "missing",
    "equal",
    "decreasing",
    "restarting",
    "sometimes_missing",
)
ARRIVALS = ("in_order", "in_order", "in_order", "reversed", "shuffled", "locally_shuffled")


@dataclass(frozen=True)
class Beat:
    """The steps between ticks, in microseconds, gone round until `count` ticks are made."""

    steps: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Stretch:
    """The steps between ticks, in microseconds, gone round for `seconds`: ticks of one run."""

    steps: tuple[int, ...]
    seconds: int


@dataclass(frozen=True)
class Snap:
    """One tick at `offset` microseconds from the start of the next second."""

    offset: int


Piece = Beat | Stretch | Snap


def _stretches(longest_seconds: int) -> st.SearchStrategy[Stretch]:
    """Ticks never more than the gap apart, for the 301 s a feature row needs or for longer."""
    shortest = min(305, longest_seconds)
    dense = st.lists(st.sampled_from(BEATS), min_size=1, max_size=4).map(tuple)
    sparse = st.lists(
        st.sampled_from((3_000_000, 7_000_000, GAP - 1, GAP)) | st.integers(MICROS, GAP),
        min_size=1,
        max_size=4,
    ).map(tuple)
    brief = st.integers(shortest, min(400, longest_seconds))
    lengthy = st.integers(shortest, longest_seconds) | st.just(longest_seconds)
    return st.one_of(
        st.builds(Stretch, steps=sparse, seconds=brief),
        st.builds(Stretch, steps=dense, seconds=brief),
        st.builds(Stretch, steps=sparse, seconds=lengthy),
    )


def _silences() -> st.SearchStrategy[Beat]:
    """One tick after a pause, most often at the very edge of the gap that ends a run."""
    return st.sampled_from((*EDGES_OF_GAP, *SILENCES)).map(lambda step: Beat((step,), 1))


def _pieces() -> st.SearchStrategy[Piece]:
    """What may come before, between and after the long stretches."""
    beats = st.builds(
        Beat,
        steps=st.lists(st.sampled_from(BEATS), min_size=1, max_size=3).map(tuple),
        count=st.integers(1, 40),
    )
    bursts = st.builds(
        Beat,
        steps=st.sampled_from(((0,), (1,), (0, 0, 1), (999,), (0, 4_000))),
        count=st.integers(2, 50),
    )
    snaps = st.sampled_from((-1, 0, 1)).map(Snap)
    return st.one_of(beats, bursts, _silences(), snaps)


def _times(start: int, pieces: list[Piece], *, span: int, most: int) -> list[int]:
    """Play the pieces: microseconds since midnight, over `span` of them, `most` ticks at most."""
    times = [start]

    def step_to(time: int) -> bool:
        """Add a tick and tell whether there is room for more."""
        if time - start >= span or len(times) >= most:
            return False
        times.append(time)
        return True

    for piece in pieces:
        if isinstance(piece, Snap):
            time = (times[-1] // MICROS + 1) * MICROS + piece.offset
            if not step_to(max(time, times[-1])):
                break
        elif isinstance(piece, Beat):
            for _, step in zip(range(piece.count), cycle(piece.steps), strict=False):
                if not step_to(times[-1] + step):
                    break
        else:
            end = times[-1] + piece.seconds * MICROS
            for step in cycle(piece.steps):
                if times[-1] >= end or not step_to(times[-1] + step):
                    break
    return times


@dataclass(frozen=True)
class _Market:
    """How the fields of a recording are filled, drawn once for all its ticks."""

    decimals: int
    level: int  # the first bid, in units of the last decimal
    steps: tuple[int, ...]
    spreads: tuple[int, ...]
    sizes: tuple[str, ...]
    sized_ticks: int | None  # after so many ticks no more sizes come
    last_sizes: tuple[str, ...]
    sequence: str
    arrival: str
    segments: int
    is_batched: bool
    seed: int


def _markets() -> st.SearchStrategy[_Market]:
    return st.builds(
        _Market,
        decimals=st.integers(2, 8),
        level=st.integers(500, 9_999_999),
        steps=st.sampled_from(STEP_MIXTURES),
        spreads=st.sampled_from(SPREAD_MIXTURES),
        sizes=st.sampled_from(SIZE_MIXTURES),
        sized_ticks=st.sampled_from((None, None, None, 1, 5, 20, 60)),
        last_sizes=st.sampled_from(LAST_SIZE_MIXTURES),
        sequence=st.sampled_from(SEQUENCES),
        arrival=st.sampled_from(ARRIVALS),
        segments=st.integers(1, 3),
        is_batched=st.sampled_from((True, True, False)),
        seed=st.integers(0, 2**32 - 1),
    )


def _sizes(kind: str, rng: random.Random) -> tuple[Decimal | None, Decimal | None]:
    """The bid and ask size of one tick."""
    bid = Decimal(rng.randint(1, 10**9)).scaleb(-8)
    ask = Decimal(rng.randint(1, 10**9)).scaleb(-8)
    zero = Decimal(0)
    return {
        "both": (bid, ask),
        "none": (None, None),
        "zeros": (zero, zero),
        "only_bid": (bid, None),
        "only_ask": (None, ask),
        "no_bid": (zero, ask),
        "no_ask": (bid, zero),
        "tie": (Decimal(1), Decimal(8191)),  # 1e12 / 8192 ends in a half
    }[kind]


def _sequence(kind: str, number: int, moment: int, rng: random.Random) -> int | None:
    """The sequence number of the tick at this place in time, of the so-manieth distinct time."""
    if kind == "missing" or (kind == "sometimes_missing" and rng.random() < 0.3):
        return None
    return {
        "increasing": number,
        "per_moment": moment,
        "sometimes_missing": number,
        "equal": 7,
        "decreasing": 1_000_000 - number,
        "restarting": number % 50,
    }[kind]


def _arrival_order(kind: str, count: int, rng: random.Random) -> list[int]:
    """The order in which the ticks of a recording were written down."""
    order = list(range(count))
    if kind == "reversed":
        order.reverse()
    elif kind == "shuffled":
        rng.shuffle(order)
    elif kind == "locally_shuffled":
        order.sort(key=lambda place: place + rng.uniform(0, 8))
    return order


def _ticks(product_id: str, times: list[datetime], market: _Market) -> list[Tick]:
    """Fill in the fields, in order of arrival, and drop the duplicates as the ticks stage does."""
    rng = random.Random(market.seed)
    level = market.level
    quotes: list[tuple[int | None, Decimal, Decimal]] = []
    moment = 0
    for number, time in enumerate(times):
        moment += number > 0 and time > times[number - 1]
        level = max(level + rng.choice(market.steps), market.level // 2)
        bid = Decimal(level).scaleb(-market.decimals)
        ask = Decimal(level + rng.choice(market.spreads)).scaleb(-market.decimals)
        quotes.append((_sequence(market.sequence, number, moment, rng), bid, ask))

    ticks: list[Tick] = []
    lines = dict.fromkeys(("b", "a", "c")[: market.segments], 0)
    chunk = -(-len(times) // market.segments)
    for arrived, place in enumerate(_arrival_order(market.arrival, len(times), rng)):
        segment = list(lines)[arrived // chunk]
        sequence, bid, ask = quotes[place]
        before = ticks[-1] if ticks else None
        is_same_message = (
            market.is_batched
            and before is not None
            and (before.segment, before.event_time, before.sequence)
            == (segment, times[place], sequence)
        )
        lines[segment] += not is_same_message
        has_sizes = market.sized_ticks is None or place < market.sized_ticks
        bid_size, ask_size = _sizes(rng.choice(market.sizes) if has_sizes else "none", rng)
        traded = Decimal(rng.randint(1, 10**8)).scaleb(-8)
        last_size = {"some": traded, "none": None, "zero": Decimal(0)}
        ticks.append(
            Tick(
                product_id=product_id,
                event_time=times[place],
                sequence=sequence,
                segment=segment,
                line=lines[segment],
                item=before.item + 1 if is_same_message and before is not None else 0,
                best_bid=bid,
                best_ask=ask,
                bid_size=bid_size,
                ask_size=ask_size,
                last_size=last_size[rng.choice(market.last_sizes)],
            )
        )

    first: dict[tuple[object, ...], Tick] = {}
    for tick in sorted(ticks, key=total_order):
        alike = (
            tick.event_time,
            tick.sequence,
            tick.best_bid,
            tick.best_ask,
            tick.bid_size,
            tick.ask_size,
        )
        first.setdefault(alike, tick)
    kept = {id(tick) for tick in first.values()}
    return [tick for tick in ticks if id(tick) in kept]


@st.composite
def tick_lists(
    draw: st.DrawFn,
    *,
    product_id: str = "BTC-USD",
    max_span_seconds: int = 2400,
    max_ticks: int = 3000,
) -> list[Tick]:
    """Lists of one product's ticks, in order of arrival, within `max_span_seconds`.

    About two in three give feature rows, unless `max_span_seconds` is short. The trailing
    threshold takes 65 minutes or more: ask for a span of 4500 s to see it.
    Duplicates (DESIGN §4, `trade_id` and price taken for null or a function of the quotes) are out.
    """
    span = max_span_seconds * MICROS
    pieces: list[Piece] = draw(st.lists(_pieces(), max_size=4))
    for _ in range(draw(st.sampled_from((1, 2, 1, 2, 3, 0)))):
        pieces.append(draw(_stretches(max_span_seconds)))
        pieces += draw(_silences().map(lambda piece: [piece]) | st.lists(_pieces(), max_size=4))
    phase = draw(st.sampled_from(PHASES) | st.integers(0, MICROS - 1))
    midnight = draw(st.sampled_from(MIDNIGHTS))
    if draw(st.booleans()):
        second = -draw(st.integers(1, min(max_span_seconds, 1200)))  # so that it may cross midnight
    else:
        second = draw(st.integers(0, 80_000))
    offsets = _times(second * MICROS + phase, pieces, span=span, most=max_ticks)
    times = [midnight + timedelta(microseconds=offset) for offset in offsets]
    return _ticks(product_id, times, draw(_markets()))


@st.composite
def ends(draw: st.DrawFn, ticks: list[Tick]) -> datetime:
    """The end of known time for such a list: right after its last tick, after a quiet end, or amid.

    Always a whole second, as `oracle.bars` asks for its `until`.
    """
    first = second_of(min(tick.event_time for tick in ticks))
    last = second_of(max(tick.event_time for tick in ticks))
    quiet = draw(st.sampled_from((1, 0, 29, 30, 31, 59, 60, 61, 120)) | st.none())
    if quiet is not None:
        return last + timedelta(seconds=quiet)
    return first + timedelta(seconds=draw(st.integers(0, int((last - first).total_seconds()))))
