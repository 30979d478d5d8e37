"""`crashcast demo`: write the simulated fleet as files: telemetry, incidents, coverage and, apart, the truth.

`mechanisms` simulates the events, `telemetry` the sensors. The numbers, their reasons and sources are in
docs/demo-fleet.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import runner
from crashcast.execution.task import Task
from crashcast.params.base import format_duration
from crashcast.params.data import Data
from crashcast.params.demo import Demo
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH, DEMO_TRUTH, INCIDENTS_PATH, TABLES, TELEMETRY_PATH
from crashcast.sources.demo.mechanisms import (
    REBOOT,
    Fleet,
    generator,
    minutes_of,
    simulate_events,
    timestamps_of,
)
from crashcast.sources.demo.telemetry import DECIMALS, render
from crashcast.sources.demo.truth import truth
from crashcast.sources.importing.transaction import exchanged, recover, workspace
from crashcast.sources.importing.writing import MAY_BE_EMPTY, write_empty
from crashcast.versioning.dvc_files import pointer

OUTPUTS = [*TABLES, DEMO_TRUTH]

UNRECORDED_REBOOT_SHARE, NO_TICKET_SHARE, WRONG_HOST_SHARE, NEVER_CLOSED_SHARE = 0.15, 0.06, 0.02, 0.015
LATE_TICKET_SHARE, LATE_BY_MINUTES = 0.10, (15, 120)
UNTIMED_SHARE, VAGUE_SHARE = 0.05, 0.3
TICKETS_COME_FROM = {  # share; shortest and longest minutes from an outage's start to its report
    "pagerduty": (0.72, 1, 20),
    "on-call": (0.22, 10, 180),
    "post-mortem": (0.06, 12 * 60, 72 * 60),
}
SUMMARIES = {
    "leak": "killed by the kernel: out of memory",
    "overload": "stopped answering under load",
    "disk": "root file system full, services down",
    "errors": "error storm, main process died",
    "hardware": "host dead: power supply or memory module",
    "rack": "rack lost power",
    REBOOT: "planned reboot for patches",
}


@dataclass(frozen=True)
class Summary:
    """What is in the files of `crashcast demo`."""

    servers: int
    rows: int
    crashes: int
    crashes_without_ticket: int
    crashes_without_precursor: int
    base_rate: float  # share of rows with a crash in the label's horizon

    def __str__(self) -> str:
        return (
            f"{TELEMETRY_PATH}: {self.servers:,} servers, {self.rows:,} rows\n"
            f"{INCIDENTS_PATH}: {self.crashes:,} crashes happened, {self.crashes_without_ticket:,} left no ticket; "
            f"{self.crashes_without_precursor / max(1, self.crashes):.0%} had no precursor\n"
            f"base rate: about {self.base_rate:.2%} of rows; the truth lies aside in {DEMO_TRUTH}"
        )


def write() -> Summary:
    """Simulate the fleet of params.yaml; it replaces data/raw and data/demo, all or none.

    Raises
    ------
    UserError
        If params.yaml or data/raw say that the data was imported, or the telemetry section does not fit the demo.
    """
    recover()
    demo, telemetry, label = Demo.read(), Telemetry.read(), Label.read()
    _refuse_imported_data()
    _check_telemetry(demo, telemetry)
    fleet = Fleet.of(demo)
    events = simulate_events(fleet)
    tasks = rendering_tasks(fleet, events, telemetry.partition)
    incidents = tickets(fleet, events)
    crashes, episodes, servers = truth(fleet, events)
    with workspace() as folder:
        counts = runner.run("demo", render, tasks, folder / TELEMETRY_PATH.name, remember=False)
        for name, frame in {
            INCIDENTS_PATH.name: incidents,
            COVERAGE_PATH.name: coverage(fleet),
            f"{DEMO_TRUTH.name}/truth.parquet": crashes,
            f"{DEMO_TRUTH.name}/episodes.parquet": episodes,
            f"{DEMO_TRUTH.name}/servers.parquet": servers,
        }.items():
            tables.write(folder / name, frame)
        write_empty(MAY_BE_EMPTY, folder)  # each source recorded wherever coverage says; nobody was warned
        with exchanged(OUTPUTS, folder):
            pass
    rows = sum(count["rows"] for count in counts)
    return Summary(
        servers=len(fleet),
        rows=rows,
        crashes=len(crashes),
        crashes_without_ticket=len(crashes) - len(incidents.filter(kind=tables.CRASH)),
        crashes_without_precursor=len(crashes) - int(crashes["has_precursor"].sum()),
        base_rate=len(crashes) * (label.horizon / demo.interval) / rows,
    )


def _refuse_imported_data() -> None:
    reason = None
    if Data.read().source != "demo":
        reason = "params.yaml says data.source: import"
    elif _exists(TELEMETRY_PATH) and not _exists(DEMO_TRUTH):
        reason = f"{TELEMETRY_PATH} was not written by the demo"
    if reason:
        raise UserError(
            f"{reason}: the demo does not replace imported data; run it in another clone, or remove data/raw and "
            "set data.source: demo"
        )


def _exists(path: Path) -> bool:
    return path.exists() or pointer(path).exists()


def _check_telemetry(demo: Demo, telemetry: Telemetry) -> None:
    missing, unknown = DECIMALS.keys() - telemetry.metrics.keys(), telemetry.metrics.keys() - DECIMALS.keys()
    if missing or unknown:
        changes = [f"{', '.join(sorted(missing))} must be added"] * bool(missing)
        changes += [f"{', '.join(sorted(unknown))} must go"] * bool(unknown)
        raise UserError(f"params.yaml: telemetry.metrics must be what the demo measures: {'; '.join(changes)}")
    if telemetry.interval % demo.interval:
        raise UserError(
            f"params.yaml: telemetry.interval ({format_duration(telemetry.interval)}) must be a multiple of "
            f"demo.interval ({format_duration(demo.interval)})"
        )


def rendering_tasks(fleet: Fleet, events: pl.DataFrame, unit: str) -> list[Task]:
    """Return a task of `render` for each month, week or day of the fleet's period."""
    tasks = []
    partition = tables.partition_at(fleet.start, unit)
    boots = events.filter(pl.col("crashed") | (pl.col("kind") == REBOOT))
    while partition.start < fleet.end:
        start, end = minutes_of(partition.start), minutes_of(partition.end)
        booted_at = minutes_of(fleet.start) - 60 * fleet.trait("uptime_h")
        last = boots.filter(pl.col("up_again") <= start).group_by("server").agg(pl.col("up_again").max())
        booted_at[last["server"].to_numpy()] = last["up_again"].to_numpy()
        touching = events.filter((pl.col("onset") < end) & (pl.col("up_again") > start))
        tasks.append(Task(partition, {"fleet": fleet, "events": touching, "booted_at": booted_at}))
        partition = tables.partition_at(partition.end, unit)
    return tasks


