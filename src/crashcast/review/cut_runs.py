"""Compute features from data that ends at a moment, by the stages of the commit in whose work tree this runs.

It must not assume more of that commit than `src/run.py`'s call of a stage: `stages.<name>.main` with its paths. So
everything else here is polars.

    python -P cut_runs.py PLAN.json
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

TELEMETRY, INCIDENTS, COVERAGE = "data/raw/telemetry", "data/raw/incidents.parquet", "data/raw/coverage.parquet"
FEATURES = "data/features"
PART = "part-0.parquet"


def main(plan: dict[str, Any]) -> None:
    """Write the features of each moment's rows, computed from what was known then.

    Parameters
    ----------
    plan : dict
        `moments` (ISO 8601, rising), `whole` (the folder of all raw data), `stages` (a list of words each, name and
        paths), `reporting_delay_s` and `out` (a folder: gets N.parquet for moment number N).
    """
    whole = Path(plan["whole"])
    delay = timedelta(seconds=plan["reporting_delay_s"])
    for number, text in enumerate(plan["moments"]):
        moment = datetime.fromisoformat(text)
        cut(whole, moment, delay)
        for stage, *paths in plan["stages"]:
            importlib.import_module(f"stages.{stage}").main(*map(Path, paths))
        now = pl.col("timestamp") == _aware(moment)
        pieces = [pl.read_parquet(path, hive_partitioning=False).filter(now) for path in _parts(Path(FEATURES))[-2:]]
        pl.concat(pieces).write_parquet(Path(plan["out"], f"{number}.parquet"))


def cut(whole: Path, moment: datetime, delay: timedelta) -> None:
    """Lay raw data out as it was at a moment: samples until then, incidents that were reported by then."""
    end, time = _aware(moment), pl.col("timestamp")
    for path in _parts(whole / TELEMETRY):
        first, last = (
            pl.scan_parquet(path, hive_partitioning=False).select(time.min(), time.max().alias("last")).collect().row(0)
        )
        target = Path(TELEMETRY, path.parent.name, PART)
        target.unlink(missing_ok=True)
        if first is None or first > end:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if last <= end:
            target.symlink_to(path.resolve())
        else:
            pl.read_parquet(path, hive_partitioning=False).filter(time <= end).write_parquet(target)
    incidents = pl.read_parquet(whole / INCIDENTS)
    is_known = pl.col("reported_at").fill_null(pl.col("started_at") + delay) <= end
    resolved = pl.when(pl.col("resolved_at") <= end).then("resolved_at").alias("resolved_at")
    coverage = pl.read_parquet(whole / COVERAGE)
    begun = coverage.filter(pl.col("covered_from") <= end)
    _replace(INCIDENTS, incidents.filter(is_known).with_columns(resolved))
    _replace(COVERAGE, begun.with_columns(pl.min_horizontal("covered_to", pl.lit(end)).alias("covered_to")))


def _parts(table: Path) -> list[Path]:
    return sorted(table.glob(f"*/{PART}"))


def _replace(path: str, frame: pl.DataFrame) -> None:
    Path(path).unlink(missing_ok=True)  # it may be a link to DVC's cache
    frame.write_parquet(path)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
