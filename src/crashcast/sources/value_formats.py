"""How files and ticket systems write a missing value and a time."""

from __future__ import annotations

from datetime import UTC, datetime

NULLS = ["", "-", "na", "n/a", "#n/a", "nan", "nat", "none", "null"]
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)  # an earlier time means a clock that was not set, or a wrong unit
EPOCH_UNITS = {1e11: "s", 1e14: "ms", 1e17: "us", float("inf"): "ns"}  # unit of a count since 1970 below this number
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def utc_text(moment: datetime) -> str:
    """Write a time for a message."""
    return moment.strftime("%Y-%m-%d %H:%M:%S") + " UTC"
