"""A system's records, understood: one ticket per server, in our schema, or the reason why not.

A record is what the system gave, nested as it came. Fields are found by dotted paths: `service.summary`; a path through
a list goes through each of its members.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.params.tickets import Conditions, TicketSource
from crashcast.sources.importing.columns import EARLIEST, EPOCH_UNITS, NULLS, PER_SECOND, show
from crashcast.sources.importing.records import KINDS
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP

Record = dict[str, Any]

# who said what, and when: one row per ticket and server, the times as the system gives them
TICKETS: dict[str, Any] = {
    "source": pl.String,  # the name under tickets.sources in params.yaml
    "ticket_id": pl.String,
    "server_id": pl.String,
    "kind": pl.String,
    "started_at": TIMESTAMP,
    "resolved_at": TIMESTAMP,
    "reported_at": TIMESTAMP,
    "updated_at": TIMESTAMP,
    "severity": pl.String,
    "summary": pl.String,
}
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {  # where each type of system has what
    "pagerduty": {
        "server": ("service.summary",),
        "ticket_id": ("id",),
        "started_at": ("created_at",),
        "resolved_at": ("resolved_at",),
        "reported_at": ("created_at",),
        "updated_at": ("updated_at",),
        "severity": ("priority", "urgency"),
        "summary": ("title", "summary"),
    },
    "opsgenie": {
        "server": ("entity",),
        "ticket_id": ("id",),
        "started_at": ("createdAt",),
        "resolved_at": ("closed_at",),  # ours: see `opsgenie_alerts`
        "reported_at": ("createdAt",),
        "updated_at": ("updatedAt",),
        "severity": ("priority",),
        "summary": ("message",),
    },
    "servicenow": {
        "server": ("cmdb_ci",),
        "ticket_id": ("number",),
        "started_at": ("opened_at", "sys_created_on"),
        "resolved_at": ("resolved_at", "closed_at"),
        "reported_at": ("opened_at", "sys_created_on"),
        "updated_at": ("sys_updated_on",),
        "severity": ("priority",),
        "summary": ("short_description",),
    },
    "jira": {  # as its API names them, then as its CSV export does
        "ticket_id": ("key", "Issue key"),
        "started_at": ("fields.created", "Created"),
        "resolved_at": ("fields.resolutiondate", "Resolved"),
        "reported_at": ("fields.created", "Created"),
        "updated_at": ("fields.updated", "Updated"),
        "severity": ("fields.priority", "Priority"),
        "summary": ("fields.summary", "Summary"),
    },
    "table": {
        "server": ("server_id",),
        "ticket_id": ("incident_id",),
        "kind": ("kind",),
        **{name: (name,) for name in ("started_at", "resolved_at", "reported_at", "updated_at", "severity", "summary")},
    },
    "notes": {
        "server": ("server_id", "server_ids"),
        "ticket_id": ("file",),  # ours: see `exports`
        "kind": ("kind",),
        **{name: (name,) for name in ("started_at", "resolved_at", "reported_at", "updated_at", "severity", "summary")},
    },
}
JIRA_FORMAT = "%d/%b/%y %I:%M %p"  # of its CSV export, unless an administrator changed it
WORDS, TIMES = ("display_value", "name", "summary", "value"), ("value", "display_value")  # of an object, what it means
ZONE_FORMS = re.compile(r"\s*(?:UTC|GMT|Z)$", re.IGNORECASE)


class LeftOut(NamedTuple):
    """A record that could not be understood."""

    source: str
    ticket_id: str
    reason: str


@dataclass(frozen=True)
class Understood:
    """What a source's records say.

    Attributes
    ----------
    tickets : DataFrame
        In our schema (`TICKETS`), each (ticket, server) once.
    bad : list of LeftOut
        Records that could not be understood.
    ignored : int
        Records that are neither a crash nor maintenance by the conditions of params.yaml.
    read : int
        All records.
    """

    tickets: pl.DataFrame
    bad: list[LeftOut]
    ignored: int
    read: int


def understand(name: str, source: TicketSource, records: Iterable[Record], latest: datetime) -> Understood:
    """Turn a source's records into tickets.

    Parameters
    ----------
    name : str
        The source's name.
    source : TicketSource
        What params.yaml says about it.
    records : iterable of dict
        As the system gives them, in any order.
    latest : datetime
        What no crash may lie after; maintenance may be planned ahead.
    """
    rows: list[Record] = []
    bad: list[LeftOut] = []
    ignored = read = 0
    for read, record in enumerate(records, start=1):
        ticket_id = words(record, paths(source, "ticket_id"))
        try:
            kind = kind_of(record, source)
            if kind is None:
                ignored += 1
                continue
            if ticket_id is None:
                raise ValueError(f"no id at {_list(paths(source, 'ticket_id'))}")
            rows += _tickets(name, source, record, {"source": name, "ticket_id": ticket_id, "kind": kind}, latest)
        except ValueError as error:
            bad.append(LeftOut(name, ticket_id or f"record {read}", str(error)))
    frame = pl.DataFrame(rows, schema=TICKETS)
    tickets = newest(frame)
    bad += [
        LeftOut(name, ticket_id, "another ticket has this id and holds") for ticket_id in _contradicted(frame, tickets)
    ]
    return Understood(tickets, sorted(set(bad)), ignored, read)


def _contradicted(frame: pl.DataFrame, kept: pl.DataFrame) -> list[str]:
    # given several times with other values, and nothing says which of them is newer
    keys = ["source", "ticket_id", "server_id", "updated_at"]
    others = frame.unique().join(kept, on=kept.columns, how="anti", nulls_equal=True)
    return others.join(kept, on=keys, how="semi", nulls_equal=True)["ticket_id"].to_list()


def newest(tickets: pl.DataFrame) -> pl.DataFrame:
    """Keep the newest version of each ticket, in the order of (source, ticket_id, server_id).

    The one that was updated last; of versions as new, or without that time, the one resolved last. Which row came first
    does not matter.
    """
    keys = ["source", "ticket_id", "server_id"]
    others = [name for name in ("updated_at", "resolved_at", *tickets.columns) if name not in keys]
    return tickets.sort(*keys, *dict.fromkeys(others)).unique(keys, keep="last", maintain_order=True)


def paths(source: TicketSource, role: str) -> tuple[str, ...]:
    """Return where a source's records have something: what params.yaml says, or what its type has by default."""
    stated = source.server.field or None if role == "server" else dict(source.fields).get(role)  # type: ignore[call-overload]
    return FIELDS[source.type].get(role, ()) if stated is None else stated


