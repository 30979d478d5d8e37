"""Words and lines of the page for on-call; tests/system/test_serve_page.py looks at it in a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from served_fleet import HOUR, NOW, ROW, state

from crashcast.operate import page
from crashcast.operate.actions import Action
from crashcast.operate.state import EndedAlarm, State
from crashcast.params.base import DAY
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
    figure = ElementTree.fromstring(page.chart("cpu", when, values, DAY, "day", (opened_at, "the alarm")))
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


def text_of(found: State, actions: Sequence[Action] = (), **serve: Any) -> str:
    """Return the words of the page, without markup."""
    page_of = page.render(found, NOW, HOUR, SERVE.model_copy(update=serve), True, actions)
    return " ".join(re.sub(r"<style>.*</style>|<[^>]*>", " ", page_of, flags=re.DOTALL).split())


def test_what_was_done_about_an_open_alarm_is_shown() -> None:
    done = [
        Action("db-1", "restart", ROW + MINUTE, "ada"), Action("db-1", "drain", ROW - MINUTE),
        Action("db-2", "restart", ROW + MINUTE),
    ]  # fmt: skip
    text = text_of(state(("db-1",)), done)
    assert text.count("Acted on : ") == 1  # the others were before the alarm, or on another server
    assert "Acted on : restart by ada at 05 Jan 12:01 UTC." in text
    assert "Acted on" not in text_of(state(("db-1",)))


def ended(crashed_at: datetime | None = None, is_delivered: bool = True) -> EndedAlarm:
    return EndedAlarm("db-9", ROW - 9 * HOUR, ROW - 2 * HOUR, 0.7, is_delivered, crashed_at)


@pytest.mark.parametrize(
    ("alarm", "known_until", "told"),
    [
        (ended(), ROW - 2 * HOUR, "no no crash"),
        (ended(), ROW - 3 * HOUR, "no not known yet"),
        (ended(), None, "no not known yet"),
        (ended(ROW - 4 * HOUR), ROW - 3 * HOUR, "no crashed at 05 Jan 08:00 UTC"),
        (ended(is_delivered=False), ROW, "held back, nobody was told. no crash"),
    ],
)
def test_what_came_of_an_alarm_is_shown_after_its_end(alarm: EndedAlarm, known_until: Any, told: str) -> None:
    found = state((), ended=[alarm], newest_ticket=known_until)
    row = "Alarms that ended in the last day server risk from to acted on what came of it db-9 70% 05 Jan 03:00 UTC "
    assert f"{row}05 Jan 10:00 UTC {told} Model" in text_of(found)
    acted = text_of(found, [Action("db-9", "restart", ROW - 5 * HOUR)])
    assert (
        f"restart at 05 Jan 07:00 UTC {told.removeprefix('no ').removeprefix('held back, nobody was told. ')} Model"
        in acted
    )


def test_however_many_alarms_ended_the_page_stays_short() -> None:
    text = text_of(state((), ended=[ended()] * (page.MOST_ENDED + 3)))
    assert text.count("db-9") == page.MOST_ENDED
    assert "And 3 earlier alarms." in text


def test_that_alarms_are_held_back_is_said() -> None:
    assert "held back" not in text_of(state(()))
    assert "A share of 0.05 of the alarms is held back" in text_of(state(()), holdback=0.05)


def test_what_steers_a_screen_is_shown_as_text() -> None:
    assert "db\\u202e1" in page.render(state(("db\u202e1",)), NOW, HOUR, SERVE)
