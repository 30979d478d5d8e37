"""The section `label` of params.yaml."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from crashcast.params.base import Duration, PositiveDuration, Section

Evidence = Literal["tickets", "restarts", "gaps", "storms", "annotations"]


class Label(Section):
    """What a crash label means, and how conflicting evidence of crashes is resolved (docs/labels.md)."""

    lead: Duration
    horizon: PositiveDuration
    recovery: Duration
    aggregate: Literal["dawid_skene", "majority", "tickets"] = "tickets"
    evidence: list[Evidence] = Field(default=["tickets"])
    same_event: Duration = timedelta(hours=3)
    uptime_metric: str | None = None  # hours since the last boot
    error_metric: str | None = None
    error_storm: float = 20

    @property
    def reach(self) -> timedelta:
        """How far ahead of a row the label looks, and how long an alarm lasts."""
        return self.lead + self.horizon
