"""A line as a picture small enough for a metadata entry; real plots belong to the reports."""

from base64 import b64encode
from collections.abc import Sequence


def sparkline(values: Sequence[float], *, width: int = 320, height: int = 48) -> str:
    """A data URI of an SVG line through the values, scaled from their least to their greatest."""
    low, high = min(values), max(values)
    scale = (height - 4) / (high - low) if high > low else 0.0
    step = width / max(len(values) - 1, 1)
    points = " ".join(
        f"{index * step:.1f},{height - 2 - (value - low) * scale:.1f}"
        for index, value in enumerate(values)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<polyline points="{points}" fill="none" stroke="#1f77b4" stroke-width="1.5"/></svg>'
    )
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
