"""The page of `crashcast plan`, in a real browser: readable, offline, and safe whatever names it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import DESK, HOSTILE, PHONE, check_file, needs_chromium, new_tab
from planned_project import forecast_of, project

from crashcast.params.plan import Prices
from crashcast.planning import plan_output, portfolio, portfolio_output, report
from crashcast.planning.cost_model import Estimate
from crashcast.planning.decay import Decay
from crashcast.planning.forecast import Growth, forecast
from crashcast.planning.portfolio import Member
from crashcast.planning.report import Report

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = [needs_chromium, pytest.mark.ci]

PRICES = Prices.model_validate({name: 1.5 for name in Prices.model_fields if name != "currency"})
AGED = Decay(2.0, "2026-01-01", [], Estimate(0.01, -0.01, 0.02))


def several() -> list[Report]:
    members = [Member(forecast_of(HOSTILE, prices=PRICES), AGED), Member(forecast_of("other"), None)]
    return [
        portfolio_output.report(portfolio.plan(members, 10, None)),
        *(plan_output.report(one.forecast) for one in members),
    ]


CASES = {
    "one project": lambda: [plan_output.report(forecast_of("fleet", prices=PRICES))],
    "too large": lambda: [plan_output.report(forecast(project(), Growth(servers=1_000_000)))],
    "several": several,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_everybody_can_read_it_and_nothing_is_fetched(
    browser: Any, tmp_path: Path, case: str, width: int, scheme: str
) -> None:
    report.write(CASES[case](), tmp_path / "plan.html")
    check_file(browser, tmp_path / "plan.html", width, scheme)


def test_it_says_whether_the_machine_suffices_and_draws_memory_and_disk(browser: Any, tmp_path: Path) -> None:
    report.write(CASES["too large"](), tmp_path / "plan.html")
    tab = new_tab(browser, [], DESK, "light")
    tab.goto((tmp_path / "plan.html").as_uri())
    assert "the next 12 months of 1,000,000 servers" in tab.locator("h1").inner_text()
    assert "This machine does not suffice: " in tab.locator("header").inner_text()
    assert tab.locator("svg.chart").count() == 2
    assert "The dashed line is what there is" in tab.locator("svg desc").first.text_content()
    tab.context.close()
