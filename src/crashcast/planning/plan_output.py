"""The plan of one project, for people and for programs."""

from __future__ import annotations

import math
from typing import Any

from crashcast.params.base import format_duration
from crashcast.planning.cost_model import CONFIDENCE, Estimate
from crashcast.planning.forecast import Forecast, Line
from crashcast.planning.machine import GB, Limit
from crashcast.planning.report import Block, Report
from crashcast.planning.run_cost import Cost, highest, total
from crashcast.text import counted

BILLION = 1e9


def report(found: Forecast) -> Report:
    """Word a forecast."""
    return Report(
        title(found),
        verdict(found),
        found.suffices,
        [f"Mind: {one}." for one in found.warnings],
        [_run(found), _year(found), _machine(found)],
        found.curves,
        found.assumptions,
    )


def title(found: Forecast) -> str:
    """Say what is planned."""
    size = found.size
    return (
        f"{found.project.name}: the next 12 months of {counted(size.servers, 'server')} with {size.metrics} metrics "
        f"each {format_duration(size.interval)}, after {size.months:.3g} months of history; trained again each "
        f"{format_duration(found.every)}"
    )


def verdict(found: Forecast) -> str:
    """Say whether this machine suffices, what breaks first and what mends it."""
    first = found.limits[0]
    for is_so, words in (("is_short", "does not suffice"), ("is_doubtful", "may not suffice")):
        if bad := [one for one in found.limits if getattr(one, is_so)]:
            told = "; ".join(_told(one) for one in bad)
            return f"This machine {words}: {told}."
    return f"This machine suffices. What would break first is {first.what}, {_at(first, found)}."


def _told(one: Limit) -> str:
    need = f"{one.what}, {_short(one.need.value)}{_interval(one.need)} {one.unit} of {_short(one.have)}"
    if one.is_doubtful:
        return f"{need}; a run of a size in between tells more"
    return f"{need}; mend it with {one.mend}"


def _at(one: Limit, found: Forecast) -> str:
    first, last = (_round(times * found.size.servers) for times in one.breaks_at)
    return f"at about {last} servers" if first == last else f"at about {last} servers, or already {first}"


def _round(servers: float) -> str:
    return "a billion" if servers > BILLION else f"{float(f'{servers:.2g}'):,.0f}"


def _run(found: Forecast) -> Block:
    header = ("one whole run", "CPU s", "wall s", "peak GB", "at most", "writes GB", "CPU s, retraining")
    costs = {**found.run, "all": _all(found.run)}
    again = {**found.retraining, "all": _all(found.retraining)}
    rows: list[tuple[str, ...]] = [
        (
            part,
            f"{cost.cpu_s.value:,.1f}{_interval(cost.cpu_s)}",
            f"{cost.wall_s.value:,.1f}",
            f"{cost.peak_bytes.value / GB:,.2f}",
            f"{cost.peak_bytes.high / GB:,.2f}",
            f"{cost.written_bytes.value / GB:,.3f}",
            f"{again[part].cpu_s.value:,.1f}",
        )
        for part, cost in costs.items()
    ]
    note = (
        f"Intervals hold {CONFIDENCE:.0%} of runs. A retraining, in the middle of the year, computes new partitions "
        "alone; the others are remembered."
    )
    return Block(header, rows, 6, note)


def _all(costs: dict[str, Cost]) -> Cost:
    """Add up the parts of a run, which come one after another."""
    cpu, wall, _, written = zip(*costs.values(), strict=True)
    return Cost(total(cpu), total(wall), highest(costs), total(written))


def _year(found: Forecast) -> Block:
    currency = found.project.plan.prices.currency
    money, missing = found.money, sum(one.price is None for one in found.lines)
    why = f"{counted(missing, 'price')} missing: plan.prices in params.yaml"
    rows = [_line(one) for one in found.lines]
    rows += [("people, all", f"{found.hours:,.4g} h", "", "the sum")]
    rows += [("money", "", "", why) if money is None else ("money", "", f"{money.value:,.2f}{_interval(money)}", "")]
    return Block(("12 months", "amount", currency, "from"), rows, 2)


def _line(one: Line) -> tuple[str, ...]:
    money = "" if one.price is None else f"{one.amount.value * one.price:,.2f}"
    return one.name, f"{one.amount.value:,.4g}{_interval(one.amount)} {one.unit}", money, one.source


def _machine(found: Forecast) -> Block:
    rows: list[tuple[str, ...]] = [
        (
            one.what,
            f"{_short(one.need.value)}{_interval(one.need)} {one.unit}",
            f"{_short(one.have)} {one.unit}",
            _at(one, found).removeprefix("at "),
            one.mend if one.is_short else "",
        )
        for one in found.limits
    ]
    note = (
        "Needed at the end of the year. What breaks first comes first: at so many servers, or at already so few by the "
        "upper limit of the interval."
    )
    return Block(("this machine", "needed", "there", "breaks at", "what mends it"), rows, 2, note)


def _short(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _interval(one: Estimate) -> str:
    return "" if one.low == one.high else f" ({_short(one.low)} to {_short(one.high)})"


def as_json(found: Forecast) -> dict[str, Any]:
    """Return the forecast as plain values; times in seconds, sizes in bytes."""
    return {
        "project": found.project.name,
        "servers": found.size.servers,
        "months": found.size.months,
        "interval": format_duration(found.size.interval),
        "metrics": found.size.metrics,
        "retrain_every": format_duration(found.every),
        "confidence": CONFIDENCE,
        "run": _costs_as_json(found.run),
        "retraining": _costs_as_json(found.retraining),
        "year": [{**one._asdict(), "amount": one.amount._asdict()} for one in found.lines],
        "money": None if found.money is None else found.money._asdict(),
        "suffices": found.suffices,
        "limits": [
            {
                **one._asdict(),
                "need": one.need._asdict(),
                "breaks_at": [None if math.isinf(times) else times for times in one.breaks_at],
            }
            for one in found.limits
        ],
        "assumptions": found.assumptions,
        "warnings": found.warnings,
    }


def _costs_as_json(costs: dict[str, Cost]) -> dict[str, Any]:
    return {part: {name: one._asdict() for name, one in cost._asdict().items()} for part, cost in costs.items()}
