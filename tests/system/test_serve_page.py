"""The page for on-call in a real browser, as `crashcast serve` answers it: its policy and headers count, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pages import (
    DESK,
    HOSTILE,
    PATIENCE_MS,
    PHONE,
    background,
    check_accessible,
    check_readable,
    needs_chromium,
    new_tab,
    reached_by_keyboard,
    unfold,
)  # fmt: skip
from served_fleet import HOUR, ROW, alarm, scores, state, telemetry_of

from crashcast.operate import page
from crashcast.operate.http_app import HttpServer
from crashcast.operate.served_log import ServedLog
from crashcast.operate.state import EndedAlarm, State
from crashcast.params.serve import Serve

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

SERVE = Serve.model_validate(
    {
        "listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d",
        "runbook": "https://wiki.example/runbooks/crash",
    }
)  # fmt: skip

pytestmark = [needs_chromium, pytest.mark.ci]


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def alarms() -> State:
    over = [
        EndedAlarm("web-3", ROW - 9 * HOUR, ROW - 2 * HOUR, 0.7, True, None),
        EndedAlarm(HOSTILE, ROW - 9 * HOUR, ROW - 2 * HOUR, 0.7, False, ROW - 3 * HOUR),
    ]
    return replace(state(("db-1", "web-9")), ticked_at=now(), ended=over)


def quiet() -> State:
    return replace(state(()), ticked_at=now())


def hostile() -> State:
    """Return a state whose every text from outside would break the page or act on it, degraded in every way."""
    scored = scores([HOSTILE, "old"], ["db-1"], [f"silent {HOSTILE}"])
    scored = replace(scored, warnings=[f"blind {HOSTILE}"], deployment=replace(scored.deployment, name=f"v1 {HOSTILE}"))
    opened = [alarm(scored, HOSTILE, group=HOSTILE), alarm(scored, "old", opened_before=timedelta(days=3))]
    odd = replace(opened[0], reasons=[reason._replace(feature=HOSTILE, value=None) for reason in opened[0].reasons])
    recent = telemetry_of([HOSTILE, "old"]).rename({"memory_pct": HOSTILE})
    return replace(
        state(), ticked_at=now(), scores=scored, alarms=[odd, opened[1]], recent=recent,
        problems={"prometheus": f"away {HOSTILE}", "alertmanager": "away, too"},
    )  # fmt: skip


def many() -> State:
    return replace(state([f"db-{number:03}" for number in range(page.MOST_ALARMS + 10)]), ticked_at=now())


def restarted() -> State:
    """Return a state whose alarms come from the log: nothing is scored yet."""
    return State(now(), HOUR, None, [alarm(scores(["db-1"]), "db-1")])


CASES: dict[str, Callable[[], State | None]] = {
    "alarms": alarms, "quiet": quiet, "hostile": hostile, "many": many, "restarted": restarted, "new": lambda: None,
}  # fmt: skip
Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any) -> Iterator[Open]:
    """Open the page of a running server, and fail the test for whatever the browser complains of or asks for."""
    noticed: list[str] = []
    tabs = []
    with HttpServer(SERVE, HOUR, ServedLog("served")) as server:

        def show(case: str, width: int = DESK, scheme: str = "light") -> Any:
            if (found := CASES[case]()) is not None:
                server.show(found)
            tab = new_tab(browser, noticed, width, scheme)
            tabs.append(tab)
            own = (f"{server.url}/", f"{server.url}/favicon.ico")
            tab.on("request", lambda request: request.url.split("?")[0] in own or noticed.append(request.url))
            tab.goto(f"{server.url}/")
            return tab

        yield show
        for tab in tabs:
            tab.context.close()
    assert noticed == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_everybody_can_read_it_at_any_width(show: Open, case: str, width: int, scheme: str) -> None:
    tab = show(case, width, scheme)
    unfold(tab)
    check_readable(tab, width)
    check_accessible(tab)


def test_the_schemes_differ(show: Open) -> None:
    assert background(show("alarms", scheme="light")) != background(show("alarms", scheme="dark"))


def test_it_says_who_when_why_and_what_to_do(show: Open) -> None:
    tab = show("alarms", PHONE)
    assert tab.get_by_role("heading", level=1).inner_text() == "2 servers are likely to crash"
    card = tab.get_by_role("article", name="db-1 db")
    text = card.inner_text()
    assert "over 99% risk of a crash between 05 Jan 13:00 UTC and 05 Jan 19:00 UTC" in text
    assert "The alarm is open since 05 Jan 12:00 UTC" in text
    assert "latency_ms is 390, the fleet's median 22. With the fleet's latency_ms the risk would be under 1%." in text
    assert card.get_by_role("link", name="runbook").get_attribute("href") == SERVE.runbook
    assert tab.get_by_text("an alarm opens at a risk of 50%").is_visible()


def test_the_last_day_is_drawn_with_the_moment_of_the_alarm(show: Open) -> None:
    tab = show("alarms")
    card = tab.get_by_role("article", name="web-9 db")
    (picture,) = card.get_by_role("img").all()
    name = "latency_ms over the last day: 390 at the end, 20 to 390 in the last day; the dashed line marks the alarm at"
    assert picture.evaluate("picture => picture.querySelector('title').textContent").startswith(name)
    assert picture.locator("line.opening").get_attribute("x1") == "1000"  # at the end: it opened at the newest row
    card.get_by_text("7 other metrics of web-9").click()
    assert card.get_by_role("img").count() == 8
    assert card.get_by_role("img").filter(has_text="disk_used_pct").locator("path").count() == 2  # a gap divides it


def test_an_old_alarm_has_its_opening_outside_the_picture(show: Open) -> None:
    old = show("hostile").get_by_role("article", name="old db")
    assert "open since 02 Jan 12:00 UTC" in old.inner_text()
    assert "renewed at 05 Jan 12:00 UTC" in old.inner_text()
    assert old.get_by_role("img").count() == 1
    assert old.locator("line.opening").count() == 0


def test_what_is_degraded_stands_above_the_alarms(show: Open) -> None:
    tab = show("hostile", PHONE)
    problems = tab.get_by_role("region", name="Degraded: the scores are not to be trusted")
    assert [entry.split(":")[0] for entry in problems.get_by_role("listitem").all_inner_texts()] == [
        "prometheus", "alertmanager",
    ]  # fmt: skip
    first = tab.get_by_role("article").first.bounding_box()
    assert problems.bounding_box()["y"] < first["y"]


def test_it_says_what_came_of_alarms_that_ended(show: Open) -> None:
    rows = show("alarms", PHONE).get_by_role("table", name="Alarms that ended in the last day").get_by_role("row")
    assert [row.get_by_role("cell").last.inner_text() for row in rows.all()[1:]] == [
        "no crash", "crashed at 05 Jan 09:00 UTC",
    ]  # fmt: skip


def test_a_fleet_that_is_well_is_said_to_be(show: Open) -> None:
    assert show("quiet").get_by_role("heading", level=1).inner_text() == "No server is likely to crash"


def test_before_the_first_tick_nothing_is_claimed(show: Open) -> None:
    tab = show("new")
    assert tab.get_by_role("heading", level=1).inner_text() == "It is not known which servers will crash"
    assert tab.get_by_text("the fleet has not been scored since the start").is_visible()


def test_every_alarm_is_listed_however_many_there_are(show: Open) -> None:
    tab = show("many", PHONE)
    assert tab.get_by_role("article").count() == page.MOST_ALARMS
    assert tab.get_by_role("table", name="10 further alarms").get_by_role("row").count() == 11


def test_it_can_be_used_by_keyboard(show: Open) -> None:
    tab = show("alarms", PHONE)
    assert [text for _, text in reached_by_keyboard(tab)] == [
        "Stop this", "runbook", "7 other metrics of db-1", "runbook", "7 other metrics of web-9",
    ]  # fmt: skip
    tab.get_by_text("7 other metrics of db-1").focus()
    tab.keyboard.press("Enter")
    assert tab.get_by_role("article", name="db-1").get_by_role("img").count() == 8


def test_it_loads_itself_again_until_somebody_stops_that(show: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "REFRESH_S", 1)
    tab = show("quiet")
    with tab.expect_navigation(timeout=PATIENCE_MS):
        pass
    tab.get_by_role("link", name="Stop this").click()
    tab.wait_for_url("**/?refresh=off")
    tab.evaluate("window.isStill = true")
    tab.wait_for_timeout(2500)
    assert tab.evaluate("window.isStill")
