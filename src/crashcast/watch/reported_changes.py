"""`crashcast changed`: what a team changed in its fleet, such as a release or new hardware: a small table in git."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from crashcast import tables
from crashcast.canonical import write_text
from crashcast.dates import read_moment
from crashcast.errors import UserError
from crashcast.paths import COVERAGE_PATH, RAW
from crashcast.spreadsheet import write_csv
from crashcast.text import counted, some_of

PATH = RAW / "changes.csv"
FORMAT = "%Y-%m-%dT%H:%M"


class Change(NamedTuple):
    """A change of the fleet.

    Attributes
    ----------
    at : datetime
        When it began; naive, meaning UTC.
    what : str
    servers : tuple of str
        On which servers; none: on all.
    """

    at: datetime
    what: str
    servers: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in a few words."""
        where = f" on {counted(len(self.servers), 'server')}" if self.servers else ""
        return f"{self.what}{where} ({self.at:%Y-%m-%d})"


def read(path: Path = PATH) -> list[Change]:
    """Return the changes of a table, in the order of time; none if there is no such file.

    Raises
    ------
    UserError
        Naming the row that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8") from None
    rows = csv.DictReader(io.StringIO(text))
    if rows.fieldnames is None or not {"at", "what"} <= {*rows.fieldnames} <= {*Change._fields}:
        raise UserError(f"{path}: its first line must name the columns: {','.join(Change._fields)}")
    return sorted(_change(row, f"{path}, line {rows.line_num}") for row in rows)


def between(since: datetime, until: datetime) -> list[Change]:
    """Return the changes that began in [since, until)."""
    return [change for change in read() if since <= change.at < until]


def add(new: Iterable[Change], path: Path = PATH) -> list[Change]:
    """Add changes to the table; one that it has already is not added again.

    Parameters
    ----------
    new : iterable of Change
    path : Path

    Returns
    -------
    list of Change
        Those that were added.

    Raises
    ------
    UserError
        If a server is not one of the fleet.
    """
    known = read(path)
    added = sorted({*new} - {*known})
    fleet = {*tables.read(COVERAGE_PATH, ["server_id"])["server_id"]} if COVERAGE_PATH.exists() else None
    if fleet is not None and (unknown := sorted({name for change in added for name in change.servers} - fleet)):
        raise UserError(f"no server is called {some_of(unknown)}: servers are those of {COVERAGE_PATH}")
    if added:
        write_text(path, _text(sorted([*known, *added])))
    return added


def named(what: str, servers: Collection[str], at: datetime) -> Change:
    """Return a change as it is written down: to the minute, the servers sorted.

    Raises
    ------
    UserError
        If nothing says what was changed.
    """
    if not what.strip():
        raise UserError('say what was changed: crashcast changed --what "app 4.2"')
    return Change(at.replace(second=0, microsecond=0), " ".join(what.split()), tuple(sorted({*servers})))


def _change(row: dict[str, str], where: str) -> Change:
    try:
        at = read_moment(row["at"], "at")
        # `write_csv` puts an apostrophe before what a spreadsheet would take for a formula
        return named(row["what"].removeprefix("'"), (row.get("servers") or "").split(), at)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except AttributeError:  # a row that ends early
        raise UserError(f"{where}: name a moment, and what was changed") from None


def _text(changes: Iterable[Change]) -> str:
    rows = [(change.at.strftime(FORMAT), change.what, " ".join(change.servers) or None) for change in changes]
    return write_csv(pl.DataFrame(rows, dict.fromkeys(Change._fields, pl.String), orient="row"))
