"""A report of a plan: sentences, tables and pictures, on a terminal or as one HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from rich.console import Console
from rich.table import Column, Table

from crashcast import html_templates
from crashcast.files import replacing
from crashcast.operate.page import STYLE, number
from crashcast.planning.cost_model import Estimate
from crashcast.review.report import svg
from crashcast.review.report.html import CHARTS
from crashcast.text import printable

FOLDER = Path(__file__).parent


class Block(NamedTuple):
    """A table with a header; the first column names the row, and numbers stand to the right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: int  # columns after the first; those behind them are words
    note: str = ""


class Curve(NamedTuple):
    """A line over named points with its interval, and a limit; that is drawn dashed."""

    title: str
    unit: str
    points: list[tuple[str, Estimate]]
    limit: float | None = None


@dataclass(frozen=True)
class Report:
    """What is shown."""

    title: str
    verdict: str
    is_good: bool
    notes: list[str]
    blocks: list[Block]
    curves: list[Curve] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)


def show(report: Report, console: Console) -> None:
    """Print a report."""
    console.print(report.title, style="bold", highlight=False, markup=False)
    for sentence in (report.verdict, *report.notes):
        console.print(sentence, highlight=False, markup=False)
    for header, rows, numbers, note in report.blocks:
        first, *others = header
        columns = [
            Column(name, justify="right" if place < numbers else "left", overflow="fold")
            for place, name in enumerate(others)
        ]
        table = Table(first, *columns, box=None, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
        if note:
            console.print(note, highlight=False, markup=False)
    if report.assumptions:
        console.print("\nAssumed, not measured:")
    for one in report.assumptions:
        console.print(f"- {one}", highlight=False, markup=False)


def write(reports: list[Report], path: Path) -> None:
    """Write reports as one page, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    style = STYLE + CHARTS + (FOLDER / "page.css").read_text(encoding="utf-8")
    environment = html_templates.environment(FOLDER, printable)
    text = environment.get_template("page.html").render(
        style=Markup(style),  # our own
        policy=html_templates.policy_of(style),
        reports=[(report, [(curve.title, _draw(curve)) for curve in report.curves]) for report in reports],
    )
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _draw(curve: Curve) -> Markup:
    names, values = zip(*curve.points, strict=True)
    series: dict[str, list[float]] = {"challenger": [one.value for one in values]}
    told = f"From {number(values[0].value)} to {number(values[-1].value)} {curve.unit}."
    if curve.limit is not None:
        series["champion"] = [curve.limit] * len(values)
        told += f" The dashed line is what there is: {number(curve.limit)} {curve.unit}."
    bands: svg.Bands = {"challenger": ([one.low for one in values], [one.high for one in values])}
    return svg.by_period(curve.title, told, curve.unit, names, series, bands, 260)
