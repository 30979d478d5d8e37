"""YAML as data: plain values only, never objects."""

from __future__ import annotations

from typing import Any

import yaml

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, ten times as fast, where PyYAML was built with it


def parse(text: str | bytes) -> Any:
    """Return what a YAML document holds.

    Raises
    ------
    yaml.YAMLError
        Where it is none, with the place.
    """
    try:
        return yaml.load(text, FAST)
    except yaml.YAMLError:
        return yaml.safe_load(text)  # fails too, and names the place exactly: libyaml may name the line after
