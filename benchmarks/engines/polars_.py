"""Clean, label and featurize as one whole-table Polars query per stage: python benchmarks/engines/polars_.py RAW OUT.

Lazy queries over the whole history, no partitions; gaps are filled in with rows, windows are `.over("server_id")`,
incidents come by as-of joins. The engine chooses its own threads. Each table is one file in OUT, sorted by
(timestamp, server_id).
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

from crashcast.params.base import format_duration
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Metric, Telemetry

KEYS = ["timestamp", "server_id"]


def main(raw: Path, out: Path) -> None:
    """Write the three tables."""
    out.mkdir(parents=True, exist_ok=True)
    incidents, coverage = records(raw)
    rows = clean(raw / "telemetry").collect()
    rows.write_parquet(out / "clean.parquet")
    label(rows.lazy(), incidents, coverage).collect().write_parquet(out / "labels.parquet")
    featurize(rows.lazy().drop("observed"), incidents, coverage).collect().write_parquet(out / "features.parquet")


def records(raw: Path) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return the incidents, what the records leave open filled in, and the coverage."""
    rules = Incidents.read()
    server = pl.col("server_id").cast(pl.Categorical)
    incidents = pl.scan_parquet(raw / "incidents.parquet").with_columns(
        server,
        pl.col("resolved_at").fill_null(pl.col("started_at") + rules.unresolved_outage),
        pl.col("reported_at").fill_null(pl.col("started_at") + rules.reporting_delay),
    )
    return incidents.sort("started_at"), pl.scan_parquet(raw / "coverage.parquet").with_columns(server)


def clean(telemetry: Path) -> pl.LazyFrame:
    """Return rows at one cadence, without duplicates, impossible values, stuck sensors or short gaps."""
    settings, rules = Telemetry.read(), Clean.read()
    every, metrics = settings.interval, settings.metrics
    fill, steps = rules.fill_limit // every, -(-rules.stuck_after // every)
    samples = (
        pl.scan_parquet(telemetry / "*" / "*.parquet", hive_partitioning=False)
        .with_columns(pl.col("server_id").cast(pl.Categorical))
        .unique(KEYS, keep="first", maintain_order=True)
        .with_columns((pl.col("timestamp") - pl.duration(microseconds=1)).dt.truncate(every) + every)
    )
    rows = (
        samples.group_by(KEYS)
        .agg(aggregated(name, metric) for name, metric in metrics.items())
        .sort("server_id", "timestamp")
    )
    moment = pl.col("timestamp")
    following = moment.shift(-1).over("server_id").fill_null(moment.max() + (fill + 1) * every)
    gaps = rows.select("server_id", pl.datetime_ranges("timestamp", following, every, closed="none").alias("timestamp"))
    months = rows.select(moment.dt.truncate("1mo").unique())  # filling carries records no further
    return (
        pl.concat([rows, gaps.explode("timestamp").drop_nulls()], how="diagonal")
        .sort("server_id", "timestamp")
        .with_columns(usable(name, fill, steps) for name, metric in metrics.items() if metric.can_stick)
        .with_columns(observed=pl.any_horizontal(pl.col(*metrics).is_not_null() & pl.col(*metrics).is_not_nan()))
        .with_columns(pl.col(*metrics).forward_fill(fill).over("server_id").cast(pl.Float32))
        .with_columns(pl.col(*metrics).fill_nan(None))
        .filter(pl.any_horizontal(pl.col(*metrics).is_not_null()))
        .join(months, left_on=moment.dt.truncate("1mo"), right_on="timestamp", how="semi")
        .sort(KEYS)
    )


def aggregated(name: str, metric: Metric) -> pl.Expr:
    """Return a metric's possible values of one server and moment as one."""
    possible = pl.when(pl.col(name).is_between(metric.min, metric.max)).then(pl.col(name)).cast(pl.Float64)
    return possible.last(ignore_nulls=True) if metric.aggregate == "last" else getattr(possible, metric.aggregate)()


