"""ServiceNow: exports of its table `incident`, as CSV or as the JSON of its Table API."""

from crashcast.sources.tickets.system import System

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
)
