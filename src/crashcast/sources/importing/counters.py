"""Counters, such as bytes since the start of a server: values that only grow, imported as rates.

A fall to less than half means that the counter started again at 0. After a smaller fall, the increase is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl
import polars.selectors as cs

from crashcast.errors import UserError
from crashcast.sources.importing.inferred_settings import is_counter
from crashcast.tables import KEYS


def name_of_rate(counter: str) -> str:
    """Return the name of a counter's rate."""
    return f"{re.sub('_total$', '', counter)}_per_s"


def as_rates(rows: pl.DataFrame, counters: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Replace counters by their rates.

    Parameters
    ----------
    rows : DataFrame
        `timestamp`, `server_id` and metrics; of several values at one moment, the last one holds.
    counters : sequence of str
        Counters among the metrics, float64.

    Returns
    -------
    DataFrame
        With rates per second since the value before, null at a server's first value and after falls that are no
        resets; all numbers are float32.
    list of str
        What was done, for the user.

    Raises
    ------
    UserError
        If a metric is missing, or no counter.
    """
    said = []
    for counter in counters:
        if counter not in rows.columns:
            raise UserError(f"--rate {counter}: there is no such metric")
        values = rows.select(*KEYS, value=counter).drop_nulls().unique([*KEYS], keep="last", maintain_order=True)
        values = values.sort("server_id", "timestamp")
        if not is_counter(counter, values):
            raise UserError(f"--rate {counter}: it is no counter, which only grows, apart from resets")
        step = pl.col("value").diff().over("server_id")
        is_reset = pl.col("value") < pl.col("value").shift().over("server_id") / 2
        grown = pl.when(is_reset).then("value").when(step >= 0).then(step)
        seconds = pl.col("timestamp").diff().over("server_id").dt.total_microseconds() / 1e6
        rate = name_of_rate(counter)
        rates = values.select(*KEYS, (grown / seconds).cast(pl.Float32).alias(rate))
        rows = rows.drop(counter).join(rates, on=[*KEYS], how="left", maintain_order="left")
        resets, falls = values.select(is_reset.sum(), falls=(~is_reset & (step < 0)).sum()).row(0)
        unknown = f"; {falls:,} smaller falls have no rate" if falls else ""
        said.append(f"{rate} is the rate of the counter {counter}, which started again {resets:,} times{unknown}")
    return rows.with_columns(cs.float().cast(pl.Float32)), said
