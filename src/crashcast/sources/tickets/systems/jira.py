"""Jira: the search of Jira Cloud (GET /rest/api/3/search/jql) and of Jira Data Center (GET /rest/api/2/search).

Source: Atlassian's references of the Jira Cloud platform REST API v3 and of the Jira Data Center REST API v2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from crashcast.params.base import DAY
from crashcast.sources.http import basic
from crashcast.sources.tickets.fields import Record, first_values
from crashcast.sources.tickets.own_alarms import Remark, listed_remarks
from crashcast.sources.tickets.system import System

if TYPE_CHECKING:
    from crashcast.params.tickets import TicketSource
    from crashcast.sources.tickets.api import Api

PAGE = 100  # issues in one answer, at most
ALWAYS = {"created", "labels", "description", "comment"}  # the last three tell of our own alarms


def ask(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Yield issues that were created in [since, until)."""
    fields = {path.split(".")[1] for path in source.used_paths() if path.startswith("fields.")} | ALWAYS
    # Jira takes times in the zone of the token's owner: ask for a day more on both sides and drop what is outside
    created = f"created >= '{since - DAY:%Y-%m-%d %H:%M}' AND created < '{until + DAY:%Y-%m-%d %H:%M}'"
    search = {
        "jql": f"({source.query}) AND {created} ORDER BY created ASC, key ASC",
        "fields": ",".join(sorted(fields)),
        "maxResults": PAGE,
    }

    def page_of_cloud(token: str | None) -> tuple[list[Record], str | None]:
        answer = api.get("/rest/api/3/search/jql", "issues", {**search, "nextPageToken": token})  # None: left out
        return answer["issues"], None if answer.get("isLast") else answer.get("nextPageToken")

    def page_of_server(start: int | None) -> tuple[list[Record], int | None]:
        answer = api.get("/rest/api/2/search", "issues", {**search, "startAt": start or 0})
        following, total = (start or 0) + len(answer["issues"]), answer.get("total")
        is_last = not answer["issues"] or (isinstance(total, int) and following >= total)
        return answer["issues"], None if is_last else following

    pages = api.pages(page_of_server) if source.edition == "server" else api.pages(page_of_cloud)
    for page in pages:
        for issue in page:
            times = first_values(issue, ["fields.created"])
            reported = api.read_time(times[0]) if times else None
            if reported is None or since <= reported < until:
                yield issue


def problem(source: TicketSource) -> str | None:
    """Say what Jira needs besides what every system needs."""
    if not source.files and not (source.url and source.query):
        return "type jira needs files, or url and query"
    if source.query and re.search(r"\border\s+by\b", source.query, re.IGNORECASE):
        return "leave ORDER BY out of the query"
    if not source.server.field:
        return "type jira needs server.field: a Jira issue has no usual place for it"
    return None


def remarks(issue: Record) -> Iterator[Remark]:
    """Yield the comments; an export has them as `time;author;text`."""
    yield from listed_remarks(issue, "fields.comment.comments", text="body", at="created", who="author.displayName")
    for comment in first_values(issue, ["Comment"]):
        at, _, rest = str(comment).partition(";")
        who, _, text = rest.partition(";")
        yield Remark(text, at, who)


def headers(token: str, user: str) -> dict[str, str]:
    """Return the header of Jira Cloud (a user's token), or of Data Center (a token alone)."""
    return {"Authorization": basic(user, token) if user else f"Bearer {token}"}


SYSTEM = System(
    fields={  # as the API names them, then as the CSV export does
        "ticket_id": ("key", "Issue key"),
        "started_at": ("fields.created", "Created"),
        "resolved_at": ("fields.resolutiondate", "Resolved"),
        "reported_at": ("fields.created", "Created"),
        "updated_at": ("fields.updated", "Updated"),
        "severity": ("fields.priority", "Priority"),
        "summary": ("fields.summary", "Summary"),
    },
    list_key="issues",
    time_format="%d/%b/%y %I:%M %p",  # of the CSV export, unless an administrator changed it
    problem=problem,
    remarks=remarks,
    written=("comment", "Comment"),
    ask=ask,
    headers=headers,
)
