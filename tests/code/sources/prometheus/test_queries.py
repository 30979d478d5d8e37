"""PromQL is a range of the interval, or refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.params.collect import Collect
from crashcast.sources.prometheus.queries import promql

ROOT = Path(__file__).parents[4]
SETTINGS = Collect.read(ROOT / "params.yaml")
HOUR = timedelta(hours=1)


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
