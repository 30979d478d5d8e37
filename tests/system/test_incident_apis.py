"""`crashcast incidents` against recorded answers, served with pages, rate limits and failures."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
import yaml
from dvc.repo import Repo
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.cli import main
from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.params.tickets import TicketSource
from crashcast.sources.importing import run_import
from crashcast.sources.tickets import api as apis
from crashcast.sources.tickets import saved_records
from crashcast.sources.tickets.collect import collect
from crashcast.sources.tickets.systems import pagerduty
from crashcast.sources.tickets.tickets import parse

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/data/incident_apis"
WRITTEN = ("incidents", "tickets", "ticket_sources", "actions")
FILES = [Path(f"data/raw/{name}.parquet") for name in WRITTEN]
TOKEN = "s3cret-t0ken"
PERIOD = ["--since", "2026-03-01", "--until", "2026-03-31"]
AUTHORIZATIONS = {f"Token token={TOKEN}", f"GenieKey {TOKEN}", f"Bearer {TOKEN}"}
SOURCES = {
    "pagerduty": {
        "type": "pagerduty",
        "server": {"field": "title", "pattern": r"\b(web|db)-\d+\b"},
        "maintenance": {"title": "planned.*"},
        "crash": {"urgency": "high"},
    },
    "opsgenie": {
        "type": "opsgenie",
        "server": {"pattern": "^[^.]+", "lowercase": True},
        "crash": {"priority": ["P1", "P2"]},
    },
    "jira": {
        "type": "jira",
        "query": "project = OPS",
        "server": {"field": "fields.labels", "pattern": r"(web|db)-\d+"},
        "maintenance": {"fields.issuetype": "Change"},
        "crash": {"fields.issuetype": "Incident"},
        "fields": {"started_at": ["fields.customfield_10050", "fields.created"]},
    },
    "servicenow": {
        "type": "servicenow",
        "files": [str(RECORDED / "servicenow_incident.json")],
        "time_zone": "Europe/Berlin",
    },
    "notes": {"type": "notes", "files": ["notes/**/*.md"]},
}


def recorded(name: str) -> Any:
    """Return a recorded answer."""
    return json.loads((RECORDED / name).read_text())


class Systems(ThreadingHTTPServer):
    """PagerDuty, Opsgenie and Jira at one address, as far as a collection needs them.

    `faults` are answered first, one a request: (status, headers, body), or None for a connection that breaks off.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.incidents: list[dict[str, Any]] = recorded("pagerduty_incidents.json")["incidents"]
        self.log = recorded("pagerduty_log_entries.json")
        self.alerts = recorded("opsgenie_alerts.json")["data"]
        self.details = recorded("opsgenie_details.json")
        self.issues = recorded("jira_search.json")["issues"]
        self.remarks: dict[str, dict[str, Any]] = {}  # by their path
        self.faults: list[tuple[int, dict[str, str], str] | None] = []
        self.asked: list[str] = []
        self.refused: list[str] = []

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return status and body, refusing what the real systems refuse."""
        if path in self.remarks:
            return 200, self.remarks[path]
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 20))
        if limit > 100:
            return 400, {"error": {"message": "Limit exceeds 100"}}
        if path == "/incidents":
            since, until = (moment(query[name]) for name in ("since", "until"))
            if until - since > timedelta(days=180) or offset + limit > 10_000:
                return 400, {
                    "error": {"code": 2002, "errors": ["Offset+limit exceeds maximum allowed value of 10000."]}
                }
            inside = [i for i in self.incidents if since <= moment(i["created_at"]) < until]
            page, more = inside[offset : offset + limit], offset + limit < len(inside)
            return 200, {"incidents": page, "limit": limit, "offset": offset, "total": None, "more": more}
        if match := re.fullmatch(r"/incidents/(\w+)/log_entries", path):
            return 200, self.log.get(match[1], {"log_entries": [], "more": False})
        if path == "/v2/alerts":
            first, last = (int(text) for text in re.findall(r"createdAt >?=? ?<? ?(\d+)", query["query"]))
            inside = [a for a in self.alerts if first <= moment(a["createdAt"]).timestamp() * 1000 < last]
            paging = {"first": "https://elsewhere.example.com/v2/alerts"}
            if offset + limit < len(inside):
                paging["next"] = f"https://elsewhere.example.com/v2/alerts?offset={offset + limit}"
            return 200, {"data": inside[offset : offset + limit], "paging": paging, "took": 0.1, "requestId": "1"}
        if match := re.fullmatch(r"/v2/alerts/([\w-]+)", path):
            return 200, self.details[match[1]]
        if path == "/rest/api/3/search/jql":
            start = int(query.get("nextPageToken", "page-0").removeprefix("page-"))
            onward = {"isLast": True} if start + 1 >= len(self.issues) else {"nextPageToken": f"page-{start + 1}"}
            return 200, {"issues": self.issues[start : start + 1], **onward}
        if path == "/rest/api/2/search":
            start = int(query["startAt"])
            found = {"startAt": start, "maxResults": 2, "total": len(self.issues)}
            return 200, {**found, "issues": self.issues[start : start + 2]}
        return 404, {"message": "no such path"}


class Handler(BaseHTTPRequestHandler):
    """Asks for a token, fails where it shall, and answers."""

    server: Systems
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") not in AUTHORIZATIONS:
            self.server.refused.append(self.path)
            self.send(401, {}, '{"error": {"message": "Invalid token"}}')
            return
        if self.server.faults:
            fault = self.server.faults.pop(0)
            if fault is None:
                self.break_off()
            else:
                self.send(*fault)
            return
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        status, body = self.server.answer(parts.path, query)
        self.send(status, {}, json.dumps(body))

    def break_off(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"incidents": [')
        self.close_connection = True

    def send(self, status: int, headers: dict[str, str], text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def moment(text: str) -> datetime:
    """Read a time as the systems write it."""
    return datetime.fromisoformat(text)


@pytest.fixture
def systems() -> Iterator[Systems]:
    """Serve the recorded answers."""
    with Systems() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project under git and DVC whose data somebody imported."""
    folder = tmp_path_factory.mktemp("template")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"]["source"] = "import"
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copy(ROOT / ".dvcignore", folder)
    shutil.copytree(RECORDED / "notes", folder / "notes")
    subprocess.run(["git", "init", "--quiet", "--template=", folder], check=True)
    Repo.init(folder).close()
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy it, make it the current folder and put the tokens into the environment."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    for name in ("PAGERDUTY", "OPSGENIE", "JIRA"):
        monkeypatch.setenv(f"{name}_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def configure(project: Path, systems: Systems) -> Callable[..., None]:
    """Write sources into params.yaml: of those above the ones named, with changes."""

    def write(*names: str, bad_share: float = 0.5, **changes: Any) -> None:
        content = yaml.safe_load(Path("params.yaml").read_text())
        sources = {name: SOURCES[name] | changes for name in names}
        for source in sources.values():
            if not source.get("files"):
                source.setdefault("url", systems.url)
        content["tickets"] |= {"sources": sources, "max_bad_share": bad_share}
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    return write


def run(apart: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command, in this process or in one of its own."""
    command = ["crashcast", "incidents", *PERIOD]
    if apart:
        return subprocess.run(command, text=True, capture_output=True)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(command, ended.value.code, out.getvalue(), err.getvalue())


def rows(path: str, *columns: str) -> list[tuple[Any, ...]]:
    """Return a table's rows, times as text."""
    frame = pl.read_parquet(path).select(columns)
    return frame.with_columns(pl.selectors.datetime().dt.strftime("%m-%d %H:%M:%S")).rows()


def hashes() -> list[str]:
    """Return the hashes of what is written."""
    return [md5(path) for path in FILES]


def test_one_outage_told_by_five_systems_is_one_incident(configure: Callable[..., None]) -> None:
    configure(*SOURCES)
    first = run(apart=True)
    assert first.returncode == 0, first.stderr
    columns = ("server_id", "kind", "started_at", "resolved_at", "reported_at", "source")
    assert rows("data/raw/incidents.parquet", *columns) == [
        # the note knows the start, Opsgenie rang first and closed last but for ServiceNow, which forgot to
        (
            "db-1",
            "crash",
            "03-02 08:40:00",
            "03-02 09:32:00",
            "03-02 08:46:58",
            "notes, opsgenie, pagerduty, servicenow",
        ),
        ("web-1", "crash", "03-04 23:58:31", None, "03-04 23:58:31", "pagerduty"),
        ("web-2", "crash", "03-04 23:58:31", "03-05 01:00:00", "03-04 23:58:31", "pagerduty, servicenow"),
        ("db-2", "crash", "03-05 12:20:00", "03-05 13:30:00", "03-05 12:22:40", "jira, opsgenie"),
        ("web-2", "maintenance", "03-06 03:00:00", "03-06 03:30:00", "03-06 03:00:00", "jira, pagerduty"),
        ("web-1", "maintenance", "03-09 21:00:00", "03-09 22:00:00", None, "notes"),
        ("web-2", "maintenance", "03-09 21:00:00", "03-09 22:00:00", None, "notes"),
    ]
    outage = "notes:notes/2026/03-02-db-1.md:db-1"
    told = rows("data/raw/tickets.parquet", "source", "ticket_id", "started_at", "resolved_at", "incident_id")
    assert [(*ticket[:4],) for ticket in told if ticket[4] == outage] == [
        ("notes", "notes/2026/03-02-db-1.md", "03-02 08:40:00", "03-02 09:30:00"),
        ("opsgenie", "70413a06-0001-db1", "03-02 08:46:58", "03-02 09:32:00"),
        ("pagerduty", "Q1DB1DOWN", "03-02 08:47:12", "03-02 09:31:05"),
        ("pagerduty", "Q2MERGED", "03-02 08:49:40", None),
        ("servicenow", "INC0010001", "03-02 09:05:00", "03-04 16:20:00"),
    ]
    assert rows("data/raw/ticket_sources.parquet", "source", "covered_from", "covered_to") == [
        ("jira", "03-05 09:00:00", "03-31 00:00:00"),
        ("notes", "03-02 09:20:00", "03-09 21:00:00"),
        ("opsgenie", "03-02 08:46:58", "03-31 00:00:00"),
        ("pagerduty", "03-02 08:47:12", "03-31 00:00:00"),
        ("servicenow", "03-02 09:05:00", "03-05 00:10:00"),
    ]
    assert "pagerduty: 5 tickets of 6 records, 1 ignored, 1 not understood" in first.stdout
    assert Path("reports/tickets_left_out.csv").read_text().splitlines() == [
        "source,ticket_id,reason",
        "pagerduty,Q6SHOP,no server at title: 'Checkout errors above 5%'",
        "servicenow,INC0010003,no server at cmdb_ci",
        "notes,notes/2026/03-10-someday.md,started_at: '2026-03-10' has no time of day",
    ]
    assert all(path.with_name(f"{path.name}.dvc").exists() for path in FILES)

    before = hashes()
    again = run()
    assert "0 tickets added, 0 corrected, 14 unchanged" in again.stdout
    assert hashes() == before
    assert TOKEN not in first.stdout + first.stderr + "".join(
        path.read_text() for path in Path().glob("data/raw/*.dvc")
    )


def test_tickets_of_our_own_alarms_are_no_crashes_and_say_what_was_done(
    configure: Callable[..., None], systems: Systems
) -> None:
    configure("pagerduty", "opsgenie", "jira")
    run()
    before = [md5(path) for path in FILES[:1]]
    title, opened = "[FIRING:1] CrashPredicted web (warning)", "2026-03-07T10:01:12Z"
    labels = "Labels:\n - alertname = CrashPredicted\n - group = web\n - server = web-1\nAnnotations:\n"
    user, noted = {"summary": "Ada Lovelace"}, "2026-03-07T10:20:00Z"
    own = {"id": "QOWN", "title": title, "summary": title, "created_at": opened, "resolved_at": noted}
    systems.incidents.append(systems.incidents[0] | own)
    systems.remarks = {
        "/incidents/QOWN/alerts": {"alerts": [{"body": {"details": {"firing": labels}}}]},
        "/incidents/QOWN/notes": {"notes": [{"content": "acted: restarted", "created_at": noted, "user": user}]},
        "/v2/alerts/own/notes": {"data": [{"note": "acted: drained", "owner": "ada", "createdAt": noted}]},
    }
    alert = systems.alerts[0] | {"id": "own", "message": title, "createdAt": opened}
    systems.alerts.append(alert)
    systems.details["own"] = {"data": alert | {"description": labels, "details": {"alertname": "CrashPredicted"}}}
    fields = {"summary": title, "issuetype": {"name": "Incident"}, "labels": [], "description": labels}
    dates = {"created": opened, "resolutiondate": opened, "updated": opened}
    comment = {"body": "acted: replaced a disk", "created": noted, "author": {"displayName": "Ada"}}
    systems.issues.append({"key": "OPS-9", "fields": fields | dates | {"comment": {"comments": [comment]}}})

    said = run()
    assert "3 tickets stem from our own alarms, so they are part of no incident; 3 actions" in said.stdout
    assert [md5(path) for path in FILES[:1]] == before
    of_alarms = pl.read_parquet(FILES[1]).filter(kind="alarm")
    assert of_alarms.select("source", "server_id", "incident_id").rows() == [
        (source, "web-1", None) for source in ("jira", "opsgenie", "pagerduty")
    ]
    at = "03-07 10:20:00"
    assert rows(str(FILES[3]), *tables.ACTIONS) == [
        ("web-1", "drained", at, "ada", "opsgenie", at),
        ("web-1", "replaced a disk", at, "Ada", "jira", at),
        ("web-1", "restarted", at, "Ada Lovelace", "pagerduty", at),
    ]
    asked = [path for path in systems.asked if "notes" in path]
    assert asked == ["/incidents/QOWN/notes", "/v2/alerts/own/notes?limit=100"]  # of others nobody reads them
    after = hashes()
    run()
    assert hashes() == after


@pytest.mark.parametrize("is_told", [False, True], ids=["by default", "if told a later day"])
def test_tickets_are_asked_for_until_the_last_full_hour(configure: Callable[..., None], is_told: bool) -> None:
    configure("pagerduty")
    before = datetime.now(UTC)
    collect(since=date(2026, 3, 1), until=datetime.now(UTC).date() + timedelta(days=2) if is_told else None)
    hours = {f"{moment:%m-%d %H}:00:00" for moment in (before, datetime.now(UTC))}
    ((ended,),) = rows("data/raw/ticket_sources.parquet", "covered_to")
    assert ended in hours


def test_a_late_answer_changes_only_its_own_incident(configure: Callable[..., None], systems: Systems) -> None:
    configure("pagerduty")
    run()
    before = rows("data/raw/incidents.parquet", "incident_id", "resolved_at")
    webs = next(incident for incident in systems.incidents if incident["id"] == "Q4WEBS")
    webs |= {"status": "resolved", "resolved_at": "2026-03-05T02:00:00Z", "updated_at": "2026-03-05T02:00:00Z"}
    said = run()
    assert "0 tickets added, 2 corrected, 3 unchanged" in said.stdout
    changed = set(rows("data/raw/incidents.parquet", "incident_id", "resolved_at")) - set(before)
    assert changed == {(f"pagerduty:Q4WEBS:web-{n}", "03-05 02:00:00") for n in (1, 2)}


@pytest.mark.ci  # it waits out rate limits
def test_pages_rate_limits_and_failures_leave_no_trace(configure: Callable[..., None], systems: Systems) -> None:
    configure("pagerduty")
    model = systems.incidents[0] | {"status": "triggered", "resolved_at": None}
    start = moment("2026-03-01T00:00:00Z")
    systems.incidents = [
        model | {"id": f"P{n:03}", "created_at": (start + timedelta(hours=2 * n)).isoformat()} for n in range(250)
    ]
    undisturbed = run()
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert pl.read_parquet(FILES[1]).height == 250
    assert len(systems.asked) == 3  # pages of at most 100
    before = hashes()
    for path in FILES:
        path.unlink()
        path.with_name(f"{path.name}.dvc").unlink()

    ok = (503, {"Retry-After": "0"}, "<html>try again</html>")
    systems.faults = [(429, {"ratelimit-reset": "1"}, "{}"), ok, None, (200, {}, "<html>login"), ok]
    disturbed = run()
    assert disturbed.returncode == 0, disturbed.stderr
    assert systems.faults == []
    assert hashes() == before


def test_what_cannot_be_had_leaves_the_data_as_it_was(configure: Callable[..., None], systems: Systems) -> None:
    configure("pagerduty")
    run()
    before = hashes()
    systems.incidents.append(systems.incidents[0] | {"id": "QNEW"})
    for (status, body), message in {
        (403, "no"): "the token in PAGERDUTY_TOKEN is refused (403)",
        (400, "bad request"): "/incidents answered 400 Bad Request: bad request",
        (200, '{"objects": []}'): "the answer of /incidents has no 'incidents': is url right?",
    }.items():
        systems.faults = [(status, {}, body)]
        with pytest.raises(UserError, match=re.escape(message)):
            collect(since=date(2026, 3, 1), until=date(2026, 3, 31))
        assert hashes() == before
    systems.faults = [(429, {"Retry-After": "3600"}, "")]
    said = run()
    assert (said.returncode, hashes()) == (2, before)
    assert "429 Too Many Requests: it asks to wait 3600 s" in said.stderr


def test_a_wrong_or_missing_token_is_named_and_never_shown(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("opsgenie")
    monkeypatch.setenv("OPSGENIE_TOKEN", "wrong-t0ken")
    wrong = run()
    assert wrong.returncode == 2
    assert "the token in OPSGENIE_TOKEN is refused (401)" in wrong.stderr
    assert "wrong-t0ken" not in wrong.stdout + wrong.stderr
    monkeypatch.setenv("OPSGENIE_TOKEN", "two\nlines")
    broken = run()
    assert "opsgenie: OPSGENIE_TOKEN holds more than a token" in broken.stderr
    assert "two" not in broken.stderr
    monkeypatch.delenv("OPSGENIE_TOKEN")
    assert "opsgenie: no token: set OPSGENIE_TOKEN in the environment" in run().stderr
    assert not Path("data/raw").exists()


def test_a_token_goes_nowhere_but_to_its_own_address(configure: Callable[..., None], systems: Systems) -> None:
    configure("opsgenie")
    with Systems() as other:
        Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        systems.faults = [(302, {"Location": f"{other.url}/v2/alerts"}, "")]
        said = run()
        other.shutdown()
    assert said.returncode == 2
    assert "/v2/alerts answered 302" in said.stderr
    assert other.asked == []


def test_too_many_bad_tickets_stop_the_collection(configure: Callable[..., None]) -> None:
    configure("pagerduty", bad_share=0.1)
    said = run()
    assert said.returncode == 2
    assert "pagerduty: 20% of its tickets are not understood; tickets.max_bad_share allows 10%" in said.stderr
    assert "pagerduty Q6SHOP: no server at title: 'Checkout errors above 5%'" in said.stderr
    assert not Path("data/raw").exists()


@pytest.mark.parametrize("kept", [1, 2])
def test_a_collection_killed_between_two_files_is_made_good(
    configure: Callable[..., None], systems: Systems, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr("crashcast.sources.tickets.collect.track", lambda paths: None)
    configure("opsgenie")
    period = {"since": date(2026, 3, 1), "until": date(2026, 3, 31)}
    collect(**period)
    before = {path: path.read_bytes() for path in FILES}
    systems.alerts.pop(0)
    collect(**period, replace=True)
    after = hashes()
    written = [FILES[1], FILES[0], FILES[2]]  # in this order
    for path in written[kept:]:
        path.write_bytes(before[path])
    assert hashes() != after
    collect(**period)
    assert hashes() == after


def test_what_was_imported_before_stays(configure: Callable[..., None]) -> None:
    started = datetime(2026, 3, 2, 8, 50, tzinfo=UTC)
    ended = started + timedelta(minutes=5)
    old = [
        ("A-1", "db-1", "crash", started, ended, started, None, None, None),
        ("A-2", "db-9", "crash", started, ended, started, "high", "pagerduty", "by hand"),
    ]
    tables.write(FILES[0], pl.DataFrame(old, schema=dict(tables.INCIDENTS), orient="row"))
    configure("opsgenie")
    assert run().returncode == 0
    assert rows("data/raw/incidents.parquet", "server_id", "started_at", "source") == [
        ("db-1", "03-02 08:46:58", "import, opsgenie"),
        ("db-9", "03-02 08:50:00", "import"),
        ("db-2", "03-05 12:22:40", "opsgenie"),
    ]
    before = hashes()
    run()
    assert hashes() == before


def test_an_import_that_starts_over_forgets_what_was_collected(configure: Callable[..., None]) -> None:
    configure("opsgenie")
    assert run().returncode == 0
    hours = pl.datetime_range(datetime(2026, 3, 1), datetime(2026, 3, 4), "1h", time_zone="UTC", eager=True)
    pl.DataFrame({"time": hours, "host": "db-9", "cpu_pct": range(len(hours))}).write_csv("samples.csv")
    Path("incidents.csv").write_text("host,start\ndb-9,2026-03-02 08:50:00\n")
    run_import.import_files([Path("samples.csv")], Path("incidents.csv"), replace=True)
    assert not [path for path in FILES[1:2] if path.exists() or path.with_name(f"{path.name}.dvc").exists()]
    assert rows("data/raw/ticket_sources.parquet", "source") == []
    assert run().returncode == 0
    assert ("db-9", "import") in rows("data/raw/incidents.parquet", "server_id", "source")


MARCH = ("2026-03-01T00:00:00Z", "2026-03-31T00:00:00Z")


def ask(systems: Systems, name: str, period: tuple[str, str] = MARCH, **changes: Any) -> list[dict[str, Any]]:
    """Return a source's records, in this process."""
    source = TicketSource.model_validate(SOURCES[name] | {"url": systems.url} | changes)
    return list(apis.records(name, source, *map(moment, period)))


@pytest.mark.usefixtures("project")
def test_jira_pages_in_both_editions(systems: Systems) -> None:
    keys = ["OPS-31", "OPS-32", "OPS-33"]
    assert [issue["key"] for issue in ask(systems, "jira")] == keys
    assert [issue["key"] for issue in ask(systems, "jira", edition="server")] == keys
    query = parse_qs(urlsplit(systems.asked[0]).query)
    wider = "(project = OPS) AND created >= '2026-02-28 00:00' AND created < '2026-04-01 00:00'"
    assert query["jql"] == [f"{wider} ORDER BY created ASC, key ASC"]
    assert "customfield_10050" in query["fields"][0].split(",")
    within = ask(systems, "jira", period=("2026-03-05T10:00:00Z", "2026-03-08T09:00:00Z"))
    assert [issue["key"] for issue in within] == ["OPS-31"]  # of all three that this server gave


@pytest.mark.usefixtures("project")
def test_acknowledgements_are_looked_up_only_where_they_are_used(systems: Systems) -> None:
    plain = ask(systems, "pagerduty")
    assert len(systems.asked) == 1
    known = ask(systems, "pagerduty", fields={"reported_at": ["acknowledged_at", "created_at"]})
    given = pagerduty.complete(known[0], moment)
    assert given["acknowledged_at"] == "2026-03-02T08:51:30Z"  # the first of two
    assert "acknowledged_at" not in pagerduty.complete(plain[0], moment)


@pytest.mark.usefixtures("project")
def test_more_than_pagerduty_pages_through_is_asked_for_in_shorter_windows(
    systems: Systems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagerduty, "PAGE", 2)
    monkeypatch.setattr(pagerduty, "REACH", 4)
    found = [incident["id"] for incident in ask(systems, "pagerduty")]
    assert found == [incident["id"] for incident in systems.incidents]


@pytest.mark.usefixtures("project")
def test_a_system_that_stays_down_is_given_up(systems: Systems, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(apis.time, "sleep", waits.append)
    systems.faults = [(500, {}, "")] * apis.ATTEMPTS
    with pytest.raises(UserError, match="/incidents failed 8 times, last with 500 Internal Server Error"):
        ask(systems, "pagerduty")
    assert waits == [1, 2, 4, 8, 16, 32, 60]


def test_no_netrc_replaces_the_token(systems: Systems, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(project / "netrc"))
    assert len(ask(systems, "pagerduty")) == 6
    assert systems.refused == []


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", ["pagerduty", "opsgenie", "jira"])
def test_saved_answers_give_the_tickets_that_the_api_gives(systems: Systems, name: str) -> None:
    answers = {
        "pagerduty": [{"incidents": systems.incidents}],
        "opsgenie": list(systems.details.values()),
        "jira": [{"issues": [issue]} for issue in systems.issues],
    }[name]
    closed_later = {"status": "resolved", "resolved_at": None, "last_status_change_at": "2026-03-05T03:00:00Z"}
    next(incident for incident in systems.incidents if incident["id"] == "Q4WEBS").update(closed_later)
    for number, answer in enumerate(answers):
        Path(f"{number}.json").write_text(json.dumps(answer))
    files = TicketSource.model_validate(SOURCES[name] | {"files": ["*.json"]})
    latest = datetime(2026, 6, 1, tzinfo=UTC)
    from_files = parse(name, files, saved_records.records(name, files), latest)
    from_api = parse(name, files, ask(systems, name), latest)
    assert from_api.tickets["resolved_at"].drop_nulls().len()
    assert_frame_equal(from_files.tickets, from_api.tickets)
    assert from_files.bad == from_api.bad
