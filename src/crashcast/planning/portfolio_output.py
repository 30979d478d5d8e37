"""Several projects together, for people and for programs: every step of the arithmetic is shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from crashcast.modeling.algorithms import DUMMY
from crashcast.planning.cost_model import exactly
from crashcast.planning.decay import mean_age
from crashcast.planning.forecast import ANSWER, PAGE
from crashcast.planning.portfolio import Member, Portfolio, hours, load, money, suffices, weeks
from crashcast.planning.report import Block, Curve, Report
from crashcast.planning.run_cost import total
from crashcast.text import all_of, counted


def report(found: Portfolio) -> Report:
    """Word a portfolio."""
    blocks = [_projects(found), _weeks(found)]
    if found.budget_hours is not None or found.budget_money is not None:
        blocks.append(_drops(found))
    notes = [*_merges(found.members)]
    if not suffices(found):
        notes.append(_largest(found.members))
    unknown = [member.name for member in found.members if member.decay is None]
    if unknown:
        notes.append(
            f"The decay of {all_of(unknown)} is not known, so no retraining of it is dropped: "
            "`crashcast plan --measure-decay` in its folder measures it."
        )
    steady, each = load(found)
    points = [(f"week {n + 1}", exactly(h)) for n, h in enumerate(steady + sum(one) for one in each)]
    title = f"{counted(len(found.members), 'project')}: {all_of([one.name for one in found.members])}"
    return Report(
        title, _verdict(found), suffices(found), notes, blocks, [Curve("People's hours by week", "h", points)]
    )


def _verdict(found: Portfolio) -> str:
    sums, in_money = f"{hours(found):,.0f} hours of people in the year", money(found)
    if in_money is not None:
        sums += f", {in_money:,.0f} {found.members[0].forecast.project.plan.prices.currency}"
    if found.budget_hours is None and found.budget_money is None:
        return f"{sums}."
    if found.budget_money is not None and in_money is None:
        return f"Money is not known, because prices are missing (plan.prices in params.yaml); {sums}."
    if not suffices(found):
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
                "no: the base rate alone" if chosen == DUMMY else f"yes: {chosen}",
                ", ".join(made.project.label.evidence),
            )
        )
    header = (
        "project", "ripe crashes a month", "annotators' hours per crash", "points of recall lost a month",
        "retrainings planned", "hours planned", "CPU min, retraining", "supervised", "labels from",
    )  # fmt: skip
    return Block(header, rows, 6)


def _weeks(found: Portfolio) -> Block:
    steady, _ = load(found)
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


def _largest(members: Sequence[Member]) -> str:
    """Name what takes most hours: no retraining that is dropped helps against it."""
    lines = [(line.amount.value, member.name, line.name) for member in members for line in member.forecast.people]
    most, name, line = max(lines)
    mend = "; a smaller `alarms.false_alarms_per_server_day` makes them fewer" if line == PAGE else ""
    return f"Most hours of people are those of {name}, {line}: {most:,.0f}{mend}."


def as_json(found: Portfolio) -> dict[str, Any]:
    """Return a portfolio as plain values."""
    return {
        "hours": hours(found),
        "money": money(found),
        "suffices": suffices(found),
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
