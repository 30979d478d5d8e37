"""Evidence of crashes by hand: a few servers whose samples, tickets and annotations a person can follow."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl

from crashcast import tables
from crashcast.incidents import complete_incidents
from crashcast.labelling import candidate_events, interruptions
from crashcast.labelling.candidate_events import ANNOTATIONS
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import INCIDENTS, TIMESTAMP

START = datetime(2025, 3, 3)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEEK = 7 * 24  # hours
SETTINGS = Telemetry.model_validate(
    {
        "interval": "1h",
        "partition": "day",
        "metrics": {"uptime_h": {"min": 0, "max": 99999}, "error_rate_pct": {"min": 0, "max": 100}},
    }
)
RULES = Label(
    lead="1h",
    horizon="6h",
    recovery="2h",
    aggregate="dawid_skene",
    evidence=["tickets", "restarts", "gaps", "storms", "annotations"],
    uptime_metric="uptime_h",
    error_metric="error_rate_pct",
)
RECORDING = Incidents(reporting_delay="4h", unresolved_outage="24h")
ALWAYS = [("a", -999, 9999), ("b", -999, 9999)]


def at(hour):
    return START + hour * HOUR


def frame_of(schema, rows):
    """Lay rows out as a frame; numbers in columns of times are hours from START."""
    naive = {name: pl.Datetime("us") if kind == TIMESTAMP else kind for name, kind in schema.items()}

    def told(value, kind):
        return at(value) if kind == TIMESTAMP and value is not None else value

    moved = [[told(*pair) for pair in zip(row, schema.values(), strict=True)] for row in rows]
    return pl.DataFrame(moved, schema=naive, orient="row").cast(dict(schema))


def hours(moments):
    """Return moments as hours from START."""
    return [None if moment is None else (moment.replace(tzinfo=None) - START) / HOUR for moment in moments]


def samples_of(server="a", first=0, last=48, booted=-100, down=(), lost=(), errors=()):
    """Return hourly (moment, server, uptime, error rate); `down` are (from, to) after which the uptime begins anew."""
    rows = []
    for hour in range(first, last):
        if any(begin <= hour < end for begin, end in down) or hour in lost:
            continue
        boot = max([booted, *(end for _, end in down if end <= hour)])
        rows.append((hour, server, hour - boot, 90.0 if hour in errors else 0.2))
    return rows


COLUMNS = {**tables.KEYS, "uptime_h": pl.Float32, "error_rate_pct": pl.Float32}


def up_intervals_of(*servers, borders=()):
    """Reduce samples to up intervals, in one partition or in several."""
    rows = frame_of(COLUMNS, sorted(row for server in servers for row in server))
    found = []
    for first, last in pairwise([-9999, *borders, 9999]):
        own = rows.filter(pl.col("timestamp").is_between(*tables.utc(at(first), at(last)), closed="left"))
        partition = tables.Partition(at(first), at(last), "day")
        frame, counts = interruptions.up_intervals(partition, own, SETTINGS, "uptime_h", "error_rate_pct", 20)
        assert counts == {"samples": own.height}
        found.append(frame)
    return pl.concat(found)


def interruptions_of(*servers, borders=()):
    return interruptions.interruptions(up_intervals_of(*servers, borders=borders), HOUR)


def tickets_of(*rows):
    """Lay (server, kind, started, resolved, source) out as records, reported half an hour after their start."""
    numbered = [
        (f"INC-{number}", server, kind, started, resolved, started + 0.5, None, source, None)
        for number, (server, kind, started, resolved, source) in enumerate(rows)
    ]
    return frame_of(INCIDENTS, numbered)


def notes_of(*rows):
    """Lay (server, started, ended, verdict, crash_at, annotator) out as annotations."""
    return frame_of(ANNOTATIONS, [(*row, 999) for row in rows])


def sources_of(*rows):
    """Lay (source, from, to) out as the periods in which systems recorded tickets."""
    return frame_of(tables.TICKET_SOURCES, rows)


def actions_of(*rows):
    """Lay (server, hour) out as actions, reported when they were done."""
    return frame_of(tables.ACTIONS, [(server, "restart", hour, None, "cli", hour) for server, hour in rows])


def found_in(up, tickets=None, notes=None, actions=None):
    records = tickets_of() if tickets is None else tickets
    known = complete_incidents(records, RECORDING)
    annotations = notes_of() if notes is None else notes
    acted = actions_of() if actions is None else actions
    return candidate_events.candidates(up, known, annotations, acted, HOUR, 3 * HOUR)


def weekly(server, weeks, without=(), phase=2.0):
    return [(server, week * WEEK + phase, week * WEEK + phase + 1) for week in range(weeks) if week not in without]
