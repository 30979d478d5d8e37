"""Columns of a table: which column has which role, and their values as text, ids, numbers and times.

A value that cannot be converted is an error that names its row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta

import polars as pl

from crashcast.sources.importing.local_time import AMBIGUOUS_ZONES, NO_ZONE, Clock, in_utc
from crashcast.sources.importing.table_file import SHOWN, Sheet, check_years, plain_name
from crashcast.sources.importing.text_numbers import Written, read_written
from crashcast.sources.importing.time_forms import rewritten
from crashcast.sources.value_formats import EARLIEST, EPOCH_UNITS, NULLS, PER_SECOND, utc_text
from crashcast.tables import TIMESTAMP
from crashcast.text import some_of

LARGEST_INTEGER = 2.0**63
MOMENT = (
    r"^(?<date>\d{4}[-/]\d{1,2}[-/]\d{1,2})"
    r"(?:[T ]+(?<clock>\d{1,2}:\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?)?"
    r"\s*(?:(?<zone>[Zz]|UTC|GMT|(?:UTC|GMT)?[+-](?:0\d|1[0-5])(?::?[0-5]\d)?)(?:\[.*\]| [A-Z]+)?"
    r"|\[?(?<name>[A-Za-z][A-Za-z0-9_+/-]+)\]?)?$"
)
COMPACT = r"^20\d{2}[01]\d[0-3]\d[0-2]\d[0-5]\d[0-5]\d$"  # 20260131134500
EITHER = r"^\d{1,2}[/-]\d{1,2}[/-]\d{4}"
MOMENT_HINT = "write 2026-01-31 13:45:00 (UTC), 2026-01-31T13:45:00+01:00 or seconds since 1970"
DATES = "write the time of day too; if nobody knows it, remove the row and leave the day out of the server's --coverage"
FEWEST_MIDNIGHTS = 3  # a few crashes may start at midnight, but not all of several
NOW = "it is {} now: a wrong clock, or local times that need their zone (+01:00)"

UTC_CLOCK, NAIVE = Clock(), "no time zone"

Roles = Mapping[str, tuple[tuple[str, ...], ...]]
Fits = Mapping[str, Callable[[Sheet, str], bool]]
CLOCK = r"^\d{1,2}:\d{2}(:\d{2}([.,]\d{1,9})?)?$"


def choose(
    sheet: Sheet,
    roles: Roles,
    required: tuple[str, ...],
    fits: Fits | None = None,
    hints: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Find the column of each role.

    Parameters
    ----------
    sheet : Sheet
        The file.
    roles : mapping of str to tuples of names
        For each role, tiers of names; the first tier with a column in the file decides. No column has two roles.
    required : tuple of str
        The roles that must be found.
    fits : mapping of str to callables, optional
        Tell for a role whether a column's values are of its kind. A column that has a name of a role, but other values,
        is not taken for it, unless it has the role's own name.
    hints : mapping of str to str, optional
        What else the user can do if a role has no column.

    Returns
    -------
    dict
        Role to column.

    Raises
    ------
    UserError
        If a required role has no column, or two of one tier.
    """
    free = {plain_name(column): column for column in sheet.frame.columns}
    chosen = {}
    for role, tiers in roles.items():
        fit = (fits or {}).get(role)
        fitting = [name for name, column in free.items() if fit is None or name == role or fit(sheet, column)]
        found = next((names for tier in tiers if (names := [name for name in tier if name in fitting])), [])
        if len(found) > 1:
            both = " and ".join(f"'{free[name]}'" for name in found)
            raise sheet.error(f"{both} could each be {role}; rename one of them to {role}")
        if found:
            chosen[role] = free.pop(found[0])
        elif role in required:
            names = [name for tier in tiers for name in tier]
            odd = [
                f"'{free[name]}' holds {_example(sheet, free[name])}, so it is none; " for name in names if name in free
            ]
            message = f"no column for {role}: {''.join(odd)}name it one of {', '.join(names)}"
            hint = f"; {hints[role]}" if hints and role in hints else ""
            raise sheet.error(f"{message}; there are {some_of(sheet.frame.columns, SHOWN)}{hint}")
    return chosen


def _example(sheet: Sheet, column: str) -> str:
    values = sheet.frame[column].drop_nulls()
    return f"'{values[0]}'" if values.dtype == pl.String else str(values.dtype)


