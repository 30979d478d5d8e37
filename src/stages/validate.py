"""Refuse raw data that breaks its contract: no later stage could make good of it.

In: the tables of raw data, byte for byte as git records them. Out: the outcome of every expectation in every
partition, and counts. Both are written before data is refused, so that a refusal can be read; a warning is recorded and
refuses nothing. `clean` depends on the result, so nothing runs on refused data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import great_expectations.expectations as gxe
import polars as pl
from great_expectations.expectations.expectation import Expectation

from crashcast import canonical, tables
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import File, Task
from crashcast.expectations import (
    CELLS_AT_ONCE,
    CRITICAL,
    WARNING,
    Batch,
    Outcome,
    failures,
    judge,
    render,
    unreadable,
)
from crashcast.params.base import DAY, format_duration
from crashcast.params.telemetry import Metric, Telemetry
from crashcast.params.validate import Validate
from crashcast.tables import (
    ACTION_KEY,
    ACTIONS,
    ALARM_KEY,
    ALARMS,
    COVERAGE,
    CRASH,
    INCIDENTS,
    KEYS,
    MAINTENANCE,
    TICKET_SOURCES,
    TIMESTAMP,
    Partition,
)
from crashcast.text import counted
from crashcast.versioning import tracked_data

Judge = Callable[[Batch], list[Outcome]]

FLOATS = ["float32", "float64"]
PANDAS_TYPES = {pl.String: "str", TIMESTAMP: "datetime64[us, UTC]", pl.Float64: "float64", pl.Boolean: "bool"}
SPACING_INTERVALS = 1.5  # samples jitter; with a spacing of two intervals every other row would be missing
NEIGHBOURS = 4
# summed over partitions from the failing rows of the expectations that name them, tolerated ones included
COUNTED = (
    "duplicate_rows",
    "missing_values",
    "out_of_range_values",
    "overlapping_incidents",
    "incidents_on_unknown_servers",
    "actions_on_unknown_servers",
)


def _nobody() -> pl.DataFrame:
    return pl.DataFrame(schema={"server_id": pl.String, "first": TIMESTAMP, "last": TIMESTAMP})


@dataclass(frozen=True)
class Findings:
    """The outcomes of one partition of telemetry, and what other checks need of it.

    Attributes
    ----------
    servers : DataFrame
        `server_id`, `first`, `last`: each server's first and last sample; empty if the columns are wrong.
    """

    partition: Partition
    outcomes: list[Outcome]
    rows: int = 0
    servers: pl.DataFrame = field(default_factory=_nobody)


def main(
    telemetry_path: Path,
    incidents: Path,
    coverage: Path,
    ticket_sources: Path,
    alarms: Path,
    actions: Path,
    result: Path,
    metrics: Path,
) -> None:
    """Write what every expectation found, then refuse the data if a critical one failed."""
    telemetry, validate = Telemetry.read(), Validate.read()
    records = (incidents, coverage, ticket_sources, alarms, actions)
    tracked_data.check_tracked((telemetry_path, *records))
    findings = check_partitions(telemetry_path, telemetry, validate)
    outcomes, figures = check(findings, records, telemetry, validate)
    critical, warnings = failures(outcomes, CRITICAL), failures(outcomes, WARNING)
    canonical.write_json(result, {"success": not critical, "figures": figures, "outcomes": outcomes})
    canonical.write_json(metrics, figures)
    if warnings:
        count = counted(len(warnings), "warning")
        print(f"validate: {count}, recorded in {result}\n\n{render(warnings)}\n", file=sys.stderr)
    if critical:
        count = counted(len(critical), "critical failure")
        raise UserError(
            f"raw data is refused: {count}, recorded in {result}\n\n{render(critical)}\n\n"
            "Mend the data where it comes from and import it again. If the data is right, mend params.yaml: "
            "`telemetry` names the metrics and their ranges, `validate` the tolerances."
        )
    count = f"{counted(figures['rows'], 'row')} in {counted(figures['partitions'], 'partition')}"
    print(f"validate: {count}, nothing critical", file=sys.stderr)


def check(
    findings: list[Findings],
    records: Sequence[Path],
    telemetry: Telemetry,
    validate: Validate,
    ask: Judge = judge,
) -> tuple[list[Outcome], dict[str, int]]:
    """Check the files of raw data, and the partitions of telemetry against them and each other.

    Parameters
    ----------
    findings : list of Findings
        Of each partition, in order of time.
    records : sequence of Path
        The files of incidents, coverage, ticket_sources, alarms and actions.
    telemetry, validate : Telemetry, Validate
        What telemetry should hold, and the tolerances.
    ask : function
        From a batch to its outcomes.

    Returns
    -------
    outcomes : list of dict
        One per expectation and partition, in a fixed order: `table`, `partition`, `expectation` (Great Expectations'
        name), `description`, `severity`, `success`, `rows`, `failing` and `examples` (keys of failing rows).
    figures : dict of str to int
        Counts for `dvc metrics diff`.
    """
    incidents, coverage, ticket_sources, alarms, actions = records
    outcomes, covered = check_table(
        "coverage", "", read_or_none(coverage), pandas_types(COVERAGE), coverage_batches, ask
    )
    servers = None if covered is None else covered["server_id"].drop_nulls().unique()
    outcomes += [outcome for finding in findings for outcome in finding.outcomes]
    if servers is not None:
        outcomes += ask(fleet_batch(findings, servers))
    for batch in volume_batches(findings, covered, telemetry.interval, validate):
        outcomes += ask(batch)

    batches = partial(incident_batches, validate=validate, servers=servers, last=findings[-1].partition)
    found, tickets = check_table("incidents", "", read_or_none(incidents), pandas_types(INCIDENTS), batches, ask)
    outcomes += found
    outcomes += check_table(
        "ticket_sources", "", read_or_none(ticket_sources), pandas_types(TICKET_SOURCES), ticket_source_batches, ask
    )[0]
    of_alarms, of_actions = (partial(batches, servers=servers) for batches in (alarm_batches, action_batches))
    outcomes += check_table("alarms", "", read_or_none(alarms), pandas_types(ALARMS), of_alarms, ask)[0]
    found, acted = check_table("actions", "", read_or_none(actions), pandas_types(ACTIONS), of_actions, ask)
    outcomes += found
    figures = {
        "partitions": len(findings),
        "rows": sum(finding.rows for finding in findings),
        "servers": pl.concat(finding.servers for finding in findings)["server_id"].n_unique(),
        "incidents": 0 if tickets is None else tickets.height,
        "crashes": 0 if tickets is None else tickets.filter(pl.col("kind") == CRASH).height,
        "actions": 0 if acted is None else acted.height,
        "critical_failures": len(failures(outcomes, CRITICAL)),
        "warnings": len(failures(outcomes, WARNING)),
    }
    for name in COUNTED:
        figures[name] = sum(outcome["failing"] for outcome in outcomes if outcome.get("figure") == name)
    return outcomes, figures


def check_partitions(telemetry_path: Path, telemetry: Telemetry, validate: Validate) -> list[Findings]:
    """Check every partition of telemetry; results that the memo holds are taken from there."""
    listed = tables.partitions(telemetry_path)
    tasks = [
        Task(partition, {"samples": File(partition.path(telemetry_path)), "telemetry": telemetry, "validate": validate})
        for partition in listed
    ]
    with TemporaryDirectory() as folder:
        seen = Path(folder, "servers")
        counts = runner.run("validate", validate_partition, tasks, seen)
        found = []
        for partition, count in zip(listed, counts, strict=True):
            path = partition.path(seen)
            servers = tables.read(path) if path.exists() else _nobody()
            found.append(Findings(partition, count["outcomes"], count["rows"], servers))
        return found


def validate_partition(
    partition: Partition, samples: Path, telemetry: Telemetry, validate: Validate
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Check the file of a partition; return its servers, its `outcomes` and number of `rows`."""
    findings = check_partition(partition, read_or_none(samples), telemetry, validate, judge)
    return findings.servers, {"outcomes": findings.outcomes, "rows": findings.rows}


