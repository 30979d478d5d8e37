"""Pictures of one server: its metrics beside the fleet's medians, its scores, alarms and crashes around a moment."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from markupsafe import Markup, escape

from crashcast.canonical import write_text
from crashcast.dates import read_moment
from crashcast.errors import UserError
from crashcast.explore import before_crash as aligning
from crashcast.explore import frames
from crashcast.explore.before_crash import Aligned
from crashcast.explore.frames import Moment
from crashcast.modeling.alarms import HOUR, AlarmWindow, open_alarms
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.review.report import html, svg
from crashcast.tables import CRASH
from crashcast.text import printable
from crashcast.versioning import committed_model
from crashcast.versioning.revision import MODELS, Revision

if TYPE_CHECKING:
    import pandas as pd

BEFORE, AFTER = timedelta(hours=48), timedelta(hours=12)
SERVER, FLEET = "challenger", "champion"  # how the review draws them: a solid and a dashed line
MOST_POINTS = 240  # of a line: more are not visible
WIDTH = 760  # of a picture that stands alone, in pixels
HEIGHT, ALIGNED_HEIGHT = 150, 180  # of a chart
KINDS = {"fresh_crashes": (SERVER, "first crash in 30 days"), "repeated_crashes": (FLEET, "repeated crash")}


class Operation(NamedTuple):
    """When a model raises an alarm, and of what."""

    threshold: float
    window: AlarmWindow


@dataclass(frozen=True, eq=False)
class View:
    """What is drawn of a server.

    Attributes
    ----------
    server_id : str
    at : datetime
        The moment in the middle of interest; naive, meaning UTC.
    what : str
        What it is, such as `crash`.
    rows : DataFrame
        Of the server, in order of time: `timestamp`, its metrics and `score`, null outside of the test part.
    fleet : DataFrame
        `timestamp` and the fleet's median of each metric.
    crashes, alarms : list of datetime
        When crashes start and alarms open; naive.
    operation : Operation
        Of the model that gave the scores.
    """

    server_id: str
    at: datetime
    what: str
    rows: pl.DataFrame
    fleet: pl.DataFrame
    crashes: list[datetime]
    alarms: list[datetime]
    operation: Operation

    @property
    def metrics(self) -> list[str]:
        """The metrics that can be drawn."""
        return [name for name in self.fleet.columns if name != "timestamp"]


@dataclass(frozen=True)
class Picture:
    """An SVG picture that shows itself in notebooks.

    Attributes
    ----------
    title : str
    svg : str
        The whole file; it needs no other.
    """

    title: str
    svg: str

    def save(self, path: str | Path) -> None:
        """Write the picture."""
        write_text(Path(path), self.svg)

    def _repr_html_(self) -> str:
        """Return it as an image: its stylesheet must not change the notebook's."""
        encoded = base64.b64encode(self.svg.encode()).decode()
        return f'<img alt="{escape(self.title)}" src="data:image/svg+xml;base64,{encoded}">'


def server(
    host: str,
    around: Moment = None,
    rev: str | None = None,
    metrics: Sequence[str] | None = None,
    before: timedelta = BEFORE,
    after: timedelta = AFTER,
) -> Picture:
    """Draw a server: score and metrics, the fleet's medians, alarms and crashes.

    Parameters
    ----------
    host : str
        The server.
    around : str, date or datetime, optional
        The moment, such as "2026-01-31T12:00" (UTC); by default its last crash, or if it has none its last row.
    rev : str, optional
        A revision: see `crashcast.load`. By default the work tree.
    metrics : sequence of str, optional
        Which metrics; all by default.
    before, after : timedelta, optional
        The period that is drawn.

    Returns
    -------
    Picture
        Shown by Jupyter and marimo; `save` writes it as an SVG file.

    Raises
    ------
    UserError
        If the server has no row then, or data cannot be had (see `crashcast.load`).
    """
    found = view(host, around, rev, before, after)
    if unknown := sorted({*(metrics or ())} - {*found.metrics}):
        raise UserError(f"there is no metric {unknown[0]}; there are {', '.join(found.metrics)}")
    title = f"{host} around {found.at:%Y-%m-%d %H:%M} UTC"
    legend = (
        "solid: this server; dashed: the fleet's median; level: the alarm threshold",
        "shaded: where an alarm counts; red: an alarm opens",
    )
    return _stacked(title, legend, charts(found, metrics or found.metrics), HEIGHT)


