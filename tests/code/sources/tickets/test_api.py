"""Pages that would never end are given up, whatever a server answers; what a request carries. No network is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count
from typing import Any

import pytest
import requests

from crashcast.errors import UserError
from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets import api
from crashcast.sources.tickets.api import STALLED_PAGES, Api, records

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
CREATED = "2026-03-02T09:40:00.000+0100"
SOURCES: dict[str, dict[str, Any]] = {
    "pagerduty": {},
    "opsgenie": {},
    "jira": {"url": "https://jira.example.com", "query": "project = OPS", "server": {"field": "fields.labels"}},
    "jira server": {
        "url": "https://jira.example.com",
        "edition": "server",
        "query": "project = OPS",
        "server": {"field": "fields.labels"},
    },
}
numbers = count()
ISSUE = {"key": "OPS-1", "fields": {"created": CREATED}}


def ask(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[[], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a source's records and the paths that were asked, if every path answers the same."""
    asked: list[str] = []

    def get(api: Api, path: str, key: str, parameters: object = None, kind: type[Any] = list) -> dict[str, Any]:
        asked.append(path)
        assert len(asked) < 1000
        return answer()

    monkeypatch.setenv("OURS_TOKEN", "token")
    monkeypatch.setattr(Api, "get", get)
    source = TicketSource.model_validate({"type": name.split()[0], **SOURCES[name]})
    return list(records("ours", source, SINCE, UNTIL)), asked


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("jira", lambda: {"issues": [ISSUE], "nextPageToken": "AAA", "isLast": False}),
        ("jira", lambda: {"issues": [ISSUE], "nextPageToken": f"{next(numbers)}"}),  # always another token
        ("jira", lambda: {"issues": [], "nextPageToken": f"{next(numbers)}"}),
        ("jira server", lambda: {"issues": [ISSUE], "total": 10**9}),
        ("jira server", lambda: {"issues": [ISSUE]}),
        ("pagerduty", lambda: {"incidents": [{"id": "P1"}], "more": True}),
        ("pagerduty", lambda: {"incidents": [], "more": True}),
        ("opsgenie", lambda: {"data": [{"id": "a1"}], "paging": {"next": "https://elsewhere.example.com"}}),
    ],
)
def test_pages_without_progress_end_with_a_message(
    monkeypatch: pytest.MonkeyPatch, name: str, answer: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises(UserError, match=f"{STALLED_PAGES} pages in a row have no new record, but it announces more"):
        ask(monkeypatch, name, answer)


def test_a_page_without_records_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"issues": [], "nextPageToken": "A"}, {"issues": [ISSUE]}])
    found, asked = ask(monkeypatch, "jira", lambda: next(answers))
    assert (found, len(asked)) == ([ISSUE], 2)


@pytest.mark.parametrize("paging", [7, "next", None, ["next"]])
def test_paging_of_another_form_announces_no_page(monkeypatch: pytest.MonkeyPatch, paging: object) -> None:
    alert = {"id": "a1"}
    answers = iter(
        [{"data": [alert], "paging": paging}, {"data": {"entity": "db-1"}}]
    )  # a page, and an alert's details
    found, asked = ask(monkeypatch, "opsgenie", lambda: next(answers))
    assert (found, len(asked)) == ([alert | {"entity": "db-1"}], 2)


def test_an_id_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"data": [{"id": "../../v1/users?x=/"}]}, {"data": {}}])
    _, asked = ask(monkeypatch, "opsgenie", lambda: next(answers))
    assert asked[1:] == ["/v2/alerts/..%2F..%2Fv1%2Fusers%3Fx%3D%2F"]


@pytest.mark.parametrize("name", ["..", ".", "", "-"])
def test_an_id_that_names_another_path_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A client takes two dots for the folder above, quoted or not."""
    with pytest.raises(UserError, match=r"ours \(.*\): the id of a record is '\.{0,2}', which is none"):
        ask(monkeypatch, "opsgenie", lambda: {"data": [{"id": name}]})


def sent(monkeypatch: pytest.MonkeyPatch, name: str, token: str, user: str = "", **settings: object) -> dict[str, str]:
    """Return the headers of a request."""
    monkeypatch.setenv("OURS_TOKEN", token)
    monkeypatch.setenv("OURS_USER", user)
    asking = Api("ours", TicketSource.model_validate({"type": name, **SOURCES[name], **settings}))
    return dict(asking.session.prepare_request(requests.Request("GET", "https://example.com")).headers)


def test_headers_of_a_source_are_sent_beside_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sent(monkeypatch, "pagerduty", "t0ken", headers={"From": "sre team <sre@example.com>"})
    assert (found["From"], found["Authorization"]) == ("sre team <sre@example.com>", "Token token=t0ken")


def test_a_password_may_have_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sent(monkeypatch, "jira", "пароль", "Jürgen")
    assert found["Authorization"] == "Basic SsO8cmdlbjrQv9Cw0YDQvtC70Yw="


@pytest.mark.parametrize("name", ["jira", "pagerduty", "opsgenie"])
@pytest.mark.parametrize("token", ["пароль", "two words", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, token: str) -> None:
    with pytest.raises(UserError, match="ours: OURS_TOKEN holds more than a token"):
        sent(monkeypatch, name, token)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, '{"error": {"message": "Invalid key"}}', 'is refused (401): {"error": {"message": "Invalid key"}}'),
        (403, "user is not allowed to read project OPS", "user is not allowed to read project OPS"),
        (500, "the database is away", "500 Internal Server Error: the database is away"),
        (200, "<html>Log in first</html>", "an answer that is no JSON: <html>Log in first</html>"),
        (200, '{"errors": ["no such project"]}', "no such project"),
    ],
)
def test_the_words_of_a_system_are_shown(monkeypatch: pytest.MonkeyPatch, status: int, text: str, message: str) -> None:
    def answer(*arguments: object, **options: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.reason, response._content = status, HTTPStatus(status).phrase, text.encode()
        return response

    monkeypatch.setenv("OURS_TOKEN", "t0ken")
    monkeypatch.setattr(requests.Session, "get", answer)
    monkeypatch.setattr(api.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=re.escape(message)):
        list(records("ours", TicketSource.model_validate({"type": "pagerduty"}), SINCE, UNTIL))
