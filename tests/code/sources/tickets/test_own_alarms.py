"""Tickets that Alertmanager opened for our own alarms, in each system, as its receivers write them.

Alertmanager's default templates lay out what the receivers send: a subject with the values of the labels that the
alerts of a group share, and a list of all labels and annotations.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crashcast.operate.alertmanager import alert
from crashcast.operate.state import Alarm
from crashcast.params.serve import Serve
from crashcast.params.tickets import Tickets, TicketSource
from crashcast.sources.tickets import own_alarms, saved_records
from crashcast.sources.tickets.collect import recorded_periods
from crashcast.sources.tickets.outages import merge
from crashcast.sources.tickets.tickets import Parsed, parse
from crashcast.tables import ACTIONS

LATEST = datetime(2026, 6, 1, tzinfo=UTC)
OPENED, ENDED = "2026-03-02T10:01:12Z", "2026-03-02T17:02:10Z"
RULES = Tickets(since="2026-01-01", same_outage="30m", longest_outage="1d", max_bad_share=0, sources={})
OWN_TITLE, GROUPED_TITLE = "[FIRING:1] CrashPredicted web-3 (web warning)", "[FIRING:2] CrashPredicted web (warning)"


def labels_of(server: str) -> dict[str, str]:
    return {"alertname": "CrashPredicted", "group": "web", "server": server, "severity": "warning"}


def listed(*servers: str, form: str = " - ") -> str:
    """Return alerts as Alertmanager's templates list them."""
    texts = []
    for server in servers:
        labels = "\n".join(f"{form}{name} = {value}" for name, value in labels_of(server).items())
        summary = f"{server} is likely to crash within hours: risk 34%"
        texts.append(
            f"Labels:\n{labels}\nAnnotations:\n{form}description = The page of `crashcast serve` says why.\n"
            f"{form}summary = {summary}\nSource: http://prometheus:9090/graph?g0.expr=crashcast_alarm&server=other\n"
        )
    return "".join(texts)


def pagerduty(title: str = OWN_TITLE, servers: tuple[str, ...] = ("web-3",), note: str | None = None) -> dict[str, Any]:
    """Return an incident of PagerDuty's REST API, with the alerts and notes that are fetched of our own."""
    details = {"firing": listed(*servers), "num_firing": str(len(servers)), "num_resolved": "0", "resolved": ""}
    user = {"id": "PU1", "type": "user_reference", "summary": "Ada Lovelace"}
    return {
        "id": "Q1OWN", "type": "incident", "summary": f"[#812] {title}", "title": title, "incident_number": 812,
        "created_at": OPENED, "updated_at": ENDED, "status": "resolved", "resolved_at": ENDED, "urgency": "high",
        "incident_key": "f8bd3e0e8f0b1a2c", "service": {"id": "PS1", "summary": "Prometheus"},
        "alerts": [{"id": "PA1", "type": "alert", "summary": title, "severity": "error",
                    "body": {"type": "alert_body", "details": details, "cef_details": {"details": details}}}],
        "notes": [] if note is None else [
            {"id": "PN1", "content": note, "created_at": "2026-03-02T10:20:00Z", "user": user}],
    }  # fmt: skip


def opsgenie(title: str = OWN_TITLE, servers: tuple[str, ...] = ("web-3",), note: str | None = None) -> dict[str, Any]:
    """Return an alert of Opsgenie's API, with its details and notes."""
    shared = labels_of(servers[0])
    details = {name: value for name, value in shared.items() if name != "server" or len(servers) == 1}
    return {
        "id": "70413a06-0009-own", "tinyId": "1812", "alias": "f8bd3e0e8f0b1a2c", "message": title, "status": "closed",
        "createdAt": OPENED, "updatedAt": ENDED, "priority": "P1", "tags": [], "source": "http://alerts/#/alerts",
        "description": f"The page says why.\nAlerts Firing:\n{listed(*servers)}", "details": details, "entity": "",
        "report": {"ackTime": 100_000, "closeTime": 25_258_000, "closedBy": "ada@example.com"},
        "notes": [] if note is None else [
            {"note": note, "owner": "ada@example.com", "createdAt": "2026-03-02T10:20:00Z", "offset": "1"}],
    }  # fmt: skip


def document(*paragraphs: str) -> dict[str, Any]:
    """Return texts as Jira Cloud has them."""
    content = [{"type": "paragraph", "content": [{"type": "text", "text": text}]} for text in paragraphs]
    return {"type": "doc", "version": 1, "content": content}


def jira(title: str = OWN_TITLE, servers: tuple[str, ...] = ("web-3",), note: str | None = None) -> dict[str, Any]:
    """Return an issue of Jira Cloud's search."""
    text = f"# Alerts Firing:\n\n{listed(*servers, form='  - ')}"
    comment = {"author": {"displayName": "Ada Lovelace"}, "created": "2026-03-02T11:20:00.000+0100"}
    return {
        "id": "20031", "key": "OPS-99",
        "fields": {
            "summary": title, "labels": ["ALERT{f8bd3e0e8f0b1a2c}", "alertmanager"], "issuetype": {"name": "Incident"},
            "priority": {"name": "Medium"}, "description": document(*text.splitlines()), "created": OPENED,
            "updated": ENDED, "resolutiondate": ENDED,
            "comment": {"comments": [] if note is None else [comment | {"body": document(*note.splitlines())}],
                        "maxResults": 1, "total": 1, "startAt": 0},
        },
    }  # fmt: skip


