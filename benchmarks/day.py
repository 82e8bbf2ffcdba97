"""The made-up day: recorded lines of one product in the flat shape with the message under `raw`.

What a line looks like, byte for byte, is taken from a real recording. The market in it is only as
believable as speed asks for: volatility and activity that drift, a spread of one cent most of the
time, ten moves a second, three silences longer than a run survives, and one line in two thousand
repeated, so that everything that makes features slow to compute is there to be computed.
"""

from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRODUCT = "BTC-USD"
FIRST_DAY = date(2025, 12, 1)
SILENCES_SECONDS = (35, 50, 90)
REPEATED_IN = 2_000
LINES_PER_WRITE = 50_000
DISTINCT_SIZES = 50_000
_LINE = (
    '{{"timestamp": "{0}", "product_id": "BTC-USD", "price": "{1}", "volume_24h": "{2}", '
    '"low_24h": "83800", "high_24h": "91886.12", "best_bid": "{3}", "best_ask": "{4}", '
    '"raw": {{"type": "ticker", "product_id": "BTC-USD", "price": "{1}", "volume_24_h": "{2}", '
    '"low_24_h": "83800", "high_24_h": "91886.12", "low_52_w": "74420.69", '
    '"high_52_w": "126296", "price_percent_chg_24_h": "{5}", "best_bid": "{3}", '
    '"best_ask": "{4}", "best_bid_quantity": "{6}", "best_ask_quantity": "{7}"}}}}\n'
).format


def write_day(path: str, day: str, ticks: int) -> None:
    """Writes a day of so many lines, the same ones for the same arguments.

    Args:
        path: The file, of about 590 bytes a line.
        day: The day, like 2025-12-01; it is the seed as well.
        ticks: Lines, repeated ones included, spread over the day from midnight to midnight.
    """
    columns = _columns(date.fromisoformat(day), ticks)
    with Path(path).open("w", newline="\n") as file:
        for start in range(0, ticks, LINES_PER_WRITE):
            part = (column[start : start + LINES_PER_WRITE] for column in columns)
            file.write("".join(map(_LINE, *part)))


def write_head(path: str, source: str, lines: int) -> None:
    """Writes the first lines of a file to another."""
    with Path(source).open("rb") as whole, Path(path).open("wb") as head:
        head.writelines(islice(whole, lines))


def _columns(day: date, ticks: int) -> tuple[list[str], ...]:
    """The values of the lines' eight places, in the order of the day."""
    import numpy as np

    random = np.random.default_rng(day.toordinal())
    # A second's mood is a slow walk: it scales both the moves and how often ticks arrive.
    mood = np.exp(0.4 * _drift(random, ticks) + 0.3 * np.sin(np.linspace(0, 6.3, ticks)))
    waits = random.exponential(size=ticks) / mood
    waits *= (86_399 - sum(SILENCES_SECONDS)) / waits.sum()
    waits[random.choice(ticks // 10, len(SILENCES_SECONDS)) * 10] += SILENCES_SECONDS
    microseconds = (np.cumsum(waits) * 1e6).astype(np.int64)
    moves = random.standard_normal(ticks) * mood * 25e-6 * np.sqrt(1e6 / ticks)
    moves *= random.random(ticks) < 0.3
    bid = np.rint(8_519_422 * np.exp(np.cumsum(moves))).astype(np.int64)
    wide = np.rint(random.exponential(60, ticks)).astype(np.int64)
    ask = bid + 1 + wide * (random.random(ticks) < 0.18)
    price = np.where(random.random(ticks) < 0.5, bid, ask)
    volume = 13_283.17363336 + np.cumsum(random.exponential(2e-3, ticks))

    unlike = np.arange(ticks)
    unlike[random.integers(1, ticks, ticks // REPEATED_IN)] -= 1
    times = np.datetime64(day, "us") + microseconds[unlike].astype("timedelta64[us]")
    return (
        np.datetime_as_string(times).tolist(),
        _dollars(price[unlike]),
        list(map("{:.8f}".format, volume[unlike].tolist())),
        _dollars(bid[unlike]),
        _dollars(ask[unlike]),
        list(map("{:.14f}".format, ((price / 8_500_000 - 1) * 100 - 7)[unlike].tolist())),
        _sizes(random, ticks)[unlike].tolist(),
        _sizes(random, ticks)[unlike].tolist(),
    )


def _drift(random: "np.random.Generator", ticks: int) -> "NDArray[np.float64]":
    """A smooth wandering around 0 with a standard deviation of 1: one knot in 5,000 ticks."""
    import numpy as np

    knots = np.cumsum(random.standard_normal(ticks // 5_000 + 2))
    drift = np.interp(np.linspace(0, len(knots) - 1, ticks), np.arange(len(knots)), knots)
    return np.asarray((drift - drift.mean()) / drift.std())


def _dollars(cents: "NDArray[np.int64]") -> list[str]:
    """Prices as the exchange writes them: no zeros at the end, no point without a digit."""
    import numpy as np

    unlike, places = np.unique(cents, return_inverse=True)
    texts = np.array([f"{value / 100:.10g}" for value in unlike.tolist()], dtype=object)
    return list(texts[places])


def _sizes(random: "np.random.Generator", ticks: int) -> "NDArray[np.object_]":
    """Sizes of all magnitudes, some with few digits, drawn from fewer so as to be quick."""
    import numpy as np

    sizes = random.lognormal(-4.5, 2.5, DISTINCT_SIZES)
    decimals = random.choice([8, 8, 8, 7, 4, 2], DISTINCT_SIZES).tolist()
    texts = [
        f"{max(size, 10.0**-places):.{places}f}".rstrip("0").rstrip(".")
        for size, places in zip(sizes.tolist(), decimals, strict=True)
    ]
    return np.array(texts, dtype=object)[random.integers(0, DISTINCT_SIZES, ticks)]
