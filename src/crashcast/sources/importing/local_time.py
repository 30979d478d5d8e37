"""Times without a zone: taken as one, and what speaks for or against it.

If clocks are put back, an hour is there twice: the order of a server's rows tells which is which, if it is the order of
time. If clocks are put forward, an hour is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Literal
from zoneinfo import available_timezones

import polars as pl
import polars.selectors as cs

from crashcast.errors import UserError
from crashcast.sources.importing.table_file import Sheet
from crashcast.tables import KEYS, TIMESTAMP
from crashcast.text import some_of

# as abbreviations they mean standard time, as zones of the tz database they have summer time
AMBIGUOUS_ZONES = ("CET", "EET", "MET", "WET")
MACHINES_OWN = ("Factory", "localtime")
COMMON = ("Europe/Berlin", "Europe/London", "America/New_York", "America/Los_Angeles", "Australia/Sydney")
AGAINST, FOR = "against it", "for it"
NO_ZONE = "taken as"  # in the words about times without a zone
HOUR, STEP, FARTHEST = timedelta(hours=1), timedelta(minutes=30), timedelta(hours=14)
LEAST_TOLERANCE = timedelta(minutes=5)  # between a crash and its gap
LEAST_CRASHES = 2


@dataclass(frozen=True)
class Clock:
    """How times without a zone are read.

    Attributes
    ----------
    zone : str, optional
        Of the tz database; without it, UTC is assumed.
    ambiguous : {"earlier", "later"}, optional
        Which one a repeated time is, if the order of rows does not tell.
    flag : str
        The option that states the zone.
    """

    zone: str | None = None
    ambiguous: Literal["earlier", "later"] | None = None
    flag: str = "--time-zone"

    def __post_init__(self) -> None:
        """Refuse what is no zone, or may mean several."""
        known = self.zone in available_timezones() and self.zone not in (*AMBIGUOUS_ZONES, *MACHINES_OWN)
        if self.zone is not None and not known:
            raise UserError(f"{self.flag} {self.zone}: name a zone of the tz database, such as Europe/Berlin or UTC")

    @property
    def name(self) -> str:
        """The zone, stated or assumed."""
        return self.zone or "UTC"


def in_utc(sheet: Sheet, column: str, local: pl.Series, clock: Clock, series: pl.DataFrame | None) -> pl.Series:
    """Convert times without a zone.

    Parameters
    ----------
    sheet, column
        For errors.
    local : Series of datetime
        Without a zone.
    clock : Clock
    series : DataFrame, optional
        Columns that tell apart the series of rows whose order is that of time.

    Raises
    ------
    UserError
        If the zone does not have a time, or has it twice and neither order nor `clock` tells which is meant.
    """
    local = local.cast(pl.Datetime("us"))
    earlier, later = (
        local.dt.replace_time_zone(clock.name, ambiguous=side, non_existent="null") for side in ("earliest", "latest")
    )
    if (index := sheet.first(local.is_not_null() & earlier.is_null())) is not None:
        message = f"{local[index]} does not exist in {clock.name}, where clocks were put forward"
        raise sheet.error(f"{message}: is it another zone ({clock.flag})?", column, index)
    repeated = (earlier != later).fill_null(False)
    if repeated.any():
        rows = pl.DataFrame({"local": local, "earlier": earlier, "later": later, "repeated": repeated})
        is_later = _is_later(rows, series)
        if clock.ambiguous:
            is_later = is_later.fill_null(clock.ambiguous == "later")
        if (index := sheet.first(repeated & is_later.is_null())) is not None:
            message = f"{local[index]} is there twice in {clock.name}, and the order of rows does not tell which it is"
            how = "write an offset (+01:00), or say --ambiguous earlier or later"
            raise sheet.error(f"{message}; {how}", column, index)
        earlier = later.zip_with(repeated & is_later, earlier)
    return earlier.dt.convert_time_zone("UTC").cast(TIMESTAMP)


def _is_later(rows: pl.DataFrame, series: pl.DataFrame | None) -> pl.Series:
    # null if the rows of a series, assigned so, are not in the order of time
    if series is None:
        return pl.Series([None], dtype=pl.Boolean).new_from_index(0, rows.height)
    of = pl.struct(series.columns).rank("dense").alias("of")
    rows = rows.with_columns(series.select(of)).with_row_index()
    step = pl.col("local").diff().over("of")
    is_descending = (step < timedelta(0)).sum().over("of") > (step > timedelta(0)).sum().over("of")
    rows = rows.with_columns(place=pl.when(is_descending).then(-pl.col("index").cast(pl.Int64)).otherwise("index"))
    rows = rows.sort("of", "place")
    hour = ["of", pl.col("local").dt.date(), "repeated"]
    goes_back = (pl.col("local").diff() <= timedelta(0)).fill_null(False)
    rows = rows.with_columns(
        is_later=goes_back.cum_sum().over(hour) > 0, times=1 + goes_back.sum().over(hour)
    ).with_columns(utc=pl.when(pl.col("repeated") & pl.col("is_later")).then("later").otherwise("earlier"))
    in_order = (pl.col("utc").diff() >= timedelta(0)).fill_null(True).all().over("of")
    told = pl.when(in_order & (pl.col("times") == 2)).then("is_later")
    return rows.with_columns(told=told).sort("index")["told"]


@cache
def _zones() -> list[str]:
    places = sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))
    return [*COMMON, *(name for name in places if name not in COMMON)]


def check_not_local(sheet: Sheet, column: str, series: pl.DataFrame, clock: Clock) -> None:
    """Refuse times that are taken as UTC if they repeat an hour as local times do.

    Parameters
    ----------
    sheet, column
        The file, and its column of times.
    series : DataFrame
        `timestamp`, `server_id` and, in long format, `metric` of its rows.
    clock : Clock

    Raises
    ------
    UserError
        Naming the hour and zones that repeat it.
    """
    plain = sheet.frame.select(~(cs.nested() | cs.object()))
    twice = series.select(*KEYS).filter(series.is_duplicated() & ~plain.is_duplicated()).unique()
    if twice.is_empty():
        return
    present = series.filter(pl.col("timestamp").is_in(twice["timestamp"].implode()))
    sharing = present.group_by("timestamp").agg(servers=pl.col("server_id").n_unique())
    shared = twice.group_by("timestamp").agg(twice=pl.len()).join(sharing, on="timestamp")
    moments = shared.filter(2 * pl.col("twice") >= pl.col("servers"))["timestamp"].sort().dt.replace_time_zone(None)
    if moments.is_empty() or not (zones := [zone for zone in _zones() if _repeats(zone, moments).all()]):
        return
    last = moments.filter(moments.dt.date() == moments[0].date())[-1]
    message = f"{moments[0]:%Y-%m-%d} has 25 hours: {moments[0]:%H:%M} to {last:%H:%M} is there twice"
    how = f"say which zone: {clock.flag} {zones[0]}, or {clock.flag} UTC if they are not"
    raise sheet.error(f"{message}, as in local times of {some_of(zones)}; {how}", column)


def _repeats(zone: str, local: pl.Series) -> pl.Series:
    sides = [local.dt.replace_time_zone(zone, ambiguous=side, non_existent="null") for side in ("earliest", "latest")]
    return (sides[0] != sides[1]).fill_null(False)


def signs_of_hours(times: pl.Series) -> Iterator[str]:
    """Tell what the hours of changes of daylight saving time say about times that were taken as UTC.

    Parameters
    ----------
    times : Series of datetime
        Distinct sample times of the fleet, sorted.
    """
    local = times.dt.replace_time_zone(None)
    dates, days = local.dt.date().unique(), set[date]()
    fitting: dict[str, list[datetime]] = {}
    for zone in _zones():
        hours = list(_missing_hours(zone, dates))
        around = [hour for hour in hours if _has(local, hour - HOUR) and _has(local, hour + HOUR)]
        days |= {hour.date() for hour in around}
        if around and not any(_has(local, hour) for hour in around):
            fitting[zone] = around
    if fitting:
        missing = [f"{hour:%Y-%m-%d %H:%M}" for hour in next(iter(fitting.values()))]
        yield f"{AGAINST}: the hour from {some_of(missing)} on is missing, as in {some_of(list(fitting))}"
    elif days:
        some = some_of([str(day) for day in sorted(days)])
        yield f"{FOR}: no hour is missing at changes to daylight saving time ({some})"


def _has(local: pl.Series, hour: datetime) -> bool:
    index = local.search_sorted(hour)
    return index < local.len() and local[index] < hour + HOUR


def _missing_hours(zone: str, dates: pl.Series) -> Iterator[datetime]:
    # near samples alone: one wrong year makes a fleet's period centuries long
    noons = pl.concat([dates, dates.dt.offset_by("1d")]).unique().sort().cast(pl.Datetime("us")).dt.offset_by("12h")

    def offsets(moments: pl.Series) -> pl.Series:
        zoned = moments.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return zoned.dt.base_utc_offset() + zoned.dt.dst_offset()

    for noon in noons.filter((offsets(noons) > offsets(noons.dt.offset_by("-1d"))).fill_null(False)):
        hours = pl.datetime_range(noon - timedelta(days=1), noon, "30m", eager=True)
        missing = hours.filter(hours.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").is_null())
        if missing.len() == 2:  # a whole hour
            yield missing[0]


def sign_of_crashes(crashes: pl.DataFrame, breaks: pl.DataFrame, interval: timedelta) -> str | None:
    """Tell whether crashes begin at breaks of telemetry as they are, or better some hours away.

    Parameters
    ----------
    crashes, breaks : DataFrame
        `server_id`, and `started_at` or the `moment` of a gap's begin or a restart.
    interval : timedelta
        The cadence.

    Returns
    -------
    str, optional
        With the counts; None if too few crashes begin at breaks to tell.
    """
    tolerance = max(interval, LEAST_TOLERANCE)
    pairs = crashes.with_row_index("crash").join(breaks, on="server_id")
    pairs = pairs.select("crash", apart=pl.col("moment") - pl.col("started_at"))
    steps = FARTHEST // STEP
    offsets = sorted((step * STEP for step in range(-steps, steps + 1)), key=abs)
    counts = {
        offset: pairs.filter((pl.col("apart") - offset).abs() <= tolerance)["crash"].n_unique() for offset in offsets
    }
    best = max(offsets, key=lambda offset: counts[offset])
    as_they_are = counts[timedelta(0)]
    start = f"of {crashes.height:,} crashes start at a gap or restart of their server"
    if counts[best] < LEAST_CRASHES:
        return None
    if best and counts[best] >= 2 * as_they_are:
        direction = "later" if best > timedelta(0) else "earlier"
        away = f"{abs(best) / HOUR:g} h {direction}"
        return f"{AGAINST}: {counts[best]:,} {start} if incidents are taken {away}, {as_they_are:,} as they are"
    return f"{FOR}: {as_they_are:,} {start}" if not best else None
