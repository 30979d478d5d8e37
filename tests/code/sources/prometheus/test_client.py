"""What a server is asked and what its answers mean. Servers are scripted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from crashcast.errors import UserError
from crashcast.params.collect import Collect
from crashcast.sources.prometheus import client
from crashcast.sources.prometheus.chunks import Chunk
from crashcast.sources.prometheus.client import Server
from crashcast.sources.prometheus.series import rows

ROOT = Path(__file__).parents[4]
SETTINGS = Collect.read(ROOT / "params.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

Answer = tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]


class Scripted(BaseHTTPRequestHandler):
    """Answer as a script says; keep what was asked."""

    script: Callable[[dict[str, str]], Answer]
    asked: list[dict[str, str]]
    heads: list[dict[str, str]]

    def do_POST(self) -> None:
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        self.asked.append(form)
        self.heads.append(dict(self.headers))
        status, content, *headers = self.script(form)
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers[0] if headers else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


Serve = Callable[[Callable[[dict[str, str]], Answer]], tuple[str, type[Scripted]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve a script; nobody is waited for long."""
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.05)
    servers: list[ThreadingHTTPServer] = []

    def start(script: Callable[[dict[str, str]], Answer]) -> tuple[str, type[Scripted]]:
        handler = type("Handler", (Scripted,), {"script": staticmethod(script), "asked": [], "heads": []})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def good(result: list[Any], kind: str = "matrix", **more: object) -> Answer:
    """Return a success."""
    return 200, {"status": "success", "data": {"resultType": kind, "result": result}, **more}


CHUNK = Chunk("m", "rate(a[1h])", START, START + 23 * HOUR, HOUR)


@pytest.mark.parametrize(("count", "is_left_open"), [("2", False), ("1", True)])
def test_the_server_says_itself_whether_its_ranges_are_left_open(serve: Serve, count: str, is_left_open: bool) -> None:
    url, handler = serve(lambda form: good([{"metric": {}, "value": [0, count]}], "vector"))
    assert Server(url, {}).is_left_open(START) is is_left_open
    assert handler.asked[0] == {"query": "count_over_time(vector(1)[1s:1s])", "time": "1767225600"}


def points(form: dict[str, str]) -> Answer:
    """Give the hour of each moment asked for, at most five at once."""
    start, end, step = (float(form[name]) for name in ("start", "end", "step"))
    moments = [start + n * step for n in range(round((end - start) / step) + 1)]
    if len(moments) > 5:
        return 422, {"status": "error", "errorType": "execution", "error": "query would load too many samples"}
    return good([{"metric": {"instance": "a"}, "values": [[m, str((m - START.timestamp()) / 3600)] for m in moments]}])


def test_what_is_too_much_at_once_is_asked_for_in_halves(serve: Serve) -> None:
    url, handler = serve(points)
    frame = rows(Server(url, {}).read(CHUNK), "m", SETTINGS)
    assert frame["value"].to_list() == list(range(24))
    assert frame["timestamp"].to_list() == [START + n * HOUR for n in range(24)]
    assert len(handler.asked) == 1 + 2 + 4 + 8


def limited(refusal: Answer) -> Callable[[dict[str, str]], Answer]:
    """Refuse more than six moments at once; give two servers."""

    def answer(form: dict[str, str]) -> Answer:
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        moments = [start + n * step for n in range(round((end - start) / step) + 1)]
        if len(moments) > 6:
            return refusal
        return good([{"metric": {"instance": name}, "values": [[m, "1"] for m in moments]} for name in "ab"])

    return answer


@pytest.mark.parametrize(
    ("refusal", "asked"),
    [
        # known words: 24, 12, 6, 6, 12, 6 and 6 moments
        ((422, {"status": "error", "error": "cannot select more than -search.maxSamplesPerQuery=1000 samples"}), 7),
        ((500, {"status": "error", "error": "the query time range exceeds the limit (err-mimir-max-query-length)"}), 7),
        ((503, {"status": "error", "error": "timeout exceeded during query execution: 30.000 seconds"}), 7),
        # unknown words: three times one moment more
        ((422, {"status": "error", "error": "no more than six"}), 10),
        ((400, {"message": "no more than six"}), 10),
        ((500, {"status": "error", "errorType": "internal", "error": "no more than six"}), 10),
        ((503, {}), 10),
        ((504, {}), 10),
    ],
)
def test_a_query_that_is_too_large_is_halved_in_whatever_words_it_is_refused(
    serve: Serve, refusal: Answer, asked: int
) -> None:
    url, handler = serve(limited(refusal))
    frame = rows(Server(url, {}).read(CHUNK), "m", SETTINGS)
    assert frame.select("timestamp", "server_id").rows() == [
        (START + n * HOUR, name) for n in range(24) for name in "ab"
    ]
    assert len(handler.asked) == asked


