"""What all APIs of ticket systems share: a session with a token, asking again, following pages.

Each system's paths, pages and headers are in its file in `systems/`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import requests

from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.params.tickets import TicketSource
from crashcast.sources.http import PassingError, asked_wait, in_short, with_headers, words_of
from crashcast.sources.tickets.fields import Record, text_at
from crashcast.sources.tickets.times import moment_or_none
from crashcast.sources.value_formats import utc_text

WINDOW = 30 * DAY  # asked for at once
ATTEMPTS = 8
TIMEOUT_S = (10, 60)  # to connect, and between bytes
FIRST_WAIT_S, LONGEST_BACKOFF_S = 1.0, 60.0  # doubled in between, if the server does not ask for a time
LONGEST_WAIT_S = 300.0  # that a server may ask for
PASSING = {408, 425, 429, 500, 502, 503, 504}
SHOWN_EVERY = 1000  # records
STALLED_PAGES = 5  # pages in a row without a new record, after which the server is taken to repeat itself
Position = TypeVar("Position")
PageOfWindow = Callable[[datetime, datetime, int], tuple[list[Record], bool]]


def records(name: str, source: TicketSource, since: datetime, until: datetime) -> Iterator[Record]:
    """Yield the records that were reported in [since, until).

    Parameters
    ----------
    name : str
        The source's name; its token is in the environment as NAME_TOKEN.
    source : TicketSource
        Without files.
    since, until : datetime
        In UTC.

    Raises
    ------
    UserError
        If the token is missing or refused, the system still fails when asked again, or its pages do not end.
    """
    assert source.system.ask is not None  # or params.yaml is refused
    for count, record in enumerate(source.system.ask(Api(name, source), source, since, until), start=1):
        if count % SHOWN_EVERY == 0:
            print(f"incidents: {name}: {count:,} records", file=sys.stderr)
        yield record


class Api:
    """The API of one source, with a connection that stays open."""

    def __init__(self, name: str, source: TicketSource) -> None:
        self.name, self.source, self.url = name, source, source.url or source.system.url
        self.secret = f"{name.upper()}_TOKEN"
        token = os.environ.get(self.secret, "").strip()
        if not token:
            raise UserError(f"{name}: no token: set {self.secret} in the environment")
        user = os.environ.get(f"{name.upper()}_USER", "").strip()
        self.session = requests.Session()
        self.session.headers.update(source.headers)
        headers = {"Accept": "application/json", **source.system.headers(token, user)}
        self.session.auth = with_headers(headers, f"{name}: {self.secret}")

    def get(
        self, path: str, key: str, parameters: dict[str, Any] | None = None, kind: type[Any] = list
    ) -> dict[str, Any]:
        """Return the answer of a path: an object that has under `key` a list of records, or one record (`kind=dict`).

        A failure that may pass is waited out.

        Raises
        ------
        UserError
            If the system refuses, or fails `ATTEMPTS` times.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._get_once(path, key, parameters, kind)
            except PassingError as error:
                why = str(error)
                backoff = min(FIRST_WAIT_S * 2**attempt, LONGEST_BACKOFF_S)
                wait = backoff if error.wait_s is None else error.wait_s
            if wait > LONGEST_WAIT_S:
                raise self.error(f"{why}: it asks to wait {wait:.0f} s; run again then")
            if attempt + 1 < ATTEMPTS:
                print(f"incidents: {self.name}: {why}; asking again in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)
        raise self.error(f"{path} failed {ATTEMPTS} times, last with {why}; nothing was written, run again later")

    def _get_once(self, path: str, key: str, parameters: dict[str, Any] | None, kind: type[Any]) -> dict[str, Any]:
        try:
            response = self.session.get(self.url + path, params=parameters, timeout=TIMEOUT_S, allow_redirects=False)
            answer: Any = response.json() if response.status_code == 200 else None
        except requests.exceptions.SSLError as error:
            raise self.error(f"its certificate is not trusted; REQUESTS_CA_BUNDLE names your own ({error})") from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise PassingError(type(error).__name__) from None
        except (requests.JSONDecodeError, RecursionError):
            raise PassingError(f"an answer that is no JSON: {in_short(response.text)}") from None
        except requests.RequestException as error:  # its message may hold what was sent
            raise self.error(f"{path} cannot be asked ({type(error).__name__}): check url") from None
        if response.status_code in PASSING:
            raise PassingError(words_of(response), asked_wait(response.headers, self.source.system.wait_headers))
        if response.status_code != 200:
            raise self._refusal(path, response)
        if not _has_records(answer, key, kind):
            message = f"the answer of {path} has no '{key}': is url right?"
            raise self.error(f"{message} It says {in_short(response.text)}")
        return dict(answer)

    def _refusal(self, path: str, response: requests.Response) -> UserError:
        if response.status_code in (401, 403):
            words = in_short(response.text)
            return self.error(f"the token in {self.secret} is refused ({response.status_code}): {words}")
        return self.error(f"{path} answered {words_of(response)}")

    def error(self, message: str) -> UserError:
        """Return an error that names the source and its address."""
        return UserError(f"{self.name} ({self.url}): {message}")

    def quoted(self, record: Record, field: str) -> str:
        """Return a field of a record as a part of a path.

        Raises
        ------
        UserError
            If it is no name there: a client takes `..` for the folder above.
        """
        name = text_at(record, field) or ""
        if name in ("", ".", ".."):
            raise self.error(f"the {field} of a record is '{name}', which is none")
        return quote(name, safe="")

    def read_time(self, value: Any) -> datetime | None:
        """Return a time in UTC; None if the value is not a time."""
        return moment_or_none(value, self.name, self.source)

    def pages(self, ask: Callable[[Position | None], tuple[list[Record], Position | None]]) -> Iterator[list[Record]]:
        """Yield page after page.

        Parameters
        ----------
        ask : callable
            Takes the position of a page, None for the first; returns its records and the position of the next page,
            None after the last.

        Raises
        ------
        UserError
            If `STALLED_PAGES` pages in a row have no new record, and more are announced: this would not end.
        """
        position, seen, stalled = None, set[int](), 0
        while True:
            page, position = ask(position)
            yield page
            if position is None:
                return
            new = {hash(str(record)) for record in page} - seen
            stalled = 0 if new else stalled + 1
            if stalled == STALLED_PAGES:
                message = f"{stalled} pages in a row have no new record, but it announces more"
                raise self.error(f"{message} (the next is {position}); nothing was written")
            seen |= new

    def in_windows(
        self, page: PageOfWindow, since: datetime, until: datetime, size: int, reach: int
    ) -> Iterator[Record]:
        """Follow pages in windows of time, halved if one holds more than paging reaches.

        Parameters
        ----------
        page : callable
            Takes a window's start and end and an offset; returns records and whether there are more.
        since, until : datetime
            The whole period.
        size : int
            Records in one page, at most.
        reach : int
            The largest offset + size that the system allows.
        """
        while since < until:
            end = min(since + WINDOW, until)
            yield from self._window(page, since, end, size, reach)
            since = end

    def _window(self, page: PageOfWindow, first: datetime, last: datetime, size: int, reach: int) -> list[Record]:
        is_full = False

        def at_offset(offset: int | None) -> tuple[list[Record], int | None]:
            nonlocal is_full
            some, more = page(first, last, offset or 0)
            following = (offset or 0) + len(some)
            is_full = more and following + size > reach
            return some, following if more and not is_full else None

        found = [record for some in self.pages(at_offset) for record in some]
        if not is_full:
            return found
        if last - first < timedelta(seconds=2):
            raise self.error(f"more than {reach:,} records at {utc_text(first)}")
        middle = first + timedelta(seconds=(last - first) // timedelta(seconds=2))
        halves = ((first, middle), (middle, last))
        return [record for start, end in halves for record in self._window(page, start, end, size, reach)]


def _has_records(answer: Any, key: str, kind: type[Any]) -> bool:
    found: Any = answer.get(key) if isinstance(answer, dict) else None
    return isinstance(found, kind) and (kind is dict or all(isinstance(record, dict) for record in found))
