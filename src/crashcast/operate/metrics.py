"""What runs cost, as a table for people and as metrics for Prometheus.

Short runs are not there when Prometheus scrapes. So node_exporter's textfile collector serves what they left in a file
(https://github.com/prometheus/node_exporter#textfile-collector).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crashcast.errors import UserError
from crashcast.progress import MB
from crashcast.run_record import Run, ended_s, is_failed

NAME = "crashcast.prom"
GAUGES = {  # of the last run, by the record's name of a figure
    "duration_s": ("crashcast_run_duration_seconds", "Wall time of the last run."),
    "cpu_s": ("crashcast_run_cpu_seconds", "CPU time of the last run, of all its processes."),
    "peak_memory_bytes": ("crashcast_run_peak_memory_bytes", "Peak resident memory of the last run."),
    "read_bytes": ("crashcast_run_read_bytes", "Size of what the last run depends on."),
    "written_bytes": ("crashcast_run_written_bytes", "Size of what the last run wrote."),
    "rows": ("crashcast_run_rows", "Rows of the last run's table."),
}


def show(runs: Sequence[Run], console: Console) -> None:
    """Print the last run of each stage and command."""
    if not runs:
        console.print("No run is recorded yet: `dvc repro` records one for each stage.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("run", "ended (UTC)", "wall s", "CPU s", "peak MB", "out MB", "rows", "memo"):
        table.add_column(title, justify="left" if title in ("run", "ended (UTC)") else "right", no_wrap=True)
    for run in runs:
        parts = run.get("partitions", {}).values()
        table.add_row(
            f"{run['name']}, failed" if is_failed(run) else run["name"],
            f"{datetime.fromtimestamp(ended_s(run), UTC):%d %b %H:%M}",
            f"{run['duration_s']:,.1f}",
            f"{run['cpu_s']:,.1f}",
            f"{run['peak_memory_bytes'] / MB:,.0f}",
            f"{run['written_bytes'] / MB:,.1f}" if "written_bytes" in run else "",
            f"{run['rows']:,}" if "rows" in run else "",
            f"{sum(part['remembered'] for part in parts)} of {sum(part['total'] for part in parts)}" if parts else "",
        )
    console.print(table)


def write_textfile(runs: Sequence[Run], folder: Path) -> Path:
    """Write the metrics of the last runs, whole or not at all, and return the file.

    Raises
    ------
    UserError
        If the folder is missing, or the package prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge
        from prometheus_client import write_to_textfile as write
    except ImportError:
        raise UserError("metrics need the extra `operate`: .venv/bin/pip install -e '.[operate]'") from None
    if not folder.is_dir():
        raise UserError(f"--textfile {folder}: there is no such folder; node_exporter names it by --collector.textfile")
    registry = CollectorRegistry()
    gauges = {key: Gauge(name, text, ["run"], registry=registry) for key, (name, text) in GAUGES.items()}
    partitions = Gauge(
        "crashcast_run_partitions", "Partitions of the last run.", ["run", "step", "source"], registry=registry
    )
    success = Gauge(
        "crashcast_run_last_success_timestamp_seconds",
        "End of the last run that succeeded.",
        ["run"],
        registry=registry,
    )
    failed = Gauge("crashcast_run_failed", "Whether the last run failed.", ["run"], registry=registry)
    for run in runs:
        for key, gauge in gauges.items():
            if key in run:
                gauge.labels(run["name"]).set(run[key])
        for step, part in run.get("partitions", {}).items():
            partitions.labels(run["name"], step, "memo").set(part["remembered"])
            partitions.labels(run["name"], step, "computed").set(part["total"] - part["remembered"])
        if run["succeeded"] is not None:
            success.labels(run["name"]).set(run["succeeded"])
        failed.labels(run["name"]).set(is_failed(run))
    write(str(folder / NAME), registry)
    return folder / NAME
