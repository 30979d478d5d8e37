"""The records of a ticket system as tickets: one per server, in our schema, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from crashcast.params.tickets import Conditions, TicketSource
from crashcast.sources.comments import acted, one_line
from crashcast.sources.importing.parsing import KINDS
from crashcast.sources.tickets import own_alarms
from crashcast.sources.tickets.fields import AS_WRITTEN, Record, first_values, text_at
from crashcast.sources.tickets.own_alarms import ALARM
from crashcast.sources.tickets.system import ReadTime
from crashcast.sources.tickets.times import moment, moment_or_none
from crashcast.sources.value_formats import EARLIEST, utc_text
from crashcast.tables import ACTION_KEY, ACTIONS, CRASH, MAINTENANCE, TIMESTAMP

TIMES = ("started_at", "resolved_at", "reported_at", "updated_at")
# one row per ticket and server; the times as the system gives them
TICKETS: dict[str, Any] = {
    "source": pl.String,  # the name under tickets.sources in params.yaml
    "ticket_id": pl.String,
    "server_id": pl.String,
    "kind": pl.String,  # that of an incident, or ALARM
    "started_at": TIMESTAMP,
    "resolved_at": TIMESTAMP,
    "reported_at": TIMESTAMP,
    "updated_at": TIMESTAMP,
    "severity": pl.String,
    "summary": pl.String,
}


class LeftOut(NamedTuple):
    """A record that is no valid ticket."""

    source: str
    ticket_id: str
    reason: str


@dataclass(frozen=True)
class Parsed:
    """The records of a source, parsed.

    Attributes
    ----------
    tickets : DataFrame
        In our schema (`TICKETS`), each (ticket, server) once.
    actions : DataFrame
        What tickets that stem from our own alarms say was done, in the schema of tables.ACTIONS.
    bad : list of LeftOut
        Records that are no valid tickets.
    ignored : int
        Number of records that are neither a crash nor maintenance by the conditions of params.yaml, or stem from our
        own alarms and name no server.
    read : int
        Number of all records.
    """

    tickets: pl.DataFrame
    actions: pl.DataFrame
    bad: list[LeftOut]
    ignored: int
    read: int


def parse(name: str, source: TicketSource, records: Iterable[Record], latest: datetime) -> Parsed:
    """Parse the records of a source, whether its API gave them or a file.

    Parameters
    ----------
    name : str
        The source's name.
    source : TicketSource
        Its entry in params.yaml.
    records : iterable of dict
        As the system gives them, in any order.
    latest : datetime
        A crash that starts after this time is an error; maintenance may be planned ahead.
    """
    rows: list[Record] = []
    actions: list[tuple[Any, ...]] = []
    bad: list[LeftOut] = []
    ignored = read = 0
    read_time = partial(moment_or_none, name=name, source=source)
    for read, given in enumerate(records, start=1):
        record = source.system.complete(given, read_time)
        ticket_id = text_at(record, *source.paths("ticket_id"))
        try:
            is_own = own_alarms.stems_from_alarm(record, source)
            servers = own_servers(record, source) if is_own else []
            kind = ALARM if is_own else kind_of(record, source)
            if kind is None or (is_own and not servers):
                ignored += 1
                continue
            if ticket_id is None:
                raise ValueError(f"no id at {_list(source.paths('ticket_id'))}")
            ticket = {"source": name, "ticket_id": ticket_id, "kind": kind} | _times(name, source, record)
            _check_times(ticket, latest)
            ticket |= {role: text_at(record, *source.paths(role)) for role in ("severity", "summary")}
            rows += [{**ticket, "server_id": server} for server in servers or servers_of(record, source)]
            if is_own:
                actions += _actions(ticket, servers, source, record, read_time)
        except ValueError as error:
            bad.append(LeftOut(name, ticket_id or f"record {read}", str(error)))
    frame = pl.DataFrame(rows, schema=TICKETS)
    tickets = newest(frame)
    bad += [
        LeftOut(name, ticket_id, "another ticket has this id and holds") for ticket_id in _contradicted(frame, tickets)
    ]
    done = pl.DataFrame(actions, schema=ACTIONS, orient="row")
    return Parsed(tickets, done.unique(ACTION_KEY).sort(ACTION_KEY), sorted(set(bad)), ignored, read)


def own_servers(record: Record, source: TicketSource) -> list[str]:
    """Return the servers that a ticket of our own alarm names, by the alert's labels or as other tickets do."""
    try:
        named = own_alarms.servers_of(record, source) or servers_of(record, source)
    except ValueError:
        return []
    return sorted({source.server.names.get(name, name) for name in named})


