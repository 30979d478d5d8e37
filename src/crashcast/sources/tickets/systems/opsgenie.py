"""Opsgenie, by its Alert API v2: GET /v2/alerts and GET /v2/alerts/{id}.

Source: Opsgenie's API reference (alerts, pagination, rate limiting).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from crashcast.sources.tickets.fields import Record, first_values, text_at
from crashcast.sources.tickets.own_alarms import listed_remarks, stems_from_alarm
from crashcast.sources.tickets.system import ReadTime, System

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource
    from crashcast.sources.tickets.api import Api

PAGE = 100  # alerts in one answer, at most
REACH = 20_000  # offset + limit, at most
DETAILS = ("entity", "details", "description", "actions")  # an alert in a list is without them


def ask(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Yield alerts, each with its details if params.yaml uses them; of our own alarms, details and notes."""
    detailed = any(path.split(".")[0] in DETAILS for path in source.used_paths())

    def page(first: datetime, last: datetime, offset: int) -> tuple[list[Record], bool]:
        query = f"createdAt >= {_milliseconds(first)} AND createdAt < {_milliseconds(last)}"
        order = {"sort": "createdAt", "order": "asc"}
        answer = api.get("/v2/alerts", "data", {"query": query, **order, "limit": PAGE, "offset": offset})
        # the address of the next page is not followed: a token is sent to the url of params.yaml only
        paging = answer.get("paging")
        return answer["data"], isinstance(paging, dict) and "next" in paging

    for alert in api.in_windows(page, since, until, PAGE, REACH):
        is_own = stems_from_alarm(alert, source)
        path = f"/v2/alerts/{api.quoted(alert, 'id')}" if detailed or is_own else ""
        details = api.get(path, "data", kind=dict)["data"] if path else {}
        notes = {"notes": api.get(f"{path}/notes", "data", {"limit": PAGE})["data"]} if is_own else {}
        yield alert | details | notes


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def complete(alert: Record, read_time: ReadTime) -> Record:
    """Derive `closed_at`: the report of a closed alert says how many milliseconds after its creation it was closed."""
    took = first_values(alert, ["report.closeTime"])
    created = first_values(alert, ["createdAt"])
    if text_at(alert, "status") != "closed" or not took or not created:
        return alert
    try:
        start, lasted = read_time(created[0]), timedelta(milliseconds=float(took[0]))
        return alert if start is None else alert | {"closed_at": (start + lasted).isoformat()}
    except (TypeError, ValueError, OverflowError):
        return alert


SYSTEM = System(
    fields={
        "server": ("entity",),
        "ticket_id": ("id",),
        "started_at": ("createdAt",),
        "resolved_at": ("closed_at",),
        "reported_at": ("createdAt",),
        "updated_at": ("updatedAt",),
        "severity": ("priority",),
        "summary": ("message",),
    },
    list_key="data",
    complete=complete,
    remarks=lambda alert: listed_remarks(alert, "notes", text="note", at="createdAt", who="owner"),
    written=("notes",),
    ask=ask,
    url="https://api.opsgenie.com",
    headers=lambda token, user: {"Authorization": f"GenieKey {token}"},
    wait_headers=("X-RateLimit-Period-In-Sec",),
)
