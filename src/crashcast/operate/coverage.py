"""Coverage as it is now: until when incidents are known, and the groups of servers, later than the last import."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from crashcast import tables


def known_by_now(coverage: Path, sources: Path) -> pl.DataFrame:
    """Read the coverage, and let it go on until tickets were last collected.

    The systems that recorded a server's incidents when the telemetry ended are taken to do so since then.

    Parameters
    ----------
    coverage, sources : Path
        In the schemas tables.COVERAGE and tables.TICKET_SOURCES; the second may be missing.

    Returns
    -------
    DataFrame
        tables.COVERAGE; the periods that end last go on to the end of the last period of a source.
    """
    known = tables.read(coverage, list(tables.COVERAGE))
    asked = tables.read(sources, ["covered_to"])["covered_to"].max() if sources.exists() else None
    reaches = pl.col("covered_to") == pl.col("covered_to").max()
    later = pl.max_horizontal("covered_to", pl.lit(asked, tables.TIMESTAMP))
    return known.with_columns(covered_to=pl.when(reaches).then(later).otherwise("covered_to"))


def with_groups(coverage: pl.DataFrame, groups: Mapping[str, str]) -> pl.DataFrame:
    """Give servers their newest group, as the next import will; those without coverage get a period of no length.

    Parameters
    ----------
    coverage : DataFrame
        tables.COVERAGE.
    groups : mapping of str to str
        The group of each server that has one.

    Returns
    -------
    DataFrame
        tables.COVERAGE, sorted by (server_id, covered_from).
    """
    newest = pl.DataFrame([*groups.items()], {"server_id": pl.String, "group": pl.String}, orient="row")
    long_ago = pl.lit(datetime(1970, 1, 1, tzinfo=UTC), tables.TIMESTAMP)
    others = newest.join(coverage, on="server_id", how="anti")
    others = others.with_columns(covered_from=long_ago, covered_to=long_ago).select(*tables.COVERAGE)
    return pl.concat([coverage, others]).update(newest, on="server_id").sort("server_id", "covered_from")
