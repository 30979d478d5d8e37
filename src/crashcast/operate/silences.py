"""Alertmanager's silences that say what somebody did: those whose comment begins with `acted:`.

A silence without that may be a mute and proves nothing. Silences that have expired are read, too; Alertmanager forgets
them after `--data.retention` (120 h by default), so they must be read in time.

Source: https://github.com/prometheus/alertmanager, `api/v2/openapi.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime

import polars as pl
import requests
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate.alertmanager import CONNECT_S, READ_S
from crashcast.sources.comments import acted, one_line
from crashcast.sources.http import in_short, words_of

SOURCE = "silence"
LABEL = "server"  # of our alerts
NAMELESS = f"the comment begins with `acted:`, but no matcher names a server by the label `{LABEL}`"
ALTERNATIVES = re.compile(r"\(?(?:\?:)?([^()|]+(?:\|[^()|]+)*)\)?")  # a regular expression that lists names
ESCAPED = re.compile(r"\\([^\w\s])")
WILD = re.compile(r"[*+?\[\]{}^$\\]")


class _Matcher(BaseModel):
    name: str
    value: str
    isRegex: bool = False  # noqa: N815 - Alertmanager's name
    isEqual: bool = True  # noqa: N815


class _Silence(BaseModel):
    matchers: list[_Matcher]
    comment: str = ""
    createdBy: str = ""  # noqa: N815
    startsAt: AwareDatetime  # noqa: N815


SILENCES = TypeAdapter(list[_Silence])


def read(url: str) -> list[_Silence]:
    """Return every silence that Alertmanager knows, whether it is active or not.

    Raises
    ------
    UserError
        If it gives no answer, or one that holds no silences.
    """
    try:
        answer = requests.get(f"{url}/api/v2/silences", timeout=(CONNECT_S, READ_S), allow_redirects=False)
    except requests.RequestException as error:
        raise UserError(f"{url} gives no answer: {in_short(error)}") from None
    if answer.status_code != 200:
        raise UserError(f"{url} shows no silences: {words_of(answer)}")
    try:
        return SILENCES.validate_json(answer.content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{url} answers with something other than silences: {place} {first['msg']}") from None


def actions(silences: Collection[_Silence], known: Collection[str], now: datetime) -> tuple[pl.DataFrame, int]:
    """Return the actions that silences tell of.

    Parameters
    ----------
    silences : collection of silences
    known : collection of str
        The fleet's servers; an Alertmanager may serve others, too.
    now : datetime
        Naive, meaning UTC. A silence that begins later tells of nothing yet.

    Returns
    -------
    DataFrame
        In the schema of `tables.ACTIONS`. A silence's action is done, and reported, when the silence begins.
    int
        How many silences say `acted:` and name no server: see `NAMELESS`.
    """
    rows, nameless = [], 0
    for silence in silences:
        what = acted(silence.comment)
        at = silence.startsAt.astimezone(UTC)
        if what is None or at.replace(tzinfo=None) > now:
            continue
        names = set(_servers(silence))
        nameless += not names
        who = one_line(silence.createdBy) or None
        rows += [(server, what, at, who, SOURCE, at) for server in sorted(names & set(known))]
    return pl.DataFrame(rows, tables.ACTIONS, orient="row"), nameless


def _servers(silence: _Silence) -> Iterator[str]:
    """Yield the servers that a silence names, one by one or as alternatives; a pattern names none."""
    for matcher in silence.matchers:
        if matcher.name != LABEL or not matcher.isEqual:
            continue
        if not matcher.isRegex:
            yield matcher.value
        elif found := ALTERNATIVES.fullmatch(matcher.value):
            names = [ESCAPED.sub(r"\1", name) for name in found[1].split("|")]
            yield from (name for name in names if not WILD.search(name))
