"""A table of incidents, from any system, with the names of our columns unless params.yaml says others."""

from crashcast.sources.tickets.system import COMMON_FIELDS, System

SYSTEM = System(
    fields={
        "server": ("server_id",),
        "ticket_id": ("incident_id",),
        "kind": ("kind",),
        **{name: (name,) for name in COMMON_FIELDS},
    },
)
