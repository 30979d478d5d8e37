"""Alarms of `crashcast serve` on both ways to a pager: pushed to Alertmanager, or scraped by Prometheus.

Prometheus, Alertmanager and the HTTP server are real, and each of them is restarted on the way.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml
from alerting import ask, free_port, needs, pager, start_alertmanager, start_prometheus, wait_for
from served_fleet import HOUR, alarm, scores, state

from crashcast.operate import alertmanager
from crashcast.operate.alertmanager import Alertmanager
from crashcast.operate.http_app import HttpServer
from crashcast.operate.served_log import ServedLog
from crashcast.operate.state import State
from crashcast.params.serve import Serve

DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
pytestmark = [pytest.mark.ci, needs("prometheus", "prometheus-alertmanager")]
GROUP_S = 1  # between notifications of a group
SCRAPE_TIMEOUT_S = 10  # Prometheus's default
QUIET_S = 4 * GROUP_S  # long enough for a notification that should not come


def serve(**changes: Any) -> Serve:
    plain = {"listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}
    return Serve.model_validate(plain | changes)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def opened(servers: Sequence[str], since: datetime, until: datetime, **changes: Any) -> State:
    """Return a state in which these servers have an alarm."""
    scored = scores(servers, [f"web-{number}" for number in range(5)])
    alarms = [replace(alarm(scored, server), opened_at=since, ends_at=until, **changes) for server in servers]
    return replace(state(), ticked_at=now(), scores=scored, alarms=alarms, recent=None)


def push(state: State, to: Serve) -> State:
    return Alertmanager(to).push(state)


@pytest.fixture
def received() -> Iterator[SimpleNamespace]:
    with pager() as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def configure(folder: Path, received: SimpleNamespace) -> None:
    """Write the configuration of an Alertmanager that groups by name and pages at once."""
    route = {
        "receiver": "pager", "group_by": ["alertname"], "group_wait": f"{GROUP_S}s", "group_interval": f"{GROUP_S}s",
    }  # fmt: skip
    receivers = [{"name": "pager", "webhook_configs": [{"url": received.url, "send_resolved": True}]}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))


def answers(url: str) -> bool:
    """Tell whether an Alertmanager is ready."""
    try:
        return requests.get(f"{url}/-/ready", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def manager(tmp_path: Path, received: SimpleNamespace, stack: ExitStack) -> SimpleNamespace:
    """Return a running Alertmanager that groups by name and pages at once: its address, and how to restart it."""
    configure(tmp_path, received)
    port = free_port()
    running = SimpleNamespace(url=f"http://127.0.0.1:{port}", process=start_alertmanager(stack, tmp_path, port))

    def is_ready() -> bool:
        return answers(running.url)

    def stop() -> None:
        running.process.terminate()
        running.process.wait(30)

    def restart() -> None:
        running.process = start_alertmanager(stack, tmp_path, port)
        assert wait_for(is_ready)

    assert wait_for(is_ready)
    running.stop, running.restart = stop, restart
    return running


def told(received: SimpleNamespace) -> list[tuple[str, list[str]]]:
    """Return each notification as its status and its servers."""
    return [
        (one["status"], sorted(part["labels"]["server"] for part in one["alerts"])) for one in received.notifications
    ]


def test_pushed_alarms_are_grouped_page_once_and_resolve_at_their_end(
    manager: SimpleNamespace, received: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertmanager, "REPEAT_S", 0.5)
    links = {"page": "https://ops.example/crashcast", "runbook": "https://wiki.example/crash"}
    address = serve(alertmanager=manager.url, delay="10s", **links)
    since = now() - timedelta(minutes=10)
    first = opened(["db-1", "db-2"], since, now() + timedelta(seconds=30))
    assert push(first, address) == first
    assert wait_for(lambda: bool(received.notifications))
    assert told(received) == [("firing", ["db-1", "db-2"])]
    page = next(one for one in received.alerts if one["labels"]["server"] == "db-1")
    assert page["labels"] == {"alertname": "CrashPredicted", "server": "db-1", "group": "db", "severity": "warning"}
    assert page["annotations"]["summary"].startswith("db-1 is likely to crash before ")
    assert re.match(r"latency_ms 390 \(fleet 23\): risk (1|0\.99\d*) -> ", page["annotations"]["reasons"])
    assert {page["annotations"][name] for name in ("model", "page", "runbook")} == {
        "v1.0.0", "https://ops.example/crashcast", "https://wiki.example/crash",
    }  # fmt: skip

    until = now().replace(microsecond=0) + timedelta(seconds=QUIET_S + 15)
    renewed = opened(["db-1", "db-2"], since, until, risk=0.7, reasons=())
    for _ in range(2):  # by another instance, too
        push(replace(renewed, scores=None), address)
    time.sleep(QUIET_S)
    assert told(received) == [("firing", ["db-1", "db-2"])]

    shown: list[State] = []
    with Alertmanager(address, shown.append) as repeating:
        repeating.push(renewed)
        manager.stop()
        assert wait_for(lambda: shown[-1].delivery_errors > 1)
        assert shown[-1].problems["alertmanager"].startswith(f"{manager.url} gives no answer: ")
        manager.restart()
        assert wait_for(lambda: not shown[-1].problems)
        assert shown[-1].delivery_errors > 1
        assert shown[-1].alarms == renewed.alarms

    assert wait_for(lambda: len(received.notifications) > 1)
    assert told(received) == [("firing", ["db-1", "db-2"]), ("resolved", ["db-1", "db-2"])]
    # a renewal is known by `delay` later
    assert timedelta(seconds=10) <= now() - until < timedelta(seconds=10 + 5 * GROUP_S)


@pytest.mark.slow  # a minute of waiting
def test_one_of_two_alertmanagers_is_killed_and_nobody_is_paged_again(
    tmp_path: Path, received: SimpleNamespace, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alertmanager, "REPEAT_S", 0.5)
    ports, cluster = [free_port(), free_port()], [free_port(), free_port()]
    url, processes = f"http://127.0.0.1:{ports[0]}", []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        configure(tmp_path / str(number), received)
        found = start_alertmanager(stack, tmp_path / str(number), ports[number], cluster[number], cluster[1 - number])
        processes.append(found)
    assert wait_for(lambda: answers(url) and len(peers_of(url)) == 2)

    shown: list[State] = []
    until = now() + timedelta(seconds=40)
    with Alertmanager(serve(alertmanager=url, delay="1s"), shown.append) as repeating:
        repeating.push(opened(["db-1"], now(), until))
        assert wait_for(lambda: bool(received.notifications))
        time.sleep(QUIET_S)  # the other one has heard of it
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert wait_for(lambda: shown[-1].delivery_errors > 0)
        start_alertmanager(stack, tmp_path / "0", ports[0], *cluster)
        assert wait_for(lambda: not shown[-1].problems and bool(requests.get(f"{url}/api/v2/alerts", timeout=5).json()))
        time.sleep(2 * QUIET_S)
        assert now() < until
        assert told(received) == [("firing", ["db-1"])]
        repeating.push(opened([], now(), now()))
    assert wait_for(lambda: len(received.notifications) > 1)
    assert told(received) == [("firing", ["db-1"]), ("resolved", ["db-1"])]


def peers_of(url: str) -> list[Any]:
    """Return the members of an Alertmanager's cluster."""
    found: list[Any] = requests.get(f"{url}/api/v2/status", timeout=5).json()["cluster"]["peers"]
    return found


