"""The section `drift` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Section


class Drift(Section):
    """How `crashcast drift` compares the newest week with those of the training period (docs/drift.md)."""

    false_alarms_per_year: Annotated[float, Field(gt=0, le=52)]
    min_weeks: Annotated[int, Field(ge=4)]
