"""What a report and the command say of champion and challenger on what both answered live.

The numbers come from `domain/shadow`.
"""

from __future__ import annotations

from collections.abc import Iterator

from volatility_pipeline.domain.shadow import RESAMPLES, STEP_SECONDS, Shadow
from volatility_pipeline.reports.blocks import caught
from volatility_pipeline.reports.document import Block, Table, Text, estimate, moment, number


def table(shadow: Shadow) -> list[dict[str, str]]:
    """Return the table: the champion's row and the challenger's, text by column name."""
    return [
        {
            "Live": f"{role}: {name}",
            "PR-AUC": estimate(result.average_precision),
            "Base rate": number(shadow.rows.base_rate),
            "Lift": estimate(result.lift, ".2f"),
            "Δ champion": estimate(result.gain, "+.3f"),
            "Brier": number(result.brier, ".4f"),
            "Precision": number(result.precision),
            "Recall": number(result.recall),
            "Alerts/h": number(result.episodes.alerts_per_hour, ".1f"),
            "Episodes caught": caught(result),
        }
        for role, name, result in zip(
            ("Champion", "Challenger"),
            (shadow.champion, shadow.challenger),
            shadow.results,
            strict=True,
        )
    ]


def span(shadow: Shadow) -> str:
    """Return which rows these are, how much they know, and how far the two agree."""
    rows = shadow.rows
    return (
        f"{rows.rows:,} rows that both answered live, {STEP_SECONDS} s apart, {moment(rows.start)} "
        f"to {moment(rows.end)} UTC: {rows.spikes:,} spikes, {rows.separate_spikes} of them "
        f"non-overlapping. On {number(shadow.agreement, '.1%')} of the rows both alert, or neither "
        "does."
    )


def blocks(shadow: Shadow) -> Iterator[Block]:
    """Yield what was compared, what may be said of it, and the table with its notes."""
    yield Text(span(shadow))
    yield Text(shadow.verdict)
    rows = table(shadow)
    yield Table(head=list(rows[0]), rows=[list(row.values()) for row in rows], is_wide=True)
    yield Text(_note(shadow), is_note=True)


def _note(shadow: Shadow) -> str:
    said = [
        "The challenger answers beside the champion and is heard by the log alone. Counted are the "
        "rows whose label is known and that neither model was fitted on, as far as a week back; "
        "ranked are calibrated probabilities, where scores that differ may be the same number."
    ]
    if shadow.missed:
        said.append(
            f"{shadow.missed:,} more rows of that time have a label, but no live answer of both."
        )
    if shadow.other_questions:
        said.append(f"{shadow.other_questions:,} rows were answered under different thresholds.")
    if not (shadow.insufficient or shadow.blocks.refusal):
        said.append(
            f"In brackets: 95 % intervals from {RESAMPLES:,} moving-block resamples, the same for "
            f"both; {shadow.blocks.count} blocks of {shadow.blocks.seconds:,} s, "
            f"{shadow.blocks.with_spike} of them with a spike."
        )
    return " ".join(said)
