"""The section `train` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from crashcast.modeling.algorithms import ALGORITHMS
from crashcast.params.base import Group, Section, Share

GRIDS: dict[str, Any] = {
    name: (algorithm.Grid | None, None) for name, algorithm in ALGORITHMS.items() if algorithm.Grid
}
Candidates = create_model("Candidates", __base__=Group, **GRIDS)


class SelfTraining(Group):
    """How certain the model must be of a row without incident records, to use its prediction as a label."""

    certainty: Share


class Train(Section):
    """How the model is fitted and chosen."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    negatives_per_positive: Annotated[float, Field(gt=0)]
    max_rows: Annotated[int, Field(ge=1000)]
    weigh_by_confidence: bool = False
    self_training: SelfTraining | None = None
    skill_confidence: Share = 0.95
    folds: Annotated[int, Field(ge=1, le=12)] = 3
    max_compared_rows: Annotated[int, Field(ge=1000)] = 2_000_000
    local: Literal["server"] | None = None
    candidates: Candidates

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.local and self.self_training:
            raise ValueError("set either local or self_training: pseudo-labels are no crashes of a server")
        return self
