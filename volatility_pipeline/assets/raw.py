"""The raw stage: what has landed, described. Landing files belongs to `import` and the feed."""

from datetime import date
from typing import Any

import dagster as dg

from volatility_pipeline.assets.days import OWNERS, DayConfig, make_days
from volatility_pipeline.partitions import ONE_RUN, days
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.warehouse import code_hash


@dg.asset(
    partitions_def=days(),
    backfill_policy=ONE_RUN,
    kinds={"python", "json"},
    owners=OWNERS,
    code_version=code_hash("raw"),
    pool="raw",
)
def raw_ticks(
    context: dg.AssetExecutionContext, config: DayConfig, ingest: dg.ResourceParam[Ingest]
) -> dg.MaterializeResult[None]:
    """Captured messages of a day, one a line, as they arrived: raw segments and their manifest.

    The segments are never changed after they have landed. This asset writes `manifest.json`
    beside them: each segment's name, bytes, lines and SHA-256, and the gaps found in the day.
    """

    def describe(_: date, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
        segments, gaps = manifest["segments"], manifest["gaps"]
        shown = "\n".join(
            f"| {gap['kind']} | {gap['subject']} | {gap.get('from', '')} | {gap.get('to', '')} "
            f"| {gap.get('missing') or ''} | {'hint' if gap['is_hint'] else ''} |"
            for gap in gaps[:20]
        )
        return {
            "raw_ticks": {
                "segments": len(segments),
                "lines": sum(segment["lines"] for segment in segments),
                "bytes": sum(segment["bytes"] for segment in segments),
                "is_simulated": any(segment["is_simulated"] for segment in segments),
                "gaps": len(gaps),
                "first_gaps": dg.MetadataValue.md(
                    "| kind | subject | from | to | missing | |\n|---|---|---|---|---|---|\n"
                    + shown
                    if gaps
                    else "none"
                ),
            }
        }

    make_days(
        context,
        config,
        ingest.lake.is_manifest_current,
        ingest.write_manifest,
        lambda day: ingest.lake.manifest(day) or {"segments": [], "gaps": []},
        describe,
    )
    return dg.MaterializeResult()
