"""A Prometheus-compatible server: asked again while it fails, and in halves if an answer is too large.

A refusal in unknown words may mean that the query is too large. If the server answers a query for its first moment
alone, it does mean that.

Whether a range includes its left end differs between servers (Prometheus 2 includes it, 3 does not), so that is asked
before anything else.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from crashcast.errors import UserError
from crashcast.params.base import PATH
from crashcast.sources.http import PassingError, asked_wait, basic, in_short, with_headers, words_of
from crashcast.sources.prometheus.chunks import Chunk
from crashcast.sources.prometheus.families import FORM, is_too_large, may_pass, what_is_missing
from crashcast.sources.prometheus.queries import key_of

CONNECT_S, READ_S = 10, 150  # a server ends a query itself after two minutes
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
FIRST_PATIENCE_S, PATIENCE_S = 20.0, 300.0  # with a server that never answered, and with one that did


class TooMuchError(Exception):
    """The server refuses an answer of this size."""


class RefusalError(PassingError):
    """A refusal that does not say whether a smaller query would be answered.

    Asking again cannot help if it `is_final`.
    """

    def __init__(self, message: str, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


@dataclass
class Server:
    """A server; several threads may ask it at once.

    Attributes
    ----------
    url : str
        Without `/api/v1`.
    environment : mapping
        PROMETHEUS_TOKEN, or PROMETHEUS_USER and PROMETHEUS_PASSWORD; PROMETHEUS_CERT and PROMETHEUS_KEY for a client
        certificate; PROMETHEUS_CA for an authority that the system does not know. All are optional.
    headers : mapping
        Sent with each query.
    patience_s : float, optional
        How long to ask again at most; by default `PATIENCE_S` if the server has answered before.
    advice : str
        What to do if it gives no answer.
    """

    url: str
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    headers: Mapping[str, str] = field(default_factory=dict)
    patience_s: float | None = None
    advice: str = "run the same command again: what was collected is kept"
    _sessions: threading.local = field(default_factory=threading.local)
    _answered: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._session()  # a missing certificate shows at once

    def end(self) -> None:
        """Give up waiting, in all threads."""
        self._ended.set()

    def is_left_open(self, moment: datetime) -> bool:
        """Tell whether ranges leave out their left end: count the samples of a range that has one at either end."""
        seconds = moment.replace(tzinfo=UTC).timestamp() // 1
        form = {"query": "count_over_time(vector(1)[1s:1s])", "time": f"{seconds:.0f}"}
        try:
            answer = self.ask("query", form, "what a range is")
            return int(answer["result"][0]["value"][1]) == 1
        except (LookupError, TypeError, ValueError, TooMuchError):
            raise UserError(f"{self.url} does not count as Prometheus does: is its API Prometheus's?") from None

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return the series of a chunk, as the API gives them; asked for in halves if the server refuses the whole."""
        form = {
            "query": chunk.promql,
            "start": f"{chunk.first.timestamp():.3f}",
            "end": f"{chunk.last.timestamp():.3f}",
            "step": f"{chunk.step.total_seconds():.3f}",
            **FORM,
        }
        points = (chunk.last - chunk.first) // chunk.step + 1
        smaller = {**form, "end": form["start"]} if points > 1 else None
        try:
            answer = self.ask("query_range", form, f"{key_of(chunk.metric)}, {chunk.promql}", smaller)
        except TooMuchError as error:
            if points == 1:
                message = f"{self.url} refuses even one moment of {key_of(chunk.metric)}: {error}"
                raise UserError(f"{message}; narrow the query, or raise the server's limit") from None
            middle = chunk.first + (points // 2) * chunk.step
            halves = (replace(chunk, last=middle - chunk.step), replace(chunk, first=middle))
            return [series for half in halves for series in self.read(half)]
        if answer.get("resultType") != "matrix":
            raise UserError(
                f"{self.url} answers {key_of(chunk.metric)} with a {answer.get('resultType')}, not with series"
            )
        series: list[dict[str, Any]] = answer.get("result") or []
        return series

    def ask(
        self, path: str, form: Mapping[str, str], what: str, smaller: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Ask until there is an answer.

        Parameters
        ----------
        path : str
            Below `/api/v1/`.
        form : mapping
            The question.
        what : str
            The question, for messages.
        smaller : mapping, optional
            A part of the question. It is asked once, if the server refuses the whole and does not say why.

        Raises
        ------
        TooMuchError
            If a smaller question may be answered.
        UserError
            If asking again cannot help, or did not for `patience_s`.
        """
        begun, wait_s = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                answer = self._ask_once(path, form)
                self._answered.set()
                return answer
            except PassingError as error:
                if isinstance(error, RefusalError):
                    if smaller and self._answers(path, smaller):
                        raise TooMuchError(error) from None
                    smaller = None
                    if error.is_final:
                        raise UserError(f"{self.url} refuses {what}: {error}") from None
                patience_s = PATIENCE_S if self._answered.is_set() else FIRST_PATIENCE_S
                if self.patience_s is not None:
                    patience_s = min(patience_s, self.patience_s)
                if time.monotonic() - begun > patience_s or self._ended.is_set():
                    raise UserError(f"{self.url} gives no answer: {error}; {self.advice}") from None
                pause_s = max(wait_s * random.uniform(0.5, 1), min(error.wait_s or 0, LONGEST_WAIT_S))
                if wait_s == FIRST_WAIT_S:
                    print(f"collect: {self.url}: {error}; asking again", file=sys.stderr)
            self._ended.wait(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _answers(self, path: str, form: Mapping[str, str]) -> bool:
        try:
            return bool(self._ask_once(path, form))
        except (PassingError, TooMuchError, UserError):
            return False

    def _ask_once(self, path: str, form: Mapping[str, str]) -> dict[str, Any]:
        session = self._session()
        try:
            answer = session.post(
                f"{self.url}/api/v1/{path}",
                data=form,
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
                verify=session.verify,  # or REQUESTS_CA_BUNDLE would hold
            )
        except requests.exceptions.SSLError as error:
            hint = "PROMETHEUS_CA names the authority of its certificate, PROMETHEUS_CERT and PROMETHEUS_KEY yours"
            message = f"no trusted connection: {in_short(error)}; {hint}"
            if "EOF" in str(error):  # it went away, or a busy one refused without a word
                raise PassingError(message) from None
            raise UserError(f"{self.url}: {message}") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{PATH}: collect.url: {error}") from None
        except requests.exceptions.ReadTimeout as error:
            raise RefusalError(in_short(error), is_final=False) from None
        except requests.RequestException as error:
            raise PassingError(in_short(error)) from None
        return _data_of(answer, self.url)

    def _session(self) -> requests.Session:
        if not hasattr(self._sessions, "own"):  # a session is one thread's
            self._sessions.own = _session(self.url, self.environment)
            self._sessions.own.headers.update(self.headers)
        session: requests.Session = self._sessions.own
        return session


def _session(url: str, environment: Mapping[str, str]) -> requests.Session:
    token, user, password, certificate, key, authority = (
        environment.get(f"PROMETHEUS_{name}") or None for name in ("TOKEN", "USER", "PASSWORD", "CERT", "KEY", "CA")
    )
    if token and user:
        raise UserError("PROMETHEUS_TOKEN and PROMETHEUS_USER are both set: unset one of them")
    for name, path in (("CERT", certificate), ("KEY", key), ("CA", authority)):
        if path and not Path(path).is_file():
            raise UserError(f"PROMETHEUS_{name}: there is no file {path}")
    if key and not certificate:
        raise UserError("PROMETHEUS_KEY is set, but not PROMETHEUS_CERT")
    session = requests.Session()
    if authority:
        session.verify = authority
    if certificate:
        session.cert = (certificate, key) if key else certificate
    authorization = f"Bearer {token.strip()}" if token else basic(user, password or "") if user else None
    headers = {"Authorization": authorization} if authorization else {}
    session.auth = with_headers(headers, "PROMETHEUS_TOKEN")  # also without any: else a .netrc's password goes out
    if (token or user) and urlsplit(url).scheme == "http" and not _is_local(url):
        raise UserError(f"{PATH}: collect.url: {url} would carry a password unencrypted; write https://")
    return session


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _data_of(answer: requests.Response, url: str) -> dict[str, Any]:
    """Return the data of an answer; raise the error that any other answer means."""
    try:
        content: dict[str, Any] = answer.json()
        said = str(content.get("error") or "")
    except (ValueError, AttributeError, RecursionError):
        content, said = {}, ""
    status, words, wait_s = answer.status_code, words_of(answer, said), asked_wait(answer.headers)
    if status in (401, 403):
        secrets = "PROMETHEUS_TOKEN, PROMETHEUS_USER and PROMETHEUS_PASSWORD, or PROMETHEUS_CERT and PROMETHEUS_KEY"
        hint = f"set {secrets}; other headers, such as X-Scope-OrgID, are in {PATH}: collect.headers"
        raise UserError(f"{url} refuses us ({words}): {hint}")
    if 300 <= status < 400:
        raise UserError(f"{PATH}: collect.url: {url} sends us to {answer.headers.get('Location')}; write that address")
    if status == 404 and not said:
        raise UserError(f"{PATH}: collect.url: {url} has no Prometheus API ({answer.url} is not found: {words})")
    if status == 413 or (status != 200 and (content.get("errorType") == "timeout" or is_too_large(answer.text))):
        raise TooMuchError(words)
    if status == 429 or (status != 200 and wait_s is not None):
        raise PassingError(words, wait_s)
    if status != 200:
        raise RefusalError(words, is_final=status < 500 and not may_pass(answer.text))
    if content.get("status") != "success" or not isinstance(content.get("data"), dict):
        raise PassingError(f"no answer of Prometheus's: {in_short(answer.text)}")
    if missing := what_is_missing(content, answer.headers):
        raise PassingError(f"an incomplete answer: {in_short(missing)}")
    data: dict[str, Any] = content["data"]
    return data
