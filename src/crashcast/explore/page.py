"""The page of `crashcast explore`: the fleet, what happens before a crash, what was missed and why, and the data.

It opens offline: nothing is fetched, and only its own search runs. Large fleets are read in part, and the page says so:
crashes and alarms are those of the newest `NEWEST_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from crashcast import html_templates, tables
from crashcast.canonical import write_text
from crashcast.explore import before_crash, cases, catalogue, plot
from crashcast.explore.catalogue import MetricHistory, Period
from crashcast.explore.plot import Operation
from crashcast.incidents import read_covered_crashes
from crashcast.modeling.alarms import AlarmWindow, judge
from crashcast.modeling.split_rule import crashes_of_part, period, read_rule
from crashcast.operate.deployment import Deployment
from crashcast.operate.page import MOST_REASONS, number
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import CLEAN_PATH, CONFIRMED_PATH, COVERAGE_PATH, FEATURES_PATH, PREDICTIONS_PATH, SPLIT_PATH
from crashcast.review.report import html, svg
from crashcast.tables import CRASH
from crashcast.text import counted, printable
from crashcast.versioning import committed_model

FOLDER = Path(__file__).parent
STYLE = html.STYLE + (FOLDER / "page.css").read_text(encoding="utf-8")
SCRIPT = (FOLDER / "search.js").read_text(encoding="utf-8")
NEWEST_ROWS = 3_000_000  # of 10,000 servers, hourly, 12 days
CHARTS = 6  # of a crash or an alarm: the score, the metrics of its reasons, and others
MOST_GROUPS = 12
LAST_PERIODS = 4  # in the tables of missing values


def write(path: Path) -> None:
    """Write the page of the work tree.

    Raises
    ------
    UserError
        If data or the model is missing, or is not what dvc.lock says.
    """
    write_text(path, render(read()))


def read() -> dict[str, Any]:
    """Read what the page shows of the work tree."""
    sections = (kind.read() for kind in (Telemetry, Clean, Features, Incidents, Label))
    deployment = Deployment("the work tree", committed_model.load(), *sections)  # type: ignore[arg-type]
    telemetry = deployment.telemetry
    incidents = tables.read(CONFIRMED_PATH)
    crashes = read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, deployment.incidents)
    periods, metrics = catalogue.read_periods(telemetry, incidents)

    rule, window = read_rule(SPLIT_PATH), AlarmWindow.of(deployment.label, telemetry.interval)
    predictions, judged_from = newest(PREDICTIONS_PATH, ["timestamp", "server_id", "label", "observed", "score"])
    start, end = period(rule, "test")
    judged_period = max(start, judged_from), end
    judged = judge(
        predictions, crashes_of_part(crashes, rule, "test"), deployment.model.threshold, window, judged_period
    )
    clean, clean_from = newest(CLEAN_PATH, [*tables.KEYS, *telemetry.metrics])
    found = cases.find(predictions, judged, Operation(deployment.model.threshold, window))
    missed, false_alarms = (
        cases.draw(some, what, predictions, judged, clean, FEATURES_PATH, deployment)
        for some, what in zip(found, (CRASH, "alarm"), strict=True)
    )

    own = before_crash.kinds(crashes).filter(pl.col("started_at") >= clean_from.replace(tzinfo=UTC))
    aligned = before_crash.align(clean, own, list(telemetry.metrics), telemetry.interval)
    aligned |= before_crash.align(predictions, own, ["score"], telemetry.interval)
    medians = dict(zip(telemetry.metrics, clean.select(pl.col(*telemetry.metrics).median()).row(0), strict=True))
    return {
        "tables": catalogue.read_tables(),
        "metrics": metrics,
        "periods": periods,
        "groups": _groups(incidents),
        "judged": judged.metrics,
        "judged_period": judged_period,
        "missed": missed,
        "false_alarms": false_alarms,
        "aligned": aligned,
        "aligned_from": clean_from,
        "medians": medians,
        "telemetry": telemetry,
        "label": deployment.label,
    }


def newest(table: Path, columns: Sequence[str], most: int = NEWEST_ROWS) -> tuple[pl.DataFrame, datetime]:
    """Read the newest rows of a table: whole moments, at least one, and otherwise at most so many rows.

    Returns
    -------
    DataFrame
        The rows, in order.
    datetime
        From when on they are there; naive, meaning UTC.
    """
    frames: list[pl.DataFrame] = []
    for partition in reversed(tables.partitions(table)):
        path, room = partition.path(table), most - sum(frame.height for frame in frames)
        times = tables.read(path, ["timestamp"])["timestamp"]  # sorted
        if len(times) <= room:
            frames.insert(0, tables.read(path, columns))
            start = partition.start
            continue
        moments = times.filter(times > times[-room - 1]) if room else times.clear()
        if moments.is_empty() and not frames:
            moments = times.tail(1)
        if moments.len():
            start = moments[0].replace(tzinfo=None)
            frames.insert(0, tables.read(path, columns, pl.col("timestamp") >= moments[0]))
        break
    return pl.concat(frames, how="vertical_relaxed"), start


def _groups(incidents: pl.DataFrame) -> list[tuple[str, int, int]]:
    """Return the servers and crashes of each group, the largest first."""
    coverage = tables.read(COVERAGE_PATH, ["server_id", "group"]).unique("server_id", keep="last")
    crashes = incidents.filter(kind=CRASH).group_by("server_id").len("crashes")
    found = coverage.with_columns(pl.col("group").fill_null(catalogue.NO_GROUP)).join(
        crashes, on="server_id", how="left"
    )
    grouped = found.group_by("group").agg(pl.len(), pl.col("crashes").sum())
    return grouped.sort("len", "group", descending=[True, False]).rows()


def render(content: dict[str, Any]) -> str:
    """Return the page's HTML; `content` is what `read` returns."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            **content,
            style=Markup(STYLE),  # our own
            script=Markup(SCRIPT),
            policy=html_templates.policy_of(STYLE, SCRIPT),
            charts=svg,
            kinds=plot.KINDS,
            case_charts=_case_charts,
            aligned_chart=lambda name: plot.aligned_chart(name, content["aligned"][name], content["medians"].get(name)),
            range_chart=lambda metric: _range_chart(metric, content["periods"]),
            missing_chart=lambda metric: _missing_chart(metric, content["periods"]),
            incident_chart=lambda: _incident_chart(content["periods"]),
            most_reasons=MOST_REASONS,
            most_groups=MOST_GROUPS,
            last_periods=LAST_PERIODS,
        )
    )


