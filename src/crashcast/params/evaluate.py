"""The section `evaluate` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import PositiveDuration, Section, Share


class Evaluate(Section):
    """How the uncertainty of the test figures is estimated."""

    replicates: Annotated[int, Field(ge=100)]
    confidence: Share
    block: PositiveDuration
    seed: Annotated[int, Field(ge=0, lt=2**32)]
