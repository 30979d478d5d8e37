"""Tickets that stem from our own alarms: they acknowledge a prediction, and are no evidence of a crash.

Otherwise a prediction would become its own label: Alertmanager routes an alert to a ticket system, which opens a
ticket. Alertmanager's receivers write the alert's labels into its details or description, and their values into its
title. A team's own templates may leave both out, but hardly the annotation `summary`, which has a mark.

Source: https://github.com/prometheus/alertmanager, `template/default.tmpl` and `notify/`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from crashcast.sources.tickets.fields import Record, text_at, values_at

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource

ALERT = "CrashPredicted"  # the alert's name
MARK = "[crashcast]"  # in its summary
ALARM = "alarm"  # the kind of such a ticket
LABELS = "Labels:"  # begins each alert in Alertmanager's lists
NAMED = re.compile(rf"\balertname\W{{1,8}}{ALERT}\b")
TITLE = re.compile(rf"(\[[^\]]*\]\s*)*{ALERT}\b|(\[[^\]]*\]\s*)*\[(FIRING|RESOLVED)\b[^\]]*\].*\b{ALERT}\b")
SERVER = re.compile(r'(?<![\w?&/.-])server"?\s*[=:]\s*"?([^"\n,}]+?)\s*(?:["\n,}]|$)')


class Remark(NamedTuple):
    """A comment on a ticket: its text, when it was written (None: with the ticket's end) and by whom."""

    text: str
    at: Any = None
    who: str | None = None


def listed_remarks(record: Record, path: str, text: str, at: str, who: str) -> Iterator[Remark]:
    """Yield the remarks of a list at a path, with the names that its members have for text, time and author."""
    for one in values_at(record, path):
        if isinstance(one, dict):
            yield Remark(_plain(one.get(text)), text_at(one, at), text_at(one, who))


def _plain(content: Any) -> str:
    """Return a text; one in Atlassian's document format is a tree."""
    if not isinstance(content, dict):
        return str(content or "")
    if isinstance(content.get("text"), str):
        return str(content["text"])
    members = content.get("content")
    between = "\n" if content.get("type") == "doc" else ""
    return between.join(map(_plain, members if isinstance(members, list) else []))


def is_title(text: str) -> bool:
    """Tell whether a title is that of one of our alerts, as Alertmanager writes it or with our mark."""
    return TITLE.match(text.strip()) is not None or MARK in text


def stems_from_alarm(record: Record, source: TicketSource) -> bool:
    """Tell whether a ticket of a source was opened by one of our own alerts."""
    title = text_at(record, *source.paths("summary"))
    if title is not None and is_title(title):
        return True
    lines = lines_of(record, source.system.written)
    return any(NAMED.search(line) or MARK in line or line.endswith(f"= {ALERT}") for line in lines)


def servers_of(record: Record, source: TicketSource) -> list[str]:
    """Return the servers that the labels of our alerts in a ticket name, sorted."""
    text = "\n".join(lines_of(record, source.system.written))
    listed = [alert for alert in text.split(LABELS) if NAMED.search(alert)]
    return sorted({name.strip() for alert in listed for name in SERVER.findall(alert)})


def lines_of(record: Any, apart: Collection[str], name: str = "") -> Iterator[str]:
    """Yield the texts of a record with the names of their fields, `server = web-03`, except some fields."""
    if isinstance(record, str):
        yield f"{name} = {record}" if name else record
    elif isinstance(record, list):
        for member in record:
            yield from lines_of(member, apart, name)
    elif isinstance(record, dict):
        for key, value in record.items():
            if key not in apart:
                yield from lines_of(value, apart, key)


def about(said: str, servers: list[str]) -> list[str]:
    """Return which of a ticket's servers a remark is about: those that it names, or all."""
    named = [name for name in servers if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", said)]
    return named or servers