def holds_times(sheet: Sheet, column: str) -> bool:
    """Tell whether some value of a column may be a moment: not only times of day, truth values or other words."""
    values = sheet.frame[column]
    if values.dtype.is_temporal() or values.dtype.is_numeric() or not values.count():
        return values.dtype not in (pl.Time, pl.Duration)
    if values.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    return not texts(sheet, column).str.contains(rf"{CLOCK}|^\D*$").all()


def with_moments(sheet: Sheet) -> tuple[Sheet, dict[str, str]]:
    """Join columns of a date and of a time of day, such as `date` and `time`.

    Returns
    -------
    Sheet, dict
        The joined columns have the names of those of times of day, which the dict maps to those of the dates.
    """
    joined = dict[str, str]()
    frame, names = sheet.frame, {plain_name(column): column for column in sheet.frame.columns}
    for name, column in names.items():
        day = names.get(re.sub(r"time$", "date", name), column)
        if day != column and frame[column].dtype in (pl.String, pl.Time) and frame[day].dtype in (pl.String, pl.Date):
            clock = texts(sheet, column)
            if clock.count() and clock.str.contains(CLOCK).all() and not texts(sheet, day).str.contains(":").any():
                frame = frame.with_columns((texts(sheet, day) + " " + clock).alias(column)).drop(day)
                joined[column] = day
    return replace(sheet, frame=frame), joined


def texts(sheet: Sheet, column: str, nulls: Collection[str] = NULLS) -> pl.Series:
    """Return a column as text without surrounding blanks; words for a missing value become null."""
    values = sheet.frame[column]
    if values.dtype.is_nested() or values.dtype == pl.Object:
        raise sheet.error(f"holds {values.dtype}, not text", column)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    text = values.cast(pl.String).str.strip_chars()
    return text.set(text.str.to_lowercase().is_in([*nulls]), None)


def identifiers(sheet: Sheet, column: str) -> pl.Series:
    """Return a column of ids as text: 7 and 7.0 are `7`, while the text `007` stays.

    Raises
    ------
    UserError
        If an id is missing, or a number with decimals.
    """
    ids = texts(sheet, column, [word for word in NULLS if not word.isalpha()])  # a server may be named NA
    if (empty := sheet.first(ids.is_null())) is not None:
        raise sheet.error("the id is empty", column, empty)
    if sheet.frame[column].dtype.is_float() or ids.str.contains(r"^\d+\.0$").all():
        if (broken := sheet.first(~ids.str.contains(r"^-?\d+\.0$"))) is not None:
            raise sheet.error(f"{ids[broken]} is no id: it has decimals, or too many digits", column, broken)
        ids = ids.str.strip_suffix(".0")
    return ids


