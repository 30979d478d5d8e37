"""params.yaml with another telemetry section; the comments, order and spelling of its user stay."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from crashcast.params.base import format_duration
from crashcast.params.clean import Clean
from crashcast.params.data import Data
from crashcast.params.features import Features
from crashcast.params.telemetry import Metric, Telemetry

STUCK_INTERVALS = 12  # without a change, after which a sensor is taken as broken; used if params.yaml has less


def describe_import(path: Path, telemetry: Telemetry, groups: Sequence[str] | None = None) -> tuple[str, list[str]]:
    """Return the text of params.yaml with this telemetry section, and imported data as its source.

    Other sections change as well if they name metrics that are gone or have durations that are too short now, because
    the pipeline would stop.

    Parameters
    ----------
    path : Path
        params.yaml; not changed.
    telemetry : Telemetry
        The new section.
    groups : sequence of str, optional
        The groups that are features; by default those of `features.categories` stay.

    Returns
    -------
    str
        The new text.
    list of str
        Changes of other sections, each with its reason.

    Raises
    ------
    UserError
        If a section that may have to change is missing or wrong.
    """
    known, clean = Telemetry.read(path), Clean.read(path)
    for section in (Data, Features):
        section.read(path)  # so that the keys below are there
    yaml = round_trip()
    content = yaml.load(path.read_text(encoding="utf-8"))
    content["data"]["source"] = "import"
    described = content["telemetry"]
    described["interval"] = format_duration(telemetry.interval)
    described["partition"] = telemetry.partition
    if list(known.metrics.items()) != list(telemetry.metrics.items()):
        metrics = described["metrics"]
        metrics.clear()
        metrics.fa.set_block_style()
        metrics.update({name: _entry(metric) for name, metric in telemetry.metrics.items()})
    changes = _drop_other_metrics(content["features"], set(telemetry.metrics))
    if groups is not None:
        _list_groups(content["features"], groups)
    if clean.stuck_after <= telemetry.interval:
        content["clean"]["stuck_after"] = longer = format_duration(STUCK_INTERVALS * telemetry.interval)
        changes.append(f"clean.stuck_after is now {longer}: it has to be longer than the interval")
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue(), changes


def round_trip() -> YAML:
    """Return what reads and writes params.yaml, and leaves what nobody changes as it is."""
    yaml = YAML()
    yaml.width = 4096  # long lines stay lines
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), _write_null)
    return yaml


def _entry(metric: Metric) -> CommentedMap:
    limits = {"min": metric.min, "max": metric.max}
    entry = CommentedMap({key: _plain(limit) for key, limit in limits.items() if limit is not None})
    entry["aggregate"] = metric.aggregate
    if metric.can_stick:
        entry["can_stick"] = True
    entry.fa.set_flow_style()
    return entry


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def _drop_other_metrics(features: CommentedMap, metrics: set[str]) -> list[str]:
    columns, pairs = features["columns"], features["interactions"]
    gone_columns = [] if columns == "all" else [name for name in columns if name not in metrics]
    gone_pairs = [name for name, pair in pairs.items() if name in metrics or not metrics.issuperset(pair)]
    if gone_columns:
        kept = CommentedSeq(name for name in columns if name in metrics)
        kept.fa.set_flow_style()
        features["columns"] = kept or "all"
    for name in gone_pairs:
        del pairs[name]
    if gone_pairs and not pairs:  # an emptied block would print its braces on a line of their own
        features["interactions"] = CommentedMap()
        features["interactions"].fa.set_flow_style()
    gone = [*(f"columns.{name}" for name in gone_columns), *(f"interactions.{name}" for name in gone_pairs)]
    return [f"features.{key} is left out: its metrics are no more" for key in gone]


def _list_groups(features: CommentedMap, groups: Sequence[str]) -> None:
    if "categories" not in features:
        features.insert(2, "categories", CommentedMap())
    categories = features["categories"]
    categories.clear()
    categories.fa.set_flow_style()
    if groups:
        categories["group"] = CommentedSeq(map(DoubleQuotedScalarString, groups))
        categories["group"].fa.set_flow_style()


def _write_null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")  # ruamel would write an empty value