def test_what_alertmanager_refuses_is_told(manager: SimpleNamespace) -> None:
    wrong = opened(["db-1"], now(), now() - HOUR)  # it would end before it begins
    found = push(wrong, serve(alertmanager=manager.url))
    assert found.problems["alertmanager"].startswith(f"{manager.url} refuses alerts: 400")


def test_without_alarms_it_is_still_seen_whether_alertmanager_is_there(manager: SimpleNamespace) -> None:
    quiet = state(())
    assert push(quiet, serve(alertmanager=manager.url)) == quiet
    assert push(quiet, serve()) == quiet
    manager.stop()
    assert "alertmanager" in push(quiet, serve(alertmanager=manager.url)).problems


def test_what_is_no_alertmanager_is_told() -> None:
    with HttpServer(serve(), HOUR, ServedLog("served")) as server:
        found = push(state(), serve(alertmanager=server.url))
        assert found.problems["alertmanager"] == f"{server.url} refuses alerts: 404 Not Found"


def test_a_large_fleet_at_risk_is_pushed_whole(manager: SimpleNamespace) -> None:
    servers = [f"db-{number:04}" for number in range(2 * alertmanager.BATCH + 1)]
    push(opened(servers, now(), now() + HOUR), serve(alertmanager=manager.url))
    known = requests.get(f"{manager.url}/api/v2/alerts", timeout=10).json()
    assert sorted(one["labels"]["server"] for one in known) == servers


