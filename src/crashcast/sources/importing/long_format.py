"""Telemetry in long format: a row for each metric of a server, not one for all.

If the columns of names and values are known, it is pivoted. If another column tells the series of a server apart, the
file is refused: a metric must not be a mixture of several things.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from crashcast.params.base import format_duration
from crashcast.sources.importing.columns import numbers, texts
from crashcast.sources.importing.inferred_settings import infer_interval
from crashcast.sources.importing.table_file import SHOWN, Sheet
from crashcast.sources.importing.text_numbers import Written
from crashcast.sources.value_formats import utc_text
from crashcast.tables import KEYS, TIMESTAMP
from crashcast.text import some_of

METRIC_NAMES = tuple(
    (name,)
    for name in (
        *("metric", "metric_name", "key", "key_", "item_key", "item", "item_name", "counter", "parameter"),
        *("_field", "field", "_measurement", "measurement", "variable", "sensor", "__name__", "name", "attribute"),
    )
)
VALUE_NAMES = tuple((name,) for name in ("value", "_value", "metric_value", "reading", "val"))
# items that are polled have a regular interval, with other items in between; a state changes at irregular times
REGULAR, REGULAR_SHARE, INTERLEAVED_SHARE, LEAST_GAPS, LEAST_OF_ITEM = 1.5, 0.8, 0.5, 12, 4
ENOUGH = 100  # servers to infer the cadence from
APART = 1.5  # times as many moments as intervals: the items of a server are polled at different moments


def is_long(sheet: Sheet, roles: Mapping[str, str]) -> bool:
    """Tell whether a file has a column of metrics' names, which are no numbers, and one of their values."""
    return {"metric", "value"} <= roles.keys() and isinstance(numbers(sheet, roles["metric"], required=False), str)


def pivot(sheet: Sheet, series: pl.DataFrame, value_column: str, is_exact: bool = False) -> tuple[pl.DataFrame, str]:
    """Return a row for each moment and server with a column for each metric, and how numbers and moments were changed.

    If the metrics of a server were sampled at different moments, each moment is rounded up to the cadence, so that a
    row at t holds samples of the interval before it.

    Parameters
    ----------
    sheet : Sheet
        The file.
    series : DataFrame
        `timestamp`, `server_id` and `metric` of its rows.
    value_column : str
        The column of their numbers.
    is_exact : bool
        Keep float64.

    Raises
    ------
    UserError
        If a metric of a server has two values at one moment.
    """
    written = numbers(sheet, value_column, True, is_exact)
    assert isinstance(written, Written)
    long = series.with_columns(value=written.values).with_row_index()
    long = long.sort("timestamp", "index")
    of_sample = [*KEYS, "metric"]
    distinct = long.unique([*of_sample, "value"], keep="last")
    if (twice := distinct.filter(pl.struct(of_sample).is_duplicated())).height:
        index, moment, server, metric, _ = twice.sort("index").row(-1)
        message = f"'{metric}' of {server} has another value at {utc_text(moment)} in another row"
        raise sheet.error(f"{message}; keep one, or give them different metrics", value_column, index)
    frame, rounded = as_columns(long.drop("index"))
    return frame, (f", numbers with {written.how}" if written.how else "") + rounded


def as_columns(long: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Return a row for each moment and server with a column for each metric, and how moments were changed.

    Parameters
    ----------
    long : DataFrame
        `timestamp`, `server_id`, `metric` and `value`; of several values, the last one holds.
    """
    some = long.filter(pl.col("server_id").is_in(long["server_id"].unique().sort()[:ENOUGH].implode()))
    changed = ""
    if found := infer_interval(some.select("timestamp", server_id=pl.format("{} {}", "server_id", "metric"))):
        aligned = long.with_columns(timestamp=_rounded_up(found[0]))
        if APART * aligned.n_unique([*KEYS]) < long.n_unique([*KEYS]):
            long, changed = aligned, f", rounded up to {format_duration(found[0])}: metrics have different times"
    last = long.unique([*KEYS, "metric"], keep="last", maintain_order=True)
    return last.pivot("metric", index=[*KEYS], values="value"), changed


def _rounded_up(cadence: timedelta) -> pl.Expr:
    width = cadence // timedelta(microseconds=1)
    return (-(-pl.col("timestamp").dt.epoch("us") // width) * width).cast(pl.Datetime("us")).cast(TIMESTAMP)


def check_one_series(sheet: Sheet, rows: pl.DataFrame, columns: list[str]) -> None:
    """Refuse a file if a column that is left out tells several series of a server apart.

    Parameters
    ----------
    sheet : Sheet
        The file.
    rows : DataFrame
        `timestamp`, `server_id` and, if the file is in long format, `metric` of its rows.
    columns : list of str
        The columns that are left out.

    Raises
    ------
    UserError
        If values of a column come back at a regular interval, with rows of other values in between.
    """
    of_server = [name for name in rows.columns if name != "timestamp"]
    for column in columns:
        if (dtype := sheet.frame[column].dtype) in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer():
            gaps = _gaps_of_items(rows.with_columns(item=texts(sheet, column)), of_server)
            if _are_apart(gaps):
                server = gaps["server_id"][0]
                items = gaps.filter(server_id=server)["item"].unique(maintain_order=True)
                message = f"its values ({some_of(items.to_list(), SHOWN)}) are different things of {server}"
                joined = "make it a part of the metric's name"
                named = "give each a column, or put its name into a column metric and its numbers into value"
                how = joined if "metric" in of_server else named
                raise sheet.error(f"{message}, and leaving it out would mix them; {how}", column)


def _gaps_of_items(rows: pl.DataFrame, of_server: list[str]) -> pl.DataFrame:
    items = rows.drop_nulls("item").filter(pl.col("item").n_unique().over(of_server) > 1)
    items = items.sort(*of_server, "timestamp").with_row_index()
    of_item = [*of_server, "item"]
    gap = pl.col("timestamp").diff().dt.total_microseconds()
    gaps = items.with_columns(gap=gap.over(of_item), step=pl.col("index").diff().over(of_item)).filter(
        pl.col("gap") > 0
    )
    gaps = gaps.with_columns(usual=pl.col("gap").median().over(of_item), of_item=pl.len().over(of_item))
    return gaps.filter(pl.col("of_item") >= LEAST_OF_ITEM)  # fewer are regular by chance


def _are_apart(gaps: pl.DataFrame) -> bool:
    is_regular = pl.col("gap").is_between(pl.col("usual") / REGULAR, pl.col("usual") * REGULAR)
    is_interleaved = pl.col("step") > 1
    regular, interleaved = gaps.select(regular=is_regular.mean(), interleaved=is_interleaved.mean()).row(0)
    return gaps.height >= LEAST_GAPS and regular >= REGULAR_SHARE and interleaved >= INTERLEAVED_SHARE
