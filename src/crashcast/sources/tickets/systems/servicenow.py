"""ServiceNow: exports of its table `incident`, as CSV or as the JSON of its Table API."""

from __future__ import annotations

import re
from collections.abc import Iterator

from crashcast.sources.tickets.fields import Record, first_values
from crashcast.sources.tickets.own_alarms import Remark
from crashcast.sources.tickets.system import System

JOURNALS, CLOSING = ("comments", "work_notes", "comments_and_work_notes"), "close_notes"
# `2026-03-02 10:20:00 - Ada Lovelace (Work notes)`, then the text, the newest entry first
ENTRY = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) - (.+) \([^()\n]+\)$", re.MULTILINE)


def remarks(incident: Record) -> Iterator[Remark]:
    """Yield the entries of its journals, and what it was closed with."""
    for journal in (str(value) for name in JOURNALS for value in first_values(incident, [name])):
        _, *parts = ENTRY.split(journal)
        yield from (Remark(text, at, who) for at, who, text in zip(*(parts[n::3] for n in range(3)), strict=True))
    yield from (Remark(str(value)) for value in first_values(incident, [CLOSING]))


SYSTEM = System(
    fields={
        "server": ("cmdb_ci",),
        "ticket_id": ("number",),
        "started_at": ("opened_at", "sys_created_on"),
        "resolved_at": ("resolved_at", "closed_at"),
        "reported_at": ("opened_at", "sys_created_on"),
        "updated_at": ("sys_updated_on",),
        "severity": ("priority",),
        "summary": ("short_description",),
    },
    list_key="result",
    remarks=remarks,
    written=(*JOURNALS, CLOSING),
)
