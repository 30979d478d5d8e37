"""Merging new rows into old ones: by key, a new row replaces the old one; periods are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from crashcast.tables import COVERAGE, TIMESTAMP

INCIDENT_KEY = ("server_id", "started_at", "kind")  # of incidents without an id


def merge(old: pl.DataFrame, new: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, Counter[str]]:
    """Replace old rows by new ones with the same key, and add the other new rows.

    Parameters
    ----------
    old, new : DataFrame
        Of the same columns, each key at most once in `new`.
    keys : sequence of str
        The columns of the key.

    Returns
    -------
    DataFrame
        In no particular order.
    Counter
        How many new rows were `added`, `corrected` (some value differs) and `unchanged`.
    """
    values = [name for name in new.columns if name not in keys]
    pairs = new.join(old, on=keys, how="inner", suffix=" before")
    differs = [pl.col(name).ne_missing(pl.col(f"{name} before")) for name in values]
    corrected = pairs.select(pl.any_horizontal(False, *differs).sum()).item() if pairs.height else 0
    counts = Counter(added=new.height - pairs.height, corrected=corrected, unchanged=pairs.height - corrected)
    return pl.concat([old.join(new, on=keys, how="anti"), new.select(old.columns)]), counts


def last_of_each(rows: pl.DataFrame, keys: Sequence[str]) -> tuple[pl.DataFrame, Counter[str]]:
    """Keep the last row of each key.

    Returns
    -------
    DataFrame
        In the order of `rows`.
    Counter
        Number of dropped rows: `repeated` ones equal a later row, `conflicting` ones have other values.
    """
    kept = rows.unique(keys, keep="last", maintain_order=True)
    if kept.height == rows.height:
        return kept, Counter()
    conflicting = rows.unique().height - kept.height
    return kept, Counter(conflicting=conflicting, repeated=rows.height - kept.height - conflicting)


def adopt_ids(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Give incidents without an id of their own the id of an old incident of the same server, start and kind."""
    known = old.unique(INCIDENT_KEY, keep="first", maintain_order=True).select(*INCIDENT_KEY, known="incident_id")
    found = new.join(known, on=INCIDENT_KEY, how="left", maintain_order="left")
    return found.with_columns(incident_id=pl.coalesce("known", "incident_id")).drop("known")


def assume_coverage(
    spans: pl.DataFrame,
    interval: timedelta,
    end: datetime,
    old: pl.DataFrame | None = None,
    old_end: datetime | None = None,
) -> pl.DataFrame:
    """Cover every server from one interval before its first sample to the fleet's last sample.

    A sample at t is of (t - interval, t]. A server that falls silent has not lost its incident records: its last moment
    may be a crash. The table does not say who stated a period. A server whose coverage ended with the earlier telemetry
    is taken as covered by default, and goes on. Of any other one, coverage was stated: only samples after the earlier
    telemetry add to it.

    Parameters
    ----------
    spans : DataFrame
        `server_id`, `first` and `last` sample of the new files.
    interval : timedelta
        The cadence.
    end : datetime
        The last sample of all telemetry, earlier and new.
    old : DataFrame, optional
        The coverage of earlier imports.
    old_end : datetime, optional
        The last sample of earlier imports.

    Returns
    -------
    DataFrame
        tables.COVERAGE without groups: periods to add to `old`.
    """
    earlier = pl.DataFrame(schema=COVERAGE) if old is None else old  # type: ignore[arg-type]
    known = earlier.group_by("server_id").agg(begun=pl.col("covered_from").min(), ended=pl.col("covered_to").max())
    ends = pl.lit(end, TIMESTAMP)
    rows = (
        spans.select("server_id", "last", start=pl.col("first") - interval)
        .join(known, on="server_id", how="full", coalesce=True)
        .with_columns(old_end=pl.lit(old_end, TIMESTAMP))
    )
    fresh = rows.filter(pl.col("ended").is_null()).select("server_id", covered_from="start", covered_to=ends)
    by_default = rows.filter(pl.col("ended") == pl.col("old_end"))
    before = by_default.select("server_id", covered_from="start", covered_to="begun")
    after = by_default.select("server_id", covered_from="old_end", covered_to=ends)
    stated = rows.filter(pl.col("ended") != pl.col("old_end"), pl.col("last") > pl.col("old_end"))
    added = stated.select("server_id", covered_from=pl.max_horizontal("start", "old_end"), covered_to=ends)
    periods = pl.concat([fresh, before, after, added]).filter(pl.col("covered_from") < pl.col("covered_to"))
    return periods.with_columns(group=pl.lit(None, dtype=pl.String)).sort("server_id", "covered_from")


def merge_coverage(coverage: pl.DataFrame) -> pl.DataFrame:
    """Join the periods of a server that overlap or touch; all get its last group.

    Parameters
    ----------
    coverage : DataFrame
        Old rows before new ones.

    Returns
    -------
    DataFrame
        Sorted by (server_id, covered_from), a server's periods apart from each other.
    """
    groups = coverage.drop_nulls("group").group_by("server_id", maintain_order=True).agg(pl.col("group").last())
    merged = join_periods(coverage, "server_id").join(groups, on="server_id", how="left", maintain_order="left")
    return merged.select(*COVERAGE)


def join_periods(periods: pl.DataFrame, of: str) -> pl.DataFrame:
    """Join periods that overlap or touch, of each server or whatever the column `of` names.

    Returns
    -------
    DataFrame
        `of`, `covered_from`, `covered_to`, sorted; the periods of one apart from each other.
    """
    ordered = periods.sort(of, "covered_from", "covered_to")
    reached = pl.col("covered_to").cum_max().shift().over(of)
    apart = (pl.col("covered_from") > reached).fill_null(True)
    joined = ordered.group_by(of, apart.cum_sum().alias("period"), maintain_order=True).agg(
        pl.col("covered_from").min(), pl.col("covered_to").max()
    )
    return joined.select(of, "covered_from", "covered_to").sort(of, "covered_from")
