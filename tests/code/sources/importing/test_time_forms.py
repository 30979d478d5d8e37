"""Times in other forms: each is one moment, or none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.errors import UserError
from crashcast.sources.importing.columns import check_times_of_day, moments
from crashcast.sources.importing.table_file import Sheet
from crashcast.sources.importing.time_forms import rewritten

MOMENT = datetime(2026, 1, 31, 13, 45, tzinfo=UTC)


def read(*texts: str | None) -> tuple[list[datetime], str]:
    """Read a column of times."""
    sheet = Sheet(Path("t.csv"), pl.DataFrame({"time": texts}), range(2, 100))
    times, how = moments(sheet, "time", None, required=False)
    return times.to_list(), how


@pytest.mark.parametrize(
    "text",
    [
        "20260131T134500Z",
        "20260131T1345Z",
        "20260131134500",
        "2026-01-31T134500+0000",
        "2026-01-31T14:45+01",
        "2026-W05-6T13:45:00Z",
        "2026W056T134500Z",
        "2026-031T13:45Z",
        "2026031T1345Z",
        "31 Jan 2026 13:45:00 UTC",
        "Sat, 31 Jan 2026 14:45:00 +0100",
        "January 31, 2026 at 1:45:00 p.m. UTC",
        "Jan 31, 2026 1:45 PM",
        "31/Jan/26 1:45 PM",
        "31-Jan-2026 13:45",
        "31/Jan/2026:13:45:00 +0000",
        "Sat Jan 31 13:45:00 2026",
        "Sat Jan 31 13:45:00 UTC 2026",
        "2026-01-31 01:45 pm",
        "31.01.2026 13:45",
        "31.1.2026, 13:45:00",
    ],
)
def test_a_form_is_one_moment(text: str) -> None:
    assert read(text, None, "2026-01-31 13:45:00Z" if "Z" in text or "+" in text else None)[0][:2] == [MOMENT, None]


def test_the_hour_before_one_is_the_first_of_a_half() -> None:
    midnight, noon = (MOMENT.replace(hour=hour, minute=5) for hour in (0, 12))
    assert read("31/Jan/26 12:05 AM", "31/Jan/26 12:05 PM", "31/Jan/26 11:59 PM")[0][:2] == [midnight, noon]


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (("31/01/2026 13:45", "01/02/2026 00:00"), "day, month, year; no time zone"),
        (("01/31/2026 1:45 PM", "02/01/2026 12:00 AM"), "month, day, year; no time zone"),
    ],
)
def test_the_column_tells_the_order_of_day_and_month(texts: tuple[str, str], order: str) -> None:
    times, how = read(*texts)
    assert times == [MOMENT, datetime(2026, 2, 1, tzinfo=UTC)]
    assert how.startswith(order)


@pytest.mark.parametrize(
    "texts",
    [
        ("01/02/2026 13:45", "02/01/2026 13:45"),  # either way
        ("13/01/2026 13:45", "01/13/2026 13:45"),  # both ways
        ("13/01/2026 13:45", "2026-01-13 13:45"),
    ],
)
def test_days_and_months_that_may_change_places_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"row 2: .* is not a time: day and month may be either way round; write 2026-"):
        read(*texts)


@pytest.mark.parametrize(
    "text",
    [
        "31 Foo 2026 13:45",
        "99.99.2026 12:00",
        "2026-W54-1T00:00Z",
        "2026-366T00:00Z",
        "12:30 AM",
        "Jan 2026",
        "13:45 PM x",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a time; write 2026-01-31 13:45:00"):
        read(text)


@pytest.mark.parametrize("text", ["31 Jan 2026", "31.01.2026", "20260131", "2026-W05-6", "12/31/2026"])
def test_a_day_in_any_form_is_no_moment_of_an_incident(text: str) -> None:
    sheet = Sheet(Path("t.csv"), pl.DataFrame({"time": [text]}), range(2, 3))
    with pytest.raises(UserError, match="is a whole day, not a time"):
        check_times_of_day(sheet, "time")


@given(st.datetimes(datetime(1991, 1, 1), datetime(2049, 1, 1)))
def test_forms_of_any_moment_are_the_same(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    forms = ("%Y%m%dT%H%M%S", "%G-W%V-%uT%H:%M:%S", "%Y-%j %H:%M:%S", "%d %b %Y %I:%M:%S %p", "%d.%m.%Y %H:%M:%S", "%c")
    texts = pl.Series([moment.strftime(form) for form in forms])
    times, _ = read(*texts)
    assert {time.replace(tzinfo=None) for time in times} == {moment}
    assert rewritten(pl.Series([str(moment)]))[0].to_list() == [str(moment)]
