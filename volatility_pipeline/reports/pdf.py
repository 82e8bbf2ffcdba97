"""A report as PDF: A4, a title page, page numbers, heads repeated where a table runs on.

What it says is `document`'s. Plots are the page's, as pictures. reportlab is imported where a
report is laid out. Writing it to a file is the caller's work.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from volatility_pipeline.reports.document import (
    Block,
    Bullets,
    Cards,
    Document,
    Heading,
    Plots,
    Table,
    Terms,
    Text,
    facts,
)
from volatility_pipeline.reports.plots import Plot

FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"
"""matplotlib brings them along, and they have −, Δ, σ and √."""

INK, SOFT, LINE, ACCENT, ALARM = "#1c2430", "#5b6675", "#d9dee5", "#0072b2", "#b30000"
SHADED = "#eef7f0"
VERDICT = {
    "claim": (ACCENT, "#eef5fa"),
    "insufficient": ("#b8860b", "#fdf6e3"),
    "suspicious": (ALARM, "#fdeeee"),
}
MARGIN, FRAME = 36.0, 6.0
"""Of the page, and of the frame that reportlab sets its text in."""

PADDING, SLACK = 2.5, 0.5
"""Around a cell's text, and what rounding may take, in points."""

TEXT_SIZE, TABLE_SIZE, DETAIL = 9.0, 7.5, 0.8
"""Sizes in points; a cell's detail is set in a share of its table's."""

CARDS_IN_ROW = 3
SWATCH = "●\u00a0"


def render(document: Document, *, is_compressed: bool = True) -> bytes:
    """Return the PDF, the same bytes for the same report.

    Args:
        document: The report.
        is_compressed: Whether pages are packed; else their text can be read off the bytes.
    """
    _register_fonts()
    pages = _build(document, None, is_compressed=is_compressed)[1]
    return _build(document, pages, is_compressed=is_compressed)[0]


def _build(document: Document, pages: int | None, *, is_compressed: bool) -> tuple[bytes, int]:
    """Lay the report out; return it, and how many pages it has."""
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import SimpleDocTemplate

    def draw_foot(canvas: Any, layout: Any) -> None:
        canvas.setFont(FONT, 7)
        canvas.setFillColor(SOFT)
        canvas.drawString(MARGIN + FRAME, MARGIN / 2, document.full_title)
        canvas.drawRightString(A4[0] - MARGIN - FRAME, MARGIN / 2, f"Page {layout.page} of {pages}")

    drawn = io.BytesIO()
    layout = SimpleDocTemplate(
        drawn,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=document.full_title,
        author="volatility-pipeline",
        lang="en",
        invariant=1,
        pageCompression=int(is_compressed),
    )
    width = layout.width - 2 * FRAME
    story = [*_title_page(document, width)]
    for section in document.sections:
        story.append(_paragraph(section.title, size=12.5, is_bold=True, before=16, is_head=True))
        for place, block in enumerate(section.blocks):
            is_note = isinstance(block, Text) and block.is_note
            if is_note and place and isinstance(section.blocks[place - 1], Plots):
                story[-1].keepWithNext = 1
            story += _flowables(block, width)
            if is_note and not place:
                story[-1].keepWithNext = 1
    layout.build(story, onFirstPage=draw_foot, onLaterPages=draw_foot)
    return drawn.getvalue(), layout.page


def _register_fonts() -> None:
    from matplotlib import get_data_path
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    if FONT not in pdfmetrics.getRegisteredFontNames():
        folder = Path(get_data_path()) / "fonts" / "ttf"
        for name in (FONT, BOLD):
            pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))
        pdfmetrics.registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)


