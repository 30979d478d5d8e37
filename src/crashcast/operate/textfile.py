"""Files for node_exporter's textfile collector: gauges of what is not there when Prometheus scrapes.

Source: https://github.com/prometheus/node_exporter#textfile-collector
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crashcast.errors import UserError
from crashcast.operate.optional_packages import needed_by

if TYPE_CHECKING:
    from prometheus_client import Metric


class Sample(NamedTuple):
    """One value: its name, what it means, the value and the labels. A name that ends in `_total` is a counter's."""

    name: str
    meaning: str
    value: float
    labels: Mapping[str, str]


class Families:
    """Samples grouped by name, as prometheus-client writes them; every sample of a name has the same labels."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = samples

    def collect(self) -> Iterable[Metric]:
        """Return a metric for each name."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, meaning, value, labels in self.samples:
            if name not in found:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                found[name] = kind(name, meaning, labels=[*labels])
            found[name].add_metric([*labels.values()], value)
        return found.values()


def write(samples: Iterable[Sample], folder: Path, name: str) -> Path:
    """Write gauges to the file `name`.prom of a folder, whole or not at all, and return the file.

    Raises
    ------
    UserError
        If the folder is missing, or the package prometheus-client is not installed.
    """
    with needed_by("--textfile"):
        from prometheus_client import write_to_textfile
    if not folder.is_dir():
        raise UserError(f"--textfile {folder}: there is no such folder; node_exporter names it by --collector.textfile")
    write_to_textfile(str(folder / f"{name}.prom"), Families(samples))
    return folder / f"{name}.prom"
