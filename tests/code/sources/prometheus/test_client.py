"""`crashcast collect`: what is asked, what answers mean, and which partitions are collected. Servers are scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crashcast.errors import UserError
from crashcast.sources.prometheus import client
from crashcast.sources.prometheus.client import Chunk, Collect, Server, promql, rows
from crashcast.sources.prometheus.collect import choose, chunks
from crashcast.tables import Partition, partition_at

ROOT = Path(__file__).parents[4]
SETTINGS = Collect.read(ROOT / "params.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Answer = tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]


@pytest.mark.parametrize("metric", SETTINGS.queries)
def test_the_default_queries_are_ranges_of_the_interval(metric: str) -> None:
    asked = promql(metric, SETTINGS.queries[metric], HOUR, is_left_open=True)
    assert "[3600000ms]" in asked
    assert "$" not in asked


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({"mean": "node_load1"}, "avg_over_time(node_load1[3599999ms])"),
        ({"last": 'up{job="node, too"} '}, 'last_over_time(up{job="node, too"}[3599999ms])'),
        ({"sum": '{__name__="up"}'}, 'sum_over_time({__name__="up"}[3599999ms])'),
        ("rate(a_total[$interval]) / rate(b_total[5m])", "rate(a_total[3599999ms]) / rate(b_total[5m])"),
    ],
)
def test_a_closed_range_is_a_millisecond_shorter(query: str | dict[str, str], asked: str) -> None:
    assert promql("m", query, HOUR, is_left_open=False) == asked
    assert promql("m", query, HOUR, is_left_open=True) == asked.replace("3599999", "3600000")


@pytest.mark.parametrize(
    "query",
    [
        "max_over_time(a[1h:5m])[$interval:1m]",  # nonsense to the server, but without instant selectors
        'sum by (instance, le) (rate(a:b_total{x="}", y=~\'a"b\'} [$interval])) > bool 1e3',
        "rate(a[$interval]) * on (instance) group_left(role) last_over_time(info[1d]) or vector(0)",
        "sum(rate(a[5m] offset 1h)) without (le) / scalar(count(count_over_time(b[1h] )))  # per c",
        "clamp_max(rate(a[$interval]), Inf) unless absent_over_time({job='x'}[1h]) == 0x1f and -NaN",
        "(time() - last_over_time(node_boot_time_seconds[$interval])) / 3600",
        "topk by (instance) (1, rate(by_total[$interval]))",
    ],
)
def test_ranges_are_accepted_however_they_are_written(query: str) -> None:
    assert promql("m", query, HOUR, is_left_open=True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("node_load1", "'node_load1' has no range, and the server would repeat its last sample for five minutes"),
        ("rate(a[5m]) / b{c='d'}", "'b' has no range"),
        ("avg_over_time((a / on (x) rate(b[5m]))[1h:1m])", "write last_over_time(a[$interval])"),
        ("sum by (x) ({job='y'})", "'{job=}' has no range"),
        ("a offset 5m", "'a' has no range"),
        ("rate(a[5m] offset -1h)", "can look ahead of a row's own time"),
        ("rate(a[5m] @ end())", "can look ahead of a row's own time"),
        ({"mean": "a / b"}, "mean is taken of one metric, such as up{job='node'}, not of 'a / b'"),
        ({"mean": "rate(a[5m])"}, "mean is taken of one metric"),
    ],
)
def test_a_query_that_repeats_samples_or_looks_ahead_is_refused(query: str | dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        promql("cpu", query, HOUR, is_left_open=True)
    assert message in str(caught.value)
    assert str(caught.value).startswith("params.yaml: collect.queries.cpu: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("url", "https://me:secret@host", "must be http(s)://host:port, with a path if need be"),
        ("url", "host:9090", "must be http(s)://host:port"),
        ("server_pattern", ".+", "needs a group in parentheses"),
        ("server_pattern", "(", "is no regular expression"),
        ("queries", {"a": {"mean": "b", "max": "b"}}, "at most 1"),
        ("queries", {"a": {"median": "b"}}, "'mean', 'min', 'max', 'sum' or 'last'"),
        ("parallel", 0, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["collect"][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        Collect.read(tmp_path / "params.yaml")
    assert f"collect.{key}" in str(caught.value)
    assert message in str(caught.value)


def series(values: list[tuple[float, str]], **labels: str) -> dict[str, Any]:
    """Return a series as the API gives it, hours after the start."""
    return {"metric": labels, "values": [[START.timestamp() + 3600 * hour, value] for hour, value in values]}


def test_labels_become_servers_and_groups_and_no_number_becomes_no_row() -> None:
    given = [
        series([(0, "1"), (1, "NaN"), (2, "2.5e-07")], instance="b:9100", job="web", mode="idle"),
        series([(0, "-0.1"), (1, "+Inf"), (2, "-Inf")], instance="[::1]:9100", job="db"),
        series([(1, "3")], instance="a"),
    ]
    frame = rows(given, "m", SETTINGS)
    assert frame.rows() == [
        (START, "[::1]", "db", -0.1),
        (START, "b", "web", 1.0),
        (START + HOUR, "a", None, 3.0),
        (START + 2 * HOUR, "b", "web", 2.5e-07),
    ]
    assert dict(frame.schema) == client.COLUMNS
    assert rows([], "m", SETTINGS).schema == frame.schema
    without = SETTINGS.model_copy(update={"group_label": None, "server_pattern": r"([^:]+:\d+)"})
    assert rows(given[:1], "m", without).rows()[0] == (START, "b:9100", None, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([series([(0, "1")], job="web")], "gives series without the label instance: {job='web'}; keep it"),
        ([series([(0, "1")], instance=":9100")], "collect.server_pattern does not match instance=':9100'"),
        (
            [series([(0, "1"), (1, "1")], instance="a", disk="x"), series([(1, "2")], instance="a", disk="y")],
            "two values for a at 2026-01-01 01:00: {disk='x', instance='a'} and {disk='y', instance='a'}",
        ),
        ([{"metric": {"instance": "a"}, "histograms": []}], "gives native histograms"),
    ],
)
def test_series_that_are_not_one_per_server_are_refused(given: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(given, "disk", SETTINGS.model_copy(update={"server_pattern": "([^:]+)(:.*)?"}))
    assert message in str(caught.value)
    assert "collect.queries.disk" in str(caught.value)


def test_one_server_may_change_its_labels_over_time() -> None:
    given = [series([(0, "1")], instance="a", job="old"), series([(1, "2")], instance="a", job="new")]
    assert rows(given, "m", SETTINGS)["group"].to_list() == ["old", "new"]


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
        (200, {"status": "who knows"}),
        good([], warnings=["a store is away"]),
    ],
)
def test_a_passing_failure_is_waited_out(serve: Serve, failure: Answer) -> None:
    answers = iter([failure, failure, good([])])
    url, handler = serve(lambda form: next(answers))
    assert Server(url, {}).read(CHUNK) == []
    assert len(handler.asked) == 3


def test_a_lasting_failure_ends_with_what_was_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PATIENCE_S", 0.2)
    url, _ = serve(lambda form: good([], warnings=["a store is away"]))
    with pytest.raises(UserError, match="gives no answer: an incomplete answer: a store is away; run the same"):
        Server(url, {}).read(CHUNK)


def test_a_remark_about_the_query_is_no_failure(serve: Serve) -> None:
    url, _ = serve(lambda form: good([], warnings=["PromQL warning: a quantile"], infos=["PromQL info: a name"]))
    assert Server(url, {}).read(CHUNK) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            (400, {"status": "error", "error": "parse error: unexpected )"}),
            "refuses params.yaml: collect.queries.m, rate(",
        ),
        ((422, {"status": "error", "error": "many-to-many matching"}), "many-to-many matching"),
        ((401, {}), "set PROMETHEUS_TOKEN"),
        ((403, {}), "(403 Forbidden)"),
        ((404, {}), "has no Prometheus API"),
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
    ],
)
def test_the_environment_says_who_asks(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    header: str | None,
) -> None:
    if environment:  # which a .netrc must not replace
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    url, handler = serve(lambda form: good([]))
    Server(url, environment).read(CHUNK)
    assert handler.heads[0].get("Authorization") == header


def day(number: int) -> Partition:
    """Return a day of January 2026."""
    return partition_at(datetime(2026, 1, number), "day")


@pytest.mark.parametrize(
    ("present", "reach", "options", "wanted"),
    [
        ([], None, {"since": 1}, {1: 1, 2: 2, 3: 3, 4: 4}),  # noon of the 5th: that day is not over
        ([], None, {"since": 3, "is_open": True}, {3: 3, 4: 4, 5: 5}),
        ([1, 2, 3, 4], 4.5, {}, {4: 4.5}),
        ([1, 2, 3, 4], 2.75, {}, {2: 2.75, 3: 3, 4: 4}),
        ([1, 2, 3], 3.5, {}, {3: 3.5, 4: 4}),
        ([1, 2, 4], 4.5, {}, {4: 4.5}),
        ([1, 2, 4], 4.5, {"since": 1}, {3: 3, 4: 4.5}),
        ([3, 4], 1.5, {}, {3: 3, 4: 4}),  # nothing begins earlier by itself
        ([1, 2, 3, 4], 4.5, {"since": 2, "again": True}, {2: 2, 3: 3, 4: 4}),
        ([1, 2, 3, 4], 4.5, {"is_open": True}, {4: 4.5, 5: 5}),
        ([1, 2, 3, 4, 5], 4.5, {"is_open": True}, {4: 4.5, 5: 5}),
        ([1, 2, 3, 4, 5], 5.25, {}, {}),
    ],
)
def test_missing_partitions_are_collected_and_what_late_samples_touch(
    present: list[int], reach: float | None, options: dict[str, Any], wanted: dict[int, float]
) -> None:
    def moment(number: float) -> datetime:
        return datetime(2026, 1, 1) + (number - 1) * DAY

    since = moment(options.pop("since")) if "since" in options else None
    chosen = choose(
        "day",
        [day(number) for number in present],
        None if reach is None else moment(reach),
        since,
        datetime(2026, 1, 5, 12),
        **options,
    )
    assert chosen == {day(number): moment(start) for number, start in wanted.items()}


@given(
    late_hours=st.integers(0, 60),
    delays=st.lists(st.integers(0, 60), min_size=120, max_size=120),
    runs=st.lists(st.tuples(st.integers(1, 119), st.booleans()), min_size=1, max_size=12),
)
def test_no_sample_is_lost_that_is_no_later_than_the_window(
    late_hours: int, delays: list[int], runs: list[tuple[int, bool]]
) -> None:
    """Samples come hourly, every other one late; what a collection leaves behind is all that had arrived by then."""
    begin = datetime(2026, 1, 1)
    arrived = [n + min(delay, late_hours) * (n % 2) for n, delay in enumerate(delays)]
    held: set[int] = set()
    for now, is_open in sorted(runs):
        present = {partition_at(begin + n * HOUR, "day") for n in held}
        reach = begin + (max(held) - late_hours) * HOUR if held else None
        until = begin + now * HOUR
        chosen = choose("day", present, reach, None if held else begin, until, is_open)
        for partition, start in chosen.items():
            end = min(partition.end, until + HOUR)
            held |= {n for n in range(120) if start <= begin + n * HOUR < end and arrived[n] <= now}
        over = now + 1 if is_open else now // 24 * 24
        assert held >= {n for n in range(over) if arrived[n] <= now}


@given(
    interval_s=st.sampled_from([1, 5, 15, 60, 300, 3600, 86400]),
    chunk_s=st.integers(1, 200_000),
    start_s=st.integers(0, 86_399),
    until_s=st.integers(1, 200_000),
)
def test_chunks_hold_every_row_once_and_no_more_points_than_a_server_gives(
    interval_s: int, chunk_s: int, start_s: int, until_s: int
) -> None:
    partition, interval = day(1), timedelta(seconds=interval_s)
    start, until = (partition.start + timedelta(seconds=s) for s in (start_s, until_s))
    cut = list(chunks(partition, start, until, {"a": "q"}, interval, timedelta(seconds=chunk_s)))
    moments = [one.first + n * interval for one in cut for n in range((one.last - one.first) // interval + 1)]
    due = range(start_s // interval_s, min(until_s, 86_400 - interval_s) // interval_s + 1)
    assert moments == [START + n * interval for n in due]
    most = max(((one.last - one.first) // interval + 1 for one in cut), default=0)
    assert most <= max(1, min(11_000, chunk_s // interval_s))
