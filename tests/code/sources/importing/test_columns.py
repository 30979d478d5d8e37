"""Values of columns: times, ids, numbers."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.sources.importing.columns import identifiers, moments, numbers
from crashcast.sources.importing.table_file import Sheet, check_years

LATEST = datetime(2026, 8, 1, tzinfo=UTC)


def sheet(**columns: Sequence[object] | pl.Series) -> Sheet:
    """Return a sheet whose columns are as given."""
    return Sheet(Path("t.parquet"), pl.DataFrame(columns, strict=False), range(1, 10**6))


@pytest.mark.parametrize(
    ("values", "expected", "how"),
    [
        (["2026-01-31 13:45:00"], datetime(2026, 1, 31, 13, 45), "no time zone: taken as UTC"),
        (["2026-01-31T13:45:00Z"], datetime(2026, 1, 31, 13, 45), "UTC"),
        (["2026-01-31 13:45:00 UTC"], datetime(2026, 1, 31, 13, 45), "UTC"),
        (["2026-01-31T13:45:00.123456789+00:00"], datetime(2026, 1, 31, 13, 45, 0, 123456), "UTC"),
        (["2026-01-31T13:45+0530"], datetime(2026, 1, 31, 8, 15), "converted to UTC"),
        (["2026-01-31 13:45:00-03"], datetime(2026, 1, 31, 16, 45), "converted to UTC"),
        (["2026-01-31 13:45:00 -03:30"], datetime(2026, 1, 31, 17, 15), "converted to UTC"),
        (["2026-01-31T13:45:00+05:45"], datetime(2026, 1, 31, 8), "converted to UTC"),
        (["2026-01-31T13:45:00+14:00"], datetime(2026, 1, 30, 23, 45), "converted to UTC"),
        (["2026-01-31 13:45:00 UTC+05:30"], datetime(2026, 1, 31, 8, 15), "converted to UTC"),
        (["2026-01-31T13:45:00.5+01:00[Europe/Berlin]"], datetime(2026, 1, 31, 12, 45, 0, 500000), "converted to UTC"),
        (["2026-01-31 13:45:00 Europe/Berlin"], datetime(2026, 1, 31, 12, 45), "converted to UTC"),
        (["2026-07-31T13:45:00[Asia/Kolkata]"], datetime(2026, 7, 31, 8, 15), "converted to UTC"),
        (["2026-01-31 13:45:00 +0530 IST"], datetime(2026, 1, 31, 8, 15), "converted to UTC"),  # written by Go
        (["2026-01-31 13:45 EST5EDT"], datetime(2026, 1, 31, 18, 45), "converted to UTC"),
        (["2026-01-31 13:45 CET"], datetime(2026, 1, 31, 12, 45), "converted to UTC"),
        (["2026/1/5 9:05"], datetime(2026, 1, 5, 9, 5), "no time zone: taken as UTC"),
        (["2026-01-31"], datetime(2026, 1, 31), "no time zone: taken as UTC"),
        (["1769867100"], datetime(2026, 1, 31, 13, 45), "s since 1970"),
        (["1769867100.5"], datetime(2026, 1, 31, 13, 45, 0, 500000), "s since 1970"),
        ([1769867100], datetime(2026, 1, 31, 13, 45), "s since 1970"),
        ([1769867100123], datetime(2026, 1, 31, 13, 45, 0, 123000), "ms since 1970"),
        ([1769867100123456], datetime(2026, 1, 31, 13, 45, 0, 123456), "us since 1970"),
        ([1769867100123456789], datetime(2026, 1, 31, 13, 45, 0, 123456), "ns since 1970"),
        ([1769867100.25], datetime(2026, 1, 31, 13, 45, 0, 250000), "s since 1970"),
        ([date(2026, 1, 31)], datetime(2026, 1, 31), "dates: taken as midnight UTC"),
        ([datetime(2026, 1, 31, 13, 45)], datetime(2026, 1, 31, 13, 45), "no time zone: taken as UTC"),
    ],
)
def test_a_moment_in_every_spelling(values: list[object], expected: datetime, how: str) -> None:
    times, understood = moments(sheet(time=values), "time", LATEST)
    assert times.dtype == tables.TIMESTAMP
    assert times.to_list() == [expected.replace(tzinfo=UTC)]
    assert understood == how


# of the machine: a text or a file cannot mean another machine's zone
NO_ZONES = {"Factory", "localtime"}
# in summer, the text may mean standard time
IN_SUMMER = {"CET", "EET", "MET", "WET"}


@pytest.mark.parametrize("month", [1, 7])
def test_each_zone_of_the_tz_database_is_known(month: int) -> None:
    zones = sorted(zoneinfo.available_timezones() - NO_ZONES - (IN_SUMMER if month == 7 else set()))
    assert len(zones) > 400
    local = datetime(2026, month, 15, 12)
    times, _ = moments(sheet(time=[f"{local} {zone}" for zone in zones]), "time", LATEST)
    assert times.to_list() == [local.replace(tzinfo=zoneinfo.ZoneInfo(zone)) for zone in zones]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2025-10-26 02:30:00 Europe/Berlin", "not one time in the zone 'Europe/Berlin'"),  # twice
        ("2025-03-30 02:30:00 Europe/Berlin", "not one time in the zone 'Europe/Berlin'"),  # never
        ("2025-07-01 12:00:00 CET", "not one time in the zone 'CET'"),
        ("2025-07-01 12:00:00 Mars/Olympus", "not one time in the zone 'Mars/Olympus'"),
        ("2025-07-01 12:00:00 localtime", "not one time in the zone 'localtime'"),
        ("2025-07-01 12:00:00+99:00", "is not a time"),
        ("2025-07-01 12:00:00+05:77", "is not a time"),
    ],
)
def test_a_time_that_its_zone_does_not_have_once_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"row 2: '{re.escape(text)}' .*{message}; write"):
        moments(sheet(time=["2025-07-01 12:00:00Z", text]), "time", LATEST)


def test_zoned_datetimes_are_converted() -> None:
    local = pl.Series([datetime(2026, 1, 31, 13, 45)]).dt.replace_time_zone("Europe/Berlin")
    times, how = moments(sheet(time=local), "time", LATEST)
    assert times.to_list() == [datetime(2026, 1, 31, 12, 45, tzinfo=UTC)]
    assert how == "converted from Europe/Berlin"


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1991, 1, 1),
            max_value=datetime(2026, 1, 1),
            timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
        ),
        min_size=1,
    )
)
def test_what_python_writes_is_read_back(written: list[datetime]) -> None:
    times, _ = moments(sheet(time=[moment.isoformat() for moment in written]), "time", LATEST)
    assert times.to_list() == written


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["007", " 8 "], ["007", "8"]),
        ([7, 8], ["7", "8"]),
        ([7.0, 8.0], ["7", "8"]),
        (["7.0", "8.0"], ["7", "8"]),  # what pandas writes where an id is missing elsewhere
        (["7.0", "db-8"], ["7.0", "db-8"]),
    ],
)
def test_ids_are_text(values: list[object], expected: list[str]) -> None:
    assert identifiers(sheet(host=values), "host").to_list() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None], [1.0, None]),
        ([1.5, float("nan")], [1.5, None]),
        ([True, False], [1.0, 0.0]),
        ([" 1e3 ", "n/a", "-", ""], [1000.0, None, None, None]),
        (["true", "False"], [1.0, 0.0]),
        (["1", "fast", "slow"], "text, such as 'fast'"),
        ([date(2026, 1, 1)], "Date"),
        ([[1.0]], "List(Float64)"),
    ],
)
def test_numbers_or_why_not(values: list[object], expected: list[float] | str) -> None:
    found = numbers(sheet(x=values), "x", required=False)
    assert (found if isinstance(found, str) else found.values.to_list()) == expected


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("moment", [2**62, -(2**62), 253_402_300_800 * 10**6, -62_135_596_801 * 10**6])
def test_a_year_that_python_does_not_have_is_refused(unit: str, moment: int) -> None:
    """Polars panics, or Python overflows, wherever such a time is shown."""
    values = pl.Series([0, moment]).cast(pl.Datetime(unit))
    with pytest.raises(UserError, match=r"t\.parquet, column 'a', row 2: its year is not one of 1 to 9999"):
        check_years(sheet(a=values), "a", values)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0000-06-01 00:00:00Z"])
def test_a_zone_that_leads_out_of_all_years_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"its year is not one of 1 to 9999|is not a time"):
        moments(sheet(a=["2026-01-01T00:00:00Z", text]), "a", None)


def test_numbers_below_zero_are_read_in_the_unit_of_the_largest() -> None:
    """-9e18 seconds would wrap around to some other time."""
    with pytest.raises(UserError, match="is before 1990"):
        moments(sheet(a=[0, -9_000_000_000_000_000_000]), "a", None)
