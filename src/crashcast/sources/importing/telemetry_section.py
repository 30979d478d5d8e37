"""The section `telemetry` of params.yaml, from the rows of an import: interval, partition, metrics."""

from __future__ import annotations

import re
from datetime import timedelta

import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import DAY, WEEK, format_duration, parse_duration
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.params.validate import Validate
from crashcast.sources.importing import inferred_settings
from crashcast.sources.importing.report import Report
from crashcast.sources.importing.units import UPTIME_NAME, doubt
from crashcast.tables import KEYS
from crashcast.text import some_of


def parse_interval(text: str) -> timedelta:
    """Return the interval that --interval states.

    Raises
    ------
    UserError
        If it is no duration, or does not divide a day.
    """
    try:
        interval = parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--interval {text}: {error}") from None
    if not interval or (DAY % interval and interval != WEEK):
        raise UserError(f"--interval {text} does not divide a day: take one that does, such as 1m, 5m, 1h or 1d, or 7d")
    return interval


def infer_section(
    rows: pl.LazyFrame,
    rows_per_server: pl.DataFrame,
    interval: timedelta | None,
    partition: str | None,
    report: Report,
) -> Telemetry:
    """Infer the section from the rows of a first import.

    Parameters
    ----------
    rows : LazyFrame
        `timestamp`, `server_id` and the metrics.
    rows_per_server : DataFrame
        `server_id` and `rows`.
    interval, partition : optional
        Taken as they are if given.
    report : Report
        Takes what was inferred, and values that other sections do not allow.

    Raises
    ------
    UserError
        If no interval is given and none can be inferred.
    """
    samples = _samples_of_some_servers(rows, rows_per_server)
    if interval is not None:
        why = "as --interval says"
    elif found := inferred_settings.infer_interval(samples.select(*KEYS)):
        interval, why = found
    else:
        raise UserError("no server has two samples: say the cadence with --interval, such as --interval 5m")
    months = rows.group_by(pl.col("timestamp").dt.truncate("1mo")).len().select(pl.col("len").max())
    densest = months.collect().item()
    unit = "week" if interval == WEEK else partition or inferred_settings.infer_partition(densest)
    report.inferred.append(f"interval {format_duration(interval)}: {why}")
    report.inferred.append(f"a file per {unit}: at most {densest:,} rows a month")
    names = rows.collect_schema().names()[len(KEYS) :]
    metrics = {name: _infer_metric(name, rows, samples, report) for name in names}
    _report_short_durations(interval, report)
    return Telemetry.model_validate({"interval": interval, "partition": unit, "metrics": metrics})


def _samples_of_some_servers(rows: pl.LazyFrame, rows_per_server: pl.DataFrame) -> pl.DataFrame:
    # of a large fleet, as many as fit into memory
    chosen = inferred_settings.choose_servers(rows_per_server)
    if len(chosen) < rows_per_server.height:
        rows = rows.filter(pl.col("server_id").is_in(chosen))
    ordered = rows.collect().sort("server_id", "timestamp", maintain_order=True)
    return ordered.unique(list(KEYS), keep="last", maintain_order=True)


def _infer_metric(name: str, rows: pl.LazyFrame, samples: pl.DataFrame, report: Report) -> Metric:
    facts = inferred_settings.describe(rows, name)
    metric = inferred_settings.infer_metric(name, facts, samples, Clean.read().stuck_after)
    report.inferred.append(_metric_line(name, metric, facts))
    if metric.aggregate == "last" and not re.search(UPTIME_NAME, name.lower()):
        kind = "a counter, which only grows, apart from resets: its values go in as they are"
        report.assumed.append(f"{name} is {kind}; --rate {name} imports its rate")
    if words := doubt(name, facts):
        report.assumed.append(words)
    tolerated = Validate.read().max_missing_share
    if facts.values < (1 - tolerated) * facts.rows:
        message = f"{name} is missing in {1 - facts.values / facts.rows:.0%} of rows"
        report.assumed.append(f"{message}, and validate.max_missing_share ({tolerated:g}) refuses that")
    return metric


def _metric_line(name: str, metric: Metric, facts: inferred_settings.Facts) -> str:
    low, high = (f"{value:g}" for value in (facts.low or 0.0, facts.high or 0.0))
    words = [f"{name}: {_limits(metric)} (seen {low} .. {high})", metric.aggregate]
    words += ["can stick"] if metric.can_stick else []
    words += [f"{facts.markers:,} x -1 or the like taken as no value"] if facts.markers else []
    return ", ".join(words)


def _limits(metric: Metric) -> str:
    low, high = ("no limit" if limit is None else _plain(limit) for limit in (metric.min, metric.max))
    return f"{low} .. {high}"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:g}"


def extend_section(
    rows: pl.LazyFrame,
    rows_per_server: pl.DataFrame,
    known: Telemetry,
    interval: timedelta | None,
    report: Report,
) -> Telemetry:
    """Return the section of earlier imports, with --interval if it is given.

    The report takes values outside the section's ranges, and a cadence of the new rows that differs.
    """
    for name, metric in known.metrics.items():
        is_outside = ~pl.col(name).is_between(*metric.limits)
        outside, total = rows.select(is_outside.sum(), pl.len()).collect().row(0)
        if outside:
            report.assumed.append(
                f"{name}: {outside:,} of {total:,} new values lie outside {_limits(metric)} and will be dropped"
            )
    if interval is not None:
        _report_short_durations(interval, report)
    chosen = interval or known.interval
    found = inferred_settings.infer_interval(_samples_of_some_servers(rows.select(*KEYS), rows_per_server))
    if found and found[0] != chosen:
        cadences = f"{format_duration(found[0])}, not {format_duration(chosen)}"
        report.assumed.append(f"the new samples come every {cadences}: --interval changes telemetry.interval")
    return known.model_copy(update={"interval": chosen})


def choose_groups(coverage: pl.DataFrame, is_first: bool, report: Report) -> list[str] | None:
    """Return the groups that become features at a first import; later ones only report groups that are none."""
    found = inferred_settings.infer_groups(coverage)
    if is_first:
        if found:
            report.inferred.append(f"features.categories: {', '.join(found)} are groups that a model can tell apart")
        return found
    listed = Features.read().categories.get("group", [])
    if listed and (others := [group for group in found if group not in listed]):
        report.assumed.append(f"features.categories does not list {some_of(others)}: they look alike to a model")
    return None


def _report_short_durations(interval: timedelta, report: Report) -> None:
    # a duration shorter than the interval means nothing
    label, features = Label.read(), Features.read()
    durations = {"label.horizon": label.horizon, "label.lead": label.lead or interval}
    for kind in ("rolling_mean", "rolling_std", "rolling_max", "differences", "missing_share", "incident_counts"):
        durations[f"features.{kind}"] = min(getattr(features, kind), default=interval)
    short = [f"{key} ({format_duration(value)})" for key, value in durations.items() if value < interval]
    if short:
        cadence = format_duration(interval)
        example = "; docs/import.md has an example for checks once a week" if interval > DAY else ""
        report.assumed.append(
            f"shorter than the interval {cadence}, please lengthen in params.yaml: {', '.join(short)}{example}"
        )