def test_a_query_that_takes_too_long_is_halved(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_S", 0.2)
    answer = limited((200, {}))

    def slow(form: dict[str, str]) -> Answer:
        time.sleep(0.4 * (answer(form) == (200, {})))
        return answer(form)

    url, _ = serve(slow)
    assert rows(Server(url, {}).read(replace(CHUNK, last=START + 6 * HOUR)), "m", SETTINGS).height == 2 * 7


def test_each_family_is_asked_for_complete_answers(serve: Serve) -> None:
    url, handler = serve(lambda form: good([]))
    Server(url, {}).read(CHUNK)
    assert handler.asked[0].items() >= {"deny_partial_response": "1", "partial_response": "false"}.items()


@pytest.mark.parametrize(
    "refusal",
    [
        (503, {"status": "error", "errorType": "timeout", "error": "query timed out in expression evaluation"}),
        (400, {"status": "error", "errorType": "bad_data", "error": "exceeded maximum resolution of 5 points"}),
        (413, {}),
    ],
)
def test_no_less_than_a_moment_is_asked_for(serve: Serve, refusal: Answer) -> None:
    url, handler = serve(lambda form: refusal)
    with pytest.raises(UserError, match="refuses even one moment"):
        Server(url, {}).read(CHUNK)
    assert len(handler.asked) == 5  # 24, 12, 6, 3 moments and 1


@pytest.mark.parametrize(
    "failure",
    [
        (503, {}),
        (502, {}),
        (500, {"status": "error", "errorType": "internal", "error": "disk"}),
        (429, {}, {"Retry-After": "1"}),
        (503, {}, {"Retry-After": "1"}),
        (422, {"status": "error", "error": "cannot return full response, since some of vmstorage nodes are away"}),
        (422, {"status": "error", "error": "receive series from b: rpc error: code = Unavailable desc = refused"}),
        (200, {"status": "who knows"}),
        good([], warnings=["a store is away"]),
        good([], isPartial=True),
        (*good([])[:2], {"M3-Results-Limited": "max_fetch_series_limit_applied"}),
    ],
)
def test_a_passing_failure_is_waited_out(serve: Serve, failure: Answer) -> None:
    answers = iter([failure, failure, good([])])
    url, handler = serve(lambda form: next(answers))
    assert Server(url, {}).read(CHUNK) == []
    assert len(handler.asked) == 3


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (good([], warnings=["a store is away"]), "an incomplete answer: a store is away"),
        (good([], isPartial=True), 'an incomplete answer: "isPartial": true'),
        ((500, {"status": "error", "error": "the disk is full"}), "500 Internal Server Error: the disk is full"),
    ],
)
def test_a_lasting_failure_ends_with_what_was_said(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, failure: Answer, message: str
) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.2)
    url, _ = serve(lambda form: failure)
    with pytest.raises(UserError, match=f"gives no answer: {message}; run the same"):
        Server(url, {}).read(CHUNK)


def test_a_remark_about_the_query_is_no_failure(serve: Serve) -> None:
    url, _ = serve(lambda form: good([], warnings=["PromQL warning: a quantile"], infos=["PromQL info: a name"]))
    assert Server(url, {}).read(CHUNK) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {"status": "error", "error": "parse error: unexpected )"}), "collect.queries.m, rate(a[1h]): 400 Bad"),
        ((422, {"status": "error", "error": "many-to-many matching"}), "many-to-many matching"),
    ],
)
def test_a_refusal_of_the_query_is_told_after_one_try_with_a_smaller_one(
    serve: Serve, answer: Answer, message: str
) -> None:
    url, handler = serve(lambda form: answer)
    with pytest.raises(UserError) as caught:
        Server(url, {}).read(CHUNK)
    assert message in str(caught.value)
    assert [form["end"] for form in handler.asked] == [f"{moment.timestamp():.3f}" for moment in (CHUNK.last, START)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}), "set PROMETHEUS_TOKEN"),
        ((401, {"status": "error", "error": "no org id"}), "refuses us (401 Unauthorized: no org id)"),
        ((401, {}), "such as X-Scope-OrgID, are in params.yaml: collect.headers"),
        ((403, {}), "(403 Forbidden)"),
        ((403, {"message": 'user "ci" cannot create resource'}), "cannot create resource"),
        ((404, {}), "has no Prometheus API"),
        ((404, {"message": "unsupported path"}), "unsupported path"),
        ((302, {}, {"Location": "https://login.example.com"}), "sends us to https://login.example.com"),
        (good([], "vector"), "answers params.yaml: collect.queries.m with a vector"),
    ],
)
def test_a_refusal_is_told_at_once(serve: Serve, answer: Answer, message: str) -> None:
    url, handler = serve(lambda form: answer)
    with pytest.raises(UserError) as caught:
        Server(url, {}).read(CHUNK)
    assert message in str(caught.value)
    assert len(handler.asked) == 1


@pytest.mark.parametrize(
    ("environment", "header"),
    [
        ({}, None),
        ({"PROMETHEUS_TOKEN": "secret\n"}, "Bearer secret"),
        ({"PROMETHEUS_USER": "me", "PROMETHEUS_PASSWORD": "pass"}, "Basic bWU6cGFzcw=="),
        ({"PROMETHEUS_USER": "Jürgen", "PROMETHEUS_PASSWORD": "пароль"}, "Basic SsO8cmdlbjrQv9Cw0YDQvtC70Yw="),
        ({"PROMETHEUS_USER": "me", "PROMETHEUS_PASSWORD": "\udcff"}, "Basic bWU6/w=="),  # a byte that is no UTF-8
    ],
)
def test_the_environment_says_who_asks(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    header: str | None,
) -> None:
    # a .netrc adds nothing: its password would go out unencrypted, too
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    url, handler = serve(lambda form: good([]))
    Server(url, environment).read(CHUNK)
    assert handler.heads[0].get("Authorization") == header


@pytest.mark.parametrize("token", ["пароль", "two words", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(UserError, match="PROMETHEUS_TOKEN holds more than a token"):
        Server("http://localhost", {"PROMETHEUS_TOKEN": token})


def test_headers_of_params_are_sent_beside_the_password(serve: Serve) -> None:
    url, handler = serve(lambda form: good([]))
    Server(url, {"PROMETHEUS_TOKEN": "secret"}, {"X-Scope-OrgID": "team-a|team-b"}).read(CHUNK)
    assert (handler.heads[0]["X-Scope-OrgID"], handler.heads[0]["Authorization"]) == ("team-a|team-b", "Bearer secret")
