"""`crashcast alarms`: bring what `crashcast serve` issued, and what was done about it, into data/raw.

Alarms and actions come from `serve.log`, actions also from Alertmanager's silences. Rows that are there stay as they
are, so a table without anything new keeps its bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.operate import silences
from crashcast.operate.served_log import ServedLog
from crashcast.params.serve import Serve
from crashcast.paths import ACTIONS_PATH, ALARMS_PATH, COVERAGE_PATH
from crashcast.sources.importing.transaction import exchanged, recover, workspace
from crashcast.sources.raw_table import read_or_empty
from crashcast.text import counted
from crashcast.versioning import commit_limits
from crashcast.versioning.tracked_data import track

EARLIEST = datetime(1970, 1, 1)
AGAIN = timedelta(days=7)  # of the log is read again: two instances write it, and one may have been late


def collect(serve: Serve, now: datetime, again: bool = False) -> list[str]:
    """Bring new alarms and actions into data/raw, and track the tables with DVC.

    Parameters
    ----------
    serve : Serve
        The section of params.yaml.
    now : datetime
        Naive, meaning UTC.
    again : bool
        Read the whole log; without it, what was written since a week before the newest row of data/raw.

    Returns
    -------
    list of str
        What was added, for the user; empty if there is nothing new.

    Raises
    ------
    UserError
        If the log or Alertmanager cannot be read: data/raw is then as it was.
    """
    recover()
    commit_limits.check_places()  # a log that a commit brought would be taken for this machine's own
    log, address = ServedLog(serve.log), serve.silences or serve.alertmanager
    schemas: dict[Path, tuple[dict[str, Any], Sequence[str]]] = {
        ALARMS_PATH: (tables.ALARMS, tables.ALARM_KEY),
        ACTIONS_PATH: (tables.ACTIONS, tables.ACTION_KEY),
    }
    known = {path: read_or_empty(path, schema) for path, (schema, _) in schemas.items()}
    alarms = log.read("alarms", log.moments("alarms", _since(known[ALARMS_PATH]["timestamp"], again)))
    of_log = known[ACTIONS_PATH].filter(pl.col("source").is_in(["api", "cli"]))["reported_at"]
    acted = [actions_of(log.read("actions", log.moments("actions", _since(of_log, again))))]
    if address is not None:
        fleet = set(known[ALARMS_PATH]["server_id"]) | set(alarms["server_id"])
        if COVERAGE_PATH.exists():
            fleet.update(tables.read(COVERAGE_PATH, ["server_id"])["server_id"])
        found, nameless = silences.actions(silences.read(address), fleet, now)
        acted.append(found)
        if nameless:
            print(f"alarms: {counted(nameless, 'silence')} left out: {silences.NAMELESS}", file=sys.stderr)
    new = {ALARMS_PATH: alarms.select(*tables.ALARMS), ACTIONS_PATH: pl.concat(acted)}
    merged = {path: merge(known[path], new[path], key) for path, (_, key) in schemas.items()}
    changed = {path: frame for path, frame in merged.items() if frame.height > known[path].height}
    if not changed:
        return []
    return _write(changed, known)


def _since(moments: pl.Series, again: bool) -> datetime:
    newest = moments.dt.replace_time_zone(None).max()
    return EARLIEST if again or not isinstance(newest, datetime) else newest - AGAIN


def actions_of(logged: pl.DataFrame) -> pl.DataFrame:
    """Return actions of the log in the schema of `tables.ACTIONS`; none is reported before it was done."""
    return logged.with_columns(reported_at=pl.max_horizontal("moment", "at")).select(*tables.ACTIONS)


def merge(known: pl.DataFrame, new: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Add the rows whose key is new; of several, the one that was reported first. Rows are in the order of the key."""
    order = [name for name in ("reported_at", "who") if name in new.columns]
    added = new.sort(*key, *order, nulls_last=True).unique(key, keep="first", maintain_order=True)
    added = added.join(known, on=key, how="anti", maintain_order="left")
    return pl.concat([known, added]).sort(key, maintain_order=True)


def _write(changed: Mapping[Path, pl.DataFrame], known: Mapping[Path, pl.DataFrame]) -> list[str]:
    with workspace() as folder:
        for path, frame in changed.items():
            tables.write(folder / path.name, frame)
        with exchanged([*changed], folder):
            track([*changed])
    nouns = {ALARMS_PATH: "alarm", ACTIONS_PATH: "action"}
    return [
        f"{path}: {counted(frame.height - known[path].height, nouns[path])} added, {frame.height:,} in all"
        for path, frame in changed.items()
    ]
