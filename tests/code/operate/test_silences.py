"""Which of Alertmanager's silences tell of an action; tests/system/test_outcomes.py asks a real Alertmanager."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from alerting import free_port
from served_fleet import HOUR

from crashcast.errors import UserError
from crashcast.operate import silences
from crashcast.operate.http_app import HttpServer
from crashcast.operate.served_log import ServedLog
from crashcast.params.serve import Serve
from crashcast.sources.comments import acted

NOW = datetime(2026, 1, 5, 12)
FLEET = {"db-1", "db-2", "web.1", "web|2"}


def matcher(value: str, **changes: Any) -> dict[str, Any]:
    return {"name": "server", "value": value, "isRegex": False, "isEqual": True} | changes


def silence(*matchers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a silence as Alertmanager 0.25 answers it."""
    return {
        "id": "0a1b", "status": {"state": "expired"}, "updatedAt": "2026-01-05T11:30:00.000Z",
        "comment": "acted: restarted", "createdBy": "ada",
        "startsAt": "2026-01-05T11:00:00.500+01:00", "endsAt": "2026-01-05T11:30:00.000Z",
        "matchers": [*matchers],
    } | changes  # fmt: skip


def found(*given: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
    frame, nameless = silences.actions(silences.SILENCES.validate_json(json.dumps(given)), FLEET, NOW)
    return frame.rows(), nameless


def servers(*matchers: dict[str, Any]) -> list[str]:
    return [row[0] for row in found(silence(*matchers))[0]]


def test_a_silence_that_says_so_is_an_action_from_its_begin() -> None:
    at = datetime(2026, 1, 5, 10, 0, 0, 500_000, tzinfo=UTC)
    assert found(silence(matcher("db-1"))) == ([("db-1", "restarted", at, "ada", "silence", at)], 0)
    assert found(silence(matcher("db-1"), createdBy=" "))[0][0][3] is None


@pytest.mark.parametrize(
    ("comment", "what"),
    [
        ("acted: restarted", "restarted"),
        ("  ACTED:drained\n\tand\x1b restarted ", "drained and restarted"),
        ("acted:", "unspecified"),
        ("acted: " + "x" * 500, "x" * 200),
        ("muted until monday", None),
        ("we acted: restarted", None),
        ("acted", None),
        ("", None),
    ],
)
def test_only_a_comment_that_begins_with_acted_tells_of_an_action(comment: str, what: str | None) -> None:
    assert acted(comment) == what
    assert [row[1] for row in found(silence(matcher("db-1"), comment=comment))[0]] == [what] * (what is not None)


def test_a_silence_of_the_future_tells_of_nothing_yet() -> None:
    assert found(silence(matcher("db-1"), startsAt="2026-01-05T12:00:01Z")) == ([], 0)


def test_servers_are_named_one_by_one_or_as_alternatives() -> None:
    assert servers(matcher("db-1"), matcher("CrashPredicted", name="alertname")) == ["db-1"]
    assert servers(matcher("db-1|db-2", isRegex=True)) == ["db-1", "db-2"]
    assert servers(matcher("(?:db-1|web\\.1|other)", isRegex=True)) == ["db-1", "web.1"]
    assert servers(matcher("web.1", isRegex=True)) == ["web.1"]
    assert servers(matcher("web|2")) == ["web|2"]
    assert servers(matcher("web\\|2", isRegex=True)) == []  # not worth a parser
    assert servers({"name": "server", "value": "db-1"}) == ["db-1"]


@pytest.mark.parametrize(
    "given",
    [
        matcher("db-1", isEqual=False), matcher("db-1", name="host"), matcher("db-.*", isRegex=True),
        matcher(".+", isRegex=True), matcher("db-(1|2)", isRegex=True), matcher("", isRegex=True),
        matcher("db-1|db-[0-9]", isRegex=True, name="instance"),
    ],
)  # fmt: skip
def test_a_silence_that_names_no_server_is_counted(given: dict[str, Any]) -> None:
    assert found(silence(given)) == ([], 1)
    assert found(silence(given, comment="a mute")) == ([], 0)


def test_a_server_of_another_fleet_is_left_out() -> None:
    assert found(silence(matcher("theirs-1"))) == ([], 0)


def test_what_answers_otherwise_is_named() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"{nobody} gives no answer: "):
        silences.read(nobody)
    plain = {"listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}
    with HttpServer(Serve.model_validate(plain), HOUR, ServedLog("served")) as server:
        with pytest.raises(UserError, match=rf"{server.url} shows no silences: 404 Not Found"):
            silences.read(server.url)
        with pytest.raises(UserError, match=r"/alarms\? answers with something other than silences: "):
            silences.read(f"{server.url}/api/v1/alarms?")
