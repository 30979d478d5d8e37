"""Clean, label and featurize in DuckDB's SQL: python benchmarks/engines/duckdb_.py RAW OUT.

One query per stage over the whole history: window functions over time, as-of joins for incidents. The engine chooses
its own threads and spills beside OUT. Each table is one file in OUT, sorted by (timestamp, server_id).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import duckdb

from crashcast.params.base import format_duration
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Metric, Telemetry


def main(raw: Path, out: Path) -> None:
    """Write the three tables."""
    out.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(f"SET temp_directory = '{out}/spill'")
        records(db, raw)
        for table, query in (("clean", clean(raw / "telemetry")), ("labels", label()), ("features", featurize())):
            db.execute(f"CREATE TABLE {table} AS {query}")
            db.execute(
                f"""COPY (SELECT * REPLACE (timestamp AT TIME ZONE 'UTC' AS timestamp) FROM {table}
                          ORDER BY timestamp, server_id)
                    TO '{out}/{table}.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 1_000_000)"""
            )


def records(db: duckdb.DuckDBPyConnection, raw: Path) -> None:
    """Load the incidents, what the records leave open filled in, and the coverage; times without zone, UTC."""
    rules = Incidents.read()
    db.execute(f"""
        CREATE TABLE incidents AS
        SELECT server_id, kind, started_at::TIMESTAMP AS started_at,
            coalesce(resolved_at::TIMESTAMP, started_at::TIMESTAMP + {sql(rules.unresolved_outage)}) AS resolved_at,
            coalesce(reported_at::TIMESTAMP, started_at::TIMESTAMP + {sql(rules.reporting_delay)}) AS reported_at
        FROM read_parquet('{raw}/incidents.parquet');
        CREATE TABLE coverage AS
        SELECT server_id, covered_from::TIMESTAMP AS covered_from, covered_to::TIMESTAMP AS covered_to
        FROM read_parquet('{raw}/coverage.parquet');
        CREATE MACRO round_bits(x) AS -- to 12 significant bits (Veltkamp's splitting)
            (x::FLOAT * 4097::FLOAT - (x::FLOAT * 4097::FLOAT - x::FLOAT))::FLOAT;
    """)


def sql(duration: timedelta) -> str:
    """Write a duration as an interval."""
    return f"INTERVAL '{duration // timedelta(seconds=1)} seconds'"


def lines(parts: Iterable[str]) -> str:
    """Join the parts of a list."""
    return ",\n".join(parts)


