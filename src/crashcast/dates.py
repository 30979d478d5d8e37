"""Moments that people write, and the month by which figures of a fleet are counted. No stage depends on them."""

from __future__ import annotations

from datetime import UTC, date, datetime

from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.sources.value_formats import EARLIEST

MONTH = 365.25 / 12 * DAY
LATEST = datetime(2200, 1, 1, tzinfo=UTC)  # intervals can still be added


def read_moment(written: str | date, name: str) -> datetime:
    """Read a moment in ISO 8601, UTC unless it names another zone, as a naive datetime.

    Parameters
    ----------
    written : str, date or datetime
    name : str
        What it is called where it was written, such as `--at`.

    Raises
    ------
    UserError
        If it is none.
    """
    try:
        found = datetime.fromisoformat(written if isinstance(written, str) else written.isoformat())
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if not EARLIEST <= found < LATEST:
            raise ValueError
    except ValueError:
        raise UserError(f"{name} {written}: write a moment such as 2026-01-31 or 2026-01-31T12:00 (UTC)") from None
    return found.astimezone(UTC).replace(tzinfo=None)
