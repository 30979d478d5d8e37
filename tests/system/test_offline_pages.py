"""Pages of Great Expectations and DVC, in a real browser: they show what they are for, and fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer
from pages import DESK, check_file, needs_chromium, new_tab

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".dvc/plots/page.html"
# build/vega.min.js of vega 5.33.1 and build/vega-lite.min.js of vega-lite 5.23.0, as npm has them
VEGA = [
    "463f3db6a40b20e9747b4ed38f37ed0add508838f9141b1cf8366784b07b30c8",
    "58c27358e26f2d319cf62f45bc17a4c8362f08645001df2ec8d341eee4097c7f",
]

pytestmark = [needs_chromium, pytest.mark.ci]


def open_page(browser: Any, page: Path) -> tuple[Any, list[str]]:
    """Return the tab that shows it, and what the browser fetched or could not run."""
    noticed: list[str] = []
    tab = new_tab(browser, noticed, DESK, "light")
    tab.on("request", lambda request: noticed.append(request.url))
    tab.goto(page.as_uri())
    fetched = [one for one in noticed if one != page.as_uri() and not one.startswith("WARN ")]  # of DVC's templates
    return tab, fetched


def test_data_docs(browser: Any, small_fleet: Callable[[Path], Path], tmp_path: Path, shell: Any) -> None:
    project = small_fleet(tmp_path / "project")
    shell("crashcast docs", cwd=project)
    index = project / "reports/data_docs/index.html"
    check_file(browser, index, DESK, "dark")
    tab, noticed = open_page(browser, index)
    for row, shown in (("telemetry month=2025-01 columns", "cpu_pct is float32"), ("incidents rows", "kind is there")):
        tab.get_by_role("link", name=row, exact=True).click()
        assert shown in tab.locator("body").inner_text()
        assert tab.evaluate("getComputedStyle(document.querySelector('td .fas'), '::before').content") == '"passed"'
        tab.get_by_role("link", name="Home").click()
    assert tab.get_by_role("heading").first.inner_text() == "Data Docs of the raw data"
    assert all(address.startswith(index.parent.as_uri()) for address in noticed), noticed
    tab.context.close()


def test_plots(browser: Any, small_fleet: Callable[[Path], Path], tmp_path: Path, shell: Any) -> None:
    project = small_fleet(tmp_path / "project")
    shell("dvc plots show", cwd=project)
    tab, noticed = open_page(browser, project / "dvc_plots/index.html")
    assert tab.locator("svg").count() == 6
    assert "Precision and recall of test rows" in tab.locator("svg").first.text_content()
    assert tab.locator("svg path").count() > 50
    assert noticed == []
    tab.context.close()


def test_nothing_runs_that_is_in_the_values_of_plots(browser: Any, tmp_path: Path) -> None:
    sign = "document.title='ran'"
    ends = f"</script><script>{sign}</script></template><script>{sign}</script><img src=data:, onerror={sign}>"
    rows = [{"x": number, "y": number, "rev": "workspace"} for number in range(5)]
    plots = [
        VegaRenderer([row | {"incident": text} for row in rows], name, x="x", y="y", template="simple")
        for name, text in (("first", "web-1"), ("evil", ends))
    ]
    render_html(plots, tmp_path / "plots.html", html_template=PAGE)
    tab, noticed = open_page(browser, tmp_path / "plots.html")
    assert tab.title() == "Plots"
    assert tab.locator("#first svg").count() == 1
    blocked = [one for one in noticed if "violates the following Content Security Policy" in one]
    assert any("inline script" in one for one in blocked)
    assert any("inline event handler" in one for one in blocked)
    assert noticed == blocked
    tab.context.close()


def test_the_page_of_plots_holds_vega_as_it_was_published() -> None:
    page = PAGE.read_text(encoding="utf-8")
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    assert [hashlib.sha256(script.encode()).hexdigest() for script in scripts[:2]] == VEGA
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall("'sha256-(.*?)'", page) == allowed
    assert page.count("<script") == len(scripts) == 3
    assert page.count("{plot_divs}") == 1
    assert "{scripts}" not in page  # DVC would have it fetch Vega
    assert "://" not in re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)
