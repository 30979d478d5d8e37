"""The section `alarms` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Section


class Alarms(Section):
    """The budget of false alarms for the on-call engineers."""

    false_alarms_per_server_day: Annotated[float, Field(gt=0)]