@cache
def _environment() -> Environment:
    environment = html_templates.environment(FOLDER, printable)
    environment.filters |= {
        "counted": counted,
        "number": number,
        "count": lambda value: f"{value:,}",
        "percent": _percent,
    }
    return environment


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}" if 0 < share < 0.1 else f"{share:.0%}"


def _case_charts(case: cases.Case) -> list[Markup]:
    assert case.view is not None
    named = [reason.source for reason in case.reasons[:MOST_REASONS] if reason.source in case.view.metrics]
    metrics = dict.fromkeys([*named, *case.view.metrics])
    return plot.charts(case.view, list(metrics)[: CHARTS - 1])


def _range_chart(metric: MetricHistory, periods: Sequence[Period]) -> Markup:
    title = f"{metric.name} by period: median, and 1st to 99th percentile"
    return svg.by_period(
        title, "", metric.unit or "value", [one.name for one in periods],
        {plot.SERVER: metric.middle}, {plot.SERVER: (metric.low, metric.high)},
    )  # fmt: skip


def _missing_chart(metric: MetricHistory, periods: Sequence[Period]) -> Markup:
    shares = [[100 * share for share in groups.values()] for groups in metric.missing]
    worst = [max(some, default=0.0) for some in shares]
    middle = [sorted(some)[len(some) // 2] if some else 0.0 for some in shares]
    title = f"{metric.name}: rows without a value, in the group with most and in the middle one"
    names = [one.name for one in periods]
    return svg.by_period(title, "", "missing, %", names, {plot.FLEET: worst, plot.SERVER: middle}, {})


def _incident_chart(periods: Sequence[Period]) -> Markup:
    series = {plot.SERVER: [one.crashes for one in periods], plot.FLEET: [one.planned for one in periods]}
    return svg.by_period(
        "Crashes and planned work by period", "", "incidents", [one.name for one in periods], series, {}
    )
