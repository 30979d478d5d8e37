"""Labels that are probably wrong."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from labelled_windows import labelled_windows

from crashcast.annotation.suspects import quality, suspects
from crashcast.annotation.windows import Windows

HOUR = timedelta(hours=1)


def test_flipped_labels_are_the_first_suspects() -> None:
    windows = labelled_windows()
    flipped = np.zeros(400, bool)
    flipped[np.flatnonzero(windows.crash)[:10]] = flipped[np.flatnonzero(~windows.crash)[:30]] = True
    said = pl.Series(windows.crash ^ flipped)
    frame = windows.frame.with_columns(crash_at=pl.when(said).then(pl.col("started_at") + HOUR))
    ranked = suspects(Windows(frame, windows.evidence, windows.names), seed=1)
    wrong = windows.frame.filter(pl.Series(flipped)).select("server_id", "started_at")
    found = ranked.head(40).join(wrong, on=["server_id", "started_at"], how="semi")
    assert found.height >= 36
    assert ranked["quality"].is_sorted()
    assert ranked.head(20)["is_issue"].all()


def test_the_less_telemetry_supports_a_label_the_lower_its_quality() -> None:
    crash, probability = np.array([True, True, False, False]), np.array([0.9, 0.1, 0.1, 0.9])
    found = quality(crash, probability)
    assert found[1] < found[0]
    assert found[3] < found[2]
