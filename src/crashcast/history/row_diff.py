"""Two versions of a table, row by row and column by column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.tables import KEYS

KOLMOGOROV_SMIRNOV, TOTAL_VARIATION = "Kolmogorov-Smirnov", "total variation"
ROW_KEYS = (["incident_id"], list(KEYS), ["server_id", "covered_from"])  # by what a table's rows are known
MAX_KINDS = 1000  # a text column with more is prose: shares of its values say nothing


@dataclass(frozen=True)
class Column:
    """A column in two versions of a table; units are the column's own.

    Attributes
    ----------
    name : str
    changed : int
        Rows of both versions that have another value here.
    largest_change : float or None
        Of a number, between two values that are both there.
    missing : tuple of float
        The share of rows without a value, before and after.
    median : tuple of float or None
        Of a number, before and after.
    shift : float or None
        How far apart the two distributions of values are, all rows of either version counted: 0 the same, 1 nothing in
        common. None if the column is on one side only, or is prose.
    measure : str or None
        Of a number or time the Kolmogorov-Smirnov distance, the largest difference between the two cumulative
        distribution functions; of text the total variation distance, the share of rows that would have to change kind.
    only : str or None
        `before` or `after`, if the other version has no such column.
    """

    name: str
    changed: int = 0
    largest_change: float | None = None
    missing: tuple[float | None, float | None] = (None, None)
    median: tuple[float | None, float | None] = (None, None)
    shift: float | None = None
    measure: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Difference:
    """What differs between two versions of a table.

    Attributes
    ----------
    before, after : int
        Their rows.
    added, removed, changed : int
        Rows that only the later or only the earlier one has, by their keys, and rows of both that differ in a value.
    columns : tuple of Column
        Those that differ in a value or in their distribution, or are on one side only.
    """

    before: int
    after: int
    added: int
    removed: int
    changed: int
    columns: tuple[Column, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same rows, whatever their bytes."""
        return not (self.added or self.removed or self.changed or self.columns)


def compare(before: Path, after: Path) -> Difference:
    """Compare two Parquet files of one table, a column at a time.

    Rows belong together by `incident_id`, by (`timestamp`, `server_id`) or by (`server_id`, `covered_from`), whichever
    both have; of rows with equal keys, the first with the first. A table without such keys is compared by whole rows.

    Raises
    ------
    UserError
        If a file cannot be read, or a column has another type whose values cannot be compared.
    """
    try:
        return _compare((before, after))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"its columns have other types: {str(error).splitlines()[0]}") from None
    except pl.exceptions.PanicException as error:  # such as of a time after the last year that it knows
        raise UserError(f"its values cannot be compared: {str(error).splitlines()[0]}") from None


def _compare(files: tuple[Path, Path]) -> Difference:
    here, there = (tables.read(path, where=pl.lit(False)).schema for path in files)
    shared = [name for name in here if name in there]
    keys = next((names for names in ROW_KEYS if {*names} <= {*shared}), shared)
    old, new = (tables.read(path, keys) for path in files)
    same_place = old.equals(new)  # the common case, and no join
    pairs = None if same_place else _pairs(old, new)
    heights = old.height, new.height
    matched = heights[0] if pairs is None else pairs.height
    del old, new
    changed = pl.zeros(matched, dtype=pl.Boolean, eager=True)
    columns = []
    for name in (name for name in shared if name not in keys):
        values = _alike(*(tables.read(path, [name])[name] for path in files))
        x, y = values if pairs is None else (values[0].gather(pairs["before"]), values[1].gather(pairs["after"]))
        differs = x.ne_missing(y)
        changed |= differs
        if differs.any() or heights != (matched, matched):
            found = _column(name, differs, (x, y), values)
            columns += [found] * bool(found.changed or found.shift)
    columns += [Column(name, only="before") for name in here if name not in there]
    columns += [Column(name, only="after") for name in there if name not in here]
    return Difference(*heights, heights[1] - matched, heights[0] - matched, int(changed.sum()), tuple(columns))


def _pairs(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return which rows belong together: their places `before` and `after`."""
    keys = old.columns
    before, after = (
        rows.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).over(keys).alias("nth")).with_row_index(name)
        for rows, name in ((old, "before"), (new.cast(dict(old.schema)), "after"))  # type: ignore[arg-type]
    )
    found = before.join(after, on=[*keys, "nth"], how="inner", nulls_equal=True, maintain_order="left")
    return found.select("before", "after")


def _alike(old: pl.Series, new: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return both with one type: a source may have widened a column meanwhile."""
    if old.dtype == new.dtype:
        return old, new
    common = pl.Float64 if all(series.dtype.is_numeric() for series in (old, new)) else pl.String
    return old.cast(common), new.cast(common)


def _column(
    name: str, differs: pl.Series, paired: tuple[pl.Series, pl.Series], values: tuple[pl.Series, pl.Series]
) -> Column:
    old, new = values
    missing = _share(old.is_null()), _share(new.is_null())
    measure, shift, largest = None, None, None
    median: tuple[float | None, float | None] = None, None
    if old.dtype.is_numeric() or old.dtype.is_temporal() or old.dtype == pl.Boolean:
        measure, shift = KOLMOGOROV_SMIRNOV, _kolmogorov_smirnov(*map(_numbers, values))
    elif max(old.n_unique(), new.n_unique()) <= MAX_KINDS:
        measure, shift = TOTAL_VARIATION, _total_variation(old.cast(pl.String), new.cast(pl.String))
    if old.dtype.is_numeric():
        x, y = (series.filter(differs).cast(pl.Float64) for series in paired)
        largest = _number((y - x).abs().fill_nan(None).max())
        median = _median(old), _median(new)
    return Column(name, int(differs.sum()), largest, missing, median, shift, measure)


def _kolmogorov_smirnov(old: pl.Series, new: pl.Series) -> float:
    from scipy.stats import ks_2samp

    if old.is_empty() or new.is_empty():
        return float(old.len() != new.len())
    with np.errstate(divide="ignore"):  # of the p-value of a handful of rows, which is not used
        return float(ks_2samp(old.to_numpy(), new.to_numpy(), method="asymp").statistic)


def _total_variation(old: pl.Series, new: pl.Series) -> float:
    if old.is_empty() or new.is_empty():
        return float(old.len() != new.len())
    shares = [
        series.rename("kind").to_frame().group_by("kind").agg(share=pl.len() / series.len()) for series in (old, new)
    ]
    both = shares[0].join(shares[1], on="kind", how="full", nulls_equal=True)
    apart = (both["share"].fill_null(0) - both["share_right"].fill_null(0)).abs().sort()  # sorted: the same sum always
    return float(apart.sum()) / 2


def _numbers(values: pl.Series) -> pl.Series:
    known = values.drop_nulls()
    return known.cast(pl.Float64).drop_nans() if known.dtype.is_float() else known.to_physical().cast(pl.Int64)


def _share(is_so: pl.Series) -> float | None:
    return float(is_so.sum()) / is_so.len() if is_so.len() else None


def _median(values: pl.Series) -> float | None:
    return _number(values.cast(pl.Float64).fill_nan(None).median())


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