def test_scraped_alarms_page_once_whatever_is_restarted(
    tmp_path: Path, manager: SimpleNamespace, received: SimpleNamespace, stack: ExitStack
) -> None:
    keep_s, port, prometheus_port = 15, free_port(), free_port()
    rules = re.sub(r"keep_firing_for: \S+", f"keep_firing_for: {keep_s}s", (DEPLOY / "crashcast.rules.yml").read_text())
    (tmp_path / "crashcast.rules.yml").write_text(rules)
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["crashcast.rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager.url.removeprefix("http://")]}]}]},
        "scrape_configs": [{"job_name": "crashcast", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    prometheus = start_prometheus(stack, tmp_path, prometheus_port)

    address, fired = serve(listen=f"127.0.0.1:{port}"), [("firing", ["db-1"])]
    open_alarm = opened(["db-1"], now(), now() + HOUR)
    with HttpServer(address, HOUR, ServedLog("served")) as server:
        server.show(open_alarm)
        assert wait_for(lambda: bool(received.notifications))
        assert told(received) == fired
        page = received.alerts[0]
        assert page["labels"] == {"alertname": "CrashPredicted", "server": "db-1", "group": "db", "severity": "warning"}
        summary = page["annotations"]["summary"]
        assert re.fullmatch(r"db-1 is likely to crash within hours: risk 99\.\d+% \[crashcast\]", summary)
    assert wait_for(lambda: ask(prometheus_port, "up") == [0])
    assert ask(prometheus_port, "crashcast_alarm") == []
    time.sleep(QUIET_S)
    assert told(received) == fired

    with HttpServer(address, HOUR, ServedLog("served")) as server:
        server.show(open_alarm)
        assert wait_for(lambda: ask(prometheus_port, "crashcast_alarm == 1") == [1])
        prometheus.send_signal(signal.SIGKILL)
        prometheus.wait()
        prometheus = start_prometheus(stack, tmp_path, prometheus_port)
        manager.stop()
        manager.restart()
        assert wait_for(lambda: ask(prometheus_port, 'ALERTS{alertname="CrashPredicted", alertstate="firing"}') == [1])
        time.sleep(QUIET_S)
        assert told(received) == fired

        server.show(replace(open_alarm, alarms=[], ticked_at=now()))
        assert wait_for(lambda: len(received.notifications) > 1)
        assert told(received) == [*fired, ("resolved", ["db-1"])]


def test_prometheus_scrapes_a_large_fleet_in_a_quarter_of_its_time_limit(tmp_path: Path, stack: ExitStack) -> None:
    prometheus_port = free_port()
    with HttpServer(serve(), HOUR, ServedLog("served")) as server:
        server.show(replace(state(well=[f"web-{number:05}" for number in range(10_000)]), ticked_at=now()))
        targets = [{"targets": [server.url.removeprefix("http://")]}]
        settings = {
            "global": {"scrape_interval": "2s"},
            "scrape_configs": [{"job_name": "crashcast", "static_configs": targets}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
        start_prometheus(stack, tmp_path, prometheus_port)

        assert wait_for(lambda: ask(prometheus_port, "count_over_time(scrape_duration_seconds[1m]) >= 3") != [])
        assert ask(prometheus_port, "count(crashcast_risk)") == [10_001]
        assert ask(prometheus_port, "min_over_time(scrape_duration_seconds[1m])")[0] < SCRAPE_TIMEOUT_S / 4
