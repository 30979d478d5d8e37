"""A Prometheus-compatible server, asked for rows at one cadence: exact aggregates, no stale sample, all or nothing.

A row at t holds the samples in (t - interval, t]. Range selectors alone give exactly them: an instant selector repeats
the last sample for five minutes. Whether a range includes its left end differs between servers (Prometheus 2 includes
it, 3 does not), so that is asked before anything else, and made up for by a millisecond.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import requests

from crashcast.errors import UserError
from crashcast.params.base import PATH
from crashcast.params.collect import Collect, Query
from crashcast.sources.http import asked_wait, in_short, with_headers
from crashcast.tables import TIMESTAMP

FUNCTIONS = {"mean": "avg_over_time", "last": "last_over_time"} | {
    name: f"{name}_over_time" for name in ("min", "max", "sum")
}
PLACEHOLDER = "$interval"
MAX_POINTS = 11_000  # of a series, in one answer: Prometheus's own limit
CONNECT_S, READ_S = 10, 150  # a server ends a query itself after two minutes
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
FIRST_PATIENCE_S, PATIENCE_S = 20.0, 300.0  # with a server that never answered, and with one that did
LIMITS = r"too many|exceed|maximum|limit|too large"  # what a server says of a query that asks for too much
COLUMNS = {"timestamp": TIMESTAMP, "server_id": pl.String, "group": pl.String, "value": pl.Float64}

# PromQL, as far as it takes to find selectors
NO_CODE = r'"(?:\\.|[^"\\])*"|' r"'(?:\\.|[^'\\])*'|`[^`]*`|#[^\n]*"
LABEL_LIST = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
SELECTOR = r"(?<![\w:.$])(?:[a-zA-Z_:][\w:]*(?:\s*\{[^}]*\})?|\{[^}]*\})"
WORDS = {"and", "or", "unless", "atan2", "bool", "offset", "by", "without", "on", "ignoring", "inf", "nan"}
WORDS |= {"group_left", "group_right"}


class TooMuchError(Exception):
    """The server refuses to answer so much at once."""


class AwayError(Exception):
    """The server cannot answer now; it may, later."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Chunk:
    """Some rows of one metric: those from `first` to `last`, both included, a `step` apart."""

    metric: str
    promql: str
    first: datetime
    last: datetime
    step: timedelta


def promql(metric: str, query: Query, interval: timedelta, is_left_open: bool) -> str:
    """Return what to ask the server for one metric.

    Parameters
    ----------
    metric : str
        Its name in params.yaml.
    query : str or mapping
        PromQL that says `[$interval]` where it means (t - interval, t], or an aggregate and its selector, such as
        `{mean: node_load1}`.
    interval : timedelta
        Of rows.
    is_left_open : bool
        Whether the server's ranges leave out their left end.

    Raises
    ------
    UserError
        Where the query would give stale samples, later ones, or what depends on how it is cut into chunks.
    """
    if isinstance(query, str):
        filled = query
        _check(metric, query)
    else:
        ((aggregate, selector),) = query.items()
        if re.fullmatch(SELECTOR, re.sub(NO_CODE, "", selector.strip())) is None:
            message = (
                f"{_key(metric)}: {aggregate} is taken of one metric, such as up{{job='node'}}, not of '{selector}'"
            )
            raise UserError(f"{message}; write an expression out, with [{PLACEHOLDER}] for its ranges")
        filled = f"{FUNCTIONS[aggregate]}({selector.strip()}[{PLACEHOLDER}])"
    milliseconds = interval // timedelta(milliseconds=1)
    return filled.replace(PLACEHOLDER, f"{milliseconds if is_left_open else milliseconds - 1}ms")


def _key(metric: str) -> str:
    return f"{PATH}: collect.queries.{metric}"


def _check(metric: str, query: str) -> None:
    code = re.sub(LABEL_LIST, " ", re.sub(r"\[[^\]]*\]", "[]", re.sub(NO_CODE, "", query)))
    if "@" in code or re.search(r"\boffset\s*-", code):
        raise UserError(f"{_key(metric)}: @ and a negative offset can look ahead of a row's own time; leave them out")
    for found in re.finditer(SELECTOR, code):
        following = code[found.end() :].lstrip()
        is_word = found[0].lower() in WORDS or (following.startswith("(") and "{" not in found[0])
        if not is_word and not following.startswith("["):
            name = found[0].partition("{")[0].strip() or found[0]
            message = f"'{name}' has no range, and the server would repeat its last sample for five minutes"
            raise UserError(f"{_key(metric)}: {message}; write last_over_time({name}[{PLACEHOLDER}])")


