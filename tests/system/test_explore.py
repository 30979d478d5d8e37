"""`crashcast explore` and `crashcast.plot` of a small fleet; the page in a real browser: readable, offline and safe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pages import DESK, HOSTILE, PHONE, check_accessible, check_readable, needs_chromium, new_tab, unfold

import crashcast
from crashcast.cli import main
from crashcast.errors import UserError
from crashcast.explore import page
from crashcast.explore.cases import Case

LARGEST_PAGE_MB = 5


@pytest.fixture(scope="module")
def project(small_fleet: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_fleet(tmp_path_factory.mktemp("explore") / "project")


@pytest.fixture(scope="module")
def content(project: Path) -> dict[str, Any]:
    with chdir(project):
        return page.read()


def hostile(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with a server, a metric, a group and an origin whose names are to run as code."""
    case: Case = content["missed"][0]
    metric = replace(content["metrics"][0], name=HOSTILE, missing=[{HOSTILE: 0.5}] * len(content["periods"]))
    tables = [replace(one, what=HOSTILE, columns={HOSTILE: HOSTILE}) for one in content["tables"]]
    return content | {
        "missed": [replace(case, server_id=HOSTILE, why=HOSTILE)],
        "metrics": [metric],
        "tables": tables,
        "groups": [(HOSTILE, 10, 20)],
        "aligned": {HOSTILE: content["aligned"]["score"]},
    }


@needs_chromium
@pytest.mark.ci
@pytest.mark.parametrize("case", ["fleet", "hostile"])
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_everybody_can_read_it_and_nothing_is_fetched(
    browser: Any, tmp_path: Path, content: dict[str, Any], case: str, width: int, scheme: str
) -> None:
    path = tmp_path / "explore.html"
    path.write_text(page.render(hostile(content) if case == "hostile" else content), encoding="utf-8")
    assert path.stat().st_size < LARGEST_PAGE_MB * 1e6
    noticed: list[str] = []
    tab = new_tab(browser, noticed, width, scheme)
    tab.on("request", lambda request: request.url == path.as_uri() or noticed.append(request.url))
    tab.goto(path.as_uri())
    unfold(tab)
    check_readable(tab, width)
    check_accessible(tab)
    tab.context.close()
    assert noticed == []


@needs_chromium
@pytest.mark.ci
def test_the_search_leaves_what_has_every_word(browser: Any, tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "explore.html"
    path.write_text(page.render(content), encoding="utf-8")
    tab = new_tab(browser, [], DESK, "light")
    tab.goto(path.as_uri())
    entries = tab.locator(".entry").count()
    tab.get_by_label("Search").fill("LATENCY_ms data/raw")
    assert tab.locator(".entry:visible h3").all_inner_texts() == ["data/raw/telemetry"]
    assert tab.get_by_role("status").inner_text() == f"1 of {entries} entries"
    tab.get_by_label("Search").fill("")
    assert tab.locator(".entry[hidden]").count() == 0
    tab.context.close()


def test_the_page_says_what_was_missed_and_why(content: dict[str, Any]) -> None:
    judged, missed, false = (content[name] for name in ("judged", "missed", "false_alarms"))
    assert 0 < len(missed) == judged.crashes_missed
    assert len(false) == judged.alarms_false
    assert missed == sorted(missed, key=lambda case: case.at, reverse=True)
    assert all(case.why and case.view for case in missed[:8])
    threshold = missed[0].view.operation.threshold
    for case in missed:
        if case.why.startswith("The score stayed below"):
            inside = case.view.rows.drop_nulls("score") if case.view else None
            hours = (case.at - timedelta(hours=7), case.at - timedelta(hours=1))
            if inside is not None:
                times = inside["timestamp"].dt.replace_time_zone(None)
                assert inside.filter((times >= hours[0]) & (times < hours[1]))["score"].max() < threshold


def test_a_fleet_without_cases_has_a_page(content: dict[str, Any]) -> None:
    text = page.render(content | {"missed": [], "false_alarms": [], "aligned": {"score": {}}, "groups": []})
    assert "<article" in text


def test_the_page_says_where_data_comes_from_and_who_uses_it(content: dict[str, Any], project: Path) -> None:
    text = page.render(content)
    assert "Licence: Apache-2.0" in text
    known = {table.path: table for table in content["tables"]}
    assert known["data/raw/telemetry"].read_by == ["validate", "clean", "label"]
    assert list(known["data/clean"].versions.values()) == [["HEAD", "branch main"]]
    assert known["data/clean"].rows == sum(period.rows for period in content["periods"])
    assert "not declared" in page.render(content | {"tables": [replace(known["data/raw/telemetry"], declared=None)]})


def test_the_command_writes_the_page(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["crashcast", "explore", "--out", "reports/here.html"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert Path("reports/here.html").read_text().startswith("<!doctype html>")


def test_a_server_is_drawn_as_in_the_page(
    project: Path, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    case: Case = content["missed"][0]
    picture = crashcast.plot.server(case.server_id, around=case.at)
    drawn = page._case_charts(case)
    assert all(chart in picture.svg for chart in drawn)
    picture.save(tmp_path / "server.svg")
    root = ElementTree.parse(tmp_path / "server.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert f"{case.server_id} around {case.at:%Y-%m-%d %H:%M} UTC" in picture.title
    assert picture._repr_html_().startswith(f'<img alt="{case.server_id} around')
    assert crashcast.plot.server(case.server_id, around=case.at, rev="HEAD").svg == picture.svg


@pytest.mark.parametrize(
    ("host", "options", "expected"),
    [
        ("nobody", {}, "there is no row of nobody"),
        ("known", {"around": "2030-01-01"}, "has no row from 2029-12-30"),
        ("known", {"metrics": ["gpu"]}, "there is no metric gpu; there are cpu_pct"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    project: Path,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    options: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=expected):
        crashcast.plot.server(content["missed"][0].server_id if host == "known" else host, **options)
