"""Words and lines of the page for on-call; tests/system/test_serve_page.py looks at it in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from xml.etree import ElementTree

import pytest
from served_fleet import HOUR, NOW, ROW, state

from crashcast.operate import page
from crashcast.operate.state import State
from crashcast.params.serve import Serve

SERVE = Serve.model_validate(
    {"listen": "127.0.0.1:9095", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}
)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "under 1%"), (0.0099, "under 1%"), (0.01, "1%"), (0.5, "50%"),
        (0.99, "99%"), (0.991, "over 99%"), (1.0, "over 99%"),
    ],
)  # fmt: skip
def test_nothing_is_certain(share: float, words: str) -> None:
    assert page.percent(share) == words


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (timedelta(seconds=59), "just now"), (-MINUTE, "just now"), (MINUTE, "1 min ago"),
        (119 * MINUTE, "119 min ago"), (120 * MINUTE, "2 h ago"), (50 * HOUR, "50 h ago"),
    ],
)  # fmt: skip
def test_how_long_ago(before: timedelta, words: str) -> None:
    assert page.ago(NOW - before, NOW) == words


def drawn(values: list[float | None], opened_at: datetime = ROW) -> tuple[str, list[str], list[str]]:
    """Return what a chart says, its paths, and where its lines stand."""
    when = [ROW - (len(values) - 1 - number) * 6 * HOUR for number in range(len(values))]
    figure = ElementTree.fromstring(page.chart("cpu", when, values, opened_at))
    paths = [str(path.get("d")) for path in figure.iter("path")]
    return "".join(figure.find("figcaption").itertext()), paths, [str(line.get("x1")) for line in figure.iter("line")]  # type: ignore[union-attr]


def test_a_line_spans_the_day_from_lowest_to_highest() -> None:
    told, paths, lines = drawn([10.0, 20.0, 30.0, 20.0, 50.0])
    assert told == "cpu 50 at the end, 10 to 50 in the last day"
    assert paths == ["M0 900L250 700L500 500L750 700L1000 100"]
    assert lines == ["1000"]


def test_a_gap_divides_the_line_and_a_single_row_is_a_point() -> None:
    told, paths, _ = drawn([10.0, None, 20.0, 20.0, None])
    assert told == "cpu missing at the end, 10 to 20 in the last day"
    assert paths == ["M0 900h.01", "M500 100L750 100"]


def test_rows_of_before_the_day_are_left_out() -> None:
    told, paths, _ = drawn([99.0, 10.0, 20.0, 10.0, 10.0, 10.0])
    assert told == "cpu 10 at the end, 10 to 20 in the last day"
    assert paths == ["M0 900L250 100L500 900L750 900L1000 900"]


def test_a_constant_is_a_line_in_the_middle() -> None:
    assert drawn([5.0] * 5)[1] == ["M0 500L250 500L500 500L750 500L1000 500"]


def test_what_is_missing_for_the_day_is_said() -> None:
    assert drawn([None] * 5)[:2] == ("cpu missing for the whole day", [])


@pytest.mark.parametrize(
    ("opened_at", "lines"),
    [(ROW - 6 * HOUR, ["750"]), (ROW - 24 * HOUR, ["0"]), (ROW - 25 * HOUR, []), (ROW + HOUR, [])],
)
def test_the_moment_of_the_alarm_is_marked_if_it_lies_in_the_day(opened_at: datetime, lines: list[str]) -> None:
    assert drawn([1.0, 2.0], opened_at)[2] == lines


def title(found: State | None, now: datetime = NOW) -> str:
    text = page.render(found, now, HOUR, SERVE)
    return str(re.search(r"<h1>(.*)</h1>", text)[1])  # type: ignore[index]


def test_the_title_never_takes_ignorance_for_health() -> None:
    assert title(state(())) == "No server is likely to crash"
    assert title(state(("db-1",))) == "1 server is likely to crash"
    assert title(state(("db-1", "db-2"), ("web-1",))) == "2 servers are likely to crash"
    unknown = "It is not known which servers will crash"
    assert title(None) == unknown
    assert title(state((), problems={"prometheus": "away"})) == unknown
    assert title(state(()), NOW + 3 * HOUR) == unknown  # no tick since
    assert title(state((), problems={"alertmanager": "away"})) == "No server is likely to crash"


def test_the_charts_of_the_reasons_come_first() -> None:
    text = page.render(state(("db-1",)), NOW, HOUR, SERVE)
    names = re.findall(r"<figcaption><strong>(\w+)</strong>", text)
    assert names[0] == "latency_ms"
    assert sorted(names) == sorted(state().scores.deployment.telemetry.metrics)  # type: ignore[union-attr]


def test_an_alarm_without_telemetry_or_reasons_is_still_shown() -> None:
    found = state(("db-1",), recent=None)
    text = page.render(replace(found, alarms=[replace(found.alarms[0], reasons=())]), NOW, HOUR, SERVE)
    assert "over 99%" in text
    assert "No single metric explains the risk." in text
    assert "<svg" not in text
    gone = replace(found, recent=state(("db-2",), ("web-1",)).recent)
    assert "<svg" not in page.render(gone, NOW, HOUR, SERVE)


def test_what_steers_a_screen_is_shown_as_text() -> None:
    assert "db\\u202e1" in page.render(state(("db\u202e1",)), NOW, HOUR, SERVE)