def tickets(fleet: Fleet, events: pl.DataFrame) -> pl.DataFrame:
    """Return the incidents as people record them: some late, of the wrong host, never closed or never opened.

    Parameters
    ----------
    fleet : Fleet
        The servers; records end with its period.
    events : DataFrame
        Of `simulate_events`.

    Returns
    -------
    DataFrame
        In the schema tables.INCIDENTS, sorted by (started_at, server_id, incident_id). More months change only tickets
        that were open, or not yet reported, at the end of the shorter period.
    """
    # a row of random numbers for each event, so that later events change no earlier ticket
    draw = generator(fleet.seed, "tickets", 0).random((len(events), 9))
    recorded, late, late_by, wrong, source, delay, untimed, unclosed, vague = draw.T
    crashed = events["crashed"].to_numpy()
    reboot = (events["kind"] == REBOOT).to_numpy()
    opened = np.where(crashed, recorded >= NO_TICKET_SHARE, reboot & (recorded >= UNRECORDED_REBOOT_SHARE))

    shortest, longest = LATE_BY_MINUTES
    late_minutes = (shortest + (longest - shortest) * late_by).astype(np.int64)
    started = events["ended"].to_numpy() + np.where(crashed & (late < LATE_TICKET_SHARE), late_minutes, 0)
    resolved = np.maximum(events["up_again"].to_numpy(), started + 10)
    shares, shortest, longest = np.array(list(TICKETS_COME_FROM.values())).T
    kind = np.searchsorted(np.cumsum(shares)[:-1], source, side="right")
    reported = started + np.where(reboot, 0, shortest[kind] + (longest - shortest)[kind] * delay).astype(np.int64)
    server = events["server"].to_numpy()
    neighbour = (server + 1) % len(fleet)
    records_end = minutes_of(fleet.end)
    severity = np.where(events["kind"] == "rack", "sev1", np.where(resolved - started > 180, "sev2", "sev3"))
    summary = [SUMMARIES[kind] for kind in events["kind"]]
    return (
        pl.DataFrame(
            {
                "number": np.cumsum(opened),
                "server_id": fleet.servers["server_id"].gather(
                    np.where(crashed & (wrong < WRONG_HOST_SHARE), neighbour, server)
                ),
                "kind": np.where(reboot, tables.MAINTENANCE, tables.CRASH),
                "started_at": started,
                "resolved_at": resolved,
                "reported_at": reported,
                "severity": np.where(reboot, "planned", severity),
                "source": np.where(reboot, "on-call", np.array(list(TICKETS_COME_FROM))[kind]),
                "summary": np.where(crashed & (vague < VAGUE_SHARE), "host unreachable", summary),
                "unclosed": (unclosed < NEVER_CLOSED_SHARE) | (resolved >= records_end),
                "untimed": untimed < UNTIMED_SHARE,
            }
        )
        .filter(opened & (reported < records_end))
        .select(
            pl.format("INC-{}", pl.col("number").cast(pl.String).str.zfill(6)).alias("incident_id"),
            "server_id",
            "kind",
            timestamps_of(pl.col("started_at")),
            pl.when(~pl.col("unclosed")).then(timestamps_of(pl.col("resolved_at"))).alias("resolved_at"),
            pl.when(~pl.col("untimed")).then(timestamps_of(pl.col("reported_at"))).alias("reported_at"),
            "severity",
            "source",
            "summary",
        )
        .sort("started_at", "server_id", "incident_id")
        .cast(tables.INCIDENTS)  # type: ignore[arg-type]
    )


def coverage(fleet: Fleet) -> pl.DataFrame:
    """Return the coverage: all servers, the whole period; the group of a server is its role."""
    start, end = tables.utc(fleet.start, fleet.end)
    return fleet.servers.select("server_id", covered_from=start, covered_to=end, group="role")
