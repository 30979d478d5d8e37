"""Numbers as text: with a decimal comma, separated thousands or a unit, such as `6,92 %`, `1.5 GiB` and `1,234.5`.

A column is read if all of its values follow one form, or units that can be converted. In doubt it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

BLANKS, QUOTES, MINUS = " \u00a0\u202f", "'\u2019", "\u2212"
# marks of thousands and of decimals
STYLES = {
    "": ("", "."),
    "thousands separated by commas": (",", "."),
    "decimal commas": (".", ","),
    "thousands separated by blanks": (BLANKS, "."),
    "thousands separated by blanks, decimal commas": (BLANKS, ","),
    "thousands separated by apostrophes": (QUOTES, "."),
}
NUMBER = rf"[+-]?[\d.,{QUOTES}{BLANKS}]*\d\.?(?:[eE][+-]?\d+)?"
WITH_UNIT = rf"^(?<number>{NUMBER})[{BLANKS}]*(?<unit>[^\d\s.,{QUOTES}+-][^\d,]*)?$"
LOOKS_NUMERIC = r"^[<>~≈]?\s*[+-]?\d+(?:[.,]\d+)?\s*[^\d\s.,:_-]{0,12}$"
IP_ADDRESS = r"^\d{1,3}(\.\d{1,3}){3}$"
KNOWN_UNIT = (
    r"%|°[CF]|(?i:[num\u00b5\u03bckgtp]?i?(?:b|bits?|bytes?|hz)(?:/s|/sec|ps)?|[num\u00b5\u03bc]?s|secs?|seconds?|mins?|minutes?"
    r"|hrs?|hours?|days?|rpm|dbm?|iops|[qrp]ps|[a-z]*/(?:s|sec|min|h))|[mkM]?[WV]|[hd]"
)
NAMED_UNITS = {"seconds": "s", "bytes": "B", **{f"{prefix}b": f"{prefix.upper()}B" for prefix in "kmgt"}}
LOST_SHARE = 0.1  # of values that look like numbers: the column was a metric


def _scales() -> dict[str, tuple[str, float]]:
    scales: dict[str, tuple[str, float]] = {}
    for base in ("B", "b", "bit", "bps", "Hz", "W", "B/s", "b/s", "bit/s"):
        for power, prefix in enumerate(("", "K", "M", "G", "T", "P")):
            scales |= {f"{prefix}{base}": (base, 1000.0**power), f"{prefix}i{base}": (base, 1024.0**power)}
        scales[f"k{base}"] = (base, 1000.0)
    seconds = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "secs": 1, "min": 60}
    seconds |= {"mins": 60, "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400}
    return scales | {unit: ("s", float(factor)) for unit, factor in seconds.items()}


SCALES = _scales()


@dataclass(frozen=True)
class Written:
    """A column of numbers that were text.

    Attributes
    ----------
    values : Series of float64
    unit : str
        Their unit; empty if none is written.
    how : str
        The form, for the user.
    """

    values: pl.Series
    unit: str
    how: str


def looks_numeric(text: pl.Series) -> bool:
    """Tell whether so many values look like numbers that the column was meant as a metric."""
    return bool(text.count() and text.str.contains(LOOKS_NUMERIC).mean() > LOST_SHARE)  # type: ignore[operator]


def read_written(name: str, text: pl.Series) -> Written | str | None:
    """Read numbers from text.

    Parameters
    ----------
    name : str
        The column's name, which may state a unit: values of `latency_ms` are converted to ms.
    text : Series of str
        Null if there is no value.

    Returns
    -------
    Written, str or None
        Text: why the numbers cannot be read. None: not all values are numbers, with a known unit or without.
    """
    parts = text.str.replace(MINUS, "-").str.extract_groups(WITH_UNIT).struct.unnest()
    number, units = parts["number"], parts["unit"].str.strip_chars()
    known = [unit for unit in units.unique().drop_nulls() if re.fullmatch(KNOWN_UNIT, unit)]
    each = [_read_style(number, *marks) for marks in STYLES.values()]
    is_number = pl.select(pl.any_horizontal(*(values.is_not_null() for values in each))).to_series()
    if not is_number.filter(text.is_not_null()).all() or len(known) < units.drop_nulls().n_unique():
        return None
    count = text.count()
    styles = {style: values for style, values in zip(STYLES, each, strict=True) if values.count() == count}
    if not styles:
        return "thousands and decimals are separated in several ways"
    style, values = next(iter(styles.items()))
    if style and any(not values.equals(other) for other in styles.values()):
        example = number.filter(number.str.contains(r"[.,]"))[0]
        return f"{example} could be a thousand and more, or have a decimal comma"
    if not known:
        return Written(values, "", style)
    if units.null_count() > text.null_count():
        return f"some values have a unit ({known[0]}), some none"
    target = _target(name, known)
    if target is None:
        return f"the units {' and '.join(sorted(known))} cannot be converted to one another"
    if known != [target]:
        factors = {unit: SCALES[unit][1] / SCALES[target][1] for unit in known}
        values = values * units.replace_strict(factors, return_dtype=pl.Float64)
    converted = "" if known == [target] else f", converted to {target}"
    return Written(values, target, ", ".join(filter(None, [f"unit {', '.join(sorted(known))}{converted}", style])))


def _read_style(number: pl.Series, thousands: str, decimal: str) -> pl.Series:
    # null if a value is not written so
    whole = rf"(?:[1-9]\d{{0,2}}(?:[{thousands}]\d{{3}})+|\d+)" if thousands else r"\d*"
    matches = number.str.contains(rf"^[+-]?{whole}(?:[{decimal}]\d*)?(?:[eE][+-]?\d+)?$")
    number = number.set(~matches | number.str.contains(IP_ADDRESS), None)
    plain = number.str.replace_all(f"[{thousands}]", "") if thousands else number
    return plain.str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)


def _target(name: str, units: list[str]) -> str | None:
    # the unit in the column's name, else the only one, else the base of all
    word = re.split(r"[^A-Za-z]+", name.strip())[-1].lower()
    named = NAMED_UNITS.get(word, word)
    bases = {SCALES.get(unit, (unit, 1.0))[0] for unit in units}
    if named in SCALES and bases == {SCALES[named][0]}:
        return named
    if len(units) == 1:
        return units[0]
    return bases.pop() if len(bases) == 1 and all(unit in SCALES for unit in units) else None