@dataclass
class Server:
    """A server and the way in, from the environment; several threads may ask at once.

    Attributes
    ----------
    url : str
        Without `/api/v1`.
    environment : mapping
        PROMETHEUS_TOKEN, or PROMETHEUS_USER and PROMETHEUS_PASSWORD; PROMETHEUS_CERT and PROMETHEUS_KEY for a client
        certificate; PROMETHEUS_CA for an authority that the system does not know.
    """

    url: str
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _sessions: threading.local = field(default_factory=threading.local)
    _answered: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._session()  # a missing certificate shows at once

    def end(self) -> None:
        """Let nobody wait any longer."""
        self._ended.set()

    def is_left_open(self, moment: datetime) -> bool:
        """Tell whether ranges leave out their left end, by counting a moment and the one a second before it."""
        seconds = moment.replace(tzinfo=UTC).timestamp() // 1
        form = {"query": "count_over_time(vector(1)[1s:1s])", "time": f"{seconds:.0f}"}
        try:
            answer = self.ask("query", form, "what a range is")
            return int(answer["result"][0]["value"][1]) == 1
        except (LookupError, TypeError, ValueError, TooMuchError):
            raise UserError(f"{self.url} does not count as Prometheus does: is its API Prometheus's?") from None

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return the series of a chunk, as the API gives them, in as many pieces as the server bears."""
        form = {
            "query": chunk.promql,
            "start": f"{chunk.first.timestamp():.3f}",
            "end": f"{chunk.last.timestamp():.3f}",
            "step": f"{chunk.step.total_seconds():.3f}",
            "partial_response": "false",  # of Thanos: all or an error
        }
        try:
            answer = self.ask("query_range", form, f"{_key(chunk.metric)}, {chunk.promql}")
        except TooMuchError as error:
            points = (chunk.last - chunk.first) // chunk.step + 1
            if points == 1:
                message = f"{self.url} refuses even one moment of {_key(chunk.metric)}: {error}"
                raise UserError(f"{message}; narrow the query, or raise the server's limit") from None
            middle = chunk.first + (points // 2) * chunk.step
            halves = ((chunk.first, middle - chunk.step), (middle, chunk.last))
            return [
                series
                for first, last in halves
                for series in self.read(Chunk(chunk.metric, chunk.promql, first, last, chunk.step))
            ]
        if answer.get("resultType") != "matrix":
            raise UserError(
                f"{self.url} answers {_key(chunk.metric)} with a {answer.get('resultType')}, not with series"
            )
        series: list[dict[str, Any]] = answer["result"]
        return series

    def ask(self, path: str, form: Mapping[str, str], what: str) -> dict[str, Any]:
        """Ask until there is an answer.

        Raises
        ------
        TooMuchError
            Where a smaller question may be answered.
        UserError
            Where asking again cannot help, or did not for `PATIENCE_S`.
        """
        begun, wait_s = time.monotonic(), FIRST_WAIT_S
        while True:
            try:
                answer = self._ask_once(path, form, what)
                self._answered.set()
                return answer
            except AwayError as error:
                patience_s = PATIENCE_S if self._answered.is_set() else FIRST_PATIENCE_S
                if time.monotonic() - begun > patience_s or self._ended.is_set():
                    message = f"{self.url} gives no answer: {error}"
                    raise UserError(f"{message}; run the same command again: what was collected is kept") from None
                pause_s = max(wait_s * random.uniform(0.5, 1), min(error.wait_s, LONGEST_WAIT_S))
                if wait_s == FIRST_WAIT_S:
                    print(f"collect: {self.url}: {error}; asking again", file=sys.stderr)
            self._ended.wait(pause_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _ask_once(self, path: str, form: Mapping[str, str], what: str) -> dict[str, Any]:
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
                raise AwayError(message) from None
            raise UserError(f"{self.url}: {message}") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{PATH}: collect.url: {error}") from None
        except requests.RequestException as error:
            raise AwayError(in_short(error)) from None
        return _understood(answer, self.url, what)

    def _session(self) -> requests.Session:
        if not hasattr(self._sessions, "own"):  # a session is one thread's
            self._sessions.own = _session(self.url, self.environment)
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
    if token:
        session.auth = with_headers({"Authorization": f"Bearer {token.strip()}"})
    elif user:
        session.auth = (user, password or "")
    if (token or user) and urlsplit(url).scheme == "http" and not _is_local(url):
        raise UserError(f"{PATH}: collect.url: {url} would carry a password unencrypted; write https://")
    return session


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _understood(answer: requests.Response, url: str, what: str) -> dict[str, Any]:
    """Return the data of an answer, or raise what it means."""
    try:
        content: dict[str, Any] = answer.json()
        said = str(content.get("error", ""))
    except (ValueError, AttributeError):
        content, said = {}, ""
    status = answer.status_code
    problem = said or f"{status} {answer.reason}: {in_short(answer.text)}"
    if status == 413 or (status in (400, 422) and re.search(LIMITS, said)) or content.get("errorType") == "timeout":
        raise TooMuchError(problem)
    if status == 429 or status >= 500:
        raise AwayError(
            f"{status} {answer.reason}: {in_short(said or answer.text)}".rstrip(": "), asked_wait(answer.headers)
        )
    if status in (401, 403):
        hint = "set PROMETHEUS_TOKEN, PROMETHEUS_USER and PROMETHEUS_PASSWORD, or PROMETHEUS_CERT and PROMETHEUS_KEY"
        raise UserError(f"{url} refuses us ({status} {answer.reason}): {hint}")
    if 300 <= status < 400:
        raise UserError(f"{PATH}: collect.url: {url} sends us to {answer.headers.get('Location')}; write that address")
    if status == 404 and not said:
        raise UserError(f"{PATH}: collect.url: {url} has no Prometheus API ({answer.url} is not found)")
    if status != 200:
        raise UserError(f"{url} refuses {what}: {problem}")
    if content.get("status") != "success" or not isinstance(content.get("data"), dict):
        raise AwayError(f"no answer of Prometheus's: {in_short(answer.text)}")
    # Prometheus 3 warns of odd queries too; any other warning says that something is missing
    if missing := [text for text in content.get("warnings", []) if not text.startswith("PromQL ")]:
        raise AwayError(f"an incomplete answer: {in_short(missing[0])}")
    data: dict[str, Any] = content["data"]
    return data


def rows(series: list[dict[str, Any]], metric: str, settings: Collect) -> pl.DataFrame:
    """Turn series of the API into rows.

    Parameters
    ----------
    series : list
        `{"metric": labels, "values": [[seconds, text], ...]}`.
    metric : str
        Its name in params.yaml.
    settings : Collect
        Which labels are the server and the group.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `group`, `value`, in order of (timestamp, server_id); NaN and infinity are no values.

    Raises
    ------
    UserError
        Where a series has no server, or a server two values at a moment.
    """
    servers, groups, seconds, values, owners = [], [], [], [], []
    for index, one in enumerate(series):
        if "values" not in one:
            raise UserError(f"{_key(metric)} gives native histograms: write histogram_quantile(0.99, ...) around it")
        server, count = _server(one["metric"], metric, settings), len(one["values"])
        servers += [server] * count
        groups += [one["metric"].get(settings.group_label) if settings.group_label else None] * count
        seconds += [moment for moment, _ in one["values"]]
        values += [float(value) for _, value in one["values"]]
        owners += [index] * count
    moments = (pl.Series(seconds, dtype=pl.Float64) * 1e6).round().cast(pl.Int64)
    frame = pl.DataFrame(
        {
            "timestamp": moments.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "server_id": pl.Series(servers, dtype=pl.String),
            "group": pl.Series(groups, dtype=pl.String),
            "value": pl.Series(values, dtype=pl.Float64),
            "owner": pl.Series(owners, dtype=pl.UInt32),
        }
    )
    frame = frame.filter(pl.col("value").is_finite()).sort("timestamp", "server_id", "owner")
    keys = frame.select("timestamp", "server_id")
    if (repeated := frame.filter(keys.is_duplicated())).height:
        first, second = (_labels(series[owner]["metric"]) for owner in repeated["owner"][:2])
        moment = repeated["timestamp"][0].strftime("%Y-%m-%d %H:%M")
        message = f"{_key(metric)} gives two values for {repeated['server_id'][0]} at {moment}: {first} and {second}"
        raise UserError(f"{message}; give one, such as with sum by ({settings.server_label}) (...)")
    return frame.select(list(COLUMNS))


def _server(labels: Mapping[str, str], metric: str, settings: Collect) -> str:
    if settings.server_label not in labels:
        message = f"{_key(metric)} gives series without the label {settings.server_label}: {_labels(labels)}"
        raise UserError(f"{message}; keep it, such as with sum by ({settings.server_label}) (...), or see server_label")
    match = re.fullmatch(settings.server_pattern, labels[settings.server_label])
    if match is None or not match[1]:
        message = f"collect.server_pattern does not match {settings.server_label}='{labels[settings.server_label]}'"
        raise UserError(f"{PATH}: {message}, of {_key(metric)}")
    return match[1]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}={value!r}" for name, value in sorted(labels.items())) + "}"