def usable(name: str, fill: int, steps: int) -> pl.Expr:
    """Return a metric with NaN while its sensor is stuck."""
    value = pl.col(name)
    shown = value.forward_fill(fill).cast(pl.Float32)
    unchanged = shown.rolling_max(steps) == shown.rolling_min(steps)
    observed = value.is_not_null().cast(pl.Int8).rolling_sum(steps)
    broken = (unchanged & (2 * observed > steps)).over("server_id")
    return pl.when(value.is_not_null() & broken).then(float("nan")).otherwise(value).alias(name)


def label(rows: pl.LazyFrame, incidents: pl.LazyFrame, coverage: pl.LazyFrame) -> pl.LazyFrame:
    """Return for every row 1, 0 or unknown, with the reason why it is unknown."""
    rules = Label.read()
    reach = rules.lead + rules.horizon
    blind = reach + Incidents.read().reporting_delay
    started, moment = pl.col("started_at"), pl.col("timestamp")
    crashes = incidents.filter(kind="crash").select("server_id", next_crash=started)
    planned = incidents.filter(kind="maintenance").select("server_id", next_planned=started)
    outages = incidents.select(
        "server_id", "started_at", down_until=pl.col("resolved_at").cum_max().over("server_id") + rules.recovery
    )
    covered = coverage.sort("covered_from").with_columns(pl.col("covered_to").cum_max().over("server_id"))
    ahead = {"left_on": "timestamp", "by": "server_id", "strategy": "forward", "allow_exact_matches": False}
    known = {"left_on": "timestamp", "by": "server_id", "check_sortedness": False}
    reason = (
        pl.when((moment < pl.col("covered_to")).fill_null(False).not_())
        .then(pl.lit("uncovered"))
        .when(moment < pl.col("down_until"))
        .then(pl.lit("outage"))
        .when(pl.col("next_crash") <= moment + rules.lead)
        .then(pl.lit("lead"))
        .when(moment >= pl.col("covered_to") - blind)
        .then(pl.lit("records_end"))
        .when(~pl.col("crash") & (pl.col("next_planned") <= moment + reach))
        .then(pl.lit("maintenance_ahead"))
    )
    return (
        rows.select(*KEYS, "observed")
        .join_asof(crashes, right_on="next_crash", check_sortedness=False, **ahead)
        .join_asof(planned, right_on="next_planned", check_sortedness=False, **ahead)
        .join_asof(outages, right_on="started_at", **known)
        .join_asof(covered, right_on="covered_from", **known)
        .with_columns(crash=(pl.col("next_crash") <= moment + reach).fill_null(False))
        .with_columns(reason=reason)
        .select(
            moment,
            pl.col("server_id").cast(pl.String),
            "observed",
            label=pl.when(pl.col("reason").is_null()).then(pl.col("crash")).cast(pl.Int8),
            reason="reason",
        )
    )


def featurize(rows: pl.LazyFrame, incidents: pl.LazyFrame, coverage: pl.LazyFrame) -> pl.LazyFrame:
    """Return the features: levels, windows, differences, place in the fleet, missingness, crash history."""
    settings, rules = Telemetry.read(), Features.read()
    metrics = list(settings.metrics) if rules.columns == "all" else rules.columns
    pairs = {name: pl.col(left) * pl.col(right) for name, (left, right) in rules.interactions.items()}
    values = rows.with_columns(pl.col(pl.Float32).cast(pl.Float64)).with_columns(**pairs).sort("server_id", "timestamp")
    level = pl.col(*metrics, *pairs)
    present = pl.col("timestamp").is_not_null().cast(pl.Float64)
    windows = [
        *(rolling(level, w, "mean").name.suffix(f"_mean_{format_duration(w)}") for w in rules.rolling_mean),
        *(rolling_std(level, w).name.suffix(f"_std_{format_duration(w)}") for w in rules.rolling_std),
        *(rolling(level, w, "max").name.suffix(f"_max_{format_duration(w)}") for w in rules.rolling_max),
        *(
            (1 - rolling(present, w, "sum") / (w / settings.interval)).alias(f"missing_share_{format_duration(w)}")
            for w in rules.missing_share
        ),
    ]
    if rules.fleet_relative:
        deviation = (level - level.mean().over("timestamp")) / level.std(ddof=0).over("timestamp")
        windows.append(deviation.fill_nan(0.0).name.suffix("_vs_fleet"))  # if all are equal
    features = values.with_columns(window.cast(pl.Float32) for window in windows)
    for window in rules.differences:
        suffix = f"_diff_{format_duration(window)}"
        earlier = values.select("server_id", pl.col("timestamp") + window, level.name.suffix(suffix))
        features = features.join(earlier, on=KEYS, how="left").with_columns(
            pl.col(name).sub(pl.col(f"{name}{suffix}")).cast(pl.Float32).alias(f"{name}{suffix}")
            for name in (*metrics, *pairs)
        )
    return (
        with_history(features, incidents, coverage, rules)
        .with_columns(pl.col(pl.Float64).cast(pl.Float32))
        .with_columns(round_bits(pl.col(pl.Float32)))
        .with_columns(pl.col("server_id").cast(pl.String))
    )