def values_at(record: Any, path: str) -> Iterator[Any]:
    """Give what lies at a dotted path: several values where it leads through lists, none where it leads nowhere."""
    if isinstance(record, list):
        for member in record:
            yield from values_at(member, path)
    elif not path:
        yield record
    elif isinstance(record, dict):
        if path in record:  # names may have dots in them: ServiceNow's `cmdb_ci.name`
            yield from values_at(record[path], "")
            return
        head, _, rest = path.partition(".")
        if rest and head in record:
            yield from values_at(record[head], rest)


def _said(record: Record, paths: Iterable[str], meanings: tuple[str, ...] = WORDS) -> list[Any]:
    # what the first path that leads to something says
    for path in paths:
        found = []
        for value in values_at(record, path):
            if isinstance(value, dict):  # a reference, such as a priority: its name
                value = next((value[key] for key in meanings if value.get(key)), None)
            text = str(value).strip() if value is not None else ""
            if text.lower() not in NULLS:
                found.append(text if isinstance(value, str) else value)
        if found:
            return found
    return []


def words(record: Record, paths: Iterable[str]) -> str | None:
    """Return the text at the first path that leads to one."""
    return next((" ".join(str(value).split()) for value in _said(record, paths)), None)


def kind_of(record: Record, source: TicketSource) -> str | None:
    """Say whether a record is of a crash or of maintenance; None where it is neither.

    Raises
    ------
    ValueError
        Where it names its kind in a word that means neither.
    """
    if (word := words(record, paths(source, "kind"))) is not None:
        if word.lower() not in KINDS:
            raise ValueError(f"kind '{word}' is neither a crash nor maintenance ({', '.join(KINDS)})")
        return KINDS[word.lower()]
    if source.maintenance and fulfils(record, source.maintenance):
        return MAINTENANCE
    return CRASH if fulfils(record, source.crash) else None


def fulfils(record: Record, conditions: Conditions) -> bool:
    """Tell whether every named field has a value that matches, as a whole and in any case, one of its patterns."""
    return all(
        any(re.fullmatch(pattern, str(value), re.IGNORECASE) for pattern in patterns for value in _said(record, [path]))
        for path, patterns in conditions.items()
    )


