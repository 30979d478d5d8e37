"""Times as text in other forms than `2026-01-31 13:45:00`, rewritten to it if they can be read in one way only.

ISO 8601 whole (basic, week and ordinal dates), names of months, RFC 2822, 12-hour clocks, `31.01.2026`. Whether
`01/02/2026` begins with the day or the month is told by the other values of its column, or not at all.
"""

from __future__ import annotations

import calendar

import polars as pl

HALF = r"(?i)\d\s*[ap]\.?m\.?(\W|$)"
USUAL = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]+\d{1,2}:\d{2}|\s*$)"
WEEKDAY = r"(?i)^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+"
REST = r"(?:(?:[T ,:]|\bat\b)+(?<rest>.*))?$"
MONTHS = {name: month for month, name in enumerate(calendar.month_abbr) if name}
# of year, month and day; `a` and `b` are the day and the month, or the other way round
DATES = [
    rf"^(?<y>\d{{4}})-(?<m>\d{{2}})-(?<d>\d{{2}}){REST}",
    rf"^(?<y>\d{{4}})(?<m>\d{{2}})(?<d>\d{{2}}){REST}",
    r"^(?<y>\d{4})(?<m>\d{2})(?<d>\d{2})(?<rest>\d{6})$",
    rf"^(?<d>\d{{1,2}})\.(?<m>\d{{1,2}})\.(?<y>\d{{4}}){REST}",
    rf"^(?<d>\d{{1,2}})[ /.-](?<m>[A-Za-z]{{3,9}})\.?[ /.,-]+(?<y>\d{{4}}|\d{{2}}){REST}",
    rf"^(?<m>[A-Za-z]{{3,9}})\.? +(?<d>\d{{1,2}}),? +(?<y>\d{{4}}){REST}",
    r"^(?<m>[A-Za-z]{3}) +(?<d>\d{1,2}) (?<rest>\d\d:\d\d:\d\d(?: [A-Z]+)?) (?<y>\d{4})$",
    rf"^(?<week>\d{{4}}-?W\d{{2}}-?[1-7]){REST}",
    rf"^(?<ordinal>\d{{4}}-?\d{{3}}){REST}",
    rf"^(?<a>\d{{1,2}})[/-](?<b>\d{{1,2}})[/-](?<y>\d{{4}}){REST}",
]
HALVES = r"^(?<hour>\d{1,2})(?<minute>:\d{2})?(?<second>:\d{2}(?:[.,]\d+)?)?\s*(?<half>[AaPp])\.?[Mm]\.?(?<zone>\W.*)?$"
LARGEST_MONTH = 12


def rewritten(text: pl.Series) -> tuple[pl.Series, str]:
    """Rewrite times in other forms; text that is none stays.

    Parameters
    ----------
    text : Series of str
        A column's values, or the distinct ones.

    Returns
    -------
    Series of str, str
        The order of day and month, if the values tell it, or an empty text.
    """
    is_other = text.is_not_null() & (~text.str.contains(USUAL) | text.str.contains(HALF))
    if not is_other.any():
        return text, ""
    given = text.filter(is_other).str.replace(WEEKDAY, "")
    found, order = pl.Series([None], dtype=pl.String).new_from_index(0, given.len()), ""
    for pattern in DATES:
        parts = given.str.extract_groups(pattern).struct.unnest()
        if "a" in parts.columns:
            first, second = parts.select(pl.col("a", "b").cast(pl.Int64).max().fill_null(0)).row(0)
            if (first > LARGEST_MONTH) == (second > LARGEST_MONTH) or text.count() != parts["y"].count():
                continue
            order = "day, month, year" if first > LARGEST_MONTH else "month, day, year"
            parts = parts.rename({"a": "d", "b": "m"} if first > LARGEST_MONTH else {"a": "m", "b": "d"})
        day = parts.select(_day(parts.columns)).to_series()
        clock = _clock(parts["rest"])
        found = found.zip_with(found.is_not_null(), pl.select(pl.concat_str(day, clock, separator=" ")).to_series())
        found = found.zip_with(found.is_not_null(), day.zip_with(parts["rest"].is_null(), found))
    return text.scatter(is_other.arg_true(), found.zip_with(found.is_not_null(), text.filter(is_other))), order


def _day(columns: list[str]) -> pl.Expr:
    if "week" in columns:
        return pl.col("week").str.replace_all("-", "").str.to_date("%GW%V%u", strict=False).cast(pl.String)
    if "ordinal" in columns:
        return pl.col("ordinal").str.replace_all("-", "").str.to_date("%Y%j", strict=False).cast(pl.String)
    name = pl.col("m").str.slice(0, 3).str.to_titlecase()
    month = pl.coalesce(name.replace_strict(MONTHS, default=None, return_dtype=pl.Int64), _whole("m"))
    year = _whole("y")
    return pl.format("{}-{}-{}", pl.when(year < 100).then(year + 2000).otherwise(year), month, _whole("d"))


def _whole(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Int64, strict=False)


def _clock(rest: pl.Series) -> pl.Series:
    # 134500 and 13 become 13:45:00 and 13:00, 1:45 PM becomes 13:45
    for pattern, form in (
        (r"^(\d{2})(\d{2})(\d{2})\b", "${1}:${2}:${3}"),
        (r"^(\d{2})(\d{2})(\d{2})([A-Za-z])", "${1}:${2}:${3}${4}"),
        (r"^(\d{2})(\d{2})([^\d:]|$)", "${1}:${2}${3}"),
        (r"^(\d{2})([Zz+-]|$)", "${1}:00${2}"),
    ):
        rest = rest.str.replace(pattern, form)
    half = rest.str.extract_groups(HALVES).struct.unnest()
    hour = _whole("hour") % LARGEST_MONTH + pl.when(pl.col("half").is_in(["P", "p"])).then(LARGEST_MONTH).otherwise(0)
    usual = {"minute": ":00", "second": "", "zone": ""}
    minute, second, zone = (pl.col(name).fill_null(text) for name, text in usual.items())
    of_day = half.select(pl.format("{}{}{}{}", hour, minute, second, zone)).to_series()
    return of_day.zip_with(half["half"].is_not_null(), rest)
