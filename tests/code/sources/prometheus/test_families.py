"""The words of each family of servers, as their documentation and their users' reports have them."""

from __future__ import annotations

from typing import Any

import pytest

from crashcast.sources.prometheus.families import is_too_large, may_pass, what_is_missing


@pytest.mark.parametrize(
    "words",
    [
        "query processing would load too many samples into memory in query execution",
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        "query timed out in expression evaluation",
        # VictoriaMetrics passes on the words of a storage node
        "cannot perform search on vmstorage b: cannot select more than -search.maxSamplesPerQuery=1000000 samples",
        "cannot process more than -search.maxSamplesPerSeries=30000000 samples per series",
        "the number of matching timeseries exceeds 300000; either narrow down the search or increase -search.max*",
        "the number of matching unique timeseries exceeds 300000",
        "too many points for the given step=1000, start=1 and end=2: 50000; cannot exceed -search.maxPointsPer...",
        "not enough memory for processing 10 data points across 3 time series",
        "timeout exceeded during query execution: 30.000 seconds",
        # Thanos and Cortex
        "rpc error: code = ResourceExhausted desc = exceeded series limit: limit 10 violated (got 11)",
        "exceeded chunks limit",
        "the query hit the max number of series limit (limit: 3 series)",
        "the query hit the aggregated chunks size limit (limit: 3 bytes)",
        "the query time range exceeds the limit (query length: 1h0m0s, limit: 1m0s)",
        # Mimir
        "the total query time range exceeds the limit (err-mimir-max-total-query-length)",
        "the query exceeded the maximum number of chunks (err-mimir-max-chunks-per-query)",
        "the query exceeded the maximum allowed estimated amount of memory consumed by a single query "
        "(err-mimir-max-estimated-memory-consumption-per-query)",
    ],
)
def test_a_limit_of_the_server_is_known(words: str) -> None:
    assert is_too_large(words)


@pytest.mark.parametrize(
    "words",
    [
        "cannot return full response, since some of vmstorage nodes are unavailable",
        "couldn't start executing the request in 10.000 seconds, since -search.maxConcurrentRequests=8 concurrent "
        "requests are already executed; possible solutions: to increase -search.maxQueueDuration=10s",
        "receive series from Addr: 127.0.0.1:21091: rpc error: code = Aborted desc = fetch series for block 01FMVEP5",
        "No StoreAPIs matched for this query",
        "failed to fetch some blocks (err-mimir-store-consistency-check-failed)",
        "attempted to read series at index 0 from store-gateway chunks stream, but the stream has failed",
    ],
)
def test_a_part_that_is_away_is_no_limit(words: str) -> None:
    assert may_pass(words)
    assert not is_too_large(words)


@pytest.mark.parametrize("words", ["parse error: unexpected )", "many-to-many matching not allowed", ""])
def test_a_wrong_query_is_neither(words: str) -> None:
    assert not may_pass(words)
    assert not is_too_large(words)


@pytest.mark.parametrize(
    ("content", "headers", "said"),
    [
        ({}, {}, None),
        ({"isPartial": False, "warnings": None, "infos": ["PromQL info: metric might not be a counter"]}, {}, None),
        ({"warnings": ["PromQL warning: a quantile"]}, {"M3-Results-Limited": ""}, None),
        ({"isPartial": True}, {}, '"isPartial": true'),
        ({"warnings": ["PromQL warning: a quantile", "a store is away"]}, {}, "a store is away"),
        ({"warnings": [{}]}, {}, "{}"),  # Go writes some errors so
        ({"data": {"warnings": ["a store is away"]}}, {}, "a store is away"),
        ({"warnings": "a store is away"}, {}, "a store is away"),
        ({"warnings": 1.5, "data": {"warnings": True}}, {}, "1.5"),
        ({}, {"M3-Results-Limited": "max_fetch_series_limit_applied"}, "M3-Results-Limited: max_fetch_series_limit"),
    ],
)
def test_an_incomplete_answer_says_so(content: dict[str, Any], headers: dict[str, str], said: str | None) -> None:
    found = what_is_missing({"data": {}, **content}, headers)
    assert found == said if said is None else str(found).startswith(said)
