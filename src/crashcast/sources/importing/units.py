"""What names of metrics say about units against what the values say: uptimes become hours, other doubts are said."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from crashcast.sources.importing.inferred_settings import INSIDE_SHARE, PERCENT_NAME, Facts
from crashcast.sources.importing.parsing import STAGED_ROWS, Samples
from crashcast.sources.importing.report import Report
from crashcast.tables import KEYS
from crashcast.text import some_of

UPTIME_NAME = r"up_?time|since_boot"
PER_HOUR = {"ms": 3_600_000, "hundredths of a second": 360_000, "s": 3600, "minutes": 60, "h": 1, "days": 1 / 24}
NAMED = {"ms": "ms", "s": "s", "seconds": "s", "sec": "s", "min": "minutes", "minutes": "minutes", "h": "h"}
NAMED |= {"hours": "h", "d": "days", "days": "days"}
NEAR = 1.02  # a clock runs on time
ENOUGH_ROWS = 100_000
SHARE_NAME = r"(^|_)(share|ratio|fraction)$"
DOUBTS: list[tuple[str, Callable[[Facts], bool], str]] = [
    (PERCENT_NAME, lambda facts: facts.in_unit == 1 and facts.high not in (None, 0), "shares of 1, not percent"),
    (PERCENT_NAME, lambda facts: facts.in_percent < INSIDE_SHARE and (facts.high or 0) >= 1e5, "bytes, not percent"),
    (PERCENT_NAME, lambda facts: facts.in_percent < INSIDE_SHARE, "sums or another unit, not percent"),
    (SHARE_NAME, lambda facts: facts.in_unit < INSIDE_SHARE <= facts.in_percent, "percent, not shares of 1"),
    (r"_(ms|msec|millis|milliseconds)$", lambda facts: facts.in_unit == 1 and facts.high not in (None, 0), "seconds"),
    (r"_([kmgt]i?b|[kmgt]bytes)$", lambda facts: (facts.high or 0) >= 1e8, "bytes"),
]


def doubt(name: str, facts: Facts) -> str | None:
    """Say that a metric's values do not fit the unit in its name, and what they probably are."""
    likely = next(
        (likely for pattern, fits, likely in DOUBTS if re.search(pattern, name.lower()) and fits(facts)), None
    )
    seen = f"{name} lies between {facts.low or 0:g} and {facts.high or 0:g}"
    return likely and f"{seen}: these are probably {likely}; if so, convert them, or give the metric another name"


def with_uptime(files: list[Samples], wanted: str | None, folder: Path, report: Report) -> list[Samples]:
    """Convert the one metric that is an uptime into hours, if the labels want one and no metric has its name.

    Parameters
    ----------
    files : list of Samples
    wanted : str, optional
        The name of the uptime in hours.
    folder : Path
        To write the new rows to.
    report : Report
    """
    names = {name for file in files for name in file.metrics}
    found = sorted(name for name in names if re.search(UPTIME_NAME, name.lower()))
    if wanted is None or wanted in names or not found:
        return files
    if len(found) > 1:
        report.assumed.append(f"{some_of(found)} may each be the uptime: --map NAME={wanted} chooses, in hours")
        return files
    (name,) = found
    rows = pl.concat([file.scan().select(*KEYS, name) for file in files if name in file.metrics]).head(ENOUGH_ROWS)
    unit = _unit_by_slope(rows.collect(), name) or NAMED.get(name.lower().rpartition("_")[2])
    if unit is None:
        report.assumed.append(f"{name} is an uptime in an unknown unit: no restart is seen without {wanted}, in hours")
        return files
    report.read.append(f"{name} is an uptime in {unit}: imported as {wanted}, in hours")
    changed = []
    for number, file in enumerate(files):
        metrics, empty = ([wanted if old == name else old for old in group] for group in (file.metrics, file.empty))
        staged = folder / f"uptime-{number:06}.parquet"
        hours = file.scan().rename({name: wanted}, strict=False).with_columns(pl.col(f"^{wanted}$") / PER_HOUR[unit])
        hours.collect().write_parquet(staged, compression="lz4", row_group_size=STAGED_ROWS)
        changed.append(replace(file, staged=staged, metrics=metrics, empty=empty))
    return changed


def _unit_by_slope(rows: pl.DataFrame, name: str) -> str | None:
    steps = (
        rows.drop_nulls(name)
        .sort("server_id", "timestamp")
        .select(
            grown=pl.col(name).cast(pl.Float64).diff().over("server_id"),
            hours=pl.col("timestamp").diff().over("server_id").dt.total_microseconds() / 3.6e9,
        )
        .filter(pl.col("grown") > 0, pl.col("hours") > 0)
    )
    slope = steps.select((pl.col("grown") / pl.col("hours")).median()).item()
    if slope is None:
        return None
    return next((unit for unit, per_hour in PER_HOUR.items() if per_hour / NEAR < slope < per_hour * NEAR), None)
