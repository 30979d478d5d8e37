"""Coverage as it is now: servers and groups that the last import did not know."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from crashcast import tables
from crashcast.operate.coverage import with_groups

DAY = [datetime(2026, 1, number, tzinfo=UTC) for number in range(1, 9)]
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def test_the_newest_group_holds_also_of_servers_that_no_record_covers() -> None:
    known = [("a", DAY[0], DAY[1], "web"), ("a", DAY[3], DAY[4], "web"), ("c", DAY[0], DAY[4], None)]
    known += [("d", DAY[0], DAY[4], "db")]
    coverage = pl.DataFrame(known, schema=tables.COVERAGE, orient="row")
    found = with_groups(coverage, {"b": "mail", "a": "db", "c": "web"})
    assert found.schema == tables.COVERAGE
    assert found.rows() == [
        ("a", DAY[0], DAY[1], "db"),
        ("a", DAY[3], DAY[4], "db"),
        ("b", LONG_AGO, LONG_AGO, "mail"),
        ("c", DAY[0], DAY[4], "web"),
        ("d", DAY[0], DAY[4], "db"),
    ]
    assert with_groups(coverage, {}).equals(coverage)
    assert with_groups(coverage.clear(), {"b": "mail"}).rows() == [("b", LONG_AGO, LONG_AGO, "mail")]
