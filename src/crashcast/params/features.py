"""The section `features` of params.yaml."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from crashcast.params.base import PositiveDuration, Section


class Features(Section):
    """Which features are computed; every window looks back from the row's own time."""

    columns: list[str] | Literal["all"]
    interactions: dict[str, tuple[str, str]]
    categories: dict[Literal["group"], list[str]] = Field(default_factory=dict)
    rolling_mean: list[PositiveDuration]
    rolling_std: list[PositiveDuration]
    rolling_max: list[PositiveDuration]
    differences: list[PositiveDuration]
    fleet_relative: bool
    missing_share: list[PositiveDuration]
    incident_counts: list[PositiveDuration]
    history_cap: PositiveDuration

    @field_validator("categories")
    @classmethod
    def _are_distinct(cls, value: dict[Literal["group"], list[str]]) -> dict[Literal["group"], list[str]]:
        for column, values in value.items():
            if twice := [one for one in values if values.count(one) > 1]:
                raise ValueError(f"{column} lists '{twice[0]}' twice")
        return value

    def flags(self) -> dict[str, tuple[str, str]]:
        """Return the features of the categories: by name, the column and the value that is 1; any other is 0."""
        found: dict[str, tuple[str, str]] = {}
        for column, values in self.categories.items():
            for value in values:
                plain = name = f"{column}_is_{re.sub(r'[^A-Za-z0-9]+', '_', value)}"
                number = 1
                while name in found:  # of values such as us-east and us_east
                    number += 1
                    name = f"{plain}_{number}"
                found[name] = column, value
        return found