def check_partition(
    partition: Partition, rows: pl.DataFrame | None, telemetry: Telemetry, validate: Validate, ask: Judge
) -> Findings:
    """Check one partition of telemetry; None stands for a file that cannot be read."""
    batches = partial(telemetry_batches, partition, telemetry=telemetry, validate=validate)
    types = pandas_types(KEYS) | dict.fromkeys(telemetry.metrics, FLOATS)
    outcomes, sound = check_table("telemetry", partition.name, rows, types, batches, ask)
    if rows is None or sound is None:
        return Findings(partition, outcomes, 0 if rows is None else rows.height)
    moment = pl.col("timestamp").clip(*tables.utc(partition.start, partition.end - telemetry.interval))
    dated = rows.lazy().drop_nulls(["timestamp", "server_id"])
    servers_seen = dated.group_by("server_id").agg(first=moment.min(), last=moment.max()).sort("server_id")
    return Findings(partition, outcomes, rows.height, servers_seen.collect())


def check_table(
    table: str,
    partition: str,
    rows: pl.DataFrame | None,
    types: dict[str, list[str]],
    batches: Callable[[pl.DataFrame], Iterable[Batch]],
    ask: Judge,
) -> tuple[list[Outcome], pl.DataFrame | None]:
    """Check the columns of a file and, if they are right, the batches of its rows.

    Returns
    -------
    outcomes : list of dict
        See `check`.
    sound : DataFrame or None
        The rows, if the columns are right.
    """
    if rows is None:
        return [unreadable(table, partition)], None
    outcomes = ask(column_batch(table, partition, rows, types))
    if failures(outcomes, CRITICAL):
        return outcomes, None
    for batch in batches(rows):
        outcomes += ask(batch)
    return outcomes, rows


