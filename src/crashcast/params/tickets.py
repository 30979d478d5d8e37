"""The section `tickets` of params.yaml: where tickets are, and which of them are one incident."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from crashcast.params.base import Duration, Group, PositiveDuration, Section
from crashcast.params.collect import Headers
from crashcast.sources.tickets.system import System
from crashcast.sources.tickets.systems import SYSTEMS


def _several(value: Any) -> Any:
    # one, a list of them, or null for none
    return [] if value is None else value if isinstance(value, list | tuple) else [value]


def _pattern(value: Any) -> str:
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return str(value)  # YAML reads a bare 1 as a number


def _system(value: str) -> str:
    if value not in SYSTEMS:
        raise ValueError(f"must be one of {', '.join(SYSTEMS)}")
    return value


Pattern = Annotated[str, BeforeValidator(_pattern)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_several)]
Role = Literal[
    "ticket_id", "started_at", "resolved_at", "reported_at", "updated_at", "kind", "severity", "summary"
]  # the fields of a ticket
Conditions = dict[str, Annotated[tuple[Pattern, ...], BeforeValidator(_several), Field(min_length=1)]]


class TicketServer(Group):
    """Where a ticket names its servers."""

    field: Paths = ()  # the first that holds something; by default, the usual one of the source's type
    pattern: Pattern | None = None  # each match in it, or the match's group `server`, is a name
    names: dict[str, str] = Field(default_factory=dict)  # of names that are not the server_id
    lowercase: bool = False


class TicketSource(Group):
    """A system that holds tickets. Its token is in the environment, never here (docs/incidents.md)."""

    type: Annotated[str, AfterValidator(_system)]
    url: str | None = None  # of the API
    headers: Headers = Field(default_factory=dict)
    files: Paths = ()  # exports instead: paths and patterns such as notes/**/*.md
    edition: Literal["cloud", "server"] = "cloud"  # of systems whose editions page differently
    query: str | None = None  # in the API's own language, if it needs one
    time_zone: str | None = None  # of times that have none
    time_format: str | None = None  # of times that are not ISO 8601, as for strptime
    server: TicketServer = TicketServer()
    # every field matches one of its patterns as a whole; no field: all that is not maintenance
    crash: Conditions = Field(default_factory=dict)
    maintenance: Conditions = Field(default_factory=dict)
    fields: dict[Role, Paths] = Field(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"https://[^@\s]+|http://(localhost|127\.0\.0\.1)(:\d+)?(/\S*)?", value
        ):
            raise ValueError("must begin with https:// and hold no password: a token travels there")
        return value and value.rstrip("/")

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.files and self.url:
            raise ValueError("give files or url, not both")
        if self.system.ask is None and not self.files:
            raise ValueError(f"type {self.type} reads files: name them under files")
        if problem := self.system.problem(self):
            raise ValueError(problem)
        return self

    @property
    def system(self) -> System:
        """The system that it is of."""
        return SYSTEMS[self.type]

    def paths(self, role: str) -> tuple[str, ...]:
        """Return the paths at which a record may have a field of a ticket, or `server`."""
        if role == "server":
            stated = self.server.field or None
        else:
            stated = next((paths for name, paths in self.fields.items() if name == role), None)
        return self.system.fields.get(role, ()) if stated is None else stated

    def used_paths(self) -> set[str]:
        """Return all paths at which a record is read."""
        found = {path for role in ("server", *get_args(Role)) for path in self.paths(role)}
        return found | {*self.crash, *self.maintenance}


class Tickets(Section):
    """Where `crashcast incidents` finds tickets, and which of them are one incident."""

    since: date
    same_outage: Duration
    longest_outage: PositiveDuration
    max_bad_share: Annotated[float, Field(ge=0, le=1)]
    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], TicketSource]