def numbers(sheet: Sheet, column: str, required: bool, is_exact: bool = False) -> Written | str:
    """Return a column as float32, or why it is none.

    Parameters
    ----------
    sheet : Sheet
        The file.
    column : str
        The column.
    required : bool
        Text in the column is an error; otherwise only if most of its values are numbers.
    is_exact : bool
        Keep float64: differences of large numbers are needed.

    Returns
    -------
    Written or str
        Float32, null if there is no value; booleans are 0 and 1. Text: why the column is not numeric.

    Raises
    ------
    UserError
        If a numeric column holds text, numbers of several forms, an infinite value or one too large for float32.
    """
    values, unit, how = sheet.frame[column], "", ""
    if values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = texts(sheet, column)
        truth = text.str.to_lowercase().replace_strict(
            {"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64
        )
        values = text.cast(pl.Float64, strict=False).fill_null(truth)
        wrong = text.is_not_null() & values.is_null()
        if (index := sheet.first(wrong)) is not None:
            written = read_written(column, text)
            if isinstance(written, str):
                message = f"numbers are written in several forms ({written}); write all in one"
                raise sheet.error(f"'{text[index]}': {message}", column, index)
            if written is None:
                if not required and 2 * wrong.sum() > text.count():
                    return f"text, such as '{text[index]}'"
                raise sheet.error(f"'{text[index]}' is not a number{_more(wrong)}", column, index)
            values, unit, how = written.values, written.unit, written.how
    elif not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        if required:
            raise sheet.error(f"holds {values.dtype}, not numbers", column)
        return str(values.dtype)
    single = values.cast(pl.Float64).fill_nan(None).cast(pl.Float32)
    infinite = single.is_infinite()
    if (index := sheet.first(infinite)) is not None:
        raise sheet.error(f"{values[index]} is not a finite float32 number{_more(infinite)}", column, index)
    return Written(values.cast(pl.Float64).fill_nan(None) if is_exact else single, unit, how)


def _more(mask: pl.Series) -> str:
    return f" ({mask.sum() - 1:,} more like it)" if mask.sum() > 1 else ""


def moments(
    sheet: Sheet,
    column: str,
    latest: datetime | None,
    required: bool = True,
    clock: Clock = UTC_CLOCK,
    series: pl.DataFrame | None = None,
) -> tuple[pl.Series, str]:
    """Return a column of times in UTC, and how it was read.

    Parameters
    ----------
    sheet : Sheet
        The file.
    column : str
        The column: datetimes, dates, ISO 8601 text, or a count since 1970 in s, ms, us or ns.
    latest : datetime, optional
        A later time is an error.
    required : bool
        Whether every row needs one.
    clock : Clock
        How times without a zone are read.
    series : DataFrame, optional
        Columns that tell apart the series of rows whose order is that of time: it resolves repeated hours.

    Raises
    ------
    UserError
        If a time is missing, cannot be read, is before 1990 or after `latest`, if its zone has it twice or never, or if
        some have a zone and some none.
    """
    values = sheet.frame[column]
    if isinstance(values.dtype, pl.Datetime):
        zone = values.dtype.time_zone
        how = NAIVE if zone is None else "UTC" if zone == "UTC" else f"converted from {zone}"
        times = values if zone is None else values.dt.convert_time_zone("UTC")
    elif values.dtype == pl.Date:
        times, how = values.cast(pl.Datetime("us")), "dates"
    elif values.dtype.is_numeric():
        times, how = _from_epoch(sheet, column, values)
    elif values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        text = texts(sheet, column)
        if text.count() and text.str.contains(r"^\d{9,19}$").all() and not text.str.contains(COMPACT).all():
            times, how = _from_epoch(sheet, column, text.cast(pl.UInt64))
        elif text.count() and text.str.contains(r"^\d{9,10}\.\d+$").all():
            times, how = _from_epoch(sheet, column, text.cast(pl.Float64))
        else:
            times, how = _from_text(sheet, column, text)
    else:
        raise sheet.error(f"holds {values.dtype}, not times", column)
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is None:
        midnight = "midnight " if values.dtype == pl.Date else ""
        times, how = in_utc(sheet, column, times, clock, series), f"{how}: {NO_ZONE} {midnight}{clock.name}"
    times = times.cast(TIMESTAMP)
    check_years(sheet, column, times)
    if required and (index := sheet.first(times.is_null())) is not None:
        raise sheet.error("the time is empty", column, index)
    if (index := sheet.first(times < EARLIEST)) is not None:
        raise sheet.error(f"{utc_text(times[index])} is before 1990: a wrong unit, or a clock not set", column, index)
    if latest is not None and (index := sheet.first(times > latest)) is not None:
        raise sheet.error(f"{utc_text(times[index])} is in the future, {NOW.format(utc_text(latest))}", column, index)
    return times, how


def check_times_of_day(sheet: Sheet, column: str, crashes: pl.Series | None = None) -> None:
    """Refuse dates without a time: a day is not a moment.

    Parameters
    ----------
    sheet : Sheet
        The file.
    column : str
        A column of times.
    crashes : Series of bool, optional
        Of a column that needs a value: rows that must not all be at midnight either, as a date is if a spreadsheet or a
        database writes it.

    Raises
    ------
    UserError
        Naming the first such row.
    """
    values = sheet.frame[column]
    if isinstance(values.dtype, pl.Datetime):
        at_midnight = values.dt.time() == time()
        is_date = at_midnight & False
    elif values.dtype == pl.Date:
        is_date = at_midnight = values.is_not_null()
    else:
        parts = rewritten(texts(sheet, column))[0].str.extract_groups(MOMENT).struct.unnest()
        clock = parts.select(pl.concat_str("clock", "second", "fraction", ignore_nulls=True)).to_series()
        is_date = parts["date"].is_not_null() & parts["clock"].is_null()
        at_midnight = parts["date"].is_not_null() & ~clock.str.contains("[1-9]")
    if (index := sheet.first(is_date)) is not None:
        advice = "write the time of day too, or leave the cell empty" if crashes is None else DATES
        raise sheet.error(f"{values[index]} is a whole day, not a time; {advice}", column, index)
    if crashes is not None and crashes.sum() >= FEWEST_MIDNIGHTS and at_midnight.filter(crashes).all():
        message = f"all {crashes.sum():,} crashes start at 00:00: these are whole days, not times"
        raise sheet.error(f"{message}; {DATES}", column, sheet.first(crashes))


def _from_epoch(sheet: Sheet, column: str, values: pl.Series) -> tuple[pl.Series, str]:
    size = values.cast(pl.Float64).fill_nan(None)
    if (index := sheet.first(size.abs() >= LARGEST_INTEGER)) is not None:
        raise sheet.error(f"{values[index]} is not a time; {MOMENT_HINT}", column, index)
    largest = size.abs().to_frame("size").select(pl.col("size").max()).item() or 0.0
    unit = next(unit for bound, unit in EPOCH_UNITS.items() if largest < bound)
    if values.dtype.is_float():
        microseconds = (values.fill_nan(None) * (1e6 / PER_SECOND[unit])).round().cast(pl.Int64)
    elif unit == "ns":
        microseconds = values.cast(pl.Int64) // 1000
    else:
        microseconds = values.cast(pl.Int64) * (10**6 // PER_SECOND[unit])
    return microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), f"{unit} since 1970"


def _from_text(sheet: Sheet, column: str, text: pl.Series) -> tuple[pl.Series, str]:
    # servers share their moments: each distinct text is parsed once
    distinct = text.rename("text").to_frame().unique()
    usual, order = rewritten(distinct["text"])
    parts = distinct.with_columns(usual.str.extract_groups(MOMENT).alias("groups")).unnest("groups")
    day, zone = pl.col("date").str.replace_all("/", "-"), pl.col("zone")
    clock = pl.format("{} {}:{}", day, pl.col("clock").fill_null("00:00"), pl.col("second").fill_null("00"))
    fraction = pl.col("fraction").fill_null("0").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    digits = zone.str.replace_all(r"\D", "").str.pad_end(4, "0")
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2, 2).cast(pl.Int64)
    east = pl.when(zone.str.contains("-")).then(-minutes).otherwise(minutes).fill_null(0)
    local = clock.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    utc = local + pl.duration(microseconds=fraction) - pl.duration(minutes=east)
    is_zoned = pl.any_horizontal(pl.col("zone", "name").is_not_null())
    parsed = parts.select("text", "name", time=utc, zoned=is_zoned, shifted=(east != 0) | pl.col("name").is_not_null())
    parsed = pl.concat(_in_utc(of_zone) for of_zone in parsed.partition_by("name") or [parsed])
    found = text.rename("text").to_frame().join(parsed, on="text", how="left", maintain_order="left")
    if (index := sheet.first(found["time"].is_null() & text.is_not_null())) is not None:
        name = found["name"][index]
        of_zone = "" if name is None else f", or not one time in the zone '{name}'"
        either = ": day and month may be either way round" if re.search(EITHER, text[index]) else ""
        raise sheet.error(f"'{text[index]}' is not a time{of_zone}{either}; {MOMENT_HINT}", column, index)
    if not text.count():
        return found["time"].dt.replace_time_zone("UTC"), "empty"
    zoned = found["zoned"].set(text.is_null(), None)
    if zoned.any() and not zoned.all():
        with_zone, without = sheet.first(zoned) or 0, sheet.first(~zoned) or 0
        message = f"'{text[without]}' has no time zone, while {sheet.row(with_zone)} ('{text[with_zone]}') has one"
        raise sheet.error(f"{message}; write all with a zone, or all in UTC", column, without)
    zones = "converted to UTC" if found["shifted"].any() else "UTC"
    how = f"{order}; " if order else ""
    if zoned.any():
        return found["time"], how + zones
    return found["time"].dt.replace_time_zone(None), how + NAIVE


def _in_utc(times: pl.DataFrame) -> pl.DataFrame:
    name = str(times["name"].first() or "UTC")
    try:
        zoned = times["time"].dt.replace_time_zone(name, ambiguous="null", non_existent="null")
    except pl.exceptions.PolarsError:  # no zone of the tz database
        zoned = pl.Series([None], dtype=TIMESTAMP).new_from_index(0, times.height)
    if name in AMBIGUOUS_ZONES:
        zoned = zoned.set(zoned.dt.dst_offset() != timedelta(0), None)
    return times.with_columns(time=zoned.dt.convert_time_zone("UTC"))