def _tickets(name: str, source: TicketSource, record: Record, known: Record, latest: datetime) -> list[Record]:
    times: dict[str, datetime | None] = {}
    for role in ("started_at", "resolved_at", "reported_at", "updated_at"):
        said = _said(record, paths(source, role), TIMES)
        try:
            times[role] = moment(said[0], name, source) if said else None
        except OverflowError:
            raise ValueError(f"{role}: '{said[0]}' is out of range") from None
        except ValueError as error:
            raise ValueError(f"{role}: {error}") from None
    started, resolved = times["started_at"], times["resolved_at"]
    if started is None:
        raise ValueError(f"no start at {_list(paths(source, 'started_at'))}")
    if resolved is not None and resolved < started:
        raise ValueError(f"resolved at {show(resolved)}, but started at {show(started)}")
    for role, time in times.items():
        if time is not None and time < EARLIEST:
            raise ValueError(f"{role}: {show(time)} is before 1990: a wrong unit, or a clock not set")
        if time is not None and time > latest and known["kind"] == CRASH and role != "updated_at":
            raise ValueError(f"{role}: {show(time)} is in the future")
    texts = {role: words(record, paths(source, role)) for role in ("severity", "summary")}
    return [{**known, **times, **texts, "server_id": server} for server in servers_of(record, source)]


def servers_of(record: Record, source: TicketSource) -> list[str]:
    """Return the servers that a record names, sorted.

    Raises
    ------
    ValueError
        Where it names none.
    """
    rule, where = source.server, paths(source, "server")
    said = [str(value) for value in _said(record, where)]
    if rule.pattern is not None:
        matches = [match for text in said for match in re.finditer(rule.pattern, text)]
        said = [match[("server" if "server" in match.re.groupindex else 0)] for match in matches]
    found = {
        rule.names.get(name, name) for text in said if (name := (text.lower() if rule.lowercase else text).strip())
    }
    if not found:
        seen = words(record, where)
        raise ValueError(f"no server at {_list(where)}" + ("" if seen is None else f": '{seen}'"))
    return sorted(found)


def moment(value: Any, name: str, source: TicketSource) -> datetime:
    """Return a time in UTC.

    Parameters
    ----------
    value : str, number, date or datetime
        As a system writes it.
    name : str
        The source's name, for messages.
    source : TicketSource
        Which says the zone and the form of its times.

    Raises
    ------
    ValueError
        Where it cannot be read, has no time of day, or needs a zone that params.yaml does not state.
    """
    parsed = value if isinstance(value, datetime) else _parse(value, source)
    if parsed.tzinfo is not None:
        return parsed.astimezone(UTC)
    if source.time_zone is None:
        raise ValueError(f"'{value}' has no time zone: state tickets.sources.{name}.time_zone, such as Europe/Berlin")
    utc = _localized(parsed, source.time_zone)
    if utc is None:
        raise ValueError(f"'{value}' does not exist in {source.time_zone}: clocks were put forward")
    return utc


def _parse(value: Any, source: TicketSource) -> datetime:
    text = str(value).strip()
    if isinstance(value, date) or re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", text):
        raise ValueError(f"'{text}' has no time of day")
    if re.fullmatch(r"\d{9,19}(\.\d+)?", text):
        unit = next(unit for bound, unit in EPOCH_UNITS.items() if float(text) < bound)
        return datetime.fromtimestamp(float(text) / PER_SECOND[unit], UTC)
    for form in (source.time_format, JIRA_FORMAT if source.type == "jira" else None):
        if form is not None:
            try:
                return datetime.strptime(text, form)
            except ValueError:
                pass
    try:
        return datetime.fromisoformat(ZONE_FORMS.sub("+00:00", text))
    except ValueError:
        raise ValueError(f"'{text}' is not a time: state time_format where it is not ISO 8601") from None


def _localized(naive: datetime, zone: str) -> datetime | None:
    midnight = datetime(naive.year, naive.month, naive.day)
    first, last = _in_utc(midnight, zone), _in_utc(midnight + DAY, zone)
    if first is not None and last is not None and last - first == DAY:  # clocks were not changed on this day
        return first + (naive - midnight)
    return _in_utc(naive, zone)


@lru_cache(maxsize=1 << 16)
def _in_utc(naive: datetime, zone: str) -> datetime | None:
    # polars brings its own time zones, the same on every machine; of an hour that comes twice, the first
    local = pl.Series([naive], dtype=pl.Datetime("us"))
    try:
        zoned = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    except pl.exceptions.PolarsError:
        raise UserError(f"params.yaml: tickets: '{zone}' is no time zone; write one such as Europe/Berlin") from None
    return zoned.dt.convert_time_zone("UTC").to_list()[0]


def _list(paths: Iterable[str]) -> str:
    return ", ".join(paths) or "any field: state it under fields"
