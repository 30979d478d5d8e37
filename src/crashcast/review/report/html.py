"""The review as one HTML page that opens offline: nothing in it is fetched, and nothing in it runs.

What is said comes from the decision record and is worded in `wording`; `page.html` says where, and `page.css` and
`charts.css` how it looks. Every string is escaped by the template engine, and the page forbids itself everything but
its own stylesheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from crashcast import html_templates
from crashcast.canonical import write_text
from crashcast.review.report import svg, wording
from crashcast.review.report.schema import Record

FOLDER = Path(__file__).parent
CHARTS, PAGE = ((FOLDER / f"{name}.css").read_text(encoding="utf-8") for name in ("charts", "page"))
STYLE = f"\n{CHARTS}{PAGE}"
MOST_CRASHES = 200  # in the table of those that only one model warned of
LONGEST_SENTENCE = 2000
RECALLS = [tenths / 10 for tenths in range(1, 10)]


def write(path: Path, record: Record, pictures: dict[str, Any]) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        An HTML file, replaced.
    record : Record
        See `schema`.
    pictures : dict
        What is too large for the record. `precision_recall` and `calibration`: by model, the columns of
        `metrics.pr_curve` and `metrics.reliability`; `base_rate`; `thresholds` by model; `crashes`: `server_id`,
        `started_at`, `caught_by` ("both", "champion", "challenger", "neither"), `lead_h` by model, `thresholds` by
        model if its window has its own, and for some that
        only one model caught a `timeline`: `hours` after the crash, negative before it, and each model's score or None.
        `warning_h`, optional: hours before a crash from which, and up to which, an alarm counts as true.
    """
    write_text(path, render(record, pictures))


def render(record: Record, pictures: dict[str, Any]) -> str:
    """Return the page's HTML; the same input gives the same bytes (see `write`)."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(STYLE),  # our own
            policy=html_templates.policy_of(STYLE),
            record=record,
            pictures=pictures,
            crashes=_by_catcher(pictures["crashes"]),
            with_timeline=lambda crashes: [crash for crash in crashes if crash.get("timeline")],
            without_timeline=lambda crashes: [crash for crash in crashes if not crash.get("timeline")],
            precision_at=_precision_at,
            hourly=_hourly,
            alarmed_early=lambda crash: _alarmed_early(crash, pictures),
            slice_reach=svg.reach_of(map(wording.as_difference, record["slices"])),
            rival=wording.rival(record),
            label={"champion": wording.rival(record), "challenger": "challenger"},
            most_crashes=MOST_CRASHES,
            recalls=RECALLS,
            charts=svg,
            words=wording,
        )
    )


@cache
def _environment() -> Environment:
    environment = html_templates.environment(FOLDER, lambda text: wording.plain(text, LONGEST_SENTENCE))
    environment.filters |= {"count": lambda number: f"{number:,}", "minus": _minus, "value": wording.value_text}
    return environment


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")  # which screen readers read, and lines do not break after


def _by_catcher(crashes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    catchers = ("both", "challenger", "champion", "neither")
    return {catcher: [crash for crash in crashes if crash["caught_by"] == catcher] for catcher in catchers}


def _precision_at(curve: dict[str, list[float]], recall: float) -> float | None:
    """Return the precision of the first point that reaches so much recall."""
    points = zip(curve["recall"], curve["precision"], strict=True)
    return next((precision for reached, precision in sorted(points) if reached >= recall), None)


def _alarmed_early(crash: dict[str, Any], pictures: dict[str, Any]) -> str | None:
    """Name the model that missed a crash because its alarm, still open then, had opened too early to count."""
    missed = {"champion": "challenger", "challenger": "champion"}[crash["caught_by"]]
    scores, threshold = crash["timeline"], (crash.get("thresholds") or pictures["thresholds"]).get(missed)
    if threshold is None or missed not in scores or "warning_h" not in pictures:
        return None
    start, end = pictures["warning_h"]
    inside = [
        score or 0.0 for hour, score in zip(scores["hours"], scores[missed], strict=True) if -start < (hour or 0) < -end
    ]
    return missed if any(score >= threshold for score in inside) else None


def _hourly(scores: dict[str, list[float | None]]) -> list[tuple[int, dict[str, float | None]]]:
    """Return the highest score of each model in each hour around the crash."""
    hours = [math.floor(hour or 0) for hour in scores["hours"]]
    named = [name for name in svg.SERIES if name in scores]

    def highest(name: str, hour: int) -> float | None:
        of_hour = [score for at, score in zip(hours, scores[name], strict=True) if at == hour]
        return max((score for score in of_hour if score is not None), default=None)

    return [(hour, {name: highest(name, hour) for name in named}) for hour in sorted(set(hours))]
