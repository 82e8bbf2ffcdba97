"""What a value of a message says: numbers, integers and times, nothing looser than DESIGN has it.

Where in a message a value stands belongs to `messages`.
"""

import re
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,6})?", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (times here are naive UTC, as in the tables)
_LATEST_EPOCH_MICROSECONDS = 7_258_118_400_000_000  # the year 2200: beyond it a number is no time
# Prices and sizes are decimal(28, 10) in SQL: ten decimals, below 1e18, halves rounded up.
_TEN_DECIMALS = Decimal("1e-10")
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_UP, Emax=10**9, Emin=-(10**9))
_CUT = Context(prec=60, rounding=ROUND_DOWN, Emax=10**9, Emin=-(10**9))
_BEYOND = Decimal("1e18")
_INT64 = 2**63
_TIME = re.compile(
    r"([12]\d{3}-\d\d-\d\d)[T ]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d{1,9}))?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):?([0-5]\d)?)?",
    re.ASCII,
)


class Number(str):
    """The text of a JSON number, kept as it was written."""

    __slots__ = ()


def parse_number(value: object) -> Decimal | None:
    """A JSON number, or a string of one, rounded to ten decimals; None for anything else.

    A JSON number with a fraction or an exponent is an IEEE double (RFC 8259, section 6), so it
    means its shortest decimal form; a string is taken digit for digit.
    """
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return None
    text = str(value)
    if type(value) is Number and not _INTEGER.fullmatch(text):
        text = repr(float(text))
        if text in ("inf", "-inf"):
            return None
    number = Decimal(text)
    if number and not -30 < number.adjusted() < 18:
        return Decimal(0) if number.adjusted() < 0 else None
    rounded = number.quantize(_TEN_DECIMALS, context=_CONTEXT)
    return rounded if abs(rounded) < _BEYOND else None


def parse_integer(value: object) -> int | None:
    """A JSON integer, or a string of one, that fits 64 bits; None for anything else."""
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        return None
    number = int(value)
    return number if -_INT64 <= number < _INT64 else None


def parse_time(value: object) -> datetime | None:
    """ISO text (UTC where it names no zone) or an epoch in s, ms or us, as naive UTC.

    What is finer than a microsecond is cut, not rounded. None where it is no time.
    """
    if not isinstance(value, str):
        return None
    if match := _TIME.fullmatch(value):
        day, clock, fraction, sign, hours, minutes = match.groups()
        try:
            time = datetime.fromisoformat(f"{day} {clock}.{(fraction or '')[:6]:0<6}")
            if sign:
                offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
                time = time - offset if sign == "+" else time + offset
        except (ValueError, OverflowError):
            return None
        return time
    if not _NUMBER.fullmatch(value):
        return None
    number = Decimal(str(value))
    if number < 0 or number.adjusted() > 17:
        return None
    scale = 0 if number >= 10**14 else 3 if number >= 10**11 else 6
    microseconds = int(number.scaleb(scale, _CUT))
    return (
        _EPOCH + timedelta(microseconds=microseconds)
        if microseconds < _LATEST_EPOCH_MICROSECONDS
        else None
    )
