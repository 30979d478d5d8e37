"""The section `tickets` of params.yaml: where tickets are, and which of them are one incident."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from crashcast.params.base import Duration, Group, PositiveDuration, Section


def _several(value: Any) -> Any:
    # one, a list of them, or null for none
    return [] if value is None else value if isinstance(value, list | tuple) else [value]


def _pattern(value: Any) -> str:
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return str(value)  # YAML reads a bare 1 as a number


Pattern = Annotated[str, BeforeValidator(_pattern)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_several)]
Conditions = dict[str, Annotated[tuple[Pattern, ...], BeforeValidator(_several), Field(min_length=1)]]


class TicketServer(Group):
    """Where a ticket names its servers."""

    field: Paths = ()  # the first that holds something; by default, the usual one of the source's type
    pattern: Pattern | None = None  # each match in it, or the match's group `server`, is a name
    names: dict[str, str] = Field(default_factory=dict)  # of names that are not the server_id
    lowercase: bool = False


class TicketSource(Group):
    """A system that holds tickets. Its token is in the environment, never here (docs/incidents.md)."""

    type: Literal["pagerduty", "opsgenie", "servicenow", "jira", "table", "notes"]
    url: str | None = None  # of the API
    files: Paths = ()  # exports instead: paths and patterns such as notes/**/*.md
    edition: Literal["cloud", "server"] = "cloud"  # of Jira: they page differently
    query: str | None = None  # JQL, in Jira's API
    time_zone: str | None = None  # of times that have none
    time_format: str | None = None  # of times that are not ISO 8601, as for strptime
    server: TicketServer = TicketServer()
    # every field matches one of its patterns as a whole; no field: all that is not maintenance
    crash: Conditions = Field(default_factory=dict)
    maintenance: Conditions = Field(default_factory=dict)
    fields: dict[
        Literal["ticket_id", "started_at", "resolved_at", "reported_at", "updated_at", "kind", "severity", "summary"],
        Paths,
    ] = Field(default_factory=dict)

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
        if self.type in ("servicenow", "table", "notes") and not self.files:
            raise ValueError(f"type {self.type} reads files: name them under files")
        if self.type == "notes" and any(path.startswith("/") for path in self.files):
            raise ValueError("name notes by paths from the project's root: they are their ids")
        if self.type == "jira" and not self.files and not (self.url and self.query):
            raise ValueError("type jira needs files, or url and query")
        if self.query and re.search(r"\border\s+by\b", self.query, re.IGNORECASE):
            raise ValueError("leave ORDER BY out of the query")
        if self.type == "jira" and not self.server.field:
            raise ValueError("type jira needs server.field: a Jira issue has no usual place for it")
        return self


class Tickets(Section):
    """Where `crashcast incidents` finds tickets, and which of them are one incident."""

    since: date
    same_outage: Duration
    longest_outage: PositiveDuration
    max_bad_share: Annotated[float, Field(ge=0, le=1)]
    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], TicketSource]
