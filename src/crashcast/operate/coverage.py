"""Until when incidents are known: later than the collected telemetry, with which coverage ends."""

from __future__ import annotations

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