def clean(telemetry: Path) -> str:
    """Select rows at one cadence, without duplicates, impossible values, stuck sensors or short gaps."""
    settings, rules = Telemetry.read(), Clean.read()
    every, metrics = sql(settings.interval), settings.metrics
    fill, stuck = sql(rules.fill_limit), sql(rules.stuck_after - settings.interval)
    steps = -(-rules.stuck_after // settings.interval)
    can_stick = [name for name, metric in metrics.items() if metric.can_stick]
    return f"""
        WITH samples AS (
            SELECT * REPLACE (timestamp::TIMESTAMP AS timestamp)
            FROM read_parquet('{telemetry}/*/*.parquet', hive_partitioning = false, file_row_number = true)
            QUALIFY row_number() OVER (PARTITION BY server_id, timestamp ORDER BY file_row_number) = 1
        ),
        rows AS (
            SELECT time_bucket({every}, timestamp - INTERVAL '1 microsecond') + {every} AS moment, server_id,
                {lines(aggregated(name, metric) for name, metric in metrics.items())}
            FROM samples GROUP BY ALL
        ),
        grid AS (
            SELECT server_id, moment AS timestamp, {lines(metrics)}
            FROM (SELECT DISTINCT server_id FROM rows)
            CROSS JOIN (SELECT unnest(generate_series(min(moment), max(moment) + {fill}, {every})) AS moment FROM rows)
            LEFT JOIN rows USING (server_id, moment)
        ),
        filled AS (
            SELECT *, {lines(f"last_value({name} IGNORE NULLS) OVER fill::FLOAT AS shown_{name}" for name in can_stick)}
            FROM grid
            WINDOW fill AS (PARTITION BY server_id ORDER BY timestamp RANGE BETWEEN {fill} PRECEDING AND CURRENT ROW)
        ),
        usable AS (
            SELECT * REPLACE ({lines(usable(name, steps) for name in can_stick)})
            FROM filled
            WINDOW stuck AS (PARTITION BY server_id ORDER BY timestamp RANGE BETWEEN {stuck} PRECEDING AND CURRENT ROW)
        ),
        carried AS (
            SELECT timestamp, server_id,
                {" OR ".join(f"({name} IS NOT NULL AND NOT isnan({name}))" for name in metrics)} AS observed,
                {lines(f"nullif(last_value({n} IGNORE NULLS) OVER fill, 'nan')::FLOAT AS {n}" for n in metrics)}
            FROM usable
            WINDOW fill AS (PARTITION BY server_id ORDER BY timestamp RANGE BETWEEN {fill} PRECEDING AND CURRENT ROW)
        )
        FROM carried
        WHERE coalesce({lines(metrics)}) IS NOT NULL
            AND date_trunc('month', timestamp) IN (SELECT date_trunc('month', moment) FROM rows)
    """


def aggregated(name: str, metric: Metric) -> str:
    """Select a metric's possible values of one server and moment as one."""
    function = {"mean": "avg({})", "last": "arg_max({}, timestamp)"}.get(metric.aggregate, metric.aggregate + "({})")
    return f"{function.format(f'{name}::DOUBLE')} FILTER ({name} BETWEEN {metric.min} AND {metric.max}) AS {name}"


def usable(name: str, steps: int) -> str:
    """Select a metric with NaN while its sensor is stuck."""
    shown = f"shown_{name}"
    return f"""CASE WHEN {name} IS NOT NULL AND count({shown}) OVER stuck = {steps}
            AND max({shown}) OVER stuck = min({shown}) OVER stuck AND 2 * count({name}) OVER stuck > {steps}
        THEN 'nan' ELSE {name} END AS {name}"""


def label() -> str:
    """Select for every row 1, 0 or unknown, with the reason why it is unknown."""
    rules = Label.read()
    lead, reach, recovery = sql(rules.lead), sql(rules.lead + rules.horizon), sql(rules.recovery)
    blind = sql(rules.lead + rules.horizon + Incidents.read().reporting_delay)
    return f"""
        WITH outages AS (
            SELECT server_id, started_at,
                max(resolved_at) OVER (PARTITION BY server_id ORDER BY started_at) + {recovery} AS down_until
            FROM incidents
        ),
        covered AS (
            SELECT server_id, covered_from,
                max(covered_to) OVER (PARTITION BY server_id ORDER BY covered_from) AS covered_to
            FROM coverage
        ),
        crashes AS (SELECT server_id, started_at AS next_crash FROM incidents WHERE kind = 'crash'),
        planned AS (SELECT server_id, started_at AS next_planned FROM incidents WHERE kind = 'maintenance'),
        ahead AS (
            SELECT clean.timestamp, clean.server_id, observed,
                coalesce(next_crash <= timestamp + {reach}, false) AS crash,
                CASE
                    WHEN (timestamp < covered_to) IS NOT TRUE THEN 'uncovered'
                    WHEN timestamp < down_until THEN 'outage'
                    WHEN next_crash <= timestamp + {lead} THEN 'lead'
                    WHEN timestamp >= covered_to - {blind} THEN 'records_end'
                    WHEN NOT crash AND next_planned <= timestamp + {reach} THEN 'maintenance_ahead'
                END AS reason
            FROM clean
            ASOF LEFT JOIN crashes ON clean.server_id = crashes.server_id AND clean.timestamp < next_crash
            ASOF LEFT JOIN planned ON clean.server_id = planned.server_id AND clean.timestamp < next_planned
            ASOF LEFT JOIN outages ON clean.server_id = outages.server_id AND clean.timestamp >= outages.started_at
            ASOF LEFT JOIN covered ON clean.server_id = covered.server_id AND clean.timestamp >= covered_from
        )
        SELECT timestamp, server_id, observed, CASE WHEN reason IS NULL THEN crash END::TINYINT AS label, reason
        FROM ahead
    """


def featurize() -> str:
    """Select the features: levels, windows, differences, place in the fleet, missingness, crash history."""
    settings, rules = Telemetry.read(), Features.read()
    metrics = list(settings.metrics) if rules.columns == "all" else rules.columns
    pairs = {name: f"{left}::DOUBLE * {right} AS {name}" for name, (left, right) in rules.interactions.items()}
    names = [*metrics, *pairs]
    windows = {*rules.rolling_mean, *rules.rolling_std, *rules.rolling_max, *rules.missing_share}
    frames = [
        f"last_{format_duration(w)} AS (PARTITION BY levels.server_id ORDER BY levels.timestamp "
        f"RANGE BETWEEN {sql(w - settings.interval)} PRECEDING AND CURRENT ROW)"
        for w in windows
    ]
    features = [f"levels.{name} AS {name}" for name in names]
    for word in map(format_duration, rules.rolling_mean):
        features += [f"avg(levels.{name}) OVER last_{word} AS {name}_mean_{word}" for name in names]
    for word in map(format_duration, rules.rolling_std):
        features += [f"{std(name, word)} AS {name}_std_{word}" for name in names]
    for word in map(format_duration, rules.rolling_max):
        features += [f"max(levels.{name}) OVER last_{word} AS {name}_max_{word}" for name in names]
    for word in map(format_duration, rules.differences):
        features += [f"levels.{name} - before_{word}.{name} AS {name}_diff_{word}" for name in names]
    for window in rules.missing_share:
        word = format_duration(window)
        features.append(f"1 - count(*) OVER last_{word} / {window / settings.interval} AS missing_share_{word}")
    fleet = names if rules.fleet_relative else []
    counts = {f"crashes_{format_duration(window)}": window for window in rules.incident_counts}
    cap = rules.history_cap
    since = "epoch(timestamp - last_crash)"
    return f"""
        WITH crashes AS (
            SELECT server_id, started_at, greatest(started_at, reported_at) AS known_at
            FROM incidents WHERE kind = 'crash'
        ),
        changes AS (
            SELECT server_id, known_at AS changed_at, started_at, {
        lines(f"1 AS {name}" for name in counts)
    } FROM crashes
            {"".join(f" UNION ALL BY NAME {ending(name, window)}" for name, window in counts.items())}
        ),
        history AS (
            SELECT server_id, changed_at, max(started_at) OVER so_far AS last_crash,
                {lines(f"sum({name}) OVER so_far AS {name}" for name in counts)}
            FROM changes
            WINDOW so_far AS (PARTITION BY server_id ORDER BY changed_at)
            QUALIFY row_number() OVER (PARTITION BY server_id, changed_at) = 1
        ),
        bounds AS (
            SELECT *, max(covered_to) OVER (PARTITION BY server_id ORDER BY covered_from
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM coverage
        ),
        stretches AS (
            SELECT server_id, covered_from AS known_since FROM bounds WHERE (covered_from <= before) IS NOT TRUE
        ),
        levels AS (SELECT *, {lines(pairs.values())} FROM clean),
        fleet AS (
            SELECT timestamp,
                {lines(f"avg({n}) AS mean_{n}, stddev_pop({n}) AS spread_{n}" for n in names)}
            FROM levels GROUP BY timestamp
        ),
        windows AS (
            SELECT levels.timestamp, levels.server_id, {lines(features)}
            FROM levels {" ".join(map(earlier, rules.differences))}
            WINDOW {lines(frames)}
        )
        SELECT windows.timestamp, windows.server_id,
            {lines(f"round_bits({name}) AS {name}" for name in map(feature_name, features))},
            {lines(map(against_fleet, fleet))},
            round_bits(CASE
                WHEN last_crash >= known_since AND {since} <= {cap.total_seconds()} THEN {since} / 3600
                WHEN timestamp - {sql(cap)} >= known_since THEN {cap / timedelta(hours=1)}
            END) AS hours_since_crash,
            {lines(since_known(name, window) for name, window in counts.items())}
        FROM windows
        JOIN fleet USING (timestamp)
        ASOF LEFT JOIN history ON windows.server_id = history.server_id AND windows.timestamp >= history.changed_at
        ASOF LEFT JOIN stretches ON windows.server_id = stretches.server_id AND windows.timestamp >= known_since
    """


def since_known(name: str, window: timedelta) -> str:
    """Select a count of crashes; null if the records do not reach back as far as its window."""
    return f"CASE WHEN timestamp - {sql(window)} >= known_since THEN coalesce({name}, 0) END::FLOAT AS {name}"


def against_fleet(name: str) -> str:
    """Select how many standard deviations a server is from the fleet's mean; 0 if all are equal."""
    deviation = f"({name} - mean_{name}) / nullif(spread_{name}, 0)"
    return f"round_bits(coalesce({deviation}, {name} * 0)) AS {name}_vs_fleet"


def std(name: str, word: str) -> str:
    """Select a standard deviation; below the resolution of float32 it is 0."""
    spread, mean = f"stddev_pop(levels.{name}) OVER last_{word}", f"avg(levels.{name}) OVER last_{word}"
    return f"CASE WHEN {spread} <= abs({mean}) * pow(2, -24) THEN 0 ELSE {spread} END"


def earlier(window: timedelta) -> str:
    """Join the levels a window earlier."""
    before = f"before_{format_duration(window)}"
    return f"""LEFT JOIN levels AS {before} ON {before}.server_id = levels.server_id
        AND {before}.timestamp = levels.timestamp - {sql(window)}"""


def feature_name(selected: str) -> str:
    """Return what a selected expression is called."""
    return selected.rpartition(" AS ")[2]


def ending(name: str, window: timedelta) -> str:
    """Select when crashes leave a window."""
    return f"SELECT server_id, greatest(known_at, started_at + {sql(window)}) AS changed_at, -1 AS {name} FROM crashes"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
