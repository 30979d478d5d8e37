"""The review's charts: SVG that fills the width it is given, with text that keeps its size.

Lines are drawn in a square of 1,000 units that stretches, text and marks stand beside it at shares of the width. The
champion is dashed, the challenger solid; colours come from the page's stylesheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
LONGEST_UNIT = 40  # in characters; a phone has room for so many

Series = Mapping[str, Sequence[float | None]]
Bands = Mapping[str, tuple[Sequence[float | None], Sequence[float | None]]]
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
    drawn = {name: scores[name] for name in SERIES if name in scores}
    known = {name: [value for value in series if value is not None] for name, series in drawn.items()}
    top = 1.05 * (max([*thresholds.values(), *(value for values in known.values() for value in values)]) or 1.0)
    raised = [
        f"the {name} reaches {max(values):.3g}, {thresholds[name]:.3g} raises an alarm"
        for name, values in known.items()
        if values and name in thresholds
    ]
    levels = {name: thresholds[name] for name in filter(thresholds.get, drawn)}
    windows = [] if warning_h is None else [(-warning_h[0], -warning_h[1])]
    title, description = "Scores around the crash", "; ".join(raised)
    return around(title, description, "score", hours, drawn, "crash", (0.0, top), levels=levels, windows=windows)


def around(
    title: str,
    description: str,
    unit: str,
    hours: Sequence[float],
    series: Series,
    zero: str,
    extent: tuple[float, float],
    *,
    levels: dict[str, float] | None = None,
    bands: Bands | None = None,
    windows: Sequence[tuple[float, float]] = (),
    marks: Sequence[tuple[str, float]] = (),
    height: int = 220,
) -> Markup:
    """Draw series over the hours around a moment, with a gap in the line for each missing value.

    Parameters
    ----------
    title, description, unit : str
        What is drawn; the unit is that of the values.
    hours : sequence of float
        After the moment, negative before it, rising.
    series : dict of str to sequence of (float or None)
        The values at each hour of `champion` and `challenger`, or one of them.
    zero : str
        What the moment is.
    extent : pair of float
        The lowest and the highest value of the axis.
    levels : dict of str to float, optional
        A threshold of a series.
    bands : dict of str to pair of sequences, optional
        The limits of an area behind a series.
    windows : sequence of pair of float, optional
        Periods in hours, shaded.
    marks : sequence of (str, float), optional
        Vertical lines beside that at the moment: `crash` or `alarm`, and the hour.
    height : int
        In pixels.
    """
    first, last = min([*hours, -1.0]), max([*hours, 0.0])

    def at(hour: float) -> float:
        return (min(max(hour, first), last) - first) / (last - first)

    under = []
    for window in windows:
        start, end = (SIDE * at(hour) for hour in window)
        under.append(_element("rect", class_="window", x=_short(start), width=_short(end - start), y=0, height=SIDE))
    lines = [_path(kind, [(at(hour), 0), (at(hour), 1)]) for kind, hour in [("crash", 0.0), *marks]]
    step = next(step for step in (1, 2, 3, 6, 12, 24, 48, 96, last - first) if (last - first) / step <= 8)
    ticks = [
        (at(k * step), f"{k * step:+g}".replace("-", "\N{MINUS SIGN}") if k else zero)
        for k in range(math.ceil(first / step), math.floor(last / step) + 1)
    ]
    drawn = _drawn([at(hour) for hour in hours], series, extent, levels or {}, bands or {})
    y_axis = unit, _y_ticks(extent)
    return _chart(title, description, height, ("hours", ticks), y_axis, [*under, *lines, *drawn])


def by_period(
    title: str, description: str, unit: str, periods: Sequence[str], series: Series, bands: Bands, height: int = 180
) -> Markup:
    """Draw series and their bands over periods such as months: see `around`."""
    across = [(k + 0.5) / len(periods) for k in range(len(periods))]
    every = -(-len(periods) // 4)  # so many names stand side by side on a phone
    ticks = [(share, periods[k]) for k, share in enumerate(across) if k % every == 0]
    extent = extent_of([*series.values(), *(limit for band in bands.values() for limit in band)])
    y_axis = unit, _y_ticks(extent)
    return _chart(title, description, height, ("", ticks), y_axis, _drawn(across, series, extent, {}, bands))


def extent_of(values: Iterable[Sequence[float | None]]) -> tuple[float, float]:
    """Return an axis on which all these values have room; those of None are missing."""
    known = [value for some in values for value in some if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.05 * (high - low) or 0.05 * abs(high)
    return (0.0 if 0 <= low <= high / 2 else low - room), high + room or 1.0


def _drawn(
    across: Sequence[float], series: Series, extent: tuple[float, float], levels: dict[str, float], bands: Bands
) -> list[Element]:
    """Draw bands, then thresholds, then lines."""
    low, high = extent

    def y(value: float) -> float:
        return min(max((value - low) / (high - low), 0.0), 1.0)

    marks = []
    for name, (lower, upper) in bands.items():
        both = [(x, a, b) for x, a, b in zip(across, lower, upper, strict=True) if a is not None and b is not None]
        outline = [(x, y(b)) for x, _, b in both] + [(x, y(a)) for x, a, _ in reversed(both)]
        marks += [_path(f"{name} band", outline)] if outline else []
    marks += [_path(f"{name} threshold", [(0, y(level)), (1, y(level))]) for name, level in levels.items()]
    for name, values in series.items():
        run: list[Point] = []
        for x, value in [*zip(across, values, strict=True), (1.0, None)]:  # a gap in the values is one in the line
            if value is not None:
                run.append((x, y(value)))
            elif run:
                marks.append(_path(name if len(run) > 1 else f"{name} dot", run))
                run = []
    return marks


def _y_ticks(extent: tuple[float, float]) -> list[Tick]:
    low, high = extent
    return [((value - low) / (high - low), f"{value:g}") for value in _steps(high, low)]


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
    words = [_element("text", text=wording.plain(y_title, LONGEST_UNIT), x="0%", y=LINE - 6)]
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


def _steps(highest: float, lowest: float = 0.0) -> list[float]:
    """Return round values from the lowest to the highest, at most five steps."""
    reach = highest - lowest
    power = 10.0 ** math.floor(math.log10(reach))
    step = next(step * power for step in (0.2, 0.5, 1.0, 2.0) if reach / (step * power) <= 5)
    return [float(f"{k * step:.6g}") for k in range(math.ceil(lowest / step), int(highest // step) + 1)]


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
