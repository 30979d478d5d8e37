"""The section `validate` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import PositiveDuration, Section


class Validate(Section):
    """What raw data must satisfy; shares are of rows."""

    max_duplicate_share: Annotated[float, Field(ge=0, le=1)]
    max_out_of_range_share: Annotated[float, Field(ge=0, le=1)]
    max_missing_share: Annotated[float, Field(ge=0, le=1)]
    max_volume_change: Annotated[float, Field(gt=0)]  # 1 and above tolerate the loss of whole partitions
    max_overlapping_incident_share: Annotated[float, Field(ge=0, le=1)]
    max_outage: PositiveDuration
