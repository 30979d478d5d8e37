"""`crashcast acted`: report what somebody did about an alarm, or list the open alarms and what was done about them."""

from __future__ import annotations

import difflib
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import actions, issued_alarms
from crashcast.operate.actions import Action
from crashcast.operate.page import done, percent
from crashcast.operate.served_log import ServedLog
from crashcast.params.base import DAY
from crashcast.params.label import Label
from crashcast.paths import COVERAGE_PATH
from crashcast.text import some_of


class Open(NamedTuple):
    """An open alarm and what was done about it; moments are naive, meaning UTC."""

    server_id: str
    risk: float
    opened_at: datetime
    ends_at: datetime
    actions: list[Action]


def report(
    log: ServedLog,
    server: str,
    what: str,
    at: datetime | None,
    who: str | None,
    now: datetime,
    coverage: Path = COVERAGE_PATH,
) -> Action:
    """Write an action to the log, and return it.

    Parameters
    ----------
    log : ServedLog
    server, what : str
    at : datetime or None
        When it was done; None: now. Naive, meaning UTC, as is `now`.
    who : str or None
    now : datetime
    coverage : Path
        Servers with records of incidents may be acted on, too.

    Raises
    ------
    UserError
        If nothing was served from here, the server is unknown, or the time lies in the future.
    """
    newest = log.last()
    if newest is None:
        raise UserError(
            f"{log.address} holds no scores, so `crashcast serve` does not run with this log: report the action where "
            "it runs, or name its log in params.yaml (serve.log)"
        )
    known = {*log.read("scores", [newest], ["server_id"])["server_id"], *log.since("alarms", now - DAY)["server_id"]}
    if coverage.exists():
        known.update(tables.read(coverage, ["server_id"])["server_id"])
    if server not in known:
        close = difflib.get_close_matches(server, known)
        hint = f"did you mean {some_of(close)}?" if close else f"known are {some_of(sorted(known))}"
        raise UserError(f"no server {server} was scored: {hint}")
    action = actions.of_cli(server, what, at or now, who, now)
    actions.record(action, log, now)
    return action


def find_open(log: ServedLog, label: Label, now: datetime) -> list[Open]:
    """Return the open alarms that were delivered, the highest risk first.

    Parameters
    ----------
    log : ServedLog
    label : Label
        For how far back the log is read.
    now : datetime
        Naive, meaning UTC.
    """
    since = now - 2 * label.reach - DAY
    standing = issued_alarms.open_at(issued_alarms.recent(log, since), now)
    reported = issued_alarms.reported(log, since)
    naive = [pl.col(name).dt.replace_time_zone(None) for name in ("opened_at", "ends_at")]
    return [
        Open(server, risk, opened_at, ends_at, issued_alarms.actions_of(server, opened_at, ends_at, reported))
        for server, risk, opened_at, ends_at in standing.select("server_id", "score", *naive).iter_rows()
    ]


def show(found: list[Open], console: Console) -> None:
    """Print open alarms."""
    if not found:
        console.print("No alarm is open.")
        return
    columns = Column("server", overflow="fold"), "risk", "open since (UTC)", "ends", "acted on"
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for alarm in found:
        since, until = (f"{when:%d %b %H:%M}" for when in (alarm.opened_at, alarm.ends_at))
        told = "\n".join(map(done, alarm.actions)) or "not yet"
        table.add_row(Text(alarm.server_id), percent(alarm.risk), since, until, Text(told))
    console.print(table)
    if not all(alarm.actions for alarm in found):
        console.print("Report an action: crashcast acted SERVER --what restart", highlight=False)