def column_batch(table: str, partition: str, rows: pl.DataFrame, types: dict[str, list[str]]) -> Batch:
    """Expect these columns, no others, and their pandas types."""
    expectations: list[Expectation] = [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=list(types), exact_match=True, description="the columns are the expected ones"
        )
    ]
    for column, accepted in types.items():
        if column not in rows.columns:
            continue
        description = f"{column} is {' or '.join(accepted)}"
        if len(accepted) == 1:
            # knows time zones and units, as a list of types does not
            expectations.append(gxe.ExpectColumnTypeToBe(column=column, type_=accepted[0], description=description))
        else:
            expectations.append(
                gxe.ExpectColumnValuesToBeInTypeList(column=column, type_list=accepted, description=description)
            )
    empty = rows.clear()  # pandas turns whole numbers with gaps into floats
    return Batch(table, partition, "columns", empty, empty, expectations)


def telemetry_batches(
    partition: Partition, rows: pl.DataFrame, telemetry: Telemetry, validate: Validate
) -> Iterator[Batch]:
    """Expect rows in order, one per server and moment, at the right cadence, in range."""
    table, keys, metrics = "telemetry", rows.select(*KEYS), list(telemetry.metrics)
    timestamp, server = pl.col("timestamp"), pl.col("server_id")
    is_later = (timestamp > timestamp.shift()) | ((timestamp == timestamp.shift()) & (server >= server.shift()))
    infinite = pl.coalesce(pl.when(pl.col(name).is_infinite()).then(pl.lit(name)) for name in metrics)
    longest = telemetry.interval * SPACING_INTERVALS
    columns = [
        timestamp,
        server.cast(pl.Categorical),
        is_later.fill_null(True).alias("is_in_order"),
        timestamp.diff().over("server_id").dt.total_seconds().cast(pl.Float64).alias("spacing_s"),
        infinite.cast(pl.Categorical).alias("infinite_metric"),
    ]
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, description="there are rows"),
        _present("timestamp"),
        _present("server_id"),
        gxe.ExpectColumnValuesToBeBetween(
            column="timestamp",
            min_value=partition.start.replace(tzinfo=UTC),
            max_value=partition.end.replace(tzinfo=UTC),
            strict_max=True,
            description="timestamp lies in the partition",
        ),
        _true("is_in_order", "rows are sorted by timestamp, server_id"),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["timestamp", "server_id"],
            mostly=1 - validate.max_duplicate_share,
            description=f"timestamp and server_id are unique in {_share(validate.max_duplicate_share)} of rows",
            meta={"figure": "duplicate_rows"},
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="spacing_s",
            max_value=longest.total_seconds(),
            mostly=0.5,
            description=f"most samples of a server are at most {longest.total_seconds():g} s apart",
        ),
        gxe.ExpectColumnValuesToBeNull(column="infinite_metric", description="metrics are finite"),
    ]
    yield Batch(table, partition.name, "keys", rows.select(columns), keys, expectations)
    width = max(1, CELLS_AT_ONCE // max(1, rows.height))
    for names in (metrics[start : start + width] for start in range(0, len(metrics), width)):
        # Great Expectations compares float32 one value at a time
        values = rows.select(pl.col(names).cast(pl.Float64))
        found = [item for name in names for item in metric_expectations(name, telemetry.metrics[name], validate)]
        yield Batch(table, partition.name, f"{names[0]} to {names[-1]}", values, keys, found)


def metric_expectations(name: str, metric: Metric, validate: Validate) -> list[Expectation]:
    """Expect a metric to be there and in its range, except in a tolerated share of the rows."""
    expected: list[Expectation] = [
        gxe.ExpectColumnValuesToNotBeNull(
            column=name,
            mostly=1 - validate.max_missing_share,
            description=f"{name} is there in {_share(validate.max_missing_share)} of rows",
            meta={"figure": "missing_values"},
        )
    ]
    if metric.min is not None or metric.max is not None:
        in_range = _share(validate.max_out_of_range_share)
        expected += [
            gxe.ExpectColumnValuesToBeBetween(
                column=name,
                min_value=metric.min,
                max_value=metric.max,
                mostly=1 - validate.max_out_of_range_share,
                description=f"{name} is {metric.range} in {in_range} of rows",
                meta={"figure": "out_of_range_values"},
            )
        ]
    return expected


def fleet_batch(findings: list[Findings], servers: pl.Series) -> Batch:
    """Expect samples of servers that coverage knows."""
    seen = pl.concat(finding.servers for finding in findings)
    fleet = seen.group_by("server_id").agg(pl.col("first").min()).sort("server_id")
    return Batch(
        "telemetry", "", "servers", fleet.select(_is_covered(servers)), fleet.select("first", "server_id"), [_covered()]
    )


def volume_batches(
    findings: list[Findings], covered: pl.DataFrame | None, interval: timedelta, validate: Validate
) -> Iterator[Batch]:
    """Expect about as many rows per server and day as in the neighbouring partitions; a missing file has none.

    A server is expected from its first sample or coverage to its last, so a fleet may grow and shrink. Coverage that
    ends with the fleet's last sample is what an import assumes, of retired servers too: it does not count. Each
    partition is compared with the median of the four nearest, so that one outlier does not fail its neighbours.
    """
    judged = {finding.partition: finding for finding in findings if finding.servers.height}
    if not judged:
        return
    unjudged = {finding.partition for finding in findings} - set(judged)
    expected = _expected_periods(pl.concat(finding.servers for finding in findings), covered, interval)
    rates: dict[Partition, float] = {}
    partition = min(judged)
    while partition <= max(judged):
        start, end = tables.utc(partition.start, partition.end)
        period = pl.min_horizontal("until", end) - pl.max_horizontal("since", start)
        server_days = expected.select(period.clip(timedelta(0)).sum()).item() / DAY
        if server_days and partition not in unjudged:
            rates[partition] = (judged[partition].rows if partition in judged else 0) / server_days
        partition = tables.partition_at(partition.end, partition.unit)
    frame = pl.DataFrame(
        {
            "partition": [partition.name for partition in rates],
            "rows_per_server_day": list(rates.values()),
            "volume_change": [rates[partition] / _usual_rate(partition, rates, judged) - 1 for partition in rates],
        },
        schema_overrides={"rows_per_server_day": pl.Float64, "volume_change": pl.Float64},
    )
    limit, around = validate.max_volume_change, "than the median of the neighbouring partitions"
    expectations: list[Expectation] = [
        gxe.ExpectColumnValuesToBeBetween(
            column="volume_change",
            min_value=-limit,
            description=f"rows per server and day are at most {limit:.0%} fewer {around}",
        ),
        gxe.ExpectColumnValuesToBeBetween(  # clean makes one row of many; but it is unusual
            column="volume_change",
            max_value=limit,
            severity=WARNING,
            description=f"rows per server and day are at most {limit:.0%} more {around}",
        ),
    ]
    yield Batch("telemetry", "", "volume", frame, frame.select("partition", "rows_per_server_day"), expectations)


def _expected_periods(seen: pl.DataFrame, covered: pl.DataFrame | None, interval: timedelta) -> pl.DataFrame:
    periods = seen.group_by("server_id").agg(since=pl.col("first").min(), until=pl.col("last").max() + interval)
    if covered is not None:
        ends = pl.col("covered_to").max()
        stated = pl.when(ends != pl.lit(seen["last"].max(), tables.TIMESTAMP)).then(ends)
        known = covered.group_by("server_id").agg(pl.col("covered_from").min(), covered_to=stated)
        periods = periods.join(known, on="server_id", how="left").select(
            since=pl.max_horizontal(pl.min_horizontal("since", "covered_from"), pl.col("since").min()),
            until=pl.min_horizontal(pl.max_horizontal("until", "covered_to"), pl.col("until").max()),
        )
    return periods


def _usual_rate(partition: Partition, rates: dict[Partition, float], judged: Collection[Partition]) -> float:
    others = sorted(set(judged) - {partition}, key=lambda other: (abs(other.start - partition.start), other))
    return median(rates[other] for other in others[:NEIGHBOURS]) if others else rates[partition]


def incident_batches(
    rows: pl.DataFrame, validate: Validate, servers: pl.Series | None, last: Partition
) -> Iterator[Batch]:
    """Expect incidents of known servers that end after they start and are recorded once.

    Parameters
    ----------
    rows : DataFrame
        The table of incidents.
    validate : parameters
        The tolerances.
    servers : Series or None
        The servers that coverage knows; None if it cannot be read.
    last : Partition
        The last one of telemetry: an incident long after it has a mistyped date, or telemetry is missing.
    """
    end = pl.col("resolved_at").fill_null(pl.col("started_at"))
    earlier_end = end.cum_max().shift().over("server_id", "kind", order_by=["started_at", "resolved_at", "incident_id"])
    frame = rows.select(
        pl.col("incident_id", "server_id", "started_at", "resolved_at", "reported_at"),
        pl.col("kind").cast(pl.Categorical),
        ((pl.col("resolved_at") - pl.col("started_at")).dt.total_seconds() / 3600).alias("outage_h"),
        (pl.col("started_at") >= earlier_end).fill_null(True).alias("is_apart"),
    )
    latest = last.end + (last.end - last.start)
    tolerated = validate.max_overlapping_incident_share
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, description="there are incidents"),
        *(_present(column) for column in ("incident_id", "server_id", "kind", "started_at")),
        gxe.ExpectColumnValuesToBeUnique(column="incident_id", description="incident_id is unique"),
        gxe.ExpectColumnValuesToBeInSet(
            column="kind", value_set=[CRASH, MAINTENANCE], description=f"kind is {CRASH} or {MAINTENANCE}"
        ),
        _ordered("started_at", "resolved_at", or_equal=True),
        _true(
            "is_apart",
            f"{_share(tolerated)} of incidents begin after the server's last of their kind ended",
            mostly=1 - tolerated,
            meta={"figure": "overlapping_incidents"},
        ),
        _ordered("started_at", "reported_at", or_equal=True, severity=WARNING),
        gxe.ExpectColumnValuesToBeBetween(
            column="outage_h",
            max_value=validate.max_outage / timedelta(hours=1),
            severity=WARNING,
            description=f"outages last at most {format_duration(validate.max_outage)}",
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="started_at",
            max_value=latest.replace(tzinfo=UTC),
            strict_max=True,
            severity=WARNING,
            description=f"started_at lies before {latest:%Y-%m-%d}: a partition after the end of telemetry",
        ),
    ]
    if servers is not None:
        frame = frame.with_columns(_is_covered(servers))
        expectations += [
            # a ticket may name the wrong host; if most do, the two sources write their hosts differently
            _true("is_covered", "most incidents are on servers that coverage knows", mostly=0.5),
            _covered(severity=WARNING, meta={"figure": "incidents_on_unknown_servers"}),
        ]
    yield Batch("incidents", "", "rows", frame, rows.select("incident_id", "server_id"), expectations)