def before_crash(rows: pd.DataFrame, crashes: pd.DataFrame, metrics: Sequence[str]) -> Picture:
    """Draw columns before crashes: the median, and the middle half of the crashes as a band.

    Parameters
    ----------
    rows : pandas.DataFrame
        `timestamp`, `server_id` and the columns, such as `crashcast.load("clean")`.
    crashes : pandas.DataFrame
        `server_id`, `started_at`.
    metrics : sequence of str
        Which columns.

    Returns
    -------
    Picture
        First crashes of a server in 30 days and repeated ones apart.
    """
    found = pl.from_pandas(rows[["timestamp", "server_id", *metrics]])
    known = aligning.kinds(pl.from_pandas(crashes[["server_id", "started_at"]]))
    aligned = aligning.align(found, known, metrics, Telemetry.read().interval)
    medians_of = found.select(pl.col(*metrics).median()).row(0, named=True)
    legend = (
        "solid: first crash in 30 days; dashed: repeated crash",
        "bands: the middle half of the crashes; level: the median of all rows",
    )
    drawn = [aligned_chart(name, aligned[name], medians_of[name]) for name in metrics]
    return _stacked("Before crashes", legend, drawn, ALIGNED_HEIGHT)


def view(
    host: str, around: Moment, rev: str | None = None, before: timedelta = BEFORE, after: timedelta = AFTER
) -> View:
    """Read what is drawn of a server: see `server`."""
    incidents = frames.read("incidents", rev, [host])
    crashes = _naive(incidents.filter(kind=CRASH)["started_at"])
    last = crashes[-1] if crashes else None
    at = read_moment(around, "around") if around is not None else last or _last_row(host, rev)
    since, until = at - before, at + after
    rows = frames.read("clean", rev, None, since, until)
    own = rows.filter(server_id=host)
    if own.is_empty():
        raise UserError(f"{host} has no row from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC")
    operation = read_operation(rev)
    metrics = rows.drop(
        "timestamp", "server_id", "observed", *(name for some in frames.JOINED.values() for name in some), strict=False
    ).columns
    return View(
        host,
        at,
        CRASH if at in crashes else "moment",
        own,
        medians(rows, metrics),
        [crash for crash in crashes if since <= crash < until],
        alarms_of(frames.read("predictions", rev, [host]), operation),
        operation,
    )


def _last_row(host: str, rev: str | None) -> datetime:
    times = _naive(frames.read("clean", rev, [host], columns=[])["timestamp"])
    if not times:
        raise UserError(f"there is no row of {host}")
    return times[-1]


def _naive(times: pl.Series) -> list[datetime]:
    return times.sort().dt.replace_time_zone(None).to_list()


def read_operation(rev: str | None = None) -> Operation:
    """Return how the model of a revision, or of the work tree, raises alarms."""
    if rev is None:
        described: dict[str, Any] = json.loads(Path(MODELS, "model.json").read_bytes())
        label, telemetry = Label.read(), Telemetry.read()
    else:
        revision = Revision.find(rev)
        described = committed_model.describe(revision)
        label, telemetry = revision.section(Label), revision.section(Telemetry)
    return Operation(float(described["threshold"]), AlarmWindow.of(label, telemetry.interval))


def alarms_of(predictions: pl.DataFrame, operation: Operation) -> list[datetime]:
    """Return when alarms of a server opened; all of its test rows are needed, since one alarm depends on the last."""
    return _naive(open_alarms(predictions, operation.threshold, operation.window)["timestamp"])


