"""The section `acceptance` of params.yaml: when a retrained model replaces the last one, and with what confidence."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from crashcast.params.base import Group, PositiveDuration, Section

ERROR = 0.05  # of accepting wrongly, over all looks at one set of test rows; and of every bound that is unadjusted
Positive = Annotated[float, Field(gt=0)]


class Guardrails(Group):
    """Losses that are tolerated; a larger one is a veto if chance does not explain it."""

    event_recall: Positive  # at the alarm budget, absolute
    lead_h: Positive
    brier: Positive  # relative to the champion's
    false_alarms_over_budget: Annotated[float, Field(ge=1)]  # at the challenger's stored threshold


class Slices(Group):
    """Losses that are tolerated in a part of the fleet or a kind of crash."""

    pr_auc: Positive  # of some servers
    event_recall: Positive  # of a kind of crash
    min_crashes: Annotated[int, Field(ge=1)]  # with fewer a slice is shown, not judged


class Acceptance(Section):
    """When a retrained model replaces the last one (docs: review/policy.py)."""

    metric: Literal["pr_auc"]
    min_gain: Annotated[float, Field(ge=0, lt=1)]
    margin: Annotated[float, Field(gt=0, lt=1)]
    stale_after: PositiveDuration
    block: PositiveDuration
    replicates: Annotated[int, Field(ge=100)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    windows: Annotated[int, Field(ge=1, le=12)] = 1  # above 1 recipes are judged; older commits do not say
    min_groups: Annotated[int, Field(ge=2)]
    min_servers: Annotated[int, Field(ge=2)]
    max_denominator_loss: Annotated[float, Field(ge=0, lt=1)]
    max_latency_ms: Positive  # of scoring 1,000 rows
    max_size_mb: Positive  # of the model file
    guardrails: Guardrails
    slices: Slices


def look_error(look: float) -> float:
    """Return the one-sided error to which the k-th look, from 1, is held; those of whole numbers add up to `ERROR`.

    Source: Bonferroni's inequality with unequal shares; the sum of 1/k^2 is pi^2/6 (Euler).
    """
    return ERROR * 6 / (math.pi * look) ** 2