def coverage_batches(rows: pl.DataFrame) -> Iterator[Batch]:
    """Expect covered servers, ordered periods without overlap, and one group per server."""
    groups = pl.col("group").n_unique().over("server_id").cast(pl.Float64).alias("groups")
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, description="there are covered servers"),
        *_periods("server_id", "server"),
        gxe.ExpectColumnValuesToBeBetween(column="groups", max_value=1, description="a server has one group"),
    ]
    frame = _with_gaps(rows, "server_id").with_columns(rows.select(groups))
    yield Batch("coverage", "", "rows", frame, rows.select("server_id", "covered_from"), expectations)


def ticket_source_batches(rows: pl.DataFrame) -> Iterator[Batch]:
    """Expect ordered periods without overlap, if there are any."""
    keys = rows.select("source", "covered_from")
    yield Batch("ticket_sources", "", "rows", _with_gaps(rows, "source"), keys, [*_periods("source", "source")])


def alarm_batches(rows: pl.DataFrame, servers: pl.Series | None) -> Iterator[Batch]:
    """Expect alarms of known servers, one for each server and moment, that end after they begin, if there are any."""
    expectations = [
        *map(_present, ALARMS),
        _unique(ALARM_KEY),
        _ordered("opened_at", "timestamp", or_equal=True),
        _ordered("timestamp", "ends_at", or_equal=False),
    ]
    yield _of_servers("alarms", rows, servers, expectations, list(ALARM_KEY))


