"""The section `train` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, create_model

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
    candidates: Candidates
