"""The review's charts: SVG that fills the width it is given, with text that keeps its size.

Lines are drawn in a square of 1,000 units that stretches, text and marks stand beside it at shares of the width. The
champion is dashed, the challenger solid; colours come from the page's stylesheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from crashcast.review.report import wording
from crashcast.review.report.schema import Difference, Form

SERIES = ("champion", "challenger")  # in this order: the challenger lies on top
SIDE = 1000  # of the square that stretches
LEFT, WIDTH = 13, 85  # of it, in percent of the chart
TOP, BOTTOM = 30, 50  # room for titles and ticks, in pixels
LINE = 20  # a line of text, in pixels

Tick = tuple[float, str]  # a share of the axis, and what is written there
Point = tuple[float, float]  # shares of both axes, from the lower left corner


def interval(found: Difference, form: Form | None, reach: float | None = None) -> Markup:
    """Draw a difference's interval and margin, if it has one; to the right of the line the challenger is better.

    Parameters
    ----------
    found : Difference
    form : str, optional
        Of the decision.
    reach : float, optional
        What either end of the axis stands for; by default the row has a scale of its own.
    """
    bounds = wording.gain(found)
    if bounds is None:
        return Markup("")
    reach = reach or reach_of([found])
    margin = None
    if found["margin"] is not None:
        margin = abs(found["margin"]) * (1 if wording.is_needed(found, form) else -1)

    def at(gain: float) -> str:
        return f"{50 + 50 * min(max(gain / reach, -1), 1):.4g}%"

    marks = [_line("axis", "0%", "50%", "100%", "50%"), _line("zero", "50%", "0%", "50%", "100%")]
    if margin is not None and abs(margin) <= reach:
        marks.append(_line("margin", at(margin), "0%", at(margin), "100%"))
    low, high = map(at, bounds)
    marks.append(_line("interval", low, "50%", high, "50%"))
    marks += [_line("interval", end, "32%", end, "68%") for end in (low, high)]
    if found["difference"] is not None:
        gain = found["difference"] if found["better"] == "higher" else -found["difference"]
        marks.append(_element("circle", class_="estimate", cx=at(gain), cy="50%", r=5))
    words = wording.in_words(found, form)
    kind = next((kind for kind in ("better", "worse") if words.finding.startswith(kind)), "unclear")
    return _svg(f"row {kind}", 36, f"{words.title}: {words.finding}", _sentence(words), marks)


def reach_of(differences: Iterable[Difference]) -> float:
    """Return the value for either end of an axis on which all these differences have room."""
    values = [found[key] for found in differences for key in ("low", "high", "difference", "margin")]
    return 1.08 * max((abs(value) for value in values if value is not None), default=0.0) or 1.0


def precision_recall(curves: dict[str, dict[str, list[float]]], base_rate: float) -> Markup:
    """Draw precision over recall of both models, beside chance.

    Parameters
    ----------
    curves : dict
        `recall` and `precision` of each model.
    base_rate : float
        What random scores reach.
    """
    marks = [_path("chance", [(0, base_rate), (1, base_rate)])]
    marks += [
        _path(name, list(zip(curves[name]["recall"], curves[name]["precision"], strict=True)))
        for name in SERIES
        if name in curves
    ]
    quarters = [(step / 4, f"{step / 4:g}") for step in range(5)]
    title = "Precision over recall"
    description = f"Random scores reach a precision of {base_rate:.3g} at any recall. Figures in the table below."
    return _chart(title, description, 300, ("recall", quarters), ("precision", quarters), marks)


def calibration(curves: dict[str, dict[str, list[float]]]) -> Markup:
    """Draw the share of rows that preceded a crash over the mean score, by groups of rows, on logarithmic axes.

    Parameters
    ----------
    curves : dict
        `mean_score` and `crash_rate` of each model. A rate of 0 is drawn on the lower edge.
    """
    pairs = {name: list(zip(c["mean_score"], c["crash_rate"], strict=True)) for name, c in curves.items()}
    positive = [value for pair in pairs.values() for both in pair for value in both if value > 0]
    lowest = math.floor(math.log10(min(positive, default=0.1)))

    def at(value: float) -> float:
        return 1 - math.log10(value) / lowest if value > 0 else 0.0

    marks = [_path("chance", [(0, 0), (1, 1)])]
    for name in filter(pairs.get, SERIES):
        points = [(at(score), at(rate)) for score, rate in pairs[name]]
        marks += [_path(name, points), *(_path(f"{name} dot", [point]) for point in points)]
    ticks = [(1 - power / lowest, f"{10.0**power:g}") for power in range(lowest, 1)] if lowest < 0 else [(1.0, "1")]
    title = "Share of rows that preceded a crash, over the mean score"
    description = "On the diagonal scores mean what they say. Figures in the table below."
    return _chart(title, description, 300, ("mean score", ticks), ("share of crash rows", ticks), marks)


def timeline(
    scores: dict[str, Sequence[float | None]], thresholds: dict[str, float], warning_h: tuple[float, float] | None
) -> Markup:
    """Draw both models' scores around a crash, with the thresholds from which they raise alarms.

    Parameters
    ----------
    scores : dict
        `hours` after the crash, negative before it, rising, and a score or None for each in `champion` and
        `challenger`.
    thresholds : dict
        Of each model.
    warning_h : pair of float, optional
        Hours before the crash from which, and up to which, an alarm counts as true.
    """
    hours = [hour or 0.0 for hour in scores["hours"]]
    first, last = min([*hours, -1.0]), max([*hours, 0.0])
    drawn = {name: scores[name] for name in SERIES if name in scores}
    known = {name: [value for value in series if value is not None] for name, series in drawn.items()}
    top = 1.05 * (max([*thresholds.values(), *(value for values in known.values() for value in values)]) or 1.0)

    def at(hour: float) -> float:
        return (max(hour, first) - first) / (last - first)

    marks = []
    if warning_h is not None:
        start, end = (SIDE * at(-hour) for hour in warning_h)
        marks.append(_element("rect", class_="window", x=_short(start), width=_short(end - start), y=0, height=SIDE))
    marks.append(_path("crash", [(at(0), 0), (at(0), 1)]))
    for name in filter(thresholds.get, drawn):
        marks.append(_path(f"{name} threshold", [(0, thresholds[name] / top), (1, thresholds[name] / top)]))
    for name, series in drawn.items():
        run: list[Point] = []
        for hour, value in [*zip(hours, series, strict=True), (last, None)]:  # a gap in the scores is one in the line
            if value is not None:
                run.append((at(hour), value / top))
            elif run:
                marks.append(_path(name if len(run) > 1 else f"{name} dot", run))
                run = []
    step = next(step for step in (1, 2, 3, 6, 12, 24, 48, 96, last - first) if (last - first) / step <= 8)
    x_ticks = [
        (at(k * step), f"{k * step:+g}".replace("-", "\N{MINUS SIGN}") if k else "crash")
        for k in range(math.ceil(first / step), math.floor(last / step) + 1)
    ]
    y_ticks = [(value / top, f"{value:g}") for value in _steps(top)]
    raised = [
        f"the {name} reaches {max(values):.3g}, {thresholds[name]:.3g} raises an alarm"
        for name, values in known.items()
        if values and name in thresholds
    ]
    return _chart("Scores around the crash", "; ".join(raised), 220, ("hours", x_ticks), ("score", y_ticks), marks)


def swatch(name: str) -> Markup:
    """Draw a short piece of a series' line, for legends."""
    line = _line(name, "0%", "50%", "100%", "50%")
    return _text(_element("svg", line, class_="swatch", aria_hidden="true", width=36, height=12))