def action_batches(rows: pl.DataFrame, servers: pl.Series | None) -> Iterator[Batch]:
    """Expect actions on known servers, each reported once, if there are any."""
    expectations = [
        *(_present(column) for column in ACTIONS if column != "who"),
        _unique(ACTION_KEY),
        _ordered("at", "reported_at", or_equal=True, severity=WARNING),
    ]
    meta = {"figure": "actions_on_unknown_servers"}
    yield _of_servers("actions", rows, servers, expectations, ["at", "server_id"], meta=meta)


def _of_servers(
    table: str,
    rows: pl.DataFrame,
    servers: pl.Series | None,
    expectations: list[Expectation],
    keys: list[str],
    **more: Any,
) -> Batch:
    """Return a batch of expectations, and a warning of servers that coverage does not know."""
    if servers is None:
        return Batch(table, "", "rows", rows, rows.select(keys), expectations)
    expectations = [*expectations, _covered(severity=WARNING, **more)]
    return Batch(table, "", "rows", rows.with_columns(_is_covered(servers)), rows.select(keys), expectations)


def _unique(columns: tuple[str, ...]) -> Expectation:
    return gxe.ExpectCompoundColumnsToBeUnique(
        column_list=list(columns), description=f"{', '.join(columns[:-1])} and {columns[-1]} are unique"
    )


