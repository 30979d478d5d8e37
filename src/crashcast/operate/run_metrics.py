"""What runs cost, as a table for people and as gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from crashcast.operate.textfile import Sample
from crashcast.progress import MB
from crashcast.run_record import Run, ended_s, is_failed

GAUGES = {  # of the last run, by the record's name of a figure
    "duration_s": ("crashcast_run_duration_seconds", "Wall time of the last run."),
    "cpu_s": ("crashcast_run_cpu_seconds", "CPU time of the last run, of all its processes."),
    "peak_memory_bytes": ("crashcast_run_peak_memory_bytes", "Peak resident memory of the last run."),
    "read_bytes": ("crashcast_run_read_bytes", "Size of what the last run depends on."),
    "written_bytes": ("crashcast_run_written_bytes", "Size of what the last run wrote."),
    "rows": ("crashcast_run_rows", "Rows of the last run's table."),
}

PARTITIONS = "crashcast_run_partitions", "Partitions of the last run."
SUCCESS = "crashcast_run_last_success_timestamp_seconds", "End of the last run that succeeded."
FAILED = "crashcast_run_failed", "Whether the last run failed."


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


def samples(runs: Sequence[Run]) -> Iterator[Sample]:
    """Yield the gauges of the last runs."""
    for run in runs:
        name = {"run": run["name"]}
        for key, (gauge, meaning) in GAUGES.items():
            if key in run:
                yield Sample(gauge, meaning, run[key], name)
        for step, part in run.get("partitions", {}).items():
            computed = {"memo": part["remembered"], "computed": part["total"] - part["remembered"]}
            for source, number in computed.items():
                yield Sample(*PARTITIONS, number, {**name, "step": step, "source": source})
        if run["succeeded"] is not None:
            yield Sample(*SUCCESS, run["succeeded"], name)
        yield Sample(*FAILED, is_failed(run), name)
