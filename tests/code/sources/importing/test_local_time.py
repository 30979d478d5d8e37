"""Times without a zone: repeated and missing hours, and what speaks for or against UTC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.sources.importing.local_time import (
    Clock,
    check_not_local,
    in_utc,
    sign_of_crashes,
    signs_of_hours,
)
from crashcast.sources.importing.table_file import Sheet

AUTUMN = datetime(2026, 10, 24, 23, tzinfo=UTC)  # an hour before clocks are put back in Europe
HALF = timedelta(minutes=30)


def local(moments: Sequence[datetime], zone: str) -> pl.Series:
    """Return what a clock of the zone shows."""
    return pl.Series([moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in moments])


def read(
    times: pl.Series, zone: str, servers: Sequence[str] | None = None, ambiguous: str | None = None
) -> list[datetime]:
    """Read times of one zone."""
    sheet = Sheet(Path("t.csv"), pl.DataFrame({"time": times}), range(2, 10**6))
    series = None if servers is None else pl.DataFrame({"server_id": servers})
    return in_utc(sheet, "time", times, Clock(zone, ambiguous), series).to_list()  # type: ignore[arg-type]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Europe/London", "Atlantic/Azores", "Asia/Kolkata", "UTC"])
@pytest.mark.parametrize("step", [timedelta(minutes=5), HALF, timedelta(hours=1)])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_the_repeated_hour_goes_by_the_order_of_rows(zone: str, step: timedelta, is_reversed: bool) -> None:
    moments = [AUTUMN + number * step for number in range(6 * timedelta(hours=1) // step)]
    rows = [(moment, server) for moment in moments for server in ("a", "b")][:: -1 if is_reversed else 1]
    written = [moment for moment, _ in rows]
    assert read(local(written, zone), zone, [server for _, server in rows]) == written


def test_half_an_hour_may_be_repeated() -> None:
    moments = [datetime(2026, 4, 4, 13, tzinfo=UTC) + number * timedelta(minutes=10) for number in range(24)]
    times = local(moments, "Australia/Lord_Howe")
    assert times.n_unique() == 21
    assert read(times, "Australia/Lord_Howe", ["a"] * 24) == moments


@pytest.mark.parametrize(
    "clock_times",
    [
        ["01:30", "02:00", "02:00", "02:30", "02:30", "03:00"],  # sorted: either could be first
        ["01:30", "02:00", "02:30", "03:00"],  # one of the two hours is missing
        ["02:30", "04:00", "02:00"],  # in no order
        ["02:00", "02:30", "02:00", "02:30", "02:00", "02:30"],  # exported twice
    ],
)
def test_rows_in_another_order_are_refused_unless_the_user_says_which(clock_times: list[str]) -> None:
    times = pl.Series([datetime.fromisoformat(f"2026-10-25 {text}") for text in clock_times])
    servers = ["a"] * times.len()
    row = 2 + next(index for index, text in enumerate(clock_times) if text.startswith("02"))
    with pytest.raises(UserError, match=rf"'time', row {row}: .* twice in Europe/Berlin.*--ambiguous earlier or later"):
        read(times, "Europe/Berlin", servers)
    for ambiguous, fold in (("earlier", 0), ("later", 1)):
        berlin = [moment.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for moment in times]
        assert read(times, "Europe/Berlin", servers, ambiguous) == [moment.astimezone(UTC) for moment in berlin]


def test_a_time_that_never_was_is_refused() -> None:
    with pytest.raises(UserError, match=r"row 3: 2026-03-29 02:30:00 does not exist in Europe/Berlin.*--time-zone"):
        read(pl.Series([datetime(2026, 3, 29, 1, 30), datetime(2026, 3, 29, 2, 30)]), "Europe/Berlin", ["a", "a"])


@pytest.mark.parametrize("zone", ["CET", "localtime", "Mars/Olympus", "+01:00", ""])
def test_a_zone_that_could_be_several_or_none_is_refused(zone: str) -> None:
    with pytest.raises(UserError, match="name a zone of the tz database"):
        Clock(zone)


def check(times: pl.Series, servers: Sequence[str], values: Sequence[int] | None = None) -> None:
    """Check times that are taken as UTC."""
    frame = pl.DataFrame({"time": times, "host": servers, "cpu": range(len(times)) if values is None else values})
    series = frame.select(timestamp=pl.col("time").dt.replace_time_zone("UTC"), server_id="host")
    check_not_local(Sheet(Path("t.csv"), frame, range(2, 10**6)), "time", series, Clock())


def test_a_day_of_25_hours_is_not_taken_as_utc() -> None:
    moments = [AUTUMN + number * HALF for number in range(8)] * 2
    servers = ["a"] * 8 + ["b"] * 8
    message = "2026-10-25 has 25 hours: 02:00 to 02:30 is there twice, .*--time-zone Europe/Berlin, or --time-zone UTC"
    with pytest.raises(UserError, match=message):
        check(local(moments, "Europe/Berlin"), servers)
    with pytest.raises(UserError, match=r"2026-11-01 has 25 hours: 01:00 to 01:30 .*--time-zone America/New_York"):
        check(local([moment + timedelta(days=7, hours=4) for moment in moments], "America/New_York"), servers)


def test_other_repeated_rows_are_no_sign_of_local_time() -> None:
    moments = [AUTUMN + number * HALF for number in range(8)] * 2
    check(local(moments, "UTC"), ["a"] * 8 + ["b"] * 8)
    twice = local([datetime(2026, 10, 21, 0, tzinfo=UTC) + number * HALF for number in range(8)] * 2, "Europe/Berlin")
    check(twice, ["a"] * 16)  # on another day
    berlin = local(moments[:8], "UTC")
    check(pl.concat([berlin, berlin]), ["a"] * 16, [*range(8), *range(8)])  # the same rows again


def test_a_missing_hour_speaks_for_local_time() -> None:
    moments = [datetime(2026, 3, 28, tzinfo=UTC) + number * HALF for number in range(96)]
    (sign,) = signs_of_hours(local(moments, "Europe/Berlin"))
    assert sign.startswith("against it: the hour from 2026-03-29 02:00 on is missing, as in Europe/Berlin, ")
    (sign,) = signs_of_hours(local(moments, "UTC"))
    assert sign == "for it: no hour is missing at changes to daylight saving time (2026-03-28, 2026-03-29)"
    assert not list(signs_of_hours(local([moment + timedelta(days=100) for moment in moments], "UTC")))


def test_a_wrong_year_costs_no_centuries() -> None:
    moments = [datetime(2026, 3, 28, tzinfo=UTC) + number * HALF for number in range(96)]
    began = time.process_time()
    (sign,) = signs_of_hours(local([datetime(3, 1, 1, tzinfo=UTC), *moments, datetime(9998, 1, 1, tzinfo=UTC)], "UTC"))
    assert sign == "for it: no hour is missing at changes to daylight saving time (2026-03-28, 2026-03-29)"
    assert time.process_time() - began < 5  # 260 with each day between them


@pytest.mark.parametrize(
    ("hours", "sign"),
    [
        (0, "for it: 6 of 7 crashes start at a gap or restart of their server"),
        (
            2,
            "against it: 6 of 7 crashes start at a gap or restart of their server if incidents are taken 2 h earlier",
        ),
        (-5.5, "if incidents are taken 5.5 h later, 0 as they are"),
    ],
)
def test_crashes_line_up_with_gaps_at_the_true_offset(hours: float, sign: str) -> None:
    gaps = [AUTUMN + timedelta(hours=31 * number) for number in range(7)]
    breaks = pl.DataFrame({"server_id": "a", "moment": gaps})
    late = timedelta(hours=hours, minutes=3)
    starts = [gap + late for gap in gaps[:6]] + [gaps[6] + timedelta(hours=15)]
    crashes = pl.DataFrame({"server_id": "a", "started_at": starts})
    assert sign in str(sign_of_crashes(crashes, breaks, timedelta(minutes=5)))
    assert sign_of_crashes(crashes[:1], breaks, timedelta(minutes=5)) is None
