"""Server-windows with labels that their evidence shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.annotation.windows import Windows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)


def labelled_windows(n: int = 400, seed: int = 1) -> Windows:
    """Return windows of 20 servers, one in four with a crash, which the first column shows."""
    draw = np.random.default_rng(seed)
    crash = draw.random(n) < 0.25
    values = np.column_stack([crash + 0.2 * draw.standard_normal(n), draw.standard_normal(n)]).astype(np.float32)
    started = pl.Series([START + number // 20 * DAY for number in range(n)], dtype=tables.TIMESTAMP)
    frame = pl.DataFrame({"server_id": [f"s{number % 20:02}" for number in range(n)], "started_at": started})
    frame = frame.with_columns(ended_at=started + DAY, crash_at=pl.when(pl.Series(crash)).then(started + HOUR))
    return Windows(frame, np.column_stack([values, values]), ["gap_h", "noise", "gap_company", "more"])
