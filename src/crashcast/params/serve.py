"""The section `serve` of params.yaml."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from crashcast.params.base import Address, Duration, PositiveDuration, Section


def _listen(value: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s/@]+):(\d{1,5})", value)
    if not match or not int(match[2]) < 65536:
        raise ValueError("must be host:port, such as 127.0.0.1:9095")
    return value


class Serve(Section):
    """How `crashcast serve` scores the fleet at each interval, and whom it tells (docs/operate.md)."""

    listen: Annotated[str, AfterValidator(_listen)]
    log: Annotated[str, Field(min_length=1)]
    delay: Duration
    late_window: PositiveDuration
    max_ticket_age: PositiveDuration
    alertmanager: Address | None = None
    silences: Address | None = None
    page: Address | None = None
    runbook: Address | None = None
    holdback: Annotated[float, Field(ge=0, lt=1)] = 0
    never_hold_back: list[str] = Field(default_factory=list)
    seed: int = 1
