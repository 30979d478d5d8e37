"""The page of `crashcast drift`: the figures that have moved most, week by week. Nothing in it runs or is fetched."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from crashcast import html_templates
from crashcast.files import replacing
from crashcast.operate.page import STYLE, chart, number
from crashcast.text import printable
from crashcast.watch.drift import Finding, Report
from crashcast.watch.drift_output import SHOWN, verdict
from crashcast.watch.weekly_statistics import WEEK


def write(report: Report, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with replacing(path) as aside:
        aside.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """Return the page's HTML."""
    environment = html_templates.environment(Path(__file__).parent, printable)
    environment.filters["number"] = number
    return environment.get_template(
        "drift_page.html"
    ).render(
        style=Markup(STYLE),  # our own
        policy=html_templates.policy_of(STYLE),
        kind="doubtful" if not report.is_known else "alarm" if report.alarms else "quiet",
        verdict=verdict(report),
        changes=report.changes,
        shown=[(one, _picture(one, report)) for one in report.findings[:SHOWN]],
        others=report.findings[SHOWN:],
    )


def _picture(one: Finding, report: Report) -> Markup:
    assert report.week is not None
    assert report.trained_to is not None
    values = report.history[one.key]
    when = [report.week - earlier * WEEK for earlier in reversed(range(len(values)))]
    mark = report.trained_to, f"the end of the training period, {report.trained_to:%Y-%m-%d}"
    return chart(f"{one.name}, {one.figure}", when, values, when[-1] - when[0], f"{len(values)} weeks", mark)
