"""Divide the labelled rows into train, validation and test.

In: the labels, and the coverage, which knows each server's group. Out: `data/split.json`, the rule that assigns each
row to a part (no copy of the data), and `metrics/split.json`, the counts of each part.

The default is by time: train on the past, test on the future, as production does. Between two parts lies an embargo of
lead + horizon + recovery, cut from the end of the earlier one: as far as a label there can reach. Looking back across
the border is what production does. With `split.since` the borders lie in a later period, such as that of a new site.
They are the same for every group. If each had borders of its own, the model of a group's test rows would be trained on
later rows of others, and an incident in the whole fleet would be on both sides. By server: no server is in two parts;
`split.test_groups` names those of the test part. At random: rows of one crash fall on both sides, so the figures
flatter; published, a drive-failure model read AUC 0.994 that way and 0.905 by time.
"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast.canonical import write_json
from crashcast.errors import UserError
from crashcast.modeling.slices import server_groups
from crashcast.modeling.split_rule import HASH_RANGE, PARTS, assign, labelled, row_hash
from crashcast.params.base import format_duration
from crashcast.params.label import Label
from crashcast.params.split import Split
from crashcast.params.telemetry import Telemetry
from crashcast.text import all_of, some_of


def main(labels: Path, coverage: Path, out: Path, metrics: Path) -> None:
    """Choose the rule and count the rows of its parts."""
    telemetry, label, split = Telemetry.read(), Label.read(), Split.read()
    shares = [split.train, split.validation, split.test]
    first, last = known_period(labels)
    end = last + telemetry.interval
    whole = {part: _span(first, end) for part in PARTS}
    rule: dict[str, Any]
    if split.method == "time":
        since, until = shared_period(split.since, labels, coverage, (first, last))
        embargo = label.reach + label.recovery
        periods = by_time(since, until + telemetry.interval, shares, embargo, telemetry.interval)
        periods["train"]["from"], periods["test"]["to"] = first.isoformat(), end.isoformat()
        rule = {"method": "time", "periods": periods}
    elif split.method == "server":
        named = frozenset[str]().union(*servers_of(split.test_groups, coverage))
        rule = {"method": "server", "servers": by_server(labels, shares, split.seed, named), "periods": whole}
    else:
        print("split: rows of one crash fall into several parts: figures from a random split flatter", file=sys.stderr)
        rule = {"method": "random", "seed": split.seed, "cuts": at_random(labels, shares, split.seed), "periods": whole}

    counts = count(labels, rule)
    for part in PARTS:
        if not counts[part]["crash_rows"]:
            raise UserError(
                f"the {part} part of the {split.method} split holds no crash ({counts[part]['rows']} rows): "
                "change the shares in params.yaml, section split, or bring in more data"
            )
    write_json(metrics, {**counts, **{part: counts[part] | rule["periods"][part] for part in PARTS}})
    write_json(out, rule)


def known_period(labels: Path) -> tuple[datetime, datetime]:
    """Return the first and the last moment with a known label (naive, UTC).

    Raises
    ------
    UserError
        If no label is known.
    """
    known = (rows["timestamp"] for _, rows in labelled(labels) if rows.height)
    bounds: list[tuple[Any, Any]] = [(moments.min(), moments.max()) for moments in known]
    if not bounds:
        raise UserError(f"{labels} holds no known label: do the coverage and the telemetry overlap?")
    first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
    return first.replace(tzinfo=None), last.replace(tzinfo=None)


def shared_period(
    since: date | list[str] | None, labels: Path, coverage: Path, whole: tuple[datetime, datetime]
) -> tuple[datetime, datetime]:
    """Return the first and the last moment (naive, UTC) of the period whose shares the parts are.

    Parameters
    ----------
    since : date, list of str or None
        `split.since`: the period begins that day, or lies where each of these groups has known labels.
    labels, coverage : Path
        The tables.
    whole : pair of datetime
        See `known_period`.

    Raises
    ------
    UserError
        If the groups have no such period.
    """
    if isinstance(since, date):
        return max(whole[0], datetime(since.year, since.month, since.day)), whole[1]
    if not since:
        return whole
    moment = pl.col("timestamp")
    of_servers = pl.concat(
        rows.group_by("server_id").agg(first=moment.min(), last=moment.max()) for _, rows in labelled(labels)
    )
    spans = [
        of_servers.filter(pl.col("server_id").is_in(sorted(servers))).select(pl.min("first"), pl.max("last")).row(0)
        for servers in servers_of(since, coverage)
    ]
    firsts, lasts = zip(*spans, strict=True)
    if None in firsts or max(firsts) >= min(lasts):
        raise UserError(f"params.yaml: split.since: {all_of(since)} have no known labels in one and the same period")
    return max(firsts).replace(tzinfo=None), min(lasts).replace(tzinfo=None)


def servers_of(groups: list[str], coverage: Path) -> list[frozenset[str]]:
    """Return the servers of each of some groups.

    Raises
    ------
    UserError
        If a group has none.
    """
    known = {name.removeprefix("group_"): servers for name, servers in server_groups(coverage).items()}
    if missing := [group for group in groups if group not in known]:
        raise UserError(
            f"params.yaml, section split: no server is of the group {missing[0]}; {coverage} has the groups: "
            f"{some_of([*known]) or 'none'}"
        )
    return [known[group] for group in groups]


def by_time(
    first: datetime, end: datetime, shares: list[float], embargo: timedelta, interval: timedelta
) -> dict[str, dict[str, str]]:
    """Return the periods of the parts: shares of [first, end), the embargo cut from the end of the earlier part."""
    steps = (end - first) // interval
    train_end, validation_end = (
        first + round(steps * share) * interval for share in (shares[0], shares[0] + shares[1])
    )
    periods = [(first, train_end - embargo), (train_end, validation_end - embargo), (validation_end, end)]
    for part, (start, stop) in zip(PARTS, periods, strict=True):
        if stop <= start:
            raise UserError(
                f"the {part} part is shorter than the embargo of {format_duration(embargo)}: bring in more data"
            )
    return {part: _span(*span) for part, span in zip(PARTS, periods, strict=True)}


def _span(start: datetime, end: datetime) -> dict[str, str]:
    return {"from": start.isoformat(), "to": end.isoformat()}


def by_server(
    labels: Path, shares: list[float], seed: int, named: frozenset[str] = frozenset()
) -> dict[str, list[str]]:
    """Draw servers for each part; those that crashed and those that did not are divided in the same shares.

    If the servers of the test part are `named`, train and validation are drawn from all others.
    """
    if named:
        shares = [share / (shares[0] + shares[1]) for share in shares[:2]] + [0.0]
    crashed: Counter[str] = Counter()
    for _, rows in labelled(labels):
        per_server = rows.group_by("server_id").agg(pl.col("label").sum().cast(pl.Int64))
        for server, positives in per_server.iter_rows():
            crashed[server] += positives
    servers = pl.DataFrame({"server_id": sorted(crashed)}).with_columns(timestamp=pl.lit(0).cast(pl.Datetime("us")))
    drawn = dict(zip(servers["server_id"], row_hash(servers, seed, "split"), strict=True))
    chosen: dict[str, list[str]] = {part: [] for part in PARTS}
    chosen["test"] += named & crashed.keys()
    for stratum in (True, False):
        others = (name for name in crashed if name not in named and (crashed[name] > 0) == stratum)
        members = sorted(others, key=lambda name: drawn[name])
        borders = [0, *(round(len(members) * share) for share in np.cumsum(shares))]
        for part, (start, stop) in zip(PARTS, pairwise(borders), strict=True):
            chosen[part] += members[start:stop]
    return {part: sorted(names) for part, names in chosen.items()}


def at_random(labels: Path, shares: list[float], seed: int) -> dict[str, list[int]]:
    """Return, per label, the hashes below which a row falls into each part: exact shares of the few crash rows."""
    crashes = pl.concat(rows.filter(pl.col("label") == 1) for _, rows in labelled(labels))
    drawn = np.sort(row_hash(crashes, seed, "split")).tolist() or [0]
    bounds = np.cumsum(shares)[:2]
    return {
        "0": [*(int(bound * HASH_RANGE) for bound in bounds), HASH_RANGE - 1],
        "1": [*(drawn[min(round(bound * len(drawn)), len(drawn) - 1)] for bound in bounds), HASH_RANGE - 1],
    }


def count(labels: Path, rule: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Count rows, crash rows and servers of each part, and the known rows that the embargo leaves out."""
    counts: dict[str, dict[str, Any]] = {part: {"rows": 0, "crash_rows": 0} for part in PARTS}
    servers: dict[str, set[str]] = {part: set() for part in PARTS}
    embargoed = 0
    for _, rows in labelled(labels):
        part = assign(rows, rule)
        embargoed += part.null_count()
        for name in PARTS:
            members = rows.filter(part == name)
            counts[name]["rows"] += members.height
            counts[name]["crash_rows"] += int(members["label"].sum())
            servers[name] |= set(members["server_id"].unique())
    for name in PARTS:
        counts[name]["servers"] = len(servers[name])
        counts[name]["base_rate"] = counts[name]["crash_rows"] / max(counts[name]["rows"], 1)
    return {**counts, "embargoed": {"rows": embargoed}}
