"""What `crashcast serve` answers, by a real server on loopback."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
from served_fleet import HOUR, alarm, scores, state

from crashcast.errors import UserError
from crashcast.operate import actions, http_app
from crashcast.operate.actions import Action
from crashcast.operate.http_app import MOST_BYTES, HttpServer
from crashcast.operate.served_log import ServedLog
from crashcast.operate.state import State
from crashcast.params.serve import Serve

SERVE = Serve.model_validate(
    {"listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}
)
SECRET = "s3cret-tok\u00e9n"
ACTION = {"server": "db-1", "what": "restart", "at": "2026-01-05T12:30:00+01:00", "who": "ada"}


def fresh(**changes: Any) -> State:
    return replace(state(**changes), ticked_at=datetime.now(UTC).replace(tzinfo=None))


@pytest.fixture
def log(tmp_path: Path) -> ServedLog:
    return ServedLog(str(tmp_path / "served"))


@pytest.fixture
def server(log: ServedLog) -> Iterator[HttpServer]:
    with HttpServer(SERVE, HOUR, log, {"CRASHCAST_TOKEN": SECRET}) as running:
        yield running


def recorded(log: ServedLog) -> list[Action]:
    """Return the actions that the log has, in the order of their reports."""
    found = log.read("actions", log.moments("actions")).sort("moment")
    rows = found.select("server_id", "what", pl.col("at").dt.replace_time_zone(None), "who").iter_rows()
    return [Action(*row) for row in rows]


def get(server: HttpServer, path: str) -> requests.Response:
    return requests.get(server.url + path, timeout=10)


def post(server: HttpServer, body: Any, token: str | None = SECRET) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
    return requests.post(f"{server.url}/api/v1/actions", data=body, headers=headers, timeout=10)


def test_it_is_ready_once_the_fleet_is_scored(server: HttpServer) -> None:
    assert get(server, "/-/healthy").status_code == 200
    before = get(server, "/-/ready")
    assert (before.status_code, before.text) == (503, "tick: the fleet has not been scored since the start\n")
    server.show(fresh())
    assert get(server, "/-/ready").status_code == 200


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"problems": {"prometheus": "it gives no answer"}}, "prometheus: it gives no answer\n"),
        ({"ticked_at": datetime(2026, 1, 5, 12, 10)}, "tick: the fleet was last scored at 2026-01-05 12:10 UTC\n"),
    ],
)
def test_it_is_not_ready_if_its_scores_are_not_to_be_trusted(
    server: HttpServer, changes: dict[str, Any], told: str
) -> None:
    server.show(replace(fresh(), **changes))
    found = get(server, "/-/ready")
    assert (found.status_code, found.text) == (503, told)
    assert get(server, "/-/healthy").status_code == 200


def test_scores_are_right_even_if_alertmanager_is_away(server: HttpServer) -> None:
    server.show(fresh(problems={"alertmanager": "it is away"}))
    assert get(server, "/-/ready").status_code == 200
    assert get(server, "/api/v1/alarms").json()["problems"] == {"alertmanager": "it is away"}


def test_alarms_are_plain_values(server: HttpServer) -> None:
    assert get(server, "/api/v1/alarms").json()["alarms"] == []
    server.show(fresh(slow=("db-1",)))
    (found,) = get(server, "/api/v1/alarms").json()["alarms"]
    assert (found["server"], found["group"]) == ("db-1", "db")
    assert (found["opened_at"], found["ends_at"]) == ("2026-01-05T12:00:00Z", "2026-01-05T19:00:00Z")
    assert found["reasons"][0]["source"] == "latency_ms"


def test_alarms_of_the_log_are_shown_before_the_first_score(server: HttpServer) -> None:
    opened = alarm(scores(["db-1"]), "db-1")
    server.show(State(datetime.now(UTC).replace(tzinfo=None), HOUR, None, [opened]))
    assert [one["server"] for one in get(server, "/api/v1/alarms").json()["alarms"]] == ["db-1"]
    assert "db-1" in get(server, "/").text
    assert b"crashcast_alarm" in get(server, "/metrics").content


def test_every_answer_forbids_the_browser_what_it_does_not_need(server: HttpServer) -> None:
    server.show(fresh())
    for path in ("/", "/metrics", "/-/healthy", "/api/v1/alarms", "/nowhere", "/api/v1/actions"):
        headers = get(server, path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in headers


def test_an_action_with_the_token_is_kept(server: HttpServer, log: ServedLog) -> None:
    server.show(fresh())
    assert post(server, json.dumps(ACTION)).status_code == 201
    assert recorded(log) == [Action("db-1", "restart", datetime(2026, 1, 5, 11, 30), "ada")]


def test_an_action_shows_at_once_and_one_of_the_command_line_a_little_later(
    server: HttpServer, log: ServedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> list[str]:
        (found,) = get(server, "/api/v1/alarms").json()["alarms"]
        for one in found["actions"]:
            assert f"{one['what']} by {one['who']} at" in get(server, "/").text
        return [f"{one['what']}, {one['source']}" for one in found["actions"]]

    server.show(fresh(slow=("db-1",)))
    assert shown() == []
    post(server, json.dumps({**ACTION, "at": "2026-01-05T13:00:00Z"}))
    assert shown() == ["restart, api"]
    at = datetime(2026, 1, 5, 14)
    actions.record(Action("db-1", "drain", at, "bob", "cli"), log, at)
    assert shown() == ["restart, api"]
    monkeypatch.setattr(http_app, "READ_EVERY_S", 0.0)
    assert shown() == ["restart, api", "drain, cli"]
    monkeypatch.setattr(ServedLog, "since", lambda *_: (_ for _ in ()).throw(UserError("away")))
    assert shown() == ["restart, api", "drain, cli"]


@pytest.mark.parametrize("token", [None, "", "s3cret", f"{SECRET}x", SECRET[:-1]])
def test_an_action_without_the_token_is_refused(server: HttpServer, log: ServedLog, token: str | None) -> None:
    found = post(server, json.dumps(ACTION), token)
    assert (found.status_code, found.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert recorded(log) == []


@pytest.mark.parametrize("environment", [{}, {"CRASHCAST_TOKEN": ""}, {"CRASHCAST_TOKEN": " \n"}])
def test_without_a_token_in_the_environment_nobody_may_act(log: ServedLog, environment: dict[str, str]) -> None:
    with HttpServer(SERVE, HOUR, log, environment) as server:
        for token in ("", " ", "None"):
            assert post(server, json.dumps(ACTION), token).status_code == 403
    assert recorded(log) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body: Invalid JSON"),
        (b"\xff\xfe", "the body: Invalid JSON"),
        (b"[" * 60_000, "the body: Invalid JSON"),
        (b"[]", "the body: Input should be an object"),
        (json.dumps({"what": "restart", "at": ACTION["at"]}), "server: Field required"),
        (json.dumps({**ACTION, "reason": "x"}), "reason: Extra inputs are not permitted"),
        (json.dumps({**ACTION, "what": 7}), "what: Input should be a valid string"),
        (json.dumps({**ACTION, "what": "a\x1b[31mb"}), "what: String should match pattern"),
        (json.dumps({**ACTION, "at": "yesterday"}), "at: Input should be a valid datetime"),
        (json.dumps({**ACTION, "at": "9999-12-31T23:59:59-05:00"}), "at: must be a moment in the past"),
        (json.dumps({**ACTION, "at": "0001-01-01T00:00:00+05:00"}), "at: must be a moment in the past"),
        (json.dumps({**ACTION, "server": "db-9"}), "server: no server db-9 was scored"),
    ],
)
def test_what_is_no_action_is_refused_with_the_reason(server: HttpServer, log: ServedLog, body: Any, told: str) -> None:
    server.show(fresh())
    found = post(server, body)
    assert (found.status_code, recorded(log)) == (400, [])
    assert found.text.startswith("This is no action: ")
    assert told in found.text


def test_a_body_is_bounded_whether_it_states_its_length_or_not(server: HttpServer, log: ServedLog) -> None:
    large = json.dumps({**ACTION, "who": "x" * MOST_BYTES}).encode()
    assert post(server, large).status_code == 413
    assert post(server, iter([large[:1000], large[1000:]])).status_code == 413
    assert post(server, iter([json.dumps(ACTION).encode()])).status_code == 201
    assert len(recorded(log)) == 1


def test_an_action_that_cannot_be_kept_is_not_confirmed(tmp_path: Path) -> None:
    (tmp_path / "served").write_text("a file")
    with HttpServer(SERVE, HOUR, ServedLog(str(tmp_path / "served")), {"CRASHCAST_TOKEN": SECRET}) as server:
        found = post(server, json.dumps(ACTION))
    assert found.status_code == 503
    assert found.text.startswith("The action was not recorded: ")


def test_each_of_many_actions_at_once_is_kept(server: HttpServer, log: ServedLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [json.dumps({**ACTION, "who": str(number)}) for number in range(40)]
        found = [*pool.map(lambda body: post(server, body).status_code, bodies)]
    assert found == [201] * 40
    assert sorted(int(action.who or "") for action in recorded(log)) == [*range(40)]


def test_actions_of_one_moment_are_two(log: ServedLog) -> None:
    moment = datetime(2026, 1, 5, 12)
    given = [Action("db-1", "restart", moment), Action("db-2", "drain", moment, "ada")]
    for action in given:
        actions.record(action, log, moment)
    assert recorded(log) == given


def test_a_body_that_does_not_arrive_is_given_up(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_app, "PATIENCE_S", 0.3)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = (
            f"POST /api/v1/actions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: 9\r\n\r\n{{"
        )
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_the_token_is_nowhere(server: HttpServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.show(fresh())
    for token in (SECRET, "wrong"):
        post(server, b"{", token)
    for path in ("/", "/metrics", "/api/v1/alarms", "/-/ready", f"/{SECRET}"):
        assert SECRET not in get(server, path).text
    assert "".join(capfd.readouterr()) == ""


def test_an_address_that_is_taken_is_named(log: ServedLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(UserError, match=rf"params.yaml: serve.listen: {listen}: Address already in use"),
            HttpServer(SERVE.model_copy(update={"listen": listen}), HOUR, log),
        ):
            pass


def test_a_host_that_is_unknown_is_named(log: ServedLog) -> None:
    listen = "no-such-host.invalid:9095"
    with (
        pytest.raises(UserError, match=rf"params.yaml: serve.listen: {listen}: "),
        HttpServer(SERVE.model_copy(update={"listen": listen}), HOUR, log),
    ):
        pass


def test_it_listens_on_ipv6(log: ServedLog) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with HttpServer(SERVE.model_copy(update={"listen": "[::1]:0"}), HOUR, log) as server:
        assert get(server, "/-/healthy").status_code == 200


def test_it_ends_while_a_client_holds_its_connection_open(log: ServedLog) -> None:
    threads = threading.active_count()
    with HttpServer(SERVE, HOUR, log) as server, requests.Session() as session:
        assert session.get(f"{server.url}/-/healthy", timeout=10).status_code == 200
        url, begun = server.url, time.monotonic()
    assert time.monotonic() - begun < 9  # it would wait ten seconds for the client
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=2)
    deadline = time.monotonic() + 10  # idle workers end a moment later
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= threads  # those of earlier servers end, too


def test_the_page_may_be_read_without_being_loaded_again(server: HttpServer) -> None:
    server.show(fresh())
    assert get(server, "/").headers["Refresh"] == "60"
    assert "Refresh" not in get(server, "/?refresh=off").headers


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(log: ServedLog, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=r"^crashcast serve needs the extra `operate`: .*-r requirements-operate\.txt$"):
        HttpServer(SERVE, HOUR, log)
