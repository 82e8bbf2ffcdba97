"""A report as one HTML page that needs nothing but itself.

What it says is `document`'s; the look stands in `page.html.j2`. Writing it to a file is the
caller's work.
"""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from volatility_pipeline.reports.document import Document
from volatility_pipeline.reports.plots import Plot


def render(document: Document) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("volatility_pipeline", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kind": _kind, "image": _image}
    return environment.get_template("page.html.j2").render(document=document)


def _kind(block: object) -> str:
    return type(block).__name__


def _image(plot: Plot) -> str:
    """A plot as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode()}"