def _chart(
    title: str,
    description: str,
    height: int,
    x_axis: tuple[str, Sequence[Tick]],
    y_axis: tuple[str, Sequence[Tick]],
    marks: list[Element],
) -> Markup:
    inner = height - TOP - BOTTOM
    (x_title, x_ticks), (y_title, y_ticks) = x_axis, y_axis

    def x(share: float) -> str:
        return f"{LEFT + WIDTH * share:.4g}%"

    def y(share: float, below: int = 0) -> str:
        return _short(TOP + inner * (1 - share) + below)

    frame = [_line("grid", x(0), y(share), x(1), y(share)) for share, _ in y_ticks]
    frame += [_line("grid", x(share), y(0), x(share), y(1)) for share, _ in x_ticks]
    square = _element(
        "svg",
        *marks,
        x=f"{LEFT}%",
        y=TOP,
        width=f"{WIDTH}%",
        height=inner,
        viewBox=f"0 0 {SIDE} {SIDE}",
        preserveAspectRatio="none",
        overflow="visible",
    )
    words = [_element("text", text=y_title, x="0%", y=LINE - 6)]
    words += [
        _element("text", text=label, x=f"{LEFT - 1.5}%", y=y(share), text_anchor="end", dominant_baseline="central")
        for share, label in y_ticks
    ]
    words += [
        _element(
            "text", text=label, x=x(share), y=height - BOTTOM + LINE, text_anchor="end" if share == 1 else "middle"
        )
        for share, label in x_ticks
    ]
    words.append(_element("text", text=x_title, x=x(0.5), y=height - 6, text_anchor="middle"))
    return _svg("chart", height, title, description, [*frame, square, *words])


def _steps(highest: float) -> list[float]:
    """Return round values from 0 to the highest, at most five steps."""
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(step * power for step in (0.2, 0.5, 1.0, 2.0) if highest / (step * power) <= 5)
    return [float(f"{k * step:.6g}") for k in range(int(highest / step) + 1)]


def _path(kind: str, points: Sequence[Point]) -> Element:
    """Draw a line through points; a single one becomes a dot, by its line's round or square ends."""
    corners = [f"{_short(SIDE * x)} {_short(SIDE * (1 - y))}" for x, y in points]
    return _element("path", class_=kind, d=f"M{'L'.join(corners)}{'h.01' * (len(corners) == 1)}")


def _line(kind: str, x1: str, y1: str, x2: str, y2: str) -> Element:
    return _element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _svg(kind: str, height: int, title: str, description: str, marks: Sequence[Element]) -> Markup:
    named = [_element("title", text=title)]
    if description:
        named.append(_element("desc", text=description))
    return _text(_element("svg", *named, *marks, class_=kind, role="img", width="100%", height=height))


def _sentence(words: wording.Words) -> str:
    parts = [f"difference {words.difference}", words.interval, words.margin]
    return ", ".join(filter(None, parts))


def _element(tag: str, *children: Element, text: str | None = None, **attributes: Any) -> Element:
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    element = Element(tag, {names[name]: str(value) for name, value in attributes.items()})
    element.text = None if text is None else wording.plain(text)
    element.extend(children)
    return element


def _text(element: Element) -> Markup:
    return Markup(ElementTree.tostring(element, encoding="unicode"))  # escapes


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
