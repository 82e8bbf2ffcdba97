"""The bars stage: the market second by second."""

from volatility_pipeline.assets.days import table_asset

bars = table_asset(
    "bars",
    """\
One-second bars of a day, carried over quiet seconds (`sql/20_bars.sql`).

Grain: one row per product and second at whose end the newest tick is at most `max_gap_seconds`
old. Prices in dollars. More than that between two ticks ends a run; nothing is carried across.""",
)
