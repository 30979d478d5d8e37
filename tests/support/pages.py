"""What every page of ours is held to in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
PHONE, DESK = 390, 1440
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>" + "w" * 150
SMALLEST_PX = 14
PATIENCE_MS = 180_000  # a busy machine is no failure
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium (on Debian: apt-get install chromium)"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """Run Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, timeout=PATIENCE_MS)
        yield browser
        browser.close()


def new_tab(browser: Any, noticed: list[str], width: int, scheme: str) -> Any:
    """Return a tab of a context of its own that notes whatever the browser complains of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    tab.on("console", lambda message: noticed.append(message.text))
    tab.on("pageerror", lambda error: noticed.append(str(error)))
    tab.on("dialog", lambda dialog: (noticed.append(dialog.message), dialog.dismiss()))
    return tab


def unfold(tab: Any) -> None:
    """Open all that is folded."""
    tab.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")


def background(tab: Any) -> str:
    """Return the colour of the page's background."""
    colour: str = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


def check_readable(tab: Any, width: int) -> None:
    """Fail if anything stands outside the window, or in letters that are too small."""
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    outside = """wide => [...document.querySelectorAll('body *')].filter(element => {
        const box = element.getBoundingClientRect()
        return box.width > 1 && box.right > wide + 1  // narrower ones are for screen readers
    }).map(element => element.outerHTML.slice(0, 100))"""
    assert tab.evaluate(outside, width) == []
    small = """least => [...document.querySelectorAll('body *')].filter(element =>
        [...element.childNodes].some(node => node.nodeType == 3 && node.textContent.trim())
        && parseFloat(getComputedStyle(element).fontSize) < least
    ).map(element => element.outerHTML.slice(0, 100))"""
    assert tab.evaluate(small, SMALLEST_PX) == []


def check_accessible(tab: Any) -> None:
    """Fail if axe finds anything."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(rule["id"], rule["impact"], rule["nodes"][0]["html"][:200]) for rule in found] == []


def check_file(browser: Any, path: Path, width: int, scheme: str) -> None:
    """Fail if a page on disk is not readable or accessible, fetches anything, or lets the browser complain."""
    noticed: list[str] = []
    tab = new_tab(browser, noticed, width, scheme)
    address = path.as_uri()
    tab.on("request", lambda request: request.url == address or noticed.append(request.url))
    tab.goto(address)
    check_readable(tab, width)
    check_accessible(tab)
    tab.context.close()
    assert noticed == []


def reached_by_keyboard(tab: Any) -> list[tuple[str, str]]:
    """Return tag and text of all that Tab reaches; fail if one is outside the window or shows no focus."""
    described = """() => { const at = document.activeElement; return at == document.body ? null :
        [at.tagName, at.textContent.trim(), getComputedStyle(at).outlineStyle, at.getBoundingClientRect().top >= 0] }"""
    reached = []
    tab.keyboard.press("Tab")
    while (at := tab.evaluate(described)) is not None and len(reached) < 200:
        reached.append(at)
        tab.keyboard.press("Tab")
    assert all(outline == "solid" and visible for *_, outline, visible in reached)
    return [(tag, text) for tag, text, *_ in reached]