def _title_page(document: Document, width: float) -> Iterable[Any]:
    from reportlab.platypus import PageBreak, Spacer

    yield Spacer(width, 90)
    if document.mark:
        yield _paragraph(document.mark, size=12, colour=ALARM, is_bold=True)
    yield _paragraph(document.heading, size=21, is_bold=True)
    yield _paragraph(document.lead, size=10, colour=SOFT)
    yield Spacer(width, 24)
    edge, ground = VERDICT[document.status]
    verdict = _paragraph(document.verdict, size=11, is_bold=True)
    yield _grid(
        [[verdict]],
        [width],
        [
            ("BACKGROUND", (0, 0), (-1, -1), ground),
            ("LINEBEFORE", (0, 0), (0, -1), 5, edge),
            *_padding(10),
        ],
    )
    yield Spacer(width, 24)
    yield from _flowables(facts(document.cover, ("", "")), width)
    yield PageBreak()


def _flowables(block: Block, width: float) -> list[Any]:
    match block:
        case Text():
            size, colour = (8.0, SOFT) if block.is_note else (TEXT_SIZE, INK)
            return [_paragraph(block.text, size=size, colour=colour)]
        case Heading():
            return [_paragraph(block.text, size=10, is_bold=True, before=8, is_head=True)]
        case Bullets():
            return [
                _markup(f"• <b>{escape(name)}</b> {escape(text)}", indent=10)
                for name, text in block.items
            ]
        case Terms():
            return [
                _markup(f"<b>{escape(name)}</b><br/>{escape(text)}") for name, text in block.items
            ]
        case Table():
            return [_table(block, width)]
        case Plots():
            gap = 10 * (len(block.plots) - 1)
            each = (width - gap) / len(block.plots)
            return [_row([_picture(plot, each) for plot in block.plots], width)]
        case Cards():
            return _cards(block, width)


def _cards(block: Cards, width: float) -> list[Any]:
    """The cards in rows, each a small table under its name."""
    each = width / CARDS_IN_ROW
    cards = [
        [
            _markup(
                f'{_swatch(card.colour)}<b>{escape(card.name)}</b> <font color="{SOFT}">'
                f"{escape(card.remark)}</font>",
                size=TABLE_SIZE,
            ),
            _table(card.table, each - 12),
        ]
        for card in block.cards
    ]
    rows = [cards[start : start + CARDS_IN_ROW] for start in range(0, len(cards), CARDS_IN_ROW)]
    return [_row([*row, *[""] * (CARDS_IN_ROW - len(row))], width) for row in rows]


def _table(table: Table, width: float) -> Any:
    widths, scale = _column_widths(table, width)
    size = TABLE_SIZE * scale
    head = [
        _paragraph(name, size=size, colour=SOFT, is_bold=True, is_right=_is_number(table, column))
        for column, name in enumerate(table.head)
    ]
    rows = []
    for place, row in enumerate(table.rows):
        swatch = _swatch(table.colours[place]) if table.colours else ""
        cells = [_markup(f"{swatch}<b>{escape(row[0])}</b>", size=size)]
        for column, text in enumerate(row[1:], 1):
            if _is_number(table, column):
                value, _, detail = text.partition(" ")
                small = f'<br/><font size="{size * DETAIL}" color="{SOFT}">{escape(detail)}</font>'
                value = escape(value) + (small if detail else "")
                cells.append(_markup(value, size=size, is_right=True))
            else:
                cells.append(_paragraph(text, size=size))
        rows.append(cells)
    shades = [("BACKGROUND", (0, row + 1), (-1, row + 1), SHADED) for row in table.shaded]
    shades += [
        ("BACKGROUND", (column, row + 1), (column, row + 1), colour)
        for (row, column), colour in table.marked.items()
    ]
    has_head = any(table.head)
    return _grid(
        [*([head] if has_head else []), *rows],
        widths,
        [
            ("LINEBELOW", (0, 0), (-1, -1), 0.5, LINE),
            ("VALIGN", (0, 0), (-1, 0), "BOTTOM" if has_head else "TOP"),
            ("VALIGN", (0, 1), (-1, -1), "TOP"),
            *_padding(PADDING),
            *shades,
        ],
        repeatRows=int(has_head),
        hAlign="LEFT",
        spaceBefore=4,
        spaceAfter=8,
    )


