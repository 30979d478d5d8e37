"""Several projects together: what each relies on, who is needed in which week, and what to drop within a budget.

The gain of the n-th retraining of a year is what the model would age more without it: with n retrainings, evenly
spaced, its mean age is 6 / (n + 1) months, so the gain is decay x crashes a year x (6 / n - 6 / (n + 1)) crashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

from crashcast.planning.cost_model import Estimate
from crashcast.planning.decay import Decay, mean_age
from crashcast.planning.forecast import ANSWER, Forecast
from crashcast.planning.report import Block, Curve, Report
from crashcast.planning.run_cost import total
from crashcast.text import all_of, counted

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
    while not _suffices(found):
        last = [(member, found.times(member)) for member in members if found.times(member) and member.decay]
        if not last:
            break
        member, number = min(last, key=lambda one: (_ratio(found, *one), one[0].name))
        hours, money = member.forecast.retraining_hours, member.forecast.retraining_money
        left = _left(found) - ((money or 0.0) if budget_hours is None else hours)
        dropped.append(Dropped(member.name, number, member.gain(number) or 0.0, hours, money, left))
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


def _left(found: Portfolio) -> float:
    return hours(found) if found.budget_hours is not None else money(found) or 0.0


def _suffices(found: Portfolio) -> bool:
    in_money = money(found)
    enough = found.budget_hours is None or hours(found) <= found.budget_hours
    return enough and (found.budget_money is None or in_money is None or in_money <= found.budget_money)


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


def report(found: Portfolio) -> Report:
    """Word a portfolio."""
    blocks = [_projects(found), _weeks(found)]
    if found.budget_hours is not None or found.budget_money is not None:
        blocks.append(_drops(found))
    notes = [*_merges(found.members)]
    unknown = [member.name for member in found.members if member.decay is None]
    if unknown:
        notes.append(
            f"The decay of {all_of(unknown)} is not known, so no retraining of it is dropped: "
            "`crashcast plan --measure-decay` in its folder measures it."
        )
    steady, each = _load(found)
    points = [(f"week {n + 1}", Estimate(h, h, h)) for n, h in enumerate(steady + sum(one) for one in each)]
    title = f"{counted(len(found.members), 'project')}: {all_of([one.name for one in found.members])}"
    return Report(
        title, _verdict(found), _suffices(found), notes, blocks, [Curve("People's hours by week", "h", points)]
    )


def _load(found: Portfolio) -> tuple[float, list[list[float]]]:
    """Return the hours of every week, and those of retrainings week by week."""
    retrainings = sum(member.forecast.times * member.forecast.retraining_hours for member in found.members)
    steady = (sum(member.forecast.hours for member in found.members) - retrainings) / WEEKS
    return steady, [[member.forecast.retraining_hours for member in some] for some in weeks(found)]


def _verdict(found: Portfolio) -> str:
    sums, in_money = f"{hours(found):,.0f} hours of people in the year", money(found)
    if in_money is not None:
        sums += f", {in_money:,.0f} {found.members[0].forecast.project.plan.prices.currency}"
    if found.budget_hours is None and found.budget_money is None:
        return f"{sums}."
    if found.budget_money is not None and in_money is None:
        return f"{sums}; money is not known, because prices are missing (plan.prices in params.yaml)."
    if not _suffices(found):
        return f"The budget does not suffice, even after {counted(len(found.dropped), 'retraining')} dropped: {sums}."
    after = f" after {counted(len(found.dropped), 'retraining')} dropped" if found.dropped else ""
    return f"The budget suffices{after}: {sums}."


def _projects(found: Portfolio) -> Block:
    rows = []
    for member in found.members:
        made, figures = member.forecast, member.forecast.project.figures
        ripe = made.crashes_a_year / 12
        answers = next(line.amount.value for line in made.lines if line.name == ANSWER)
        decay = "not measured"
        if member.decay:
            low, value, high = (100 * getattr(member.decay.loss, end) for end in ("low", "value", "high"))
            decay = f"{value:.2g} ({low:.2g} to {high:.2g})"
        chosen = figures["candidates"]["chosen"].partition(" ")[0]
        cpu_s = total([cost.cpu_s for cost in made.retraining.values()]).value
        rows.append(
            (
                member.name,
                f"{ripe:,.3g}",
                f"{answers / (12 * ripe):.2g}" if ripe else "",
                decay,
                f"{made.times}",
                f"{made.hours:,.0f}",
                f"{cpu_s / 60:,.1f}",
                "no: the base rate alone" if chosen == "dummy" else f"yes: {chosen}",
                ", ".join(made.project.label.evidence),
            )
        )
    header = (
        "project", "ripe crashes a month", "annotators' hours per crash", "points of recall lost a month",
        "retrainings", "hours a year", "CPU min, retraining", "supervised", "labels from",
    )  # fmt: skip
    return Block(header, rows, 6)


def _weeks(found: Portfolio) -> Block:
    steady, _ = _load(found)
    rows = []
    for number, some in enumerate(weeks(found)):
        if some:
            each = [member.forecast.retraining_hours for member in some]
            cpu_s = sum(total([c.cpu_s for c in member.forecast.retraining.values()]).value for member in some)
            told = " + ".join(f"{one:.3g}" for one in (steady, *each))
            rows.append(
                (
                    f"week {number + 1}",
                    f"{told} = {steady + sum(each):.3g}",
                    f"{cpu_s / 60:,.1f}",
                    all_of([m.name for m in some]),
                )
            )
    note = f"Every other week takes {steady:.3g} hours: pages, answers and upkeep of all projects, spread evenly."
    return Block(("trained again", "people's hours", "CPU minutes", "projects"), rows, 2, note)


def _drops(found: Portfolio) -> Block:
    rows = []
    by_hours = found.budget_hours is not None
    for one in found.dropped:
        member = next(member for member in found.members if member.name == one.name)
        assert member.decay is not None
        loss, crashes, number = max(0.0, member.decay.loss.value), member.forecast.crashes_a_year, one.number
        cost = one.hours if by_hours else one.money or 0.0
        sum_ = f"{loss:.4f} x {crashes:,.0f} x ({mean_age(number - 1):.3g} - {mean_age(number):.3g}) = {one.gain:.3g}"
        rows.append(
            (
                f"{one.name}, from {number} to {number - 1}",
                sum_,
                f"{cost:,.4g}",
                f"{one.gain / cost:.3g}" if cost else "",
                f"{one.left:,.1f}",
            )
        )
    unit = "h" if by_hours else found.members[0].forecast.project.plan.prices.currency
    header = (
        "dropped, in this order",
        "crashes no longer warned of in the year",
        f"saves {unit}",
        f"crashes per {unit}",
        f"{unit} left in all",
    )
    note = (
        "Decay a month x crashes a year x the difference in mean age in months, which is 6 / (retrainings + 1). The "
        "retraining with the least gain for its cost comes first."
    )
    return Block(header, rows, 4, note)


def _merges(members: Sequence[Member]) -> list[str]:
    """Say which projects could share one model."""
    found = []
    for one, other in combinations(members, 2):
        if one.forecast.project.task == other.forecast.project.task:
            least = min((one, other), key=lambda member: member.forecast.times)
            saved = least.forecast.times * least.forecast.retraining_hours
            found.append(
                f"{one.name} and {other.name} have the same metrics, interval, lead and horizon: one model of both "
                f"would save {counted(least.forecast.times, 'retraining')}, {saved:,.3g} h; `crashcast transfer` says "
                "whether it would be as good."
            )
    return found


def as_json(found: Portfolio) -> dict[str, Any]:
    """Return a portfolio as plain values."""
    return {
        "hours": hours(found),
        "money": money(found),
        "suffices": _suffices(found),
        "projects": {
            member.name: {
                "ripe_crashes_a_month": member.forecast.crashes_a_year / 12,
                "loss_of_recall_a_month": member.decay and member.decay.loss._asdict(),
                "retrainings": found.times(member),
                "hours": member.forecast.hours,
            }
            for member in found.members
        },
        "weeks": [[member.name for member in some] for some in weeks(found)],
        "dropped": [one._asdict() for one in found.dropped],
    }