def snow(title: str = OWN_TITLE, servers: tuple[str, ...] = ("web-3",), note: str | None = None) -> dict[str, Any]:
    """Return an incident of ServiceNow's Table API."""
    entry = f"2026-03-02 10:20:00 - Ada Lovelace (Work notes)\n{note}\n\n"
    other = "2026-03-02 10:02:00 - System (Work notes)\nAlert received.\n\n"
    return {
        "number": "INC0010099", "cmdb_ci": {"display_value": "", "value": ""}, "priority": "1 - Critical",
        "opened_at": "2026-03-02 10:01:12", "resolved_at": "2026-03-02 17:02:10", "short_description": title,
        "sys_updated_on": "2026-03-02 17:02:10", "description": listed(*servers), "close_notes": "",
        "work_notes": other if note is None else entry + other,
    }  # fmt: skip


def table(title: str = OWN_TITLE, servers: tuple[str, ...] = ("web-3",), note: str | None = None) -> dict[str, Any]:
    """Return a row of a table that somebody exported."""
    return {
        "incident_id": "9", "server_id": ", ".join(servers), "kind": "incident", "started_at": OPENED,
        "resolved_at": "2026-03-02T10:20:00Z", "summary": title, "alertname": "CrashPredicted",
        "comment": note,
    }  # fmt: skip


def source_of(type_: str) -> TicketSource:
    """Return what params.yaml says of a system whose crash tickets name their server in the title, or as it does."""
    files = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    jira_needs = {"url": "https://jira.example.org", "query": "project = OPS"} if type_ == "jira" else {}
    title = {"pagerduty": "title", "opsgenie": "message", "jira": "fields.summary", "table": "server_id"}
    server = {"pattern": r"\b(web|db)-\d+\b"} | ({"field": title[type_]} if type_ in title else {})
    return TicketSource.model_validate({"type": type_, "time_zone": "UTC", "server": server, **files, **jira_needs})


def parsed(type_: str, *records: dict[str, Any]) -> Parsed:
    return parse(type_, source_of(type_), records, LATEST)


SYSTEMS = {"pagerduty": pagerduty, "opsgenie": opsgenie, "jira": jira, "servicenow": snow, "table": table}
each_system = pytest.mark.parametrize("type_", SYSTEMS)


@each_system
def test_a_ticket_of_our_own_alarm_is_no_crash(type_: str) -> None:
    found = parsed(type_, SYSTEMS[type_]())
    assert found.bad == []
    assert found.tickets.select("server_id", "kind").rows() == [("web-3", "alarm")]
    incidents, tickets = merge(found.tickets, RULES)
    assert incidents.is_empty()
    assert tickets.select("ticket_id", "incident_id").rows() == [(found.tickets["ticket_id"][0], None)]
    assert recorded_periods(found.tickets).is_empty()  # it is no evidence that crashes were recorded
    assert found.actions.is_empty()  # to acknowledge is no action


@each_system
def test_the_same_ticket_without_our_alert_is_a_crash(type_: str) -> None:
    other = json.loads(json.dumps(SYSTEMS[type_]()).replace("CrashPredicted", "HostDown"))
    if type_ == "servicenow":
        other["cmdb_ci"]["display_value"] = "web-3"
    found = parsed(type_, other)
    assert found.tickets.select("server_id", "kind").rows() == [("web-3", "crash")]


@each_system
def test_a_remark_says_what_was_done(type_: str) -> None:
    found = parsed(type_, SYSTEMS[type_](note="acted: restarted\nand all was well"))
    at = datetime(2026, 3, 2, 10, 20, tzinfo=UTC)
    who = {"opsgenie": "ada@example.com", "table": None}.get(type_, "Ada Lovelace")
    assert found.actions.rows() == [("web-3", "restarted and all was well", at, who, type_, at)]
    assert found.actions.schema == ACTIONS


@each_system
def test_a_remark_without_the_word_proves_nothing(type_: str) -> None:
    for note in ("ack", "I have restarted it", "re: acted: no", "muted until Monday"):
        assert parsed(type_, SYSTEMS[type_](note=note)).actions.is_empty(), note


@each_system
def test_a_ticket_of_several_alarms_names_each_server(type_: str) -> None:
    make = SYSTEMS[type_]
    found = parsed(type_, make(GROUPED_TITLE, ("web-3", "web-31"), "acted: drained"))
    assert found.tickets["server_id"].to_list() == ["web-3", "web-31"]
    assert found.actions["server_id"].to_list() == ["web-3", "web-31"]
    found = parsed(type_, make(GROUPED_TITLE, ("web-3", "web-31"), "acted: restarted web-3."))
    assert found.actions.select("server_id", "what").rows() == [("web-3", "restarted web-3.")]


