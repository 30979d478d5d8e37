"""The section `data` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from crashcast.params.base import Group, Section
from crashcast.paths import TABLES


class Input(Group):
    """Where a piece of raw data comes from, and what may be done with it."""

    origin: str
    licence: str


DEMO = Input(origin="simulated by crashcast demo: docs/demo-fleet.md", licence="Apache-2.0, as this project")


class Data(Section):
    """Who wrote data/raw: the simulator never replaces imported data."""

    source: Literal["demo", "import"]
    inputs: dict[str, Input] = Field(default_factory=dict)

    @field_validator("inputs")
    @classmethod
    def _are_raw_data(cls, value: dict[str, Input]) -> dict[str, Input]:
        known = [path.stem for path in TABLES]
        if unknown := sorted(value.keys() - set(known)):
            raise ValueError(f"data/raw has no {', '.join(unknown)}; it has {', '.join(known)}")
        return value

    def input(self, name: str) -> Input | None:
        """Return what is declared of a piece of raw data; None if nothing is."""
        return self.inputs.get(name, DEMO if self.source == "demo" else None)