def _actions(
    ticket: Record, servers: list[str], source: TicketSource, record: Record, read_time: ReadTime
) -> list[tuple[Any, ...]]:
    """Return what the remarks on a ticket say was done; without a time of their own, they are of the ticket's end."""
    found = []
    for remark in source.system.remarks(record):
        what = acted(remark.text)
        if what is None:
            continue
        at = read_time(remark.at) if remark.at is not None else ticket["resolved_at"] or ticket["updated_at"]
        if at is None:
            raise ValueError(f"'acted: {what}' has no time, and neither has the end of the ticket")
        who = one_line(remark.who or "") or None
        about = own_alarms.about(what, servers)
        found += [(server, what, at, who, ticket["source"], at) for server in about]
    return found


def _contradicted(frame: pl.DataFrame, kept: pl.DataFrame) -> list[str]:
    # ids of tickets that were given several times with other values, none of which is known to be newer
    keys = ["source", "ticket_id", "server_id", "updated_at"]
    others = frame.unique().join(kept, on=kept.columns, how="anti", nulls_equal=True)
    return others.join(kept, on=keys, how="semi", nulls_equal=True)["ticket_id"].to_list()


def newest(tickets: pl.DataFrame) -> pl.DataFrame:
    """Keep the newest version of each ticket, in the order of (source, ticket_id, server_id).

    That is the one that was updated last; of versions updated at the same time, or without that time, the one resolved
    last. The order of rows does not matter.
    """
    keys = ["source", "ticket_id", "server_id"]
    others = [name for name in ("updated_at", "resolved_at", *tickets.columns) if name not in keys]
    return tickets.sort(*keys, *dict.fromkeys(others)).unique(keys, keep="last", maintain_order=True)


def kind_of(record: Record, source: TicketSource) -> str | None:
    """Return whether a record is of a crash or of maintenance; None if it is of neither.

    Raises
    ------
    ValueError
        If its kind is a word that means neither.
    """
    if (word := text_at(record, *source.paths("kind"))) is not None:
        if word.lower() not in KINDS:
            raise ValueError(f"kind '{word}' is neither a crash nor maintenance ({', '.join(KINDS)})")
        return KINDS[word.lower()]
    if source.maintenance and fulfils(record, source.maintenance):
        return MAINTENANCE
    return CRASH if fulfils(record, source.crash) else None


def fulfils(record: Record, conditions: Conditions) -> bool:
    """Tell whether every named field has a value that matches one of its patterns, as a whole and in any case."""
    return all(
        any(
            re.fullmatch(pattern, str(value), re.IGNORECASE)
            for pattern in patterns
            for value in first_values(record, [path])
        )
        for path, patterns in conditions.items()
    )


def _times(name: str, source: TicketSource, record: Record) -> dict[str, datetime | None]:
    times: dict[str, datetime | None] = {}
    for role in TIMES:
        written = first_values(record, source.paths(role), AS_WRITTEN)
        try:
            times[role] = moment(written[0], name, source) if written else None
        except OverflowError:
            raise ValueError(f"{role}: '{written[0]}' is out of range") from None
        except ValueError as error:
            raise ValueError(f"{role}: {error}") from None
    if times["started_at"] is None:
        raise ValueError(f"no start at {_list(source.paths('started_at'))}")
    return times


def _check_times(ticket: Record, latest: datetime) -> None:
    started, resolved = ticket["started_at"], ticket["resolved_at"]
    if resolved is not None and resolved < started:
        raise ValueError(f"resolved at {utc_text(resolved)}, but started at {utc_text(started)}")
    for role in TIMES:
        time = ticket[role]
        if time is not None and time < EARLIEST:
            raise ValueError(f"{role}: {utc_text(time)} is before 1990: a wrong unit, or a clock not set")
        if time is not None and time > latest and ticket["kind"] == CRASH and role != "updated_at":
            raise ValueError(f"{role}: {utc_text(time)} is in the future")


def servers_of(record: Record, source: TicketSource) -> list[str]:
    """Return the servers that a record names, sorted.

    Raises
    ------
    ValueError
        If it names none.
    """
    rule, paths = source.server, source.paths("server")
    names = [str(value) for value in first_values(record, paths)]
    if rule.pattern is not None:
        matches = [match for text in names for match in re.finditer(rule.pattern, text)]
        names = [match["server" if "server" in match.re.groupindex else 0] for match in matches]
    stripped = [name for text in names if (name := (text.lower() if rule.lowercase else text).strip())]
    if not stripped:
        found = text_at(record, *paths)
        raise ValueError(f"no server at {_list(paths)}" + ("" if found is None else f": '{found}'"))
    return sorted({rule.names.get(name, name) for name in stripped})


def _list(paths: Iterable[str]) -> str:
    return ", ".join(paths) or "any field: state it under fields"