def _column_widths(table: Table, width: float) -> tuple[list[float], float]:
    """Return the columns' widths, and by how much the type has to shrink for them to fit.

    No word and no number is broken while there is room, and no cell while more is left.
    """
    from reportlab.pdfbase.pdfmetrics import stringWidth

    def width_of(text: str, size: float = TABLE_SIZE) -> float:
        return float(stringWidth(text, BOLD, size))

    least, wanted = [], []
    for column, name in enumerate(table.head):
        head = [width_of(word) for word in name.split()]
        texts = [row[column] for row in table.rows]
        if _is_number(table, column):
            parts = [text.partition(" ") for text in texts]
            cells = [width_of(value) for value, _, _ in parts]
            cells += [width_of(detail, TABLE_SIZE * DETAIL) for _, _, detail in parts]
            whole = cells
        else:
            swatch = width_of(SWATCH) if table.colours and not column else 0.0
            cells = [swatch + width_of(word) for text in texts for word in text.split()]
            cells = [min(each, width / 4) for each in cells]
            whole = [swatch + width_of(text) for text in texts]
        least.append(max([*head, *cells], default=0.0) + 2 * PADDING + SLACK)
        wanted.append(max([width_of(name), *head, *cells, *whole]) + 2 * PADDING + SLACK)
    if sum(least) >= width:
        padding = 2 * PADDING + SLACK
        paddings = padding * len(least)
        scale = (width - paddings) / (sum(least) - paddings)
        return [(each - padding) * scale + padding for each in least], scale
    spare = width - sum(least)
    widths = []
    for have, want in zip(least, wanted, strict=True):
        more = min(spare, want - have)
        spare -= more
        widths.append(have + more)
    return widths, 1.0


def _is_number(table: Table, column: int) -> bool:
    return column > 0 and column not in table.words


def _picture(plot: Plot, width: float) -> Any:
    from reportlab.platypus import Image

    return Image(io.BytesIO(plot.png), width, width * plot.size[1] / plot.size[0])


def _row(cells: list[Any], width: float) -> Any:
    """Things side by side, of equal width."""
    styles = [("VALIGN", (0, 0), (-1, -1), "TOP"), *_padding(0)]
    return _grid([cells], [width / len(cells)] * len(cells), styles, spaceAfter=8)


def _grid(cells: list[list[Any]], widths: list[float], styles: list[Any], **options: Any) -> Any:
    from reportlab.platypus import Table as Grid
    from reportlab.platypus import TableStyle

    return Grid(cells, widths, style=TableStyle(styles), **options)


def _padding(points: float) -> list[tuple[Any, ...]]:
    sides = ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")
    return [(side, (0, 0), (-1, -1), points) for side in sides]


def _swatch(colour: str) -> str:
    return f'<font color="{escape(colour)}">{SWATCH}</font>'


def _paragraph(text: str, **style: Any) -> Any:
    return _markup(escape(text), **style)


def _markup(
    text: str,
    *,
    size: float = TEXT_SIZE,
    colour: str = INK,
    is_bold: bool = False,
    is_right: bool = False,
    is_head: bool = False,
    indent: float = 0,
    before: float = 0,
) -> Any:
    """A paragraph of reportlab's markup; what is not ours has to be escaped before."""
    from reportlab.lib.enums import TA_LEFT, TA_RIGHT
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "text",
        fontName=BOLD if is_bold else FONT,
        fontSize=size,
        leading=1.35 * size,
        textColor=colour,
        alignment=TA_RIGHT if is_right else TA_LEFT,
        leftIndent=indent,
        bulletIndent=0,
        firstLineIndent=-indent,
        spaceBefore=before,
        spaceAfter=4,
        keepWithNext=int(is_head),
    )
    return Paragraph(text, style)
