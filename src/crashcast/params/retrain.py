"""The section `retrain` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Duration, PositiveDuration, Section


class Retrain(Section):
    """When `crashcast due` says that a model is to be trained again (docs/retraining.md)."""

    max_age: PositiveDuration
    new_crashes: Annotated[float, Field(gt=0)]
    min_crashes: Annotated[int, Field(ge=1)]
    min_interval: Duration
    after_change: Duration | None