@each_system
def test_a_ticket_with_a_title_of_the_teams_own_is_known_by_the_alerts_name_or_mark(type_: str) -> None:
    moment = datetime(2026, 3, 2, 10)
    alarm = Alarm("web-3", "web", moment, moment, moment, risk=0.34)
    serve = Serve.model_construct(runbook=None, page=None, delay=timedelta(0))
    pushed = alert(alarm, "v1", serve)
    for title in (pushed["annotations"]["summary"], "CrashPredicted: web-3", "[FIRING:1]  (CrashPredicted web web-3)"):
        record = json.loads(json.dumps(SYSTEMS[type_](title)).replace("alertname", "rule_of"))
        assert own_alarms.stems_from_alarm(record, source_of(type_)), title


@pytest.mark.parametrize(
    "title",
    [
        "web-3 is down",
        "web-3 crashed, though CrashPredicted had fired",
        "[FIRING:1] HostDown web-3 (web critical)",
        "[P1] web-3 down: was CrashPredicted seen?",
        "CrashPredictedLate fired for web-3",
    ],
)
def test_the_ticket_of_a_crash_may_speak_of_our_alert(title: str) -> None:
    record = pagerduty(title) | {"alerts": [], "notes": [{"content": listed("web-3"), "created_at": OPENED}]}
    assert parsed("pagerduty", record).tickets.select("server_id", "kind").rows() == [("web-3", "crash")]
    assert parsed("pagerduty", record | {"notes": []}).tickets["kind"].to_list() == ["crash"]


def test_a_ticket_that_names_no_server_is_left_out_in_silence() -> None:
    found = parsed("pagerduty", pagerduty("[FIRING:9] CrashPredicted") | {"alerts": []})
    assert (found.tickets.height, found.bad, found.ignored) == (0, [], 1)


def test_a_renamed_server_has_the_name_that_it_has_now() -> None:
    rule = source_of("pagerduty").model_dump() | {"server": {"names": {"web-3": "web-3-new"}}}
    found = parse("pagerduty", TicketSource.model_validate(rule), [pagerduty(note="acted: restarted")], LATEST)
    assert found.tickets["server_id"].to_list() == found.actions["server_id"].to_list() == ["web-3-new"]


def test_an_action_that_nobody_dates_is_told_of() -> None:
    record = table(note="acted: restarted") | {"resolved_at": None}
    found = parsed("table", record)
    assert found.actions.is_empty()
    assert [left_out.reason for left_out in found.bad] == [
        "'acted: restarted' has no time, and neither has the end of the ticket"
    ]


def test_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matter = f"---\nserver_id: web-3\nstarted_at: {OPENED}\nresolved_at: {ENDED}\n"
    texts = {
        "own": f"{matter}alertname: CrashPredicted\n---\n# It looked as if web-3 would crash\n\nacted: restarted\n\nok",
        "title": f"{matter}kind: crash\n---\n# {OWN_TITLE}\n\nI did nothing.\n",
        "crash": f"{matter}kind: crash\n---\n# web-3 ran out of memory\n\nalertname = CrashPredicted was muted.\n",
    }
    for name, text in texts.items():
        Path(f"{name}.md").write_text(text)
    source = source_of("notes").model_copy(update={"files": ("*.md",)})
    found = parse("notes", source, saved_records.records("notes", source), LATEST)
    assert dict(found.tickets.select("ticket_id", "kind").iter_rows()) == {
        "crash.md": "crash", "own.md": "alarm", "title.md": "alarm"
    }  # fmt: skip
    ended = datetime.fromisoformat(ENDED)
    assert found.actions.rows() == [("web-3", "restarted", ended, None, "notes", ended)]


def test_jiras_export_and_jiralerts_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text(
        "Summary,Issue key,Issue Type,Created,Resolved,Labels,Labels,Comment,Comment\n"
        'web host,OPS-7,Incident,02/Mar/26 10:01 AM,02/Mar/26 5:02 PM,"ALERT{alertname=""CrashPredicted"",'
        'server=""web-3""}",other,02/Mar/26 10:05 AM;ada;looking,"02/Mar/26 10:20 AM;ada;acted: restarted; ok"\n'
    )
    rule = source_of("jira").model_dump() | {"files": ["tickets.csv"], "url": None, "server": {"field": "Summary"}}
    source = TicketSource.model_validate(rule)
    found = parse("jira", source, saved_records.records("jira", source), LATEST)
    at = datetime(2026, 3, 2, 10, 20, tzinfo=UTC)
    assert found.tickets.select("server_id", "kind").rows() == [("web-3", "alarm")]
    assert found.actions.rows() == [("web-3", "restarted; ok", at, "ada", "jira", at)]


def test_servers_by_their_labels() -> None:
    assert own_alarms.servers_of({"a": listed("web-3", "db 7")}, source_of("table")) == ["db 7", "web-3"]
    mixed = listed("web-3") + listed("web-9").replace("CrashPredicted", "HostDown")
    assert own_alarms.servers_of({"a": mixed}, source_of("table")) == ["web-3"]
