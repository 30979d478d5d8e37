"""The section `features` of params.yaml."""

from __future__ import annotations

from typing import Literal

from crashcast.params.base import PositiveDuration, Section


class Features(Section):
    """Which features are computed; every window looks back from the row's own time."""

    columns: list[str] | Literal["all"]
    interactions: dict[str, tuple[str, str]]
    rolling_mean: list[PositiveDuration]
    rolling_std: list[PositiveDuration]
    rolling_max: list[PositiveDuration]
    differences: list[PositiveDuration]
    fleet_relative: bool
    missing_share: list[PositiveDuration]
    incident_counts: list[PositiveDuration]
    history_cap: PositiveDuration
