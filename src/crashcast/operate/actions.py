"""What somebody did to a server because of its alarm, as it is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from crashcast.errors import UserError, refusal
from crashcast.modeling.alarms import INSTANT
from crashcast.operate.served_log import ACTIONS, ServedLog, aware
from crashcast.sources.value_formats import EARLIEST

AHEAD = timedelta(minutes=5)  # another machine's clock may be

Line = StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")


@dataclass(frozen=True)
class Action:
    """An action on a server.

    Attributes
    ----------
    server_id : str
    what : str
        Such as `restart` or `drain`.
    at : datetime
        When it was done; naive, meaning UTC.
    who : str or None
    source : str
        How it was reported: `api` or `cli`.
    """

    server_id: str
    what: str
    at: datetime
    who: str | None = None
    source: str = "api"


class _Report(BaseModel):
    """The JSON of an action."""

    model_config = ConfigDict(extra="forbid", strict=True)

    server: Annotated[str, Line, Field(max_length=500)]
    what: Annotated[str, Line, Field(max_length=200)]
    at: Annotated[datetime, Field(strict=False)]
    who: Annotated[str, Line, Field(max_length=200)] | None = None


def parse(content: bytes, now: datetime) -> Action:
    """Read an action from JSON: `server`, `what`, `at` (ISO 8601, UTC unless it names a zone) and, optionally, `who`.

    Parameters
    ----------
    content : bytes
    now : datetime
        Naive, meaning UTC: an action is in the past.

    Raises
    ------
    UserError
        Naming each key that is missing, unknown or wrong.
    """
    return _checked(lambda: _Report.model_validate_json(content), now, "api")


def of_cli(server: str, what: str, at: datetime, who: str | None, now: datetime) -> Action:
    """Return the action that a command line tells of; `at` is naive, meaning UTC. Otherwise see `parse`."""
    return _checked(lambda: _Report(server=server, what=what, at=at, who=who), now, "cli")


def _checked(read: Callable[[], _Report], now: datetime, source: str) -> Action:
    try:
        report = read()
    except ValidationError as error:
        mistakes = [(".".join(map(str, one["loc"])) or "the body", one["msg"]) for one in error.errors()]
        raise UserError("; ".join(f"{place}: {words}" for place, words in mistakes)) from None
    at = report.at if report.at.tzinfo else report.at.replace(tzinfo=UTC)
    if not EARLIEST <= at <= now.replace(tzinfo=UTC) + AHEAD:
        raise UserError("at: must be a moment in the past")
    return Action(report.server, report.what, at.astimezone(UTC).replace(tzinfo=None), report.who, source)


def record(action: Action, log: ServedLog, now: datetime) -> None:
    """Append an action to the log, whole or not at all.

    Parameters
    ----------
    action : Action
    log : ServedLog
    now : datetime
        When it was reported; naive, meaning UTC.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    try:
        while not log.write("actions", now, _row(action, now)):  # another one was reported at this moment
            now += INSTANT
    except OSError as error:
        raise refusal(error) or UserError(str(error)) from None


def _row(action: Action, now: datetime) -> pl.DataFrame:
    values = [aware(now), action.server_id, action.what, aware(action.at), action.who, action.source]
    return pl.DataFrame([values], schema=ACTIONS, orient="row")
