"""PagerDuty, Opsgenie and Jira over HTTP: page by page, as fast as they allow, again where something passing failed.

Sources: the documentation of PagerDuty's REST API v2 (GET /incidents, GET /incidents/{id}/log_entries, pagination, rate
limits), of Opsgenie's Alert API v2 (GET /v2/alerts, GET /v2/alerts/{id}, pagination, rate limiting), of Jira Cloud's
platform REST API v3 (GET /rest/api/3/search/jql) and of Jira Data Center's v2 (GET /rest/api/2/search).
"""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.params.tickets import TicketSource
from crashcast.sources.importing.columns import show
from crashcast.sources.tickets.tickets import Record, moment, paths

PAGERDUTY, OPSGENIE = "https://api.pagerduty.com", "https://api.opsgenie.com"
PAGE = 100  # what each of them gives at most at once
PAGERDUTY_REACH, OPSGENIE_REACH = 10_000, 20_000  # offset + limit, at most
WINDOW = 30 * DAY  # asked for at once; PagerDuty takes up to six months
ATTEMPTS = 8
TIMEOUT_S = (10, 60)  # to connect, and between bytes
LONGEST_WAIT_S = 300.0  # that a server may ask for
PASSING = {408, 425, 429, 500, 502, 503, 504}
INCLUDED = {"first_trigger_log_entry": "first_trigger_log_entries", "body": "body"}  # only where PagerDuty is asked to
DETAILS = ("entity", "details", "description", "actions")  # what Opsgenie leaves out of its lists


