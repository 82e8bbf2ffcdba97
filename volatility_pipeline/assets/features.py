"""The features stage: what is known of a market at a decision time."""

from volatility_pipeline.assets.days import table_asset

features = table_asset(
    "features",
    """\
Window features of a day over 30, 60 and 300 seconds of bars (`sql/30_features.sql`).

Grain: one row per product and decision time `ts`, a whole second, with 301 bars of one run behind
it. A row knows events before `ts` and nothing else. Volatilities are per second, not annualized.
After Andersen and Bollerslev (1998) on realized volatility, Corsi (2009) on its three horizons.""",
)
