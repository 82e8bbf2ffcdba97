"""Faults that the stand-in exchange makes on demand: which message they hit, and what it meets.

Everything is drawn from a seed, per connection and kind of message, so that a fault hits the same
message of a connection however fast it is played. Here belongs what happens on one connection, and
the journal's record of it; what concerns the whole server belongs to `exchange`.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import repeat
from random import Random
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.protocol import State

from volatility_pipeline.domain.errors import BadInputError

KINDS = {
    "drop": "withheld; its numbers are consumed",
    "repeat": "sent twice",
    "reorder": "held back, and sent after the next one to three",
    "rubbish": "sent, after something that is no message",
    "disconnect": "not sent: the connection is aborted, or closed with a code",
    "freeze": "not sent, nor anything after it: no heartbeat, no pong, not closed",
    "refuse": "disconnect, and the next subscription is refused",
    "throttle": "disconnect, and the next subscription meets a rate limit",
    "stall": "sent, then nothing for a second, then the rest in a burst",
}
PER = 10_000  # messages that a rate refers to
ENDING = frozenset({"disconnect", "freeze", "refuse", "throttle"})
REACHES_CLIENT = frozenset({"sent", "repeat", "reorder", "rubbish", "stall"})
FROZEN_FOR = 60.0  # seconds after which a frozen connection is cut
_CLOSE_CODES = (1001, 1011, 1012, 1013)


class Event(NamedTuple):
    """What became of one message towards one connection.

    `place` is the ticker's in the play, from 0; None means a heartbeat. `outcome` is `sent`,
    the kind of fault that hit it, `lost` (held back, or still to be sent, when the connection was
    ending), `unheard` (nobody was subscribed; `connection` is None) or `frozen` (nobody since that
    connection froze). With one of `REACHES_CLIENT` it was handed to the connection, and arrives
    unless that is cut before the client has read it.
    """

    place: int | None
    product_id: str | None
    event_time: datetime  # naive UTC
    connection: int | None
    trade_id: int | None
    sequence_num: int | None
    outcome: str


class Fault(NamedTuple):
    """One fault; `random` is what its particulars are drawn from."""

    kind: str
    random: Random


class Faults:
    """How often which fault happens, and when.

    Args:
        rates: Per kind of `KINDS`, how many of 10,000 messages it hits.
        seed: Another seed hits other messages.

    Raises:
        BadInputError: An unknown kind, or rates that are none.
    """

    def __init__(self, rates: Mapping[str, float] | None = None, *, seed: int = 0) -> None:
        self.rates = dict(rates or {})
        self.seed = seed
        for kind, rate in self.rates.items():
            if kind not in KINDS:
                raise BadInputError(f"There is no fault {kind!r}; there are {', '.join(KINDS)}.")
            if not 0 <= rate <= PER:
                raise BadInputError(
                    f"The rate of {kind} is {rate:g}; it has to lie between 0 and {PER:,}, per "
                    f"{PER:,} messages."
                )
        if sum(self.rates.values()) > PER:
            raise BadInputError(f"The rates of all faults add to more than {PER:,}; lower them.")

    def schedule(self, stream: str) -> Iterator[Fault | None]:
        """For each message of a stream, without end, the fault that hits it, if any."""
        random = Random(f"{self.seed} {stream}")  # noqa: S311
        share = sum(self.rates.values()) / PER
        while share:
            # The gaps between independent hits are geometric: one draw per fault, none per message.
            gap = math.log(1 - random.random()) / math.log1p(-share) if share < 1 else 0
            yield from repeat(None, int(min(gap, 1 << 62)))
            kind = random.choices(list(self.rates), list(self.rates.values()))[0]
            yield Fault(kind, random)
        yield from repeat(None)


def parse_faults(texts: list[str], *, seed: int = 0) -> Faults:
    """Faults from texts like `drop=10`, the rate per 10,000 messages.

    Raises:
        BadInputError: A text that is not of this form, an unknown kind, a rate out of range.
    """
    rates = {}
    for text in texts:
        kind, _, rate = text.partition("=")
        try:
            rates[kind] = float(rate)
        except ValueError:
            raise BadInputError(
                f"--fault {text}: not of the form kind=rate; write --fault drop=10 for 10 in "
                f"{PER:,} messages."
            ) from None
    return Faults(rates, seed=seed)


def rubbish(message: bytes, random: Random) -> bytes:
    """What no client expects: no JSON, JSON cut off, no object, no UTF-8, no meaning."""
    return random.choice(
        (
            b"upstream connect error",
            message[: random.randrange(len(message))],
            b"42",
            b'{"type":"ticker","product_id":"\xff\xfe"}',
            b'{"colour":"green"}',
        )
    )


class Wire:
    """One connection's way out, with its faults.

    Args:
        ws: The connection.
        number: Its number, from 0.
        faults: What goes wrong on it.
        note: Told what became of each message.
    """

    def __init__(
        self, ws: ServerConnection, number: int, faults: Faults, note: Callable[[Event], None]
    ) -> None:
        self.ws = ws
        self.number = number
        self._is_frozen = False
        self._note = note
        self._schedules = {
            is_ticker: faults.schedule(f"{number} {'tickers' if is_ticker else 'heartbeats'}")
            for is_ticker in (True, False)
        }
        self._held: list[tuple[int, bytes, Event]] = []  # and how many messages go before it
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether what is written may arrive."""
        is_ending = self._is_frozen or self.ws.transport.is_closing()
        return self.ws.state is State.OPEN and not is_ending

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken yet, where it matters."""
        return self.ws.transport.get_write_buffer_size() if self.is_open else 0

    def write(self, message: bytes) -> None:
        """Hands over a message, within this turn of the event loop and without a fault."""
        if self.is_open:
            broadcast((self.ws,), message, text=True)

    def offer(self, message: bytes, event: Event) -> str:
        """Sends a message, or does what a fault has it; returns the outcome."""
        if not self.is_open:
            self._note(event._replace(outcome="lost"))
            return "lost"
        fault = next(self._schedules[event.place is not None])
        if fault is not None:
            event = event._replace(outcome=fault.kind)
            self._meet(fault, message, event)
        else:
            self.write(message)
        if event.outcome != "reorder":
            self._note(event)
            if self._held and event.outcome in REACHES_CLIENT:
                self.release()
        return event.outcome

    def _meet(self, fault: Fault, message: bytes, event: Event) -> None:
        match fault.kind:
            case "reorder":
                self._held.append((fault.random.randint(1, 3), message, event))
            case "repeat":
                self.write(message)
                self.write(message)
            case "rubbish":
                self.write(rubbish(message, fault.random))
                self.write(message)
            case "stall":
                self.write(message)
            case "freeze":
                self._is_frozen = True
                self.ws.transport.pause_reading()
                asyncio.get_running_loop().call_later(FROZEN_FOR, self.cut)
            case "disconnect" | "refuse" | "throttle":
                if fault.random.random() < 0.5:
                    self.cut()
                else:
                    code = fault.random.choice(_CLOSE_CODES)
                    self._closing = asyncio.create_task(self.ws.close(code))

    def release(self, *, is_last: bool = False) -> None:
        """Sends what was held back for long enough, or all of it."""
        held = [(left - 1, message, event) for left, message, event in self._held]
        self._held = [] if is_last else [one for one in held if one[0] > 0]
        for left, message, event in held:
            if left <= 0 or is_last:
                self.write(message)
                self._note(event)

    def cut(self) -> None:
        """Ends the connection without a word."""
        self.ws.transport.abort()

    def end(self) -> None:
        """Notes what was still held back when the connection ended."""
        for _, _, event in self._held:
            self._note(event._replace(outcome="lost"))
        self._held = []
