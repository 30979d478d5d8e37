"""Rules of a split by time, in days since January 2025."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

DAY = timedelta(days=1)
JANUARY = datetime(2025, 1, 1)


def span(first: int, end: int) -> dict[str, str]:
    """Return a period, as `split` writes it."""
    return {"from": (JANUARY + first * DAY).isoformat(), "to": (JANUARY + end * DAY).isoformat()}


def by_time(train: tuple[int, int], validation: tuple[int, int]) -> dict[str, Any]:
    """Return the rule with these days in two parts, and a test part long after them."""
    periods = {"train": span(*train), "validation": span(*validation), "test": span(200, 210)}
    return {"method": "time", "periods": periods}
