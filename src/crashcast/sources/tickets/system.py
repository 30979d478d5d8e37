"""What the file of a ticket system, in `systems/`, says about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crashcast.sources.tickets.fields import Record, first_values
from crashcast.sources.tickets.own_alarms import Remark

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource
    from crashcast.sources.tickets.api import Api

ReadTime = Callable[[Any], datetime | None]
STATED = ("comment", "comments", "resolution")  # where a table or a note has remarks
COMMON_FIELDS = ("started_at", "resolved_at", "reported_at", "updated_at", "severity", "summary")


def stated_remarks(record: Record) -> Iterator[Remark]:
    """Yield the remarks of a record that has them as plain text."""
    for name in STATED:
        yield from (Remark(str(value)) for value in first_values(record, [name]))


@dataclass(frozen=True)
class System:
    """All that differs between one ticket system and the others.

    Attributes
    ----------
    fields : mapping of str to tuple of str
        For each field of a ticket, and `server`, the dotted paths at which a record of this system has it. The first
        that leads to a value counts. A source in params.yaml may name others.
    list_key : str
        The key of a JSON answer under which its records are.
    time_format : str, optional
        How it writes times that are not ISO 8601, as for `strptime`.
    complete : callable
        Takes a record and a function that reads times (None: not a time); returns the record with fields that follow
        from others, such as the end of an incident.
    remarks : callable
        Takes a record; yields the comments on it.
    written : tuple of str
        The fields in which people write; they may quote an alert in the ticket of a crash.
    read : callable, optional
        Reads the records of one file, if its files are not JSON, CSV or Parquet.
    problem : callable
        Takes a source of params.yaml; says what is wrong with it, or None.
    ask : callable, optional
        Takes an API, a source, since and until; yields the records that were reported in [since, until). None: it is
        read from files only.
    url : str
        The address of its API; empty if every customer has an address of their own.
    headers : callable
        Takes a token and a user (may be empty); returns the headers that let a request in.
    wait_headers : tuple of str
        Headers besides Retry-After in which it says how many seconds to wait.
    """

    fields: Mapping[str, tuple[str, ...]]
    list_key: str = "records"
    time_format: str | None = None
    complete: Callable[[Record, ReadTime], Record] = lambda record, _: record
    remarks: Callable[[Record], Iterator[Remark]] = stated_remarks
    written: tuple[str, ...] = STATED
    read: Callable[[Path], Iterator[Record]] | None = None
    problem: Callable[[TicketSource], str | None] = lambda _: None
    ask: Callable[[Api, TicketSource, datetime, datetime], Iterator[Record]] | None = None
    url: str = ""
    headers: Callable[[str, str], dict[str, str]] = lambda token, user: {}
    wait_headers: tuple[str, ...] = ()
