"""Times as ticket systems write them."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from crashcast.errors import UserError
from crashcast.params.tickets import TicketSource
from crashcast.sources.tickets.times import moment


def source(type_: str = "table", **settings: Any) -> TicketSource:
    """Return what params.yaml might say about a source."""
    needed = {"files": ["tickets.csv"]} if type_ in ("table", "servicenow", "notes") else {}
    return TicketSource.model_validate({"type": type_, **needed, **settings})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-31T13:45:00Z", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31 13:45:00 UTC", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31T14:45:00.123+0100", datetime(2026, 1, 31, 13, 45, 0, 123000)),
        ("2026-01-31 14:45 +01:00", datetime(2026, 1, 31, 13, 45)),
        ("2026-01-31 14:45:00", datetime(2026, 1, 31, 13, 45)),  # Berlin, in winter
        ("2026-07-31 15:45:00", datetime(2026, 7, 31, 13, 45)),  # and in summer
        ("2026-10-25 02:30:00", datetime(2026, 10, 25, 0, 30)),  # which came twice: the first
        ("2026-10-25 12:00:00", datetime(2026, 10, 25, 11, 0)),  # winter again
        ("31/Jan/26 2:45 PM", datetime(2026, 1, 31, 13, 45)),  # Jira's CSV
        (1769867100, datetime(2026, 1, 31, 13, 45)),
        ("1769867100123", datetime(2026, 1, 31, 13, 45, 0, 123000)),
        (datetime(2026, 1, 31, 14, 45), datetime(2026, 1, 31, 13, 45)),  # a Parquet file's
    ],
)
def test_a_time_in_every_spelling(value: Any, expected: datetime) -> None:
    jira = source("jira", files=["a.csv"], server={"field": "Labels"}, time_zone="Europe/Berlin")
    assert moment(value, "jira", jira) == expected.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "zone", "message"),
    [
        ("2026-01-31 13:45:00", None, r"has no time zone: state tickets.sources.ours.time_zone"),
        ("2026-03-29 02:30:00", "Europe/Berlin", "does not exist in Europe/Berlin: clocks were put forward"),
        ("2026-01-31", "UTC", "'2026-01-31' has no time of day"),
        (date(2026, 1, 31), "UTC", "'2026-01-31' has no time of day"),
        ("yesterday", "UTC", "'yesterday' is not a time"),
        ("31/Jan/26 2:45 PM", "UTC", "is not a time: state time_format"),
    ],
)
def test_a_time_that_says_too_little_is_no_time(value: Any, zone: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moment(value, "ours", source(time_zone=zone))


def test_a_form_and_a_zone_can_be_stated() -> None:
    ours = source(time_zone="America/New_York", time_format="%m/%d/%Y %H:%M")
    assert moment("01/31/2026 08:45", "ours", ours) == datetime(2026, 1, 31, 13, 45, tzinfo=UTC)
    with pytest.raises(UserError, match="'Berlin' is no time zone"):
        moment("2026-01-31 13:45:00", "ours", source(time_zone="Berlin"))


@pytest.mark.parametrize(
    ("zone", "hour", "minute"), [("+05:30", 6, 30), ("+05:45", 6, 15), ("-0330", 15, 30), ("+14:00", -2, 0)]
)
def test_the_zone_of_a_source_may_be_an_offset(zone: str, hour: int, minute: int) -> None:
    expected = datetime(2026, 1, 31, tzinfo=UTC) + timedelta(hours=hour, minutes=minute)
    assert moment("2026-01-31 12:00:00", "ours", source(time_zone=zone)) == expected


def test_the_zone_of_a_source_may_be_any_of_the_tz_database() -> None:
    local = datetime(2026, 7, 15, 12)
    for zone in sorted(zoneinfo.available_timezones() - {"Factory", "localtime"}):
        expected = local.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        assert moment(str(local), "ours", source(time_zone=zone)) == expected, zone
