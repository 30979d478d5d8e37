"""Times as ticket systems write them, in UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.params.tickets import TicketSource
from crashcast.sources.value_formats import EPOCH_UNITS, PER_SECOND

OFFSET = r"[+-](0\d|1[0-5]):?[0-5]\d"
ZONE_FORMS = re.compile(r"\s*(?:UTC|GMT|Z)$", re.IGNORECASE)


def moment(value: Any, name: str, source: TicketSource) -> datetime:
    """Return a time in UTC.

    Parameters
    ----------
    value : str, number, date or datetime
        As a system writes it.
    name : str
        The source's name, for messages.
    source : TicketSource
        States the zone and the form of its times.

    Raises
    ------
    ValueError
        If it cannot be read, has no time of day, or needs a zone that params.yaml does not state.
    """
    parsed = value if isinstance(value, datetime) else _parse(value, source)
    if parsed.tzinfo is not None:
        return parsed.astimezone(UTC)
    if source.time_zone is None:
        raise ValueError(f"'{value}' has no time zone: state tickets.sources.{name}.time_zone, such as Europe/Berlin")
    utc = _localized(parsed, source.time_zone)
    if utc is None:
        raise ValueError(f"'{value}' does not exist in {source.time_zone}: clocks were put forward")
    return utc


def moment_or_none(value: Any, name: str, source: TicketSource) -> datetime | None:
    """Return a time in UTC as `moment` does; None if the value is not a time."""
    try:
        return moment(value, name, source)
    except (ValueError, OverflowError):
        return None


def _parse(value: Any, source: TicketSource) -> datetime:
    text = str(value).strip()
    if isinstance(value, date) or re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", text):
        raise ValueError(f"'{text}' has no time of day")
    if re.fullmatch(r"\d{9,19}(\.\d+)?", text):
        unit = next(unit for bound, unit in EPOCH_UNITS.items() if float(text) < bound)
        return datetime.fromtimestamp(float(text) / PER_SECOND[unit], UTC)
    for form in (source.time_format, source.system.time_format):
        if form is not None:
            try:
                return datetime.strptime(text, form)
            except ValueError:
                pass
    try:
        return datetime.fromisoformat(ZONE_FORMS.sub("+00:00", text))
    except ValueError:
        raise ValueError(f"'{text}' is not a time: state time_format if it is not ISO 8601") from None


def _localized(naive: datetime, zone: str) -> datetime | None:
    if re.fullmatch(OFFSET, zone):
        return datetime.fromisoformat(f"{naive.isoformat()}{zone}").astimezone(UTC)
    midnight = datetime(naive.year, naive.month, naive.day)
    first, last = _in_utc(midnight, zone), _in_utc(midnight + DAY, zone)
    if first is not None and last is not None and last - first == DAY:  # clocks were not changed on this day
        return first + (naive - midnight)
    return _in_utc(naive, zone)


@lru_cache(maxsize=1 << 16)
def _in_utc(naive: datetime, zone: str) -> datetime | None:
    # polars brings its own time zones, the same on every machine; of an hour that comes twice, the first
    local = pl.Series([naive], dtype=pl.Datetime("us"))
    try:
        zoned = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    except pl.exceptions.PolarsError:
        raise UserError(f"params.yaml: tickets: '{zone}' is no time zone; write one such as Europe/Berlin") from None
    return zoned.dt.convert_time_zone("UTC").to_list()[0]
