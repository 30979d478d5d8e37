"""Rates of counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.sources.importing.counters import as_rates

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(*values: float | None, server: str = "a") -> pl.DataFrame:
    """Return samples of a counter, 10 seconds apart."""
    moments = [START + number * timedelta(seconds=10) for number in range(len(values))]
    return pl.DataFrame({"timestamp": moments, "server_id": server, "sent_total": values, "cpu": 1.0})


def test_a_rate_is_the_increase_per_second_and_a_reset_starts_at_0() -> None:
    large = 1e12  # float32 has steps of 65,536 there
    counts = [large, large + 20, large + 50, None, large + 90, *(10.0 * number for number in range(1, 100)), 5.0]
    other = [7.0 * number for number in range(len(counts))]
    both = pl.concat([rows(*counts), rows(*other, server="b")]).sort("timestamp", "server_id")
    frame, said = as_rates(both, ["sent_total"])
    assert frame.columns == ["timestamp", "server_id", "cpu", "sent_per_s"]
    assert frame.schema["sent_per_s"] == pl.Float32
    of_a = frame.filter(server_id="a")["sent_per_s"].to_list()
    assert of_a[:7] == [None, 2, 3, None, 2, 1, 1]
    assert of_a[-2:] == [1, 0.5]
    assert frame.filter(server_id="b")["sent_per_s"].to_list() == [None, *[pytest.approx(0.7)] * (len(counts) - 1)]
    assert said == ["sent_per_s is the rate of the counter sent_total, which started again 2 times"]


def test_a_small_fall_is_no_reset() -> None:
    counts = [1000.0 * number for number in range(1, 100)]
    frame, said = as_rates(rows(*counts, 98_900, 99_000), ["sent_total"])
    assert frame["sent_per_s"].to_list()[-3:] == [100, None, 10]
    assert "started again 0 times; 1 smaller falls have no rate" in said[0]


def test_a_gauge_has_no_rate() -> None:
    with pytest.raises(UserError, match="--rate sent_total: it is no counter"):
        as_rates(rows(*([20.0, 50.0] * 50)), ["sent_total"])
    with pytest.raises(UserError, match="--rate sent: there is no such metric"):
        as_rates(rows(1, 2), ["sent"])
