"""What `crashcast plan` does: a plan of this project, or of several together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crashcast.errors import UserError
from crashcast.planning import decay, decay_output, label_sources, plan_output, portfolio_output
from crashcast.planning import portfolio as together
from crashcast.planning.forecast import Growth, forecast
from crashcast.planning.project import read_project
from crashcast.planning.report import Report
from crashcast.text import all_of

Result = tuple[dict[str, Any], list[Report]]


def this_project(growth: Growth, measure_decay: bool, answers: Path | None) -> Result:
    """Plan this project; return the plan as plain values and as a report.

    Parameters
    ----------
    growth : Growth
    measure_decay : bool
        Measure the decay first.
    answers : Path, optional
        Label Studio's export, which tells how long an answer takes.
    """
    project = read_project()
    found = forecast(project.with_lead_times(answers) if answers else project, growth)
    if measure_decay:
        decay.write(decay.measure_decay())
    aged, content, shown = decay.read(), plan_output.as_json(found), plan_output.report(found)
    if aged is None:
        shown.notes.append("How often a retraining pays: `crashcast plan --measure-decay` measures how models age.")
    else:
        prices = found.project.plan.prices
        costs = found.retraining_hours, found.retraining_money, found.times
        options = decay.cadences(aged.loss, found.crashes_a_year, *costs)
        told = decay_output.cadence_block(aged, options, prices.missed_crash, prices.currency, found.times)
        shown.blocks.extend([decay_output.recall_block(aged), told])
        content["decay"] = {"loss": aged.loss._asdict(), "ages": aged.ages}
    shown.blocks.append(label_sources.block(found))
    return content, [shown]


def portfolio(
    projects: Sequence[Path], growth: Growth, budget_hours: float | None, budget_money: float | None
) -> Result:
    """Plan several projects together.

    Raises
    ------
    UserError
        If options of one fleet's growth are given, two projects have the same name, or other currencies.
    """
    if any(growth[:-1]):
        raise UserError("--servers, --interval, --months and --metrics are of one project: run it in its folder")
    names = [folder.resolve().name for folder in projects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two projects are called {twice[0]}: the plan names them by their folders")
    plans = [read_project(folder) for folder in projects]
    if len(currencies := sorted({one.plan.prices.currency for one in plans})) > 1:
        raise UserError(f"prices are in {all_of(currencies)}: write those of all projects in one (plan.prices)")
    members = [
        together.Member(forecast(plan, growth), decay.read(folder))
        for plan, folder in zip(plans, projects, strict=True)
    ]
    found = together.plan(members, budget_hours, budget_money)
    content = portfolio_output.as_json(found) | {"plans": [plan_output.as_json(member.forecast) for member in members]}
    return content, [portfolio_output.report(found), *(plan_output.report(member.forecast) for member in members)]
