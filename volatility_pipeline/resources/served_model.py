"""The served model: a registered version with all that it takes to use it.

The version's own tags say that, so that an old one can be put back whatever was trained since.
Which version serves, and loading it, is `champions`; the registry is `tracking`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.domain.splits import Policy
from volatility_pipeline.domain.verdict import title
from volatility_pipeline.resources.tracking import RegisteredVersion, StoredModel

NEVER = "1970-01-01T00:00:00"
"""Until when a model knows rows that saw none."""


@dataclass(frozen=True)
class ServedModel:
    """A registered version, with all that it takes to use it. Times are ISO, UTC.

    Attributes:
        product: The market.
        model: The rung.
        version: Its number in the registry.
        stored: Its archive, and the hash that this must have.
        decision_threshold: An alert is a probability at or above it.
        policy: How the labels' threshold was made.
        constant_threshold: That threshold under the `training` policy, volatility per second; None
            under `trailing`, where each row brings its own.
        columns: The inputs, in order.
        trained_until: Time of the last training row.
        fitted_until: Time of the last validation row, the last that it knows anything of.
        seen_from: Time of the first row of any role that it was made or judged by.
        seen_until: Time of the last.
        horizon_seconds: How far ahead it looks.
        source: `simulated` or `recorded`: what it was trained on.
        registered_at: When it was registered.
        provenance: All that was noted of what it was made from, by name.
    """

    product: str
    model: str
    version: str
    stored: StoredModel
    decision_threshold: float
    policy: Policy
    constant_threshold: float | None
    columns: tuple[str, ...]
    trained_until: str
    fitted_until: str
    seen_from: str
    seen_until: str
    horizon_seconds: int
    source: str
    registered_at: str
    provenance: Mapping[str, Any] = field(compare=False)

    @classmethod
    def of(cls, product: str, found: RegisteredVersion) -> Self:
        """The model that a registered version is.

        Raises:
            BadInputError: It does not say what it was made from.
        """
        if "provenance" not in found.tags:
            raise BadInputError(
                f"{product}: version {found.stored.version} does not say what it was made from; "
                "`volatility train` makes one that does."
            )
        provenance = json.loads(found.tags["provenance"])
        trained_until = _iso(provenance["trained_until"]) or NEVER
        fitted_until = _iso(provenance["fitted_until"]) or trained_until
        return cls(
            product=product,
            model=found.tags["model"],
            version=found.stored.version,
            stored=found.stored,
            decision_threshold=float(found.tags["decision_threshold"]),
            policy=provenance["label_policy"],
            constant_threshold=provenance["constant_threshold"],
            columns=tuple(json.loads(found.tags["columns"])),
            trained_until=trained_until,
            fitted_until=fitted_until,
            seen_from=_iso(provenance.get("seen_from")) or trained_until,
            seen_until=_iso(provenance.get("seen_until")) or fitted_until,
            horizon_seconds=provenance["label_horizon_seconds"],
            source=provenance["source"],
            registered_at=f"{found.registered_at:%Y-%m-%dT%H:%M:%SZ}",
            provenance=provenance,
        )

    @property
    def title(self) -> str:
        """The model as a person reads it."""
        return f"{title(self.model)} (version {self.version})"

    def age(self, now: datetime) -> timedelta:
        """How long ago it was registered."""
        return now - datetime.fromisoformat(self.registered_at)


def _iso(time: str | None) -> str | None:
    return None if time is None else datetime.fromisoformat(time).isoformat()
