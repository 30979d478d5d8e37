"""The section `plan` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crashcast.params.base import Duration, Group, Section

Price = Annotated[float, Field(ge=0)] | None


class Prices(Group):
    """What things cost, in one currency; null: not known, so no sum of money has it."""

    currency: str = "EUR"
    cpu_hour: Price = None
    disk_gb_month: Price = None
    s3_gb_month: Price = None
    s3_1000_writes: Price = None
    s3_1000_reads: Price = None
    person_hour: Price = None
    missed_crash: Price = None


class Hours(Group):
    """How long people need: assumptions, until somebody has measured them."""

    page: Duration
    answer: Duration
    retraining: Duration
    month: Duration


class Plan(Section):
    """Prices and hours for `crashcast plan` (docs/planning.md)."""

    prices: Prices
    hours: Hours
    answers_a_month: Annotated[int, Field(ge=0)]
