"""The ticket systems: one file says everything about one system, and one line here lists it."""

from importlib import import_module

from crashcast.sources.tickets.system import System

NAMES = (
    "pagerduty",
    "opsgenie",
    "servicenow",
    "jira",
    "table",
    "notes",
)
SYSTEMS: dict[str, System] = {name: import_module(f"{__name__}.{name}").SYSTEM for name in NAMES}