def records(name: str, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Ask a source for what was reported in [since, until).

    Parameters
    ----------
    name : str
        The source's name; its token is in the environment as NAME_TOKEN.
    source : TicketSource
        Of type pagerduty, opsgenie or jira.
    since, until : datetime
        In UTC.

    Raises
    ------
    UserError
        Where the token is missing or refused, or the system still fails when asked again.
    """
    ask = {"pagerduty": pagerduty_incidents, "opsgenie": opsgenie_alerts, "jira": jira_issues}[source.type]
    yield from ask(Api(name, source), source, since, until)


class Api:
    """One system's API, with a connection that stays open."""

    def __init__(self, name: str, source: TicketSource) -> None:
        default = {"pagerduty": PAGERDUTY, "opsgenie": OPSGENIE}.get(source.type, "")
        self.name, self.url = name, source.url or default
        self.secret = f"{name.upper()}_TOKEN"
        self.session = requests.Session()
        self.session.auth = self._authenticate  # set so that no .netrc of the user's replaces it
        self.session.headers["Accept"] = "application/json"
        token = os.environ.get(self.secret, "").strip()
        if not token:
            raise UserError(f"{name}: no token: set {self.secret} in the environment")
        if not re.fullmatch(r"[!-~]+", token):
            raise UserError(f"{name}: {self.secret} holds more than a token: blanks, several lines or other letters")
        user = os.environ.get(f"{name.upper()}_USER", "").strip()
        basic = base64.b64encode(f"{user}:{token}".encode()).decode()
        self._authorization = {
            "pagerduty": f"Token token={token}",
            "opsgenie": f"GenieKey {token}",
            "jira": f"Basic {basic}" if user else f"Bearer {token}",
        }[source.type]
        if source.type == "pagerduty":
            self.session.headers["Accept"] = "application/vnd.pagerduty+json;version=2"

    def _authenticate(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._authorization
        return request

    def get(self, path: str, key: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what lies at a path, an object with `key`, asking again, and later, where the failure may pass.

        Raises
        ------
        UserError
            Where the system refuses, or fails `ATTEMPTS` times.
        """
        for attempt in range(ATTEMPTS):
            wait = min(2.0**attempt, 60.0)
            try:
                response = self.session.get(
                    self.url + path, params=parameters, timeout=TIMEOUT_S, allow_redirects=False
                )
                if response.status_code == 200:
                    answer = response.json()
                    if isinstance(answer, dict) and isinstance(answer.get(key), list | dict):
                        return answer
                    raise self._error(f"the answer of {path} has no '{key}': is url right?")
                if response.status_code not in PASSING:
                    raise self._refusal(path, response)
                why = f"{response.status_code} {response.reason}"
                wait = asked_wait(response, wait)
            except requests.exceptions.SSLError as error:
                raise self._error(
                    f"its certificate is not trusted; REQUESTS_CA_BUNDLE names your own ({error})"
                ) from None
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                why = type(error).__name__
            except requests.JSONDecodeError:
                why = "an answer that is no JSON"
            except requests.RequestException as error:  # its message may hold what was sent
                raise self._error(f"{path} cannot be asked ({type(error).__name__}): check url") from None
            if wait > LONGEST_WAIT_S:
                raise self._error(f"{why}: it asks to wait {wait:.0f} s; run again then")
            if attempt + 1 < ATTEMPTS:
                time.sleep(wait)
        raise self._error(f"{path} failed {ATTEMPTS} times, last with {why}; nothing was written, run again later")

    def _refusal(self, path: str, response: requests.Response) -> UserError:
        if response.status_code in (401, 403):
            return self._error(f"the token in {self.secret} is refused ({response.status_code})")
        said = " ".join(response.text.split())[:300]
        return self._error(f"{path} answered {response.status_code} {response.reason}: {said}")

    def _error(self, message: str) -> UserError:
        return UserError(f"{self.name} ({self.url}): {message}")


def asked_wait(response: requests.Response, otherwise: float) -> float:
    """Return how many seconds a server asks to wait, or `otherwise` where it does not say."""
    headers = response.headers
    if after := headers.get("Retry-After"):
        try:
            return max(0.0, float(after))
        except ValueError:
            pass
        try:
            return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            pass
    for name in ("ratelimit-reset", "X-RateLimit-Period-In-Sec"):  # PagerDuty's and Opsgenie's, in seconds
        if (value := headers.get(name, "")).replace(".", "", 1).isdigit():
            return float(value)
    return otherwise


def in_windows(
    page: Callable[[datetime, datetime, int], tuple[list[Record], bool]],
    name: str,
    since: datetime,
    until: datetime,
    reach: int,
) -> Iterator[Record]:
    """Page through windows of time, halved where one holds more than paging reaches.

    Parameters
    ----------
    page : callable
        Takes a window's start and end and an offset; gives records and whether there are more.
    name : str
        The source's name, for progress.
    since, until : datetime
        The whole period.
    reach : int
        The largest offset + limit that the system allows.
    """
    while since < until:
        end = min(since + WINDOW, until)
        found = _window(page, name, since, end, reach)
        print(f"incidents: {name}, until {end:%Y-%m-%d}: {len(found):,} records", file=sys.stderr)
        yield from found
        since = end


def _window(
    page: Callable[[datetime, datetime, int], tuple[list[Record], bool]],
    name: str,
    first: datetime,
    last: datetime,
    reach: int,
) -> list[Record]:
    found: list[Record] = []
    while len(found) + PAGE <= reach:
        some, more = page(first, last, len(found))
        found += some
        if not more:
            return found
        if not some:
            raise UserError(f"{name}: an empty page between {show(first)} and {show(last)}, but more to come")
    if last - first < timedelta(seconds=2):
        raise UserError(f"{name}: more than {reach:,} records at {show(first)}")
    middle = first + timedelta(seconds=(last - first) // timedelta(seconds=2))
    return _window(page, name, first, middle, reach) + _window(page, name, middle, last, reach)


def pagerduty_incidents(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Give incidents as GET /incidents does, with `acknowledged_at` from the log where params.yaml uses it."""
    asked = {path for role in (*source.fields, "server") for path in paths(source, role)}
    asked |= {*source.crash, *source.maintenance}
    included = sorted({INCLUDED[head] for path in asked if (head := path.split(".")[0]) in INCLUDED})

    def page(first: datetime, last: datetime, offset: int) -> tuple[list[Record], bool]:
        window = {"since": _iso(first), "until": _iso(last), "time_zone": "UTC", "sort_by": "created_at:asc"}
        answer = api.get("/incidents", "incidents", {**window, "limit": PAGE, "offset": offset, "include[]": included})
        return answer["incidents"], bool(answer.get("more"))

    for incident in in_windows(page, api.name, since, until, PAGERDUTY_REACH):
        if (incident.get("resolve_reason") or {}).get("type") == "merge_resolve_reason":
            incident["resolved_at"] = None  # merged into another one, which says when it ended
        elif incident.get("status") == "resolved" and not incident.get("resolved_at"):
            incident["resolved_at"] = incident.get("last_status_change_at")
        if "acknowledged_at" in asked:
            overview = {"is_overview": "true", "time_zone": "UTC", "limit": PAGE}
            log = api.get(f"/incidents/{incident['id']}/log_entries", "log_entries", overview)
            times = (e["created_at"] for e in log["log_entries"] if e["type"].startswith("acknowledge_log_entry"))
            incident["acknowledged_at"] = min(times, default=None)  # all in UTC: the first is the earliest
        yield incident


def opsgenie_alerts(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Give alerts as GET /v2/alerts does, each with its details where params.yaml uses them, and `closed_at`."""
    asked = {path for role in (*source.fields, "server") for path in paths(source, role)}
    asked |= {*source.crash, *source.maintenance}
    detailed = any(path.split(".")[0] in DETAILS for path in asked)

    def page(first: datetime, last: datetime, offset: int) -> tuple[list[Record], bool]:
        query = f"createdAt >= {_milliseconds(first)} AND createdAt < {_milliseconds(last)}"
        order = {"sort": "createdAt", "order": "asc"}
        answer = api.get("/v2/alerts", "data", {"query": query, **order, "limit": PAGE, "offset": offset})
        # the address of the next page is not followed: a token goes to the url of params.yaml alone
        return answer["data"], "next" in (answer.get("paging") or {})

    for listed in in_windows(page, api.name, since, until, OPSGENIE_REACH):
        alert = {**listed, **api.get(f"/v2/alerts/{listed['id']}", "data")["data"]} if detailed else listed
        took = (alert.get("report") or {}).get("closeTime")  # milliseconds after it was created
        created = _when(alert.get("createdAt"), api.name, source)
        if alert.get("status") == "closed" and took is not None and created is not None:
            alert["closed_at"] = (created + timedelta(milliseconds=took)).isoformat()
        yield alert


def jira_issues(api: Api, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Give issues as Jira's search does."""
    roles = (
        "ticket_id",
        "started_at",
        "resolved_at",
        "reported_at",
        "updated_at",
        "kind",
        "severity",
        "summary",
        "server",
    )
    asked = {path for role in roles for path in paths(source, role)} | {*source.crash, *source.maintenance}
    fields = sorted({path.split(".")[1] for path in asked if path.startswith("fields.")} | {"created"})
    # Jira takes times in the zone of the token's owner: ask for a day more on both sides, and keep what was wanted
    created = f"created >= '{since - DAY:%Y-%m-%d %H:%M}' AND created < '{until + DAY:%Y-%m-%d %H:%M}'"
    search = {"jql": f"({source.query}) AND {created} ORDER BY created ASC, key ASC", "fields": ",".join(fields)}
    for issue in _jira_pages(api, source.edition, {**search, "maxResults": PAGE}):
        reported = _when(issue.get("fields", {}).get("created"), api.name, source)
        if reported is None or since <= reported < until:
            yield issue


def _jira_pages(api: Api, edition: str, search: dict[str, Any]) -> Iterator[Record]:
    if edition == "server":
        start, total = 0, 1
        while start < total:
            answer = api.get("/rest/api/2/search", "issues", {**search, "startAt": start})
            yield from answer["issues"]
            total = answer["total"] if answer["issues"] else 0
            start += len(answer["issues"])
        return
    token = None
    while True:
        answer = api.get("/rest/api/3/search/jql", "issues", {**search, "nextPageToken": token})  # None: left out
        yield from answer["issues"]
        token = answer.get("nextPageToken")
        if token is None or answer.get("isLast"):
            return


def _when(value: Any, name: str, source: TicketSource) -> datetime | None:
    try:
        return moment(value, name, source)
    except (ValueError, OverflowError):  # whoever reads the record will say so
        return None


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
