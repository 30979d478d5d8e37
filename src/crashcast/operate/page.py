"""The page of `crashcast serve` for the person on call: who is likely to crash, when, why, and what to do.

Nothing in it runs or is fetched. The browser loads it again because the HTTP header `Refresh` says so; a link stops
that, for whoever reads slowly or listens to it (WCAG 2.2.1). Every string is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from crashcast import html_templates
from crashcast.operate.actions import Action
from crashcast.operate.issued_alarms import actions_of
from crashcast.operate.state import Alarm, EndedAlarm, State, doubts
from crashcast.params.base import DAY
from crashcast.params.serve import Serve
from crashcast.text import counted, printable, some_of

FOLDER = Path(__file__).parent
REFRESH_S = 60
MOST_ALARMS = 50  # with their reasons and charts; a table lists the others
MOST_ENDED = 50
MOST_REASONS = 3
HEIGHT = 90  # of a chart, in pixels
SIDE = 1000  # of the square that is stretched to a chart
STYLE = (FOLDER / "page.css").read_text(encoding="utf-8")
POLICY = f"{html_templates.policy_of(STYLE)}; frame-ancestors 'none'"


def render(
    state: State | None,
    now: datetime,
    interval: timedelta,
    serve: Serve,
    is_refreshed: bool = True,
    actions: Sequence[Action] = (),
) -> str:
    """Return the page's HTML.

    Parameters
    ----------
    state : State or None
        None before the first tick has ended.
    now : datetime
        Naive, meaning UTC.
    interval : timedelta
        Between two ticks.
    serve : Serve
        For the link to the runbook, and the share of alarms that are held back.
    is_refreshed : bool
        Whether the answer's headers tell the browser to load it again.
    actions : sequence of Action
        Those that were reported since the oldest alarm opened.
    """
    doubtful = doubts(state, now, interval)
    alarms = [] if state is None else [*state.alarms]
    recent = None if state is None else state.recent
    known_until = None if state is None else state.newest_ticket
    shown, more = alarms[:MOST_ALARMS], alarms[MOST_ALARMS:]
    ended = [] if state is None else [*state.ended]
    every: list[Alarm | EndedAlarm] = [*alarms, *ended]
    acted_on = {
        (alarm.server_id, alarm.opened_at): [
            done(one) for one in actions_of(alarm.server_id, alarm.opened_at, alarm.ends_at, actions)
        ]
        for alarm in every
    }
    verb = "is" if len(alarms) == 1 else "are"
    return (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(STYLE),  # our own
            policy=None,
            title=f"{counted(len(alarms), 'server')} {verb} likely to crash" if alarms else _quiet(doubtful),
            kind="alarm" if alarms else "doubtful" if doubtful else "quiet",
            state=state,
            scores=state and state.scores,
            label=state and state.scores and state.scores.deployment.label,
            doubts=doubtful,
            problems=doubtful | dict(state.problems if state else {}),
            shown=shown,
            more=more,
            ended=[(alarm, what_came(alarm, known_until)) for alarm in ended[:MOST_ENDED]],
            ended_more=len(ended[MOST_ENDED:]),
            acted_on=acted_on,
            holdback=serve.holdback,
            charts={alarm.server_id: _charts(alarm, recent) for alarm in shown},
            most_reasons=MOST_REASONS,
            runbook=serve.runbook,
            now=now,
            is_refreshed=is_refreshed,
            refresh_s=REFRESH_S,
        )
    )


def _quiet(doubtful: dict[str, str]) -> str:
    return "It is not known which servers will crash" if doubtful else "No server is likely to crash"


@cache
def _environment() -> Environment:
    environment = html_templates.environment(FOLDER, printable)
    environment.filters |= {
        "ago": ago, "counted": counted, "moment": moment, "number": number, "percent": percent, "some_of": some_of,
    }  # fmt: skip
    return environment


def moment(when: datetime | None) -> str:
    """Write a naive moment for people."""
    return "unknown" if when is None else f"{when:%d %b %H:%M} UTC"


def ago(when: datetime, now: datetime) -> str:
    """Say how long before `now` a moment was."""
    minutes = (now - when) // timedelta(minutes=1)
    if minutes < 1:
        return "just now"
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"


def percent(share: float) -> str:
    """Write a probability without claiming that something is certain or impossible."""
    if share < 0.01:
        return "under 1%"
    return "over 99%" if share > 0.99 else f"{share:.0%}"


def done(action: Action) -> str:
    """Say what was done, by whom and when."""
    by = f" by {action.who}" if action.who else ""
    return f"{action.what}{by} at {moment(action.at)}"


def what_came(alarm: EndedAlarm, newest_ticket: datetime | None) -> str:
    """Say what came of an alarm that has ended, as far as incidents are known."""
    if alarm.crashed_at is not None:
        return f"crashed at {moment(alarm.crashed_at)}"
    return "not known yet" if newest_ticket is None or newest_ticket < alarm.ends_at else "no crash"


def number(value: float | None) -> str:
    """Write a metric's value."""
    return "missing" if value is None else f"{value:.4g}"


