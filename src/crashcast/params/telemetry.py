"""The section `telemetry` of params.yaml."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from crashcast.params.base import DAY, WEEK, Group, PositiveDuration, Section

UNLIMITED = 3.4028234663852886e38  # the largest float32


def checked_interval(value: timedelta) -> timedelta:
    """Return an interval if it divides a day."""
    if DAY % value:
        raise ValueError("must divide a day, so that rows fall on the same times every day")
    return value


class Metric(Group):
    """One telemetry column."""

    min: float | None = None  # without a limit, every value is possible
    max: float | None = None
    aggregate: Literal["mean", "min", "max", "sum", "last"] = "mean"
    can_stick: bool = False  # an unchanging value means a broken sensor

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.limits
        if not low < high:
            raise ValueError("min must be below max")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """The range of possible values; without a limit, any finite one."""
        return (-UNLIMITED if self.min is None else self.min), (UNLIMITED if self.max is None else self.max)

    @property
    def range(self) -> str:
        """The limits in words, for a sentence about values."""
        if self.min is not None and self.max is not None:
            return f"in [{self.min:g}, {self.max:g}]"
        if self.max is not None:
            return f"at most {self.max:g}"
        return "finite" if self.min is None else f"at least {self.min:g}"


class Telemetry(Section):
    """What data/raw/telemetry holds, and the cadence everything after it works at."""

    interval: PositiveDuration
    partition: Literal["month", "week", "day"]
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]

    @field_validator("interval")
    @classmethod
    def _divides_a_day_or_is_a_week(cls, value: timedelta) -> timedelta:
        return value if value == WEEK else checked_interval(value)

    @model_validator(mode="after")
    def _weeks_begin_on_monday(self) -> Self:
        if self.interval == WEEK and self.partition != "week":
            raise ValueError("an interval of 7d needs partition: week")
        return self

    @field_validator("metrics")
    @classmethod
    def _are_no_keys(cls, value: dict[str, Metric]) -> dict[str, Metric]:
        if taken := sorted({"timestamp", "server_id", "observed", "label"} & set(value)):
            raise ValueError(f"{', '.join(taken)} cannot be the name of a metric: the tables use it")
        return value