def medians(rows: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Return the fleet's median of each metric at each time, in order of time."""
    return rows.group_by("timestamp").agg(pl.col(*metrics).median()).sort("timestamp")


def charts(view: View, metrics: Sequence[str]) -> list[Markup]:
    """Draw the score of a server and some metrics, each as an SVG that fills the width it is given."""
    thinned = view.rows.gather_every(-(-view.rows.height // MOST_POINTS))
    both = thinned.join(view.fleet, on="timestamp", how="left", suffix="_of_fleet", maintain_order="left")
    hours = [_hours(time, view.at) for time in _naive(thinned["timestamp"])]
    window = view.operation.window
    windows = [(-window.duration / HOUR, -window.lead / HOUR)] if view.what == CRASH else []
    first, last = hours[0], hours[-1]
    marks = [(CRASH, _hours(crash, view.at)) for crash in view.crashes if crash != view.at]
    marks += [("alarm", _hours(alarm, view.at)) for alarm in view.alarms]
    marks = [(kind, hour) for kind, hour in marks if first <= hour <= last]

    def drawn(name: str, series: svg.Series, levels: dict[str, float]) -> Markup:
        values = {kind: [aligning.rounded(value) for value in some] for kind, some in series.items()}
        extent = svg.extent_of([*values.values(), [*levels.values()]])
        title = f"{name} of {view.server_id} around the {view.what}"
        return svg.around(
            title, _told(values[SERVER]), name, hours, values, view.what, extent,
            levels=levels, windows=windows, marks=marks, height=HEIGHT,
        )  # fmt: skip

    found = [drawn("score", {SERVER: both["score"].to_list()}, {SERVER: view.operation.threshold})]
    for name in metrics:
        found.append(drawn(name, {FLEET: both[f"{name}_of_fleet"].to_list(), SERVER: both[name].to_list()}, {}))
    return found


def aligned_chart(name: str, kinds: dict[str, Aligned], median: float | None) -> Markup:
    """Draw the median and the quartiles of a column before crashes, by kind, and the median of all rows."""
    drawn = {style: kinds[kind] for kind, (style, _) in reversed(KINDS.items()) if kind in kinds}
    hours = max((one.hours for one in drawn.values()), key=len, default=[0.0])
    series = {style: _at(hours, one, one.middle) for style, one in drawn.items()}
    bands = {style: (_at(hours, one, one.lower), _at(hours, one, one.upper)) for style, one in drawn.items()}
    levels = {} if median is None else {"chance": median}
    extent = svg.extent_of([*(side for band in bands.values() for side in band), list(levels.values())])
    told = "; ".join(f"{KINDS[kind][1]}: {one.crashes:,}" for kind, one in kinds.items())
    title = f"{name} before crashes: median and quartiles"
    return svg.around(
        title, told, name, hours, series, CRASH, extent, levels=levels, bands=bands, height=ALIGNED_HEIGHT
    )


def _at(hours: Sequence[float], one: Aligned, values: Sequence[float | None]) -> list[float | None]:
    known = dict(zip(one.hours, values, strict=True))
    return [known.get(hour) for hour in hours]


def _hours(time: datetime, at: datetime) -> float:
    return (time - at) / HOUR


def _told(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"from {min(known):.4g} to {max(known):.4g}" if known else "no value"


def _stacked(title: str, legend: Sequence[str], drawn: Sequence[Markup], height: int) -> Picture:
    """Put charts of one height below each other, with the stylesheet that they need."""
    lines = [printable(title), *legend]
    words = [f'<text x="12" y="{24 * (k + 1)}">{escape(line)}</text>' for k, line in enumerate(lines)]
    top = 24 * (len(lines) + 1)
    moved = [
        f'<svg y="{top + height * k}" width="{WIDTH}" height="{height}">{one}</svg>' for k, one in enumerate(drawn)
    ]
    whole = top + height * len(drawn)
    return Picture(
        title,
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{whole}" '
        f'viewBox="0 0 {WIDTH} {whole}" font-family="system-ui, sans-serif"><title>{escape(lines[0])}</title>'
        f'<style>{html.CHARTS}</style><rect width="100%" height="100%" fill="var(--page)"/>'
        f"{''.join([*words, *moved])}</svg>",
    )
