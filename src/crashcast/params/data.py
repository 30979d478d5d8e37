"""The section `data` of params.yaml."""

from __future__ import annotations

from typing import Literal

from crashcast.params.base import Section


class Data(Section):
    """Who wrote data/raw: the simulator never replaces imported data."""

    source: Literal["demo", "import"]
