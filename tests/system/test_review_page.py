"""The review's page in a real browser: what it looks like, what it asks for, and who can use it."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import (
    DESK,
    HOSTILE,
    PHONE,
    background,
    check_accessible,
    check_readable,
    needs_chromium,
    new_tab,
    reached_by_keyboard,
    unfold,
)

from crashcast.review.report import html
from crashcast.review.report.schema import checked

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

EXAMPLE = Path(__file__).parents[1] / "review_example"

pytestmark = [needs_chromium, pytest.mark.ci]


def accepted() -> tuple[dict[str, Any], dict[str, Any]]:
    record, pictures = (json.loads((EXAMPLE / f"{name}.json").read_text()) for name in ("record", "pictures"))
    return record, pictures


def rejected() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a loss under two definitions, with names that would break a page or act on it."""
    record, pictures = accepted()
    worse = [
        found | {"difference": -0.1, "low": -0.2, "high": -0.05}
        for found in record["differences"]
        if found["better"] == "higher"
    ]
    reasons = [reason | {"outcome": "fail", "text": f"{reason['text']} {HOSTILE}"} for reason in record["reasons"]]
    record |= {"verdict": "REJECT", "form": None, "reasons": reasons, "differences": worse}
    record["definitions"] = {f"the challenger's labels {HOSTILE}": worse}
    for change in [*record["changes"]["parameters"], *record["changes"]["metrics"], *record["slices"]]:
        change["name"] += HOSTILE
    for crash in pictures["crashes"]:
        crash["server_id"] += HOSTILE
    return record, pictures


def unclear() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a first model of which nothing could be shown."""
    record, pictures = accepted()
    record |= {"verdict": "INCONCLUSIVE", "form": None, "base": None, "anchor": None, "slices": [], "differences": []}
    return record, pictures | {"crashes": []}


CASES = {"accepted": accepted, "rejected": rejected, "unclear": unclear}
Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page, and fail the test for whatever the browser complains of or asks for."""
    tabs, noticed = [], []

    def show(case: str, width: int = DESK, scheme: str = "light", notice: list[str] = noticed) -> Any:
        record, pictures = CASES[case]()
        path = tmp_path / f"{case}.html"
        html.write(path, checked(record, case), pictures)
        tab = new_tab(browser, notice, width, scheme)
        tabs.append(tab)
        tab.on("request", lambda request: request.url == path.as_uri() or notice.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield show
    for tab in tabs:
        tab.context.close()
    assert noticed == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_can_be_read_at_any_width(show: Open, case: str, width: int) -> None:
    tab = show(case, width)
    unfold(tab)
    check_readable(tab, width)


@pytest.mark.parametrize("case", CASES)
def test_the_answer_stands_on_the_first_screen(show: Open, case: str) -> None:
    for width in (PHONE, DESK):
        tab = show(case, width)
        verdict = tab.get_by_role("heading", level=1)
        assert CASES[case]()[0]["verdict"] in verdict.inner_text()
        bottom = tab.locator(".headline").bounding_box()
        assert bottom["y"] + bottom["height"] < 400
    first_figure = tab.get_by_role("table").first.bounding_box()
    assert case == "unclear" or first_figure["y"] < 600


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_axe_finds_nothing(show: Open, case: str, width: int, scheme: str) -> None:
    tab = show(case, width, scheme)
    unfold(tab)
    check_accessible(tab)


def test_the_schemes_differ(show: Open) -> None:
    assert background(show("accepted", scheme="light")) != background(show("accepted", scheme="dark"))


def test_it_can_be_used_by_keyboard(show: Open) -> None:
    tab = show("accepted", PHONE)
    reached = reached_by_keyboard(tab)
    assert reached[0] == ("A", "Skip to the review")
    assert [text for tag, text in reached if tag == "A"][1:3] == ["Differences", "Reasons"]
    folded = tab.locator("details").count()
    assert len([tag for tag, _ in reached if tag == "SUMMARY"]) == folded > 10

    figures = tab.get_by_text("Precision at each recall")
    figures.focus()
    assert not tab.get_by_role("table", name="Precision where recall is first reached").is_visible()
    tab.keyboard.press("Enter")
    assert tab.get_by_role("table", name="Precision where recall is first reached").is_visible()


def test_a_screen_reader_finds_the_same_at_any_width(show: Open) -> None:
    def exposed(width: int) -> Counter[str]:
        tab = show("accepted", width)
        nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
        return Counter(node["role"]["value"] for node in nodes if not node["ignored"])

    phone, desk = exposed(PHONE), exposed(DESK)
    of_tables = {"table", "row", "rowheader", "columnheader", "cell"}
    landmarks = {"banner", "navigation", "main", "region"}
    for role in of_tables | landmarks | {"image", "heading", "DisclosureTriangle"}:
        assert phone[role] == desk[role] > 0, role
    assert [desk[role] for role in ("banner", "navigation", "main")] == [1, 1, 1]


def test_tables_and_pictures_have_names(show: Open) -> None:
    tab = show("accepted", PHONE)
    table = tab.get_by_role("table", name="Both on the same rows")
    row = table.get_by_role("row").filter(has=tab.get_by_role("rowheader", name="PR-AUC"))
    assert row.get_by_role("cell").count() == 5
    assert row.get_by_role("img", name="PR-AUC: better").count() == 1
    assert tab.get_by_role("img", name="Scores around the crash").count() == 9
    assert tab.get_by_role("img", name="Precision over recall").count() == 1


def test_paper_shows_what_is_folded(show: Open) -> None:
    tab = show("accepted")
    folded = tab.locator("details table").first
    assert folded.bounding_box()["height"] == 0 or not folded.is_visible()
    tab.emulate_media(media="print")
    assert folded.is_visible()
    assert not tab.get_by_role("navigation").is_visible()


def test_the_page_would_not_run_or_fetch_what_slipped_in(show: Open) -> None:
    noticed: list[str] = []
    tab = show("unclear", notice=noticed)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        slipped = f"<img src='{address}' onerror='window.ran = true'><p style='color: red'>x</p>"
        tab.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", slipped)
        tab.wait_for_timeout(300)
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()
    assert tab.evaluate("window.ran === undefined")
    assert len([text for text in noticed if "Content Security Policy" in text]) == 3