def _charts(alarm: Alarm, recent: pl.DataFrame | None) -> tuple[list[Markup], list[Markup]] | None:
    """Draw each metric of a server's last day; first those that are reasons of its alarm."""
    if recent is None:
        return None
    rows = recent.filter(pl.col("server_id") == alarm.server_id)
    if rows.is_empty():
        return None
    names = rows.drop("timestamp", "server_id").columns
    shown = [reason.source for reason in alarm.reasons[:MOST_REASONS] if reason.source in names] or names[:1]
    others = [name for name in names if name not in shown]
    when = [at.replace(tzinfo=None) for at in rows["timestamp"]]
    mark = alarm.opened_at, f"the alarm at {moment(alarm.opened_at)}"
    drawn = {name: chart(name, when, rows[name].to_list(), DAY, "day", mark) for name in names}
    return [drawn[name] for name in shown], [drawn[name] for name in others]


def chart(
    name: str,
    when: Sequence[datetime],
    values: Sequence[float | None],
    span: timedelta,
    period: str,
    mark: tuple[datetime, str],
) -> Markup:
    """Draw a figure over the time before its last value, with a dashed line at one moment.

    Parameters
    ----------
    name : str
    when : sequence of datetime
        Times of the rows, ascending, naive; at least one.
    values : sequence of float or None
        None interrupts the line.
    span, period : timedelta, str
        The time that is drawn, and what it is called, such as `day`.
    mark : datetime and str
        The moment, and what it is; left out if it is older.
    """
    last = when[-1]
    first = last - span
    inside = [(at, value) for at, value in zip(when, values, strict=True) if at >= first]
    known = [value for _, value in inside if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    latest = number(values[-1])
    told = (
        f"{latest} at the end, {number(low)} to {number(high)} in the last {period}"
        if known
        else f"missing for the whole {period}"
    )

    figure = Element("figure")
    caption = SubElement(figure, "figcaption")
    SubElement(caption, "strong").text = printable(name)
    caption[0].tail = f" {told}"
    picture = SubElement(
        figure, "svg", role="img", width="100%", height=str(HEIGHT), viewBox=f"0 0 {SIDE} {SIDE}",
        preserveAspectRatio="none",
    )  # fmt: skip
    marked_at, words = mark
    is_inside = first <= marked_at <= last
    marked = f"; the dashed line marks {words}" if is_inside else ""
    SubElement(picture, "title").text = printable(f"{name} over the last {period}: {told}{marked}")

    def x(at: datetime) -> float:
        return SIDE * ((at - first) / span)

    def y(value: float) -> float:
        return SIDE * (0.9 - 0.8 * ((value - low) / (high - low) if high > low else 0.5))

    if is_inside:
        across = f"{x(marked_at):.0f}"
        SubElement(picture, "line", {"class": "opening", "x1": across, "x2": across, "y1": "0", "y2": str(SIDE)})
    for run in _runs([(x(at), value) for at, value in inside], y):
        path = "M" + "L".join(f"{right:.0f} {down:.0f}" for right, down in run)
        kind = "line" if len(run) > 1 else "point"
        SubElement(picture, "path", {"class": kind, "d": path + "h.01" * (kind == "point")})
    ends = SubElement(figure, "div", {"class": "ends", "aria-hidden": "true"})
    for at in (first, last):
        SubElement(ends, "span").text = moment(at) if span <= DAY else f"{at:%Y-%m-%d}"
    return Markup(ElementTree.tostring(figure, encoding="unicode", method="html"))  # escapes


def _runs(
    points: Sequence[tuple[float, float | None]], y: Callable[[float], float]
) -> Iterator[list[tuple[float, float]]]:
    """Yield the stretches of points without a missing value between them."""
    run: list[tuple[float, float]] = []
    for across, value in [*points, (SIDE, None)]:
        if value is not None:
            run.append((across, y(value)))
        elif run:
            yield run
            run = []
