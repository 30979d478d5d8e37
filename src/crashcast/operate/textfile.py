"""Files for node_exporter's textfile collector: gauges of what is not there when Prometheus scrapes.

Source: https://github.com/prometheus/node_exporter#textfile-collector
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from crashcast.errors import UserError


class Sample(NamedTuple):
    """One value of a gauge: its name, what it means, the value and the labels."""

    name: str
    meaning: str
    value: float
    labels: Mapping[str, str]


def write(samples: Iterable[Sample], folder: Path, name: str) -> Path:
    """Write gauges to the file `name`.prom of a folder, whole or not at all, and return the file.

    Raises
    ------
    UserError
        If the folder is missing, or the package prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
    except ImportError:
        raise UserError("--textfile needs the extra `operate`: .venv/bin/pip install -e '.[operate]'") from None
    if not folder.is_dir():
        raise UserError(f"--textfile {folder}: there is no such folder; node_exporter names it by --collector.textfile")
    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for sample in samples:
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, sample.meaning, [*sample.labels], registry=registry)
        gauge = gauges[sample.name]
        (gauge.labels(*sample.labels.values()) if sample.labels else gauge).set(sample.value)
    write_to_textfile(str(folder / f"{name}.prom"), registry)
    return folder / f"{name}.prom"
