"""The section `demo` of params.yaml."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated

from pydantic import Field, field_validator

from crashcast.params.base import PositiveDuration, Section
from crashcast.params.telemetry import checked_interval


class Demo(Section):
    """The simulated fleet."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    servers: Annotated[int, Field(ge=20, le=100_000)]
    start: date
    months: Annotated[int, Field(ge=1, le=240)]
    interval: PositiveDuration

    @field_validator("start")
    @classmethod
    def _first_of_month(cls, value: date) -> date:
        if value.day != 1:
            raise ValueError("must be the first day of a month")
        return value

    @field_validator("interval")
    @classmethod
    def _divides_a_day(cls, value: timedelta) -> timedelta:
        return checked_interval(value)
