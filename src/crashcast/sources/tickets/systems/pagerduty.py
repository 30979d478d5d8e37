"""PagerDuty, by its REST API v2: GET /incidents and GET /incidents/{id}/log_entries.

Source: PagerDuty's developer documentation (incidents, log entries, pagination, rate limits).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crashcast.sources.tickets.fields import Record, text_at
from crashcast.sources.tickets.own_alarms import listed_remarks, stems_from_alarm
from crashcast.sources.tickets.system import ReadTime, System

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource
    from crashcast.sources.tickets.api import Api

PAGE = 100  # incidents in one answer, at most
REACH = 10_000  # offset + limit, at most
INCLUDED = {"first_trigger_log_entry": "first_trigger_log_entries", "body": "body"}  # only if they are asked for


def ask(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Yield incidents, with their log if params.yaml uses `acknowledged_at`; of our own alarms, alerts and notes."""
    used = source.used_paths()
    included = sorted({INCLUDED[head] for path in used if (head := path.split(".")[0]) in INCLUDED})

    def page(first: datetime, last: datetime, offset: int) -> tuple[list[Record], bool]:
        window = {"since": _iso(first), "until": _iso(last), "time_zone": "UTC", "sort_by": "created_at:asc"}
        answer = api.get("/incidents", "incidents", {**window, "limit": PAGE, "offset": offset, "include[]": included})
        return answer["incidents"], bool(answer.get("more"))

    for incident in api.in_windows(page, since, until, PAGE, REACH):
        if "acknowledged_at" in used:
            path = f"/incidents/{api.quoted(incident, 'id')}/log_entries"
            overview = {"is_overview": "true", "time_zone": "UTC", "limit": PAGE}
            incident["log_entries"] = api.get(path, "log_entries", overview)["log_entries"]
        if stems_from_alarm(incident, source):
            for part in ("alerts", "notes"):
                path = f"/incidents/{api.quoted(incident, 'id')}/{part}"
                incident[part] = api.get(path, part)[part]
        yield incident


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def complete(incident: Record, read_time: ReadTime) -> Record:
    """Derive the end of an incident, and `acknowledged_at` from its log."""
    derived: Record = {}
    if text_at(incident, "resolve_reason.type") == "merge_resolve_reason":
        derived["resolved_at"] = None  # merged into another incident, whose end counts
    elif text_at(incident, "status") == "resolved" and text_at(incident, "resolved_at") is None:
        derived["resolved_at"] = incident.get("last_status_change_at")
    entries = incident.get("log_entries")
    times = [
        entry.get("created_at")
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and str(entry.get("type")).startswith("acknowledge_log_entry")
    ]
    if times:
        derived["acknowledged_at"] = min(times, key=str)  # all in UTC: the first text is the earliest time
    return incident | derived


SYSTEM = System(
    fields={
        "server": ("service.summary",),
        "ticket_id": ("id",),
        "started_at": ("created_at",),
        "resolved_at": ("resolved_at",),
        "reported_at": ("created_at",),
        "updated_at": ("updated_at",),
        "severity": ("priority", "urgency"),
        "summary": ("title", "summary"),
    },
    list_key="incidents",
    complete=complete,
    remarks=lambda incident: listed_remarks(incident, "notes", text="content", at="created_at", who="user.summary"),
    written=("notes", "log_entries"),
    ask=ask,
    url="https://api.pagerduty.com",
    headers=lambda token, user: {
        "Authorization": f"Token token={token}",
        "Accept": "application/vnd.pagerduty+json;version=2",
    },
    wait_headers=("ratelimit-reset",),
)
