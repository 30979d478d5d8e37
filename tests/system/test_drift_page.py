"""The page of `crashcast drift`, in a real browser: readable, offline, and safe whatever names it shows."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pages import DESK, HOSTILE, PHONE, check_file, needs_chromium, new_tab

from crashcast.watch import drift_page
from crashcast.watch.drift import Finding, Report
from crashcast.watch.reported_changes import Change

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = [needs_chromium, pytest.mark.ci]

WEEK = timedelta(days=7)
NEWEST, WEEKS = datetime(2026, 3, 2), 20
VALUES: list[float | None] = [10.0 + number % 3 for number in range(WEEKS - 2)]


def finding(name: str, p_value: float, effect: float | None = None) -> Finding:
    return Finding("data", name, "mean", 14.0, 11.0, 5.2, p_value, p_value < 0.01, effect)


def report(*findings: Finding) -> Report:
    history = {one.key: [*VALUES, None, one.value] for one in findings}
    changes = [Change(NEWEST, f"app 4.2 {HOSTILE}", ("db-1",))]
    return Report(NEWEST, 12, 12, list(findings), changes, NEWEST - 7 * WEEK, history)


CASES = {
    "drift": report(
        finding("latency_ms", 1e-9, 0.12), finding(HOSTILE, 1e-5, 0.001), *(finding(f"m{n}", 0.5) for n in range(20))
    ),
    "none": report(finding("cpu_pct", 0.4)),
    "not known": Report(None, 3, 12, []),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_everybody_can_read_it_and_nothing_is_fetched(
    browser: Any, tmp_path: Path, case: str, width: int, scheme: str
) -> None:
    drift_page.write(CASES[case], tmp_path / "drift.html")
    check_file(browser, tmp_path / "drift.html", width, scheme)


def test_the_ten_that_moved_most_are_drawn_and_the_others_are_listed(browser: Any, tmp_path: Path) -> None:
    drift_page.write(CASES["drift"], tmp_path / "drift.html")
    tab = new_tab(browser, [], DESK, "light")
    tab.goto((tmp_path / "drift.html").as_uri())
    assert tab.locator("h1").inner_text().startswith("Drift in the week from 2026-03-02 UTC")
    articles = tab.locator("article").all_inner_texts()
    assert len(articles) == 10
    assert articles[0].startswith("latency_ms, mean data: drift")
    assert "With the training period's latency_ms the mean risk of the week would be 12.0 % lower." in articles[0]
    assert "a shift that moves no score" in articles[1]
    assert tab.locator("svg title").first.text_content() == (
        "latency_ms, mean over the last 20 weeks: 14 at the end, 10 to 14 in the last 20 weeks; "
        "the dashed line marks the end of the training period, 2026-01-12"
    )
    assert tab.locator("tbody tr").count() == 12
    assert "Reported:" in tab.locator("header").inner_text()
    tab.context.close()
