"""Files of samples, incidents and coverage, parsed into our schema, or an error that names the row."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import polars as pl

from crashcast import tables
from crashcast.sources.importing.columns import (
    NOW,
    UTC_CLOCK,
    Roles,
    check_times_of_day,
    choose,
    holds_times,
    identifiers,
    moments,
    numbers,
    texts,
    with_moments,
)
from crashcast.sources.importing.layouts import IDENTIFIER, Layout, identifier, metric_of, with_servers, without_port
from crashcast.sources.importing.local_time import NO_ZONE, Clock, check_not_local
from crashcast.sources.importing.long_format import (
    METRIC_NAMES,
    VALUE_NAMES,
    check_one_series,
    is_long,
    pivot,
)
from crashcast.sources.importing.server_names import find_servers
from crashcast.sources.importing.table_file import SHOWN, Sheet, plain_name, read_sheet
from crashcast.sources.importing.text_numbers import Written, looks_numeric
from crashcast.sources.tickets.own_alarms import is_title
from crashcast.sources.value_formats import utc_text
from crashcast.tables import CRASH, KEYS, MAINTENANCE
from crashcast.text import all_of, some_of

MACHINES = ("server", "host", "node", "machine", "instance", "vm")
SERVER_NAMES = (
    ("server_id",),
    (*MACHINES, *(f"{machine}{word}" for machine in MACHINES for word in ("name", "_name", "_id")), "fqdn"),
    ("serial_number", "serial", "disk_id", "drive_id"),  # of disks, if no column is of the machine
)
GROUPINGS = ("group", "server_group", "role", "site", "cluster", "datacenter", "rack", "zone", "region", "model")
GROUP_NAMES = tuple((name,) for name in GROUPINGS)
TELEMETRY_ROLES: Roles = {
    "timestamp": (
        ("timestamp",),
        ("time", "ts", "datetime", "date_time", "sampled_at", "collected_at", "event_time", "_time", "@timestamp"),
        ("checked_at", "measured_at"),
        ("date",),
    ),
    "server_id": SERVER_NAMES,
    "group": GROUP_NAMES,
    "metric": METRIC_NAMES,
    "value": VALUE_NAMES,
}
OPENED = ("created_at", "opened_at", "created", "opened", "created_on", "opened_on", "sys_created_on")
# if a ticket has both a start and an opening, it was reported at the opening
INCIDENT_ROLES: Roles = {
    "incident_id": (
        ("incident_id",),
        ("id", "incident", "ticket", "ticket_id", "key", "number"),
        *((name,) for name in ("issue_key", "alert_id", "tiny_id", "incident_number", "issue_id")),
    ),
    "server_id": (
        *SERVER_NAMES,
        *((name,) for name in ("cmdb_ci", "configuration_item", "affected_ci", "ci", "entity")),
    ),
    "kind": (("kind",), ("incident_kind", "incident_type", "type")),
    "started_at": (
        ("started_at",),
        ("start", "started", "start_time", "start_at", "starts_at", "begin", "began_at", "occurred_at", "crashed_at"),
        ("failed_at",),
        OPENED,
        ("timestamp", "time", "datetime", "date"),
    ),
    "resolved_at": (
        ("resolved_at",),
        ("end", "ended", "end_time", "end_at", "ends_at", "ended_at", "resolved", "finished_at", "recovered_at"),
        ("repaired_at", "replaced_at"),
        ("resolved_on",),
        ("closed_at", "closed", "closed_on"),
    ),
    "reported_at": (
        ("reported_at",),
        ("reported", "detected_at", "known_at", "triggered_at"),
        OPENED,
    ),
    "severity": tuple((name,) for name in ("severity", "priority", "urgency", "impact")),
    "source": (("source",), ("system",)),
    "summary": tuple((name,) for name in ("summary", "title", "short_description", "description", "message", "cause")),
}
COVERAGE_ROLES: Roles = {
    "server_id": SERVER_NAMES,
    "covered_from": (("covered_from",), ("labelled_from", "labeled_from", "recorded_from"), ("from", "start", "since")),
    "covered_to": (("covered_to",), ("labelled_to", "labeled_to", "recorded_to"), ("to", "end", "until")),
    "group": GROUP_NAMES,
}
ACTION_ROLES: Roles = {
    "server_id": SERVER_NAMES,
    "what": (("what",), ("action", "done")),
    "at": (("at",), ("acted_at", "done_at"), ("timestamp", "time", "datetime")),
    "who": tuple((name,) for name in ("who", "user", "by")),
    "reported_at": (("reported_at",), ("reported",)),
}
OF_FILE = "csv"  # the source of actions that were imported
KINDS = {
    **dict.fromkeys((CRASH, "outage", "incident", "failure", "down", "unplanned"), CRASH),
    **dict.fromkeys((MAINTENANCE, "planned", "reboot", "scheduled", "upgrade"), MAINTENANCE),
}
RESERVED = {*KEYS, *tables.INCIDENTS, *tables.COVERAGE, "label", "reason", "part", "score", "hours_since_crash"}
FEATURE = r"(?P<metric>.+)_((mean|std|max|diff)_\d+[smhd]|vs_fleet)|crashes_\d+[smhd]|missing_share_\d+[smhd]"
ELSEWHERE = "if each column is a server, --metric NAME says so; a folder host=NAME/ names the server of its files"
FITS = {
    **dict.fromkeys(("timestamp", "started_at", "resolved_at", "reported_at"), holds_times),
    "kind": lambda sheet, column: bool(texts(sheet, column).str.to_lowercase().is_in([*KINDS]).any()),
}
ID = "{} {} {}"  # of an incident without one: server, start, kind
WITHOUT = {
    "kind": "every incident is a crash",
    "resolved_at": "outages last as long as incidents.unresolved_outage in params.yaml",
    "reported_at": "the team knew after incidents.reporting_delay in params.yaml",
    "incident_id": "incidents are told apart by server, start and kind",
}
STAGED_ROWS = 1 << 18  # in a row group, so that reading one partition skips most of a file
ID_NAME = r"(.+_)?u?u?id|(item|metric|sensor|device|host|server|series|row|event)id|serial(_?(number|no))?"
IDS = "ids"
# each row of a server has it, so a model would read there what it is to predict
ANSWER_NAME = r"(crashed|failed|recovered|repaired|replaced)_at"
ANSWER = "when servers crash, which is to be predicted"
ROW_NUMBER, INDEX = r"|unnamed:_\d+|index|__index_level_\d+__", "a row number"  # written by pandas


@dataclass(frozen=True)
class Samples:
    """A telemetry file, parsed and staged.

    Attributes
    ----------
    source, staged : Path
        The file, and its rows as (timestamp, server_id, metrics), sorted by timestamp.
    first, last : datetime
        The rows' extremes.
    metrics, empty : list of str
        Columns with numbers, and columns without any value; both are staged.
    left_out : dict
        Other columns, each with the reason why it is no metric.
    lost : set of str
        Those that look like numbers.
    units, forms : dict
        Of metrics that are text: the unit ("" without one), and the form for the user.
    groups : DataFrame
        `server_id`, each `group` of it and the `timestamp` it was last seen at.
    reading : str
        The column of each role.
    is_local : bool
        Its times have no zone.
    new_names : dict
        Names in the file that became others.
    """

    source: Path
    staged: Path
    first: datetime
    last: datetime
    metrics: list[str]
    empty: list[str]
    left_out: dict[str, str]
    lost: set[str]
    units: dict[str, str]
    forms: dict[str, str]
    groups: pl.DataFrame
    reading: str
    is_local: bool
    new_names: dict[str, str]

    def scan(self) -> pl.LazyFrame:
        """Return its rows."""
        return pl.scan_parquet(self.staged, glob=False)


@dataclass(frozen=True)
class Records:
    """A file of incidents, coverage or actions, parsed.

    Attributes
    ----------
    sheet : Sheet
        The file.
    frame : DataFrame
        Its rows, in our schema, in the file's order.
    notes : list of str
        How it was read, and what was assumed.
    has_ids : bool
        The file names its incidents.
    is_local : bool
        Its times have no zone.
    doubts : list of str
        What the user should check.
    proposal : str
        How servers could be found that have no telemetry.
    """

    sheet: Sheet
    frame: pl.DataFrame
    notes: list[str]
    has_ids: bool = True
    is_local: bool = False
    doubts: list[str] = field(default_factory=list)
    proposal: str = ""


def read_samples(
    path: Path,
    staged: Path,
    known: Collection[str],
    latest: datetime,
    clock: Clock = UTC_CLOCK,
    layout: Layout = Layout(),  # noqa: B008 - it is frozen
) -> Samples:
    """Parse a telemetry file and stage its rows.

    Parameters
    ----------
    path, staged : Path
        The file, and the file that its rows are written to.
    known : collection of str
        Metrics of earlier imports: text in them is an error.
    latest : datetime
        A later sample is an error.
    clock : Clock
        How times without a zone are read.
    layout : Layout
        Names that the user chose, and where servers are named.

    Raises
    ------
    UserError
        Naming file, column and row.
    """
    sheet = read_sheet(path)
    if sheet.frame.is_empty():
        raise sheet.error("no rows")
    sheet, chosen = _renamed(sheet, layout.new_names)
    sheet, joined = with_moments(sheet)
    roles = choose(sheet, TELEMETRY_ROLES, ("timestamp",), FITS)
    placed, has_column = "", "server_id" in roles
    if "server_id" not in roles:
        sheet, placed = with_servers(sheet, roles, layout, {name for tier in SERVER_NAMES for name in tier})
        sheet, new = _renamed(sheet, layout.new_names)
        chosen |= new
        roles = choose(sheet, TELEMETRY_ROLES, ("timestamp", "server_id"), FITS, {"server_id": ELSEWHERE})
    if {"value", "metric"} & roles.keys() == {"value"} and (layout.metric or layout.is_named_by_metric):
        metric = layout.metric or metric_of(path)
        sheet = replace(sheet, frame=sheet.frame.rename({roles.pop("value"): metric}))
        named = f"of {metric}, as --metric says" if layout.metric else "of the metric that each file is named after"
        placed = ", ".join(filter(None, [placed, f"values {named}"]))
    if not is_long(sheet, roles) or roles["value"] in known:
        roles = {role: column for role, column in roles.items() if role not in ("metric", "value")}
    servers = identifiers(sheet, roles["server_id"])
    if plain_name(roles["server_id"]) == "instance":
        targets = {server: without_port(server, layout.servers) for server in servers.unique()}
        is_distinct = len(set(targets.values())) == len(targets)  # or two targets of one host would be mixed
        hosts = servers.replace(targets) if is_distinct else servers
        placed += "" if hosts.equals(servers) else f"{', ' if placed else ''}server_id without its port"
        servers = hosts
    series = pl.DataFrame({"server_id": servers})
    if "metric" in roles:
        series = series.with_columns(metric=identifiers(sheet, roles["metric"]))
    timestamp, how = moments(sheet, roles["timestamp"], latest, clock=clock, series=series)
    series = series.with_columns(timestamp=timestamp)
    if clock.zone is None and NO_ZONE in how:
        check_not_local(sheet, roles["timestamp"], series, clock)
    keys = series.select(*KEYS)
    others = [column for column in sheet.frame.columns if column not in roles.values()]
    shown = {role: column for role, column in roles.items() if role != "server_id" or has_column}
    reading = ", ".join(filter(None, [_reading(shown, {"timestamp": how}, joined), placed]))
    names = {column: identifier(column.strip()) for column in others}
    metrics = dict[str, Written]()
    if "metric" in roles:
        left_out = {column.strip(): "not the name or the value of a metric" for column in others}
        found = series["metric"].unique(maintain_order=True)
        names = {name: layout.new_names.get(name, identifier(name)) for name in found}
        _check_distinct(sheet, names)
        series = series.select(*KEYS, metric=pl.col("metric").replace_strict(names))
        _check_names(sheet, list(names.values()))
        check_one_series(sheet, series, others)
        frame, rounded = pivot(sheet, series, roles["value"], bool(layout.rates))
        reading += rounded
    else:
        metrics, left_out = _metrics(sheet, names, known, layout.rates)
        telling = [column for column in others if left_out.get(names[column], INDEX) != INDEX]
        check_one_series(sheet, keys, sorted(telling, key=lambda column: left_out[names[column]] == IDS))
        frame = keys.with_columns(**{name: written.values for name, written in metrics.items()})
        if sheet.frame.height > len(sheet.numbers):
            frame = frame.filter(~pl.all_horizontal(pl.col(list(metrics)).is_null()))  # of another server's column
    frame = frame.sort("timestamp", maintain_order=True)
    frame.write_parquet(staged, compression="lz4", row_group_size=STAGED_ROWS)
    staged_names = frame.columns[len(KEYS) :]
    full = [name for name in staged_names if frame[name].count()]
    _check_names(sheet, full)
    groups = keys.with_columns(group=_optional_texts(sheet, roles.get("group"))).drop_nulls("group")
    return Samples(
        source=path,
        staged=staged,
        first=frame["timestamp"][0],
        last=frame["timestamp"][-1],
        metrics=full,
        empty=[name for name in staged_names if name not in full],
        left_out=left_out,
        lost={name for column in others if (name := names.get(column)) in left_out and _looks_numeric(sheet, column)},
        units={name: written.unit for name, written in metrics.items()},
        forms={name: written.how for name, written in metrics.items() if written.how},
        groups=groups.sort("timestamp", maintain_order=True).group_by("server_id", "group", maintain_order=True).last(),
        reading=reading,
        is_local=NO_ZONE in how,
        new_names=chosen | {old.strip(): new for old, new in names.items() if new != old.strip() and new in full},
    )


def _renamed(sheet: Sheet, new_names: Mapping[str, str]) -> tuple[Sheet, dict[str, str]]:
    chosen = {old: new for old, new in new_names.items() if old in sheet.frame.columns}
    _check_distinct(sheet, {column: chosen.get(column, column) for column in sheet.frame.columns})
    return replace(sheet, frame=sheet.frame.rename(chosen)), chosen


def _check_distinct(sheet: Sheet, names: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for old, new in names.items():
        if (other := owners.setdefault(new, old)) != old:
            raise sheet.error(f"'{other}' and '{old}' would both be {new}; choose names with --map OLD=NEW")


def _metrics(
    sheet: Sheet, names: dict[str, str], known: Collection[str], rates: Collection[str]
) -> tuple[dict[str, Written], dict[str, str]]:
    metrics, left_out = dict[str, Written](), dict[str, str]()
    owners: dict[str, str] = {}
    for column, name in names.items():
        plain = plain_name(column)
        if re.fullmatch(ROW_NUMBER, plain):
            left_out[name] = INDEX
        elif re.fullmatch(ID_NAME, plain) and name not in known:
            left_out[name] = IDS
        elif re.fullmatch(ANSWER_NAME, plain) and name not in known:
            left_out[name] = ANSWER
        elif isinstance(values := numbers(sheet, column, name in known, name in rates), str):
            left_out[name] = values
        else:
            owners[column], metrics[name] = name, values
    _check_distinct(sheet, owners)
    _check_decimals(sheet, metrics)
    return metrics, left_out


def _check_decimals(sheet: Sheet, metrics: dict[str, Written]) -> None:
    comma = next((name for name, written in metrics.items() if "decimal commas" in written.how), None)
    for column in sheet.frame.columns if comma else ():
        if identifier(column.strip()) in metrics and sheet.frame[column].dtype == pl.String:
            text = texts(sheet, column)
            dotted = text.filter(text.str.contains(".", literal=True))
            if dotted.len() and dotted.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}(\D|$)").all():
                message = f"{dotted[0]} could be a thousand and more, because column '{comma}' has decimal commas"
                raise sheet.error(f"{message}; write all columns in one form", column)


def _looks_numeric(sheet: Sheet, column: str) -> bool:
    dtype = sheet.frame[column].dtype
    is_text = dtype in (pl.String, pl.Categorical, pl.Enum)
    return dtype == pl.Duration or (is_text and looks_numeric(texts(sheet, column)))


def _optional_texts(sheet: Sheet, column: str | None) -> pl.Series:
    if column is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, sheet.frame.height)
    return texts(sheet, column)


def _reading(roles: dict[str, str], notations: dict[str, str], joined: Mapping[str, str] = {}) -> str:
    words = []
    for role, column in roles.items():
        dates = f"'{joined[column]}' and " if column in joined else ""
        taken = role if column == role and not dates else f"{role} from {dates}'{column}'"
        words.append(f"{taken} ({notations[role]})" if role in notations else taken)
    return ", ".join(words)


def _check_names(sheet: Sheet, names: list[str]) -> None:
    for name in names:
        if re.fullmatch(IDENTIFIER, name) is None:
            raise sheet.error("a metric's name takes letters, digits and _ only: --map NAME=cpu_pct renames it", name)
        feature = re.fullmatch(FEATURE, name)
        if name in RESERVED or (feature and feature["metric"] in (None, *names)):
            raise sheet.error("the pipeline uses this name itself; --map renames it", name)


def read_incidents(
    path: Path,
    latest: datetime,
    clock: Clock = UTC_CLOCK,
    servers: Collection[str] | None = None,
    is_short: bool = False,
) -> Records | None:
    """Parse a file of incidents, our own or an export of a ticket system.

    Parameters
    ----------
    path : Path
        The file.
    latest : datetime
        A later crash is an error; maintenance may be planned ahead.
    clock : Clock
        How times without a zone are read.
    servers : collection of str, optional
        Those with telemetry: if no column is of servers, they are looked for in texts such as a ticket's title.
    is_short : bool
        Also by names without their domain.

    Returns
    -------
    Records, optional
        None if no column is of servers, and `servers` is not given.

    Raises
    ------
    UserError
        Naming file, column, row and incident.
    """
    sheet, joined = with_moments(read_sheet(path, may_repeat=True))
    doubts = list[str]()
    if "server_id" not in (roles := choose(sheet, INCIDENT_ROLES, ("started_at",), FITS)):
        if servers is None:
            return None
        sheet, doubts = _with_servers_of_text(sheet, servers, is_short)
        roles = choose(sheet, INCIDENT_ROLES, ("server_id", "started_at"), FITS)
    kinds = _kinds(sheet, roles.get("kind"))
    times: dict[str, pl.Series] = {}
    notations: dict[str, str] = {}
    for role in ("started_at", "resolved_at", "reported_at"):
        if role in roles:
            check_times_of_day(sheet, roles[role], kinds == CRASH if role == "started_at" else None)
            times[role], notations[role] = moments(sheet, roles[role], None, role == "started_at", clock)
        else:
            times[role] = pl.Series([None], dtype=tables.TIMESTAMP).new_from_index(0, sheet.frame.height)
    words = {role: _optional_texts(sheet, roles.get(role)) for role in ("severity", "source", "summary")}
    frame = pl.DataFrame(
        {
            "server_id": identifiers(sheet, roles["server_id"]),
            "kind": kinds,
            **times,
            **words,
        }
    )
    ids = identifiers(sheet, roles["incident_id"]) if "incident_id" in roles else incident_id()
    frame = frame.with_columns(incident_id=ids).select(*tables.INCIDENTS)
    _check_incidents(sheet, frame, roles, latest)

    is_own = pl.Series([is_title(summary or "") for summary in frame["summary"]], dtype=pl.Boolean)
    distinct = frame.filter(~is_own).unique(maintain_order=True)
    early = pl.col("reported_at") < pl.col("started_at")
    notes = [f"{path}: {_reading(roles, notations, joined)}"]
    notes += [f"{path} has no {role}: {meaning}" for role, meaning in WITHOUT.items() if role not in roles]
    others = [column for column in sheet.frame.columns if column not in roles.values()]
    notes += [f"{path}: left out {some_of(others, SHOWN)}"] if others else []
    if own := int(is_own.sum()):
        notes.append(f"{path}: {own:,} incidents stem from our own alarms, so they are no crashes: left out")
    if repeated := frame.height - own - distinct.height:
        notes.append(f"{path}: {repeated:,} repeated incidents are taken once")
    if count := distinct.select(early.sum()).item():
        notes.append(f"{path}: {count:,} incidents reported before they started are taken as reported when they did")
    reported = pl.when(early).then("started_at").otherwise("reported_at")
    is_local = any(NO_ZONE in how for how in notations.values())
    frame = distinct.with_columns(reported_at=reported)
    return Records(sheet, frame, notes, "incident_id" in roles, is_local, doubts)


def _with_servers_of_text(sheet: Sheet, servers: Collection[str], is_short: bool) -> tuple[Sheet, list[str]]:
    found, columns = find_servers(sheet, servers, is_short)
    if not columns:
        if not is_short and (columns := find_servers(sheet, servers, True)[1]):
            raise sheet.error("no column for server_id; --short-names finds servers in this one", columns[0])
        return sheet, []
    frame = sheet.frame.with_columns(found.alias("server_id"))
    doubts = [f"{sheet.path}: servers are those that {all_of([repr(name) for name in columns])} name"]
    several = found.filter(found.str.contains(", ").fill_null(False))
    if several.len():
        doubts.append(f"{sheet.path}: {several.len():,} incidents name several, such as {several[0]}")
    if without := found.null_count():
        lost = f"{without:,} of {found.len():,} incidents are left out"
        row = sheet.row(sheet.first(found.is_null()) or 0)
        doubts.append(f"{sheet.path}: {lost}, such as {row}: no text names a server that has telemetry")
    kept = found.is_not_null()
    return replace(sheet, frame=frame.filter(kept), numbers=[sheet.numbers[n] for n in kept.arg_true()]), doubts


def incident_id() -> pl.Expr:
    """Return the id of an incident that has none."""
    return pl.format(ID, "server_id", pl.col("started_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"), "kind")


def _check_incidents(sheet: Sheet, frame: pl.DataFrame, roles: dict[str, str], latest: datetime) -> None:
    for role in ("started_at", "resolved_at", "reported_at"):
        if (index := sheet.first((frame[role] > latest) & (frame["kind"] == CRASH))) is not None:
            message = f"{utc_text(frame[role][index])} is in the future, {NOW.format(utc_text(latest))}"
            raise sheet.error(f"incident '{frame['incident_id'][index]}': {message}", roles[role], index)
    if (index := sheet.first(frame["resolved_at"] < frame["started_at"])) is not None:
        start, end = (utc_text(frame[name][index]) for name in ("started_at", "resolved_at"))
        message = f"resolved at {end}, but started at {start}"
        raise sheet.error(f"incident '{frame['incident_id'][index]}': {message}", roles["resolved_at"], index)
    is_new = frame.to_struct("incident").is_first_distinct()
    if (index := sheet.first(is_new & ~frame["incident_id"].is_first_distinct())) is not None:
        other = sheet.first(frame["incident_id"] == frame["incident_id"][index]) or 0
        differing = [name for name in tables.INCIDENTS if frame[name][index] != frame[name][other]]
        message = f"incident '{frame['incident_id'][index]}' is also in {sheet.row(other)}"
        raise sheet.error(f"{message}, with another {', '.join(differing)}; keep one", roles.get("incident_id"), index)


def _kinds(sheet: Sheet, column: str | None) -> pl.Series:
    written = _optional_texts(sheet, column)
    kinds = written.str.to_lowercase().replace_strict(KINDS, default=None, return_dtype=pl.String)
    if (index := sheet.first(written.is_not_null() & kinds.is_null())) is not None:
        message = f"'{written[index]}' is neither a crash nor maintenance ({', '.join(KINDS)})"
        raise sheet.error(f"{message}; change it, or remove the column if all are crashes", column, index)
    return kinds.fill_null(CRASH)


def read_actions(path: Path, latest: datetime, clock: Clock = UTC_CLOCK) -> Records:
    """Parse a file of what was done to servers; without `reported_at`, it was reported when it was done.

    Raises
    ------
    UserError
        Naming file, column and row.
    """
    sheet = read_sheet(path)
    roles = choose(sheet, ACTION_ROLES, ("server_id", "what", "at"))
    times = {role: moments(sheet, roles.get(role, roles["at"]), latest, clock=clock) for role in ("at", "reported_at")}
    frame = pl.DataFrame(
        {
            "server_id": identifiers(sheet, roles["server_id"]),
            "what": identifiers(sheet, roles["what"]),
            "at": times["at"][0],
            "who": _optional_texts(sheet, roles.get("who")),
            "source": pl.repeat(OF_FILE, sheet.frame.height, dtype=pl.String, eager=True),
            "reported_at": times["reported_at"][0],
        },
        tables.ACTIONS,
    )
    notes = [f"{path}: {_reading(roles, {role: how for role, (_, how) in times.items()})}"]
    return Records(sheet, frame.unique(tables.ACTION_KEY, keep="last", maintain_order=True), notes)


def read_coverage(path: Path, latest: datetime, clock: Clock = UTC_CLOCK) -> Records:
    """Parse a file of the periods in which incidents were recorded, server by server.

    Raises
    ------
    UserError
        Naming file, column and row.
    """
    sheet = read_sheet(path)
    if sheet.frame.is_empty():
        raise sheet.error("no rows")
    roles = choose(sheet, COVERAGE_ROLES, ("server_id", "covered_from", "covered_to"))
    start, how_start = moments(sheet, roles["covered_from"], latest, clock=clock)
    end, how_end = moments(sheet, roles["covered_to"], latest, clock=clock)
    if (index := sheet.first(start >= end)) is not None:
        raise sheet.error(
            f"covered until {utc_text(end[index])}, but from {utc_text(start[index])}", roles["covered_to"], index
        )
    ids, groups = identifiers(sheet, roles["server_id"]), _optional_texts(sheet, roles.get("group"))
    frame = pl.DataFrame({"server_id": ids, "covered_from": start, "covered_to": end, "group": groups})
    reading = _reading(roles, {"covered_from": how_start, "covered_to": how_end})
    return Records(sheet, frame, [f"{path}: {reading}"])
