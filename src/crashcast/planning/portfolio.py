"""Several projects together: what each relies on, who is needed in which week, and what to drop within a budget.

The gain of the n-th retraining of a year is what the model would age more without it: with n retrainings, evenly
spaced, its mean age is 6 / (n + 1) months, so the gain is decay x crashes a year x (6 / n - 6 / (n + 1)) crashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from crashcast.planning.decay import Decay, mean_age
from crashcast.planning.forecast import Forecast
from crashcast.planning.run_cost import total

WEEKS = 52


class Member(NamedTuple):
    """A project of the portfolio; its decay is None if it was not measured."""

    forecast: Forecast
    decay: Decay | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.forecast.project.name

    def gain(self, number: int) -> float | None:
        """Return the crashes that the n-th retraining of the year lets the model warn of; None: not known."""
        if self.decay is None:
            return None
        loss = max(0.0, self.decay.loss.value)
        return loss * self.forecast.crashes_a_year * (mean_age(number - 1) - mean_age(number))


class Dropped(NamedTuple):
    """A retraining that is left out: the last one of `number` a year."""

    name: str
    number: int
    gain: float
    hours: float
    money: float | None
    left: float  # of the budget's unit, in all, after it


@dataclass(frozen=True)
class Portfolio:
    """Several projects, and a budget."""

    members: list[Member]
    budget_hours: float | None = None
    budget_money: float | None = None
    dropped: list[Dropped] = field(default_factory=list)

    def times(self, member: Member) -> int:
        """Return how many retrainings a year are left of a project."""
        return member.forecast.times - sum(one.name == member.name for one in self.dropped)


def plan(members: Sequence[Member], budget_hours: float | None, budget_money: float | None) -> Portfolio:
    """Drop retrainings until the budgets suffice, or none is left whose gain is known."""
    dropped: list[Dropped] = []
    found = Portfolio([*members], budget_hours, budget_money, dropped)
    while not suffices(found):
        last = [(member, found.times(member)) for member in members if found.times(member) and member.decay]
        if not last or (budget_hours is None and money(found) is None):
            break
        member, number = min(last, key=lambda one: (_ratio(found, *one), one[0].name))
        made, gain = member.forecast, member.gain(number) or 0.0
        saved = made.retraining_hours if budget_hours is not None else made.retraining_money or 0.0
        left = (hours(found) if budget_hours is not None else money(found) or 0.0) - saved
        dropped.append(Dropped(member.name, number, gain, made.retraining_hours, made.retraining_money, left))
    return found


def _ratio(found: Portfolio, member: Member, number: int) -> float:
    """Return the gain of the last retraining for each hour, or for each unit of money if that alone is limited."""
    cost = member.forecast.retraining_money if found.budget_hours is None else member.forecast.retraining_hours
    return (member.gain(number) or 0.0) / (cost or 1.0)


def hours(found: Portfolio) -> float:
    """Return people's hours in the year."""
    return sum(member.forecast.hours for member in found.members) - sum(one.hours for one in found.dropped)


def money(found: Portfolio) -> float | None:
    """Return the money of the year; None if a price is missing."""
    each = [member.forecast.money for member in found.members]
    if any(one is None for one in each):
        return None
    return total([one for one in each if one]).value - sum(one.money or 0.0 for one in found.dropped)


def suffices(found: Portfolio) -> bool:
    """Say whether the budgets suffice; one of money does not if prices are missing."""
    in_money = money(found)
    if found.budget_money is not None and (in_money is None or in_money > found.budget_money):
        return False
    return found.budget_hours is None or hours(found) <= found.budget_hours


def weeks(found: Portfolio) -> list[list[Member]]:
    """Return who trains again in each week: evenly spaced, each project in the weeks that are least taken."""
    taken: list[list[Member]] = [[] for _ in range(WEEKS)]
    for member in sorted(found.members, key=found.times, reverse=True):
        if times := found.times(member):
            starts = range(max(1, WEEKS // times))
            at = [[(start + n * WEEKS // times) % WEEKS for n in range(times)] for start in starts]
            load = [max(sum(one.forecast.retraining_hours for one in taken[week]) for week in some) for some in at]
            for week in at[load.index(min(load))]:
                taken[week].append(member)
    return taken


def load(found: Portfolio) -> tuple[float, list[list[float]]]:
    """Return the hours of every week, and those of retrainings week by week."""
    retrainings = sum(member.forecast.times * member.forecast.retraining_hours for member in found.members)
    steady = (sum(member.forecast.hours for member in found.members) - retrainings) / WEEKS
    return steady, [[member.forecast.retraining_hours for member in some] for some in weeks(found)]
