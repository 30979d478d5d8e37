"""A log of `crashcast serve` with alarms that a test chooses."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import polars as pl

from crashcast.operate import served_log
from crashcast.operate.served_log import ServedLog, aware

HOUR = timedelta(hours=1)
REACH = 7 * HOUR  # of the repository's own label
NOON = datetime(2026, 1, 5, 12)


class Issued(NamedTuple):
    """An opening, or a renewal of what was opened so many hours before."""

    server: str
    at: int  # hours after NOON
    opened_before: int = 0
    delivered: bool = True
    score: float = 0.9


def hour(number: float) -> datetime:
    return NOON + number * HOUR


def issue(log: ServedLog, alarms: Iterable[Issued], servers: Iterable[str] = ()) -> None:
    """Write what ticks of every hour write: alarms, and the scores of those servers and of all others."""
    given = [*alarms]
    every = sorted({*servers, *(one.server for one in given)})
    for at in sorted({one.at for one in given} or {0}):
        moment = aware(hour(at))
        rows = [
            (moment, moment, one.server, moment - one.opened_before * HOUR, moment + REACH, one.score, 0.5, "v1.0.0",
             [], one.delivered)
            for one in given if one.at == at
        ]  # fmt: skip
        high = {one.server: one.score for one in given if one.at == at}
        scored = [(moment, moment, server, high.get(server, 0.1), 0.5, "v1.0.0", "a", "b") for server in every]
        log.write("scores", hour(at), pl.DataFrame(scored, served_log.SCORES, orient="row"))
        if rows:
            log.write("alarms", hour(at), pl.DataFrame(rows, served_log.ALARMS, orient="row"))