def rolling(column: pl.Expr, window: timedelta, statistic: str, **options: int) -> pl.Expr:
    """Return a statistic over each server's last `window`."""
    return getattr(column, f"rolling_{statistic}_by")("timestamp", window, **options).over("server_id")


def rolling_std(column: pl.Expr, window: timedelta) -> pl.Expr:
    """Return the standard deviation; below the resolution of float32 it is 0."""
    spread = rolling(column, window, "std", ddof=0)
    least = rolling(column, window, "mean").abs() * 2.0**-24
    return pl.when(spread > least).then(spread).when(spread.is_not_null()).then(0.0)


def with_history(rows: pl.LazyFrame, incidents: pl.LazyFrame, coverage: pl.LazyFrame, rules: Features) -> pl.LazyFrame:
    """Add the hours since the last known crash and how many there were, null if the records do not reach back."""
    moment, started, known_at = (
        pl.col("timestamp"),
        pl.col("started_at"),
        pl.max_horizontal("started_at", "reported_at"),
    )
    counts = {f"crashes_{format_duration(window)}": window for window in rules.incident_counts}
    crashes = incidents.filter(kind="crash")
    begins = crashes.select("server_id", started, at=known_at, **dict.fromkeys(counts, 1))
    ends = [
        crashes.select("server_id", at=pl.max_horizontal(known_at, started + window), **{name: -1})
        for name, window in counts.items()
    ]
    changes = (
        pl.concat([begins, *ends], how="diagonal")
        .sort("at")
        .with_columns(
            started.cum_max().forward_fill().over("server_id"),
            pl.col(*counts).fill_null(0).cum_sum().over("server_id"),
        )
    )
    before = pl.col("covered_to").cum_max().shift(1).over("server_id")
    stretches = coverage.sort("covered_from").select(
        "server_id",
        "covered_from",
        known_since=pl.when((pl.col("covered_from") <= before).fill_null(False).not_())
        .then(pl.col("covered_from"))
        .forward_fill()
        .over("server_id"),
    )
    known_since, cap = pl.col("known_since"), rules.history_cap
    since = pl.when((started >= known_since) & (moment - started <= cap)).then(moment - started)
    return (
        rows.sort(KEYS)
        .join_asof(changes, left_on="timestamp", right_on="at", by="server_id", check_sortedness=False)
        .join_asof(stretches, left_on="timestamp", right_on="covered_from", by="server_id", check_sortedness=False)
        .with_columns(
            *(
                pl.when(moment - window >= known_since).then(pl.col(name).fill_null(0)).cast(pl.Float64)
                for name, window in counts.items()
            ),
            hours_since_crash=since.when(moment - cap >= known_since).then(cap).dt.total_seconds(fractional=True)
            / 3600,
        )
        .drop("started_at", "at", "covered_from", "known_since", strict=False)
    )


def round_bits(column: pl.Expr) -> pl.Expr:
    """Round float32 to 12 significant bits (Veltkamp's splitting)."""
    scaled = column * (2**12 + 1)
    return scaled - (scaled - column)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
