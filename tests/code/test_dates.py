"""Moments that people write."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from crashcast.dates import read_moment
from crashcast.errors import UserError

MOMENT = datetime(2026, 1, 5, 12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-05T12:00", MOMENT),
        ("2026-01-05 12:00", MOMENT),
        ("2026-01-05T12:00Z", MOMENT),
        ("2026-01-05T17:45+05:45", MOMENT),
        ("2026-01-05", datetime(2026, 1, 5)),
    ],
)
def test_a_moment_is_utc_unless_it_says_otherwise(text: str, expected: datetime) -> None:
    assert read_moment(text, "--at") == expected


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "12:00", "0001-01-01T00:00+05:00", "9999-12-31T23:59"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--at .*: write a moment such as 2026-01-31 or 2026-01-31T12:00 \(UTC\)$"):
        read_moment(text, "--at")


def test_programs_may_give_dates() -> None:
    assert read_moment(date(2026, 1, 5), "since") == datetime(2026, 1, 5)
    assert read_moment(MOMENT.replace(tzinfo=UTC), "since") == MOMENT
