"""Slices: groups of servers, new servers and kinds of crashes, measured by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.modeling.split_rule import HAS_LABEL, KEYS_AND_LABEL, assign, period
from crashcast.params.base import WEEK
from crashcast.tables import Partition

FRESH_AFTER = timedelta(days=30)


def crash_kinds(crashes: pl.DataFrame, history: pl.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Tell crashes that repeat an earlier one of their server from fresh ones.

    Parameters
    ----------
    crashes : DataFrame
        `server_id`, `started_at` of n crashes.
    history : DataFrame
        Every covered crash, these among them: one is a repeat if its server crashed in the `FRESH_AFTER` before it.

    Returns
    -------
    dict of str to bool array of shape (n,)
        `fresh_crashes` and `repeated_crashes`: which crashes are of each kind.
    """
    of_server = history.sort("started_at").with_columns(since=pl.col("started_at").diff().over("server_id"))
    repeats = of_server.filter(pl.col("since") <= FRESH_AFTER).select("server_id", "started_at", repeat=True).unique()
    joined = crashes.join(repeats, on=["server_id", "started_at"], how="left", maintain_order="left")
    repeat = joined["repeat"].fill_null(False).to_numpy()
    return {"fresh_crashes": ~repeat, "repeated_crashes": repeat}


def server_slices(
    servers: frozenset[str],
    coverage: Path,
    rule: dict[str, Any],
    partitions: Iterable[Partition],
    labels_of: Callable[[Partition], Path],
) -> dict[str, frozenset[str]]:
    """Divide servers by whether the model was trained on them, and by their group.

    Parameters
    ----------
    servers : frozenset of str
        The servers of the test part.
    coverage : Path
        Which group each server belongs to.
    rule : dict
        What `split` wrote when the model was trained.
    partitions, labels_of
        The partitions of the labels that it was trained on, and the file of each. Files are read from the end of the
        train part backwards, until every server was found.

    Returns
    -------
    dict of str to frozenset
        The servers of `seen_servers`, `unseen_servers` and each `group_<name>`.
    """
    unseen = servers
    if rule["method"] == "server":
        unseen = servers - frozenset(rule["servers"]["train"])
    else:
        start, end = period(rule, "train")
        touched = [partition for partition in partitions if partition.start < end and start < partition.end]
        for partition in sorted(touched, key=lambda partition: partition.start, reverse=True):
            if unseen:
                wanted = HAS_LABEL & pl.col("server_id").is_in(sorted(unseen))
                rows = tables.read(labels_of(partition), KEYS_AND_LABEL, wanted)
                unseen = unseen - names(rows.filter(assign(rows, rule) == "train"))
    return {"seen_servers": servers - unseen, "unseen_servers": unseen, **server_groups(coverage)}


def server_groups(coverage: Path) -> dict[str, frozenset[str]]:
    """Return the servers of each `group_<name>`; a server of several groups counts in the last one by name."""
    rows = tables.read(coverage, ["server_id", "group"]).drop_nulls()
    last = rows.sort("server_id", "group").unique("server_id", keep="last")
    return {f"group_{group}": names(members) for (group,), members in sorted(last.group_by("group"))}


def beginnings(labels: Path) -> dict[str, datetime]:
    """Return when the first row is of each server that was added; in the table's first week it may be an older one."""
    columns, first = [*tables.KEYS], pl.col("timestamp").min()
    found = pl.concat(
        tables.read(partition.path(labels), columns).group_by("server_id").agg(first)
        for partition in tables.partitions(labels)
    )
    added = found.group_by("server_id").agg(first).filter(pl.col("timestamp") >= first + WEEK)
    return dict(added.sort("server_id").select("server_id", "timestamp").iter_rows())


def in_first_week(moment: str, begun: dict[str, datetime]) -> pl.Expr:
    """Tell which moments, a column, lie in the first week of their server, if it was added (see `beginnings`)."""
    start = pl.col("server_id").replace_strict(begun, default=None, return_dtype=tables.TIMESTAMP)
    return pl.col(moment).is_between(start, start + WEEK, closed="left").fill_null(False)


def names(rows: pl.DataFrame) -> frozenset[str]:
    """Return the servers of some rows."""
    return frozenset(rows["server_id"].unique().cast(pl.String))
