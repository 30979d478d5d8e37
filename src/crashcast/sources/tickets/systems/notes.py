"""Notes that people write: Markdown files that begin with a front matter between two lines of `---`.

    ---
    server_ids: [web-4, web-5]
    started_at: 2026-03-02 09:40 +01:00
    resolved_at: 2026-03-02 10:15 +01:00
    reported_at: 2026-03-02 09:55 +01:00
    kind: crash
    severity: high
    ---
    # The load balancer ran out of memory

The path of a note is its id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crashcast.errors import UserError
from crashcast.sources.tickets.fields import Record
from crashcast.sources.tickets.own_alarms import Remark
from crashcast.sources.tickets.system import COMMON_FIELDS, STATED, System, stated_remarks

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource

TEXT = "remarks"  # below the front matter
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?\n|)---[ \t]*\r?\n?(.*)\Z", re.DOTALL)


def read(path: Path) -> Iterator[Record]:
    """Yield the record of a note, or none if it has no front matter; if that is not valid YAML, one without fields."""
    try:
        match = FRONT_MATTER.match(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    if match is None:
        return
    try:
        matter: Any = yaml.load(match[1], Loader=yaml.BaseLoader)  # as text: times keep their zone
    except (yaml.YAMLError, RecursionError):
        matter = None
    heading = next((line.lstrip("# ") for line in match[2].splitlines() if line.strip()), None)
    stated = {"summary": heading, **matter} if isinstance(matter, dict) else {}
    yield {**stated, "file": path.as_posix(), TEXT: match[2]}


def remarks(note: Record) -> Iterator[Remark]:
    """Yield what its front matter states, and the paragraphs of its text."""
    yield from stated_remarks(note)
    yield from map(Remark, str(note.get(TEXT, "")).split("\n\n"))


def problem(source: TicketSource) -> str | None:
    """Say if a path would be another one in another clone."""
    if any(path.startswith("/") for path in source.files):
        return "name notes by paths from the project's root: they are their ids"
    return None


SYSTEM = System(
    fields={
        "server": ("server_id", "server_ids"),
        "ticket_id": ("file",),
        "kind": ("kind",),
        **{name: (name,) for name in COMMON_FIELDS},
    },
    read=read,
    remarks=remarks,
    written=(*STATED, TEXT),
    problem=problem,
)
