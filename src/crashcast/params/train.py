"""The section `train` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Group, Section, Share


class LogisticRegression(Group):
    """A grid of logistic regressions."""

    C: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class HistGradientBoosting(Group):
    """A grid of histogram gradient boostings."""

    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    max_iter: Annotated[int, Field(ge=1)]
    max_leaf_nodes: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    min_samples_leaf: Annotated[int, Field(ge=1)]
    l2_regularization: Annotated[float, Field(ge=0)]


class Candidates(Group):
    """The algorithms that compete on validation; the dummy always does."""

    logistic_regression: LogisticRegression | None = None
    hist_gradient_boosting: HistGradientBoosting | None = None


class SelfTraining(Group):
    """How certain the model must be of a row that no incident records cover, to learn from its own answer."""

    certainty: Share


class Train(Section):
    """How the model is fitted and chosen."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    negatives_per_positive: Annotated[float, Field(gt=0)]
    max_rows: Annotated[int, Field(ge=1000)]
    weigh_by_confidence: bool = False
    self_training: SelfTraining | None = None
    candidates: Candidates
