"""The section `alarms` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Section, Share


class Alarms(Section):
    """The budget of false alarms for the on-call engineers, and how surely the threshold is to keep to it."""

    false_alarms_per_server_day: Annotated[float, Field(gt=0)]
    confidence: Share = 0.5