def _with_gaps(rows: pl.DataFrame, owner: str) -> pl.DataFrame:
    earlier_end = pl.col("covered_to").cum_max().shift().over(owner, order_by=["covered_from", "covered_to"])
    is_apart = (pl.col("covered_from") >= earlier_end).fill_null(True)
    return rows.select(owner, "covered_from", "covered_to", is_apart=is_apart)


def _periods(owner: str, called: str) -> Iterator[Expectation]:
    """Expect periods that end after they begin and do not overlap."""
    yield from (_present(column) for column in (owner, "covered_from", "covered_to"))
    yield _ordered("covered_from", "covered_to", or_equal=False)
    yield _true("is_apart", f"the periods of a {called} do not overlap")


def _present(column: str) -> Expectation:
    return gxe.ExpectColumnValuesToNotBeNull(column=column, description=f"{column} is there")


def _true(column: str, description: str, **more: Any) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], description=description, **more)


def _ordered(earlier: str, later: str, *, or_equal: bool, **more: Any) -> Expectation:
    return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A=later,
        column_B=earlier,
        or_equal=or_equal,
        ignore_row_if="either_value_is_missing",
        description=f"{later} is {'not before' if or_equal else 'after'} {earlier}",
        **more,
    )


def _is_covered(servers: pl.Series) -> pl.Expr:
    return pl.col("server_id").is_in(servers.implode()).fill_null(True).alias("is_covered")


def _covered(**more: Any) -> Expectation:
    return _true("is_covered", "server_id is one that coverage knows", **more)


def _share(tolerated: float) -> str:
    return f"{100 * (1 - tolerated):g}%"


def read_or_none(path: Path) -> pl.DataFrame | None:
    """Read a file; None if it cannot be read."""
    try:
        return tables.read(path)
    except UserError:
        return None


def pandas_types(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Return the pandas types of polars types."""
    return {column: [PANDAS_TYPES[dtype]] for column, dtype in schema.items()}
