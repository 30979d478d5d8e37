"""Whether a fleet has drifted, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from crashcast.operate.textfile import Sample
from crashcast.text import counted, some_of
from crashcast.watch.drift import Finding, Report

SHOWN = 10


def show(report: Report, console: Console) -> None:
    """Print the verdict, and the figures that deviate most."""
    console.print(verdict(report), highlight=False)
    if not report.findings:
        return
    numbers = (Column(title, justify="right") for title in ("now", "training", "deviations", "p", "effect on risk"))
    table = Table(Column("figure", no_wrap=True), *numbers, "", box=None, padding=(0, 2, 0, 0))
    for one in report.findings[:SHOWN]:
        table.add_row(
            f"{one.name}, {one.figure}",
            f"{one.value:.4g}",
            f"{one.expected:.4g}",
            f"{one.deviations:+.1f}",
            f"{one.p_value:.1g}",
            "" if one.effect is None else f"{one.effect:+.1%}",
            "drift" if one.is_alarm else "moves no score" if one.is_shift else "",
        )
    console.print(table)


def verdict(report: Report) -> str:
    """Say it in a sentence."""
    if report.week is None:
        return "Not known: no whole week has passed since the training period of the model."
    if not report.is_known:
        weeks, needed = counted(report.weeks, "whole week"), f"{report.needed} are needed"
        return f"Not known: the training period has {weeks}, and {needed} (params.yaml: drift.min_weeks)."
    about = f"the week from {report.week:%Y-%m-%d} UTC, compared with {report.weeks} weeks of the training period"
    if not report.alarms:
        return f"No drift in {about}."
    names = dict.fromkeys(f"{one.name} ({one.figure})" for one in report.alarms)
    changed = f" Changed in that week: {some_of([*map(str, report.changes)])}." if report.changes else ""
    return f"Drift in {about}: {', '.join(list(names)[:3])}{', ...' if len(names) > 3 else ''}.{changed}"


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values; a deviation from figures that never changed has no number."""
    return {
        "week": None if report.week is None else report.week.isoformat(),
        "reference_weeks": report.weeks,
        "known": report.is_known,
        "drift": bool(report.alarms) if report.is_known else None,
        "changes": [str(change) for change in report.changes],
        "findings": [_finding(one) for one in report.findings],
    }


def _finding(one: Finding) -> dict[str, Any]:
    deviations = one.deviations if abs(one.deviations) < float("inf") else None
    return {**one._asdict(), "deviations": deviations, "is_alarm": one.is_alarm}


def samples(report: Report) -> Iterator[Sample]:
    """Yield the gauges of the report."""
    yield Sample("crashcast_drift_known", "Whether drift can be told: enough weeks are known.", report.is_known, {})
    if not report.is_known or report.week is None:
        return
    yield Sample("crashcast_drift", "Shifts of the newest week that matter.", len(report.alarms), {})
    for one in report.findings:
        labels = {"layer": one.layer, "name": one.name, "figure": one.figure}
        meaning = "Probability of such a deviation from the training period if nothing has changed."
        yield Sample("crashcast_drift_p_value", meaning, one.p_value, labels)
        yield Sample("crashcast_drift_value", "The figure in the newest whole week.", one.value, labels)
        yield Sample("crashcast_drift_expected", "Its mean in the weeks of the training period.", one.expected, labels)
