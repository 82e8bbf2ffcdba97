"""The lines that the recorder writes: wrapped messages and gaps (DESIGN: messages understood)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

LARGEST_RUBBISH = 512 << 10
MOST_DAYS = 31  # of one gap that get a line each


def now() -> str:
    """The capture clock: UTC, microseconds, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def wrap(frame: bytes, received_at: str, connection: str, sent: int, *, is_json: bool) -> bytes:
    """A message as one line without its LF: as it came where it is JSON, else as a string.

    What is no JSON is cut after half a megabyte: escaped it would not fit into Kafka.

    Args:
        frame: The message's bytes.
        received_at: The capture time.
        connection: Which connection it came over.
        sent: Its number among those of the connection, from 0: a line lost later leaves a hole.
        is_json: Whether it is a JSON object.
    """
    if is_json:
        raw = frame if b"\n" not in frame else frame.replace(b"\r", b" ").replace(b"\n", b" ")
    else:
        raw = orjson.dumps(frame[:LARGEST_RUBBISH].decode(errors="backslashreplace"))
    head = f'{{"received_at":"{received_at}","connection":"{connection}","sent":{sent},"raw":'
    return b"%b%b}" % (head.encode(), raw)


@dataclass(frozen=True)
class Gap:
    """Messages of a product that are missing, or may be: with event times in `[start, end)`.

    `start` and `end` are naive UTC by the exchange's clock; an `end` of None is not known yet.
    `missing` counts messages where their numbers tell.
    """

    kind: str
    product_id: str
    start: datetime
    end: datetime | None
    reason: str
    missing: int | None = None

    def lines(self, connection: str) -> list[bytes]:
        """One line for each UTC day that the gap touches, dated there; a single one if endless."""
        pieces = []
        start = self.start
        is_whole = self.end is not None and self.end - start > timedelta(days=MOST_DAYS)
        while True:
            midnight = datetime(start.year, start.month, start.day) + timedelta(days=1)  # noqa: DTZ001
            is_last = is_whole or self.end is None or self.end <= midnight
            end = self.end if is_last else midnight
            pieces.append(
                orjson.dumps(
                    {
                        "type": "gap",
                        "product_id": self.product_id,
                        "from": _text(start),
                        "to": None if end is None else _text(end),
                        "reason": self.reason,
                        "kind": self.kind,
                        "missing": self.missing,
                        "time": _text(self.end if is_whole and self.end else start),
                        "received_at": now(),
                        "connection": connection,
                    }
                )
            )
            if is_last:
                return pieces
            start = midnight


def _text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds") + "Z"
