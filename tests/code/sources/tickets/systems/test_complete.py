"""Fields that follow from others: ends of incidents, whatever a record holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.sources.tickets.systems import SYSTEMS

CREATED, LATER = "2026-03-02T09:40:00Z", "2026-03-02T10:15:00Z"


def read_time(value: Any) -> datetime | None:
    """Return a time in UTC, or None."""
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@pytest.mark.parametrize(
    ("system", "record", "field", "expected"),
    [
        ("pagerduty", {"status": "resolved", "last_status_change_at": LATER}, "resolved_at", LATER),
        ("pagerduty", {"status": ["resolved"], "last_status_change_at": [LATER]}, "resolved_at", [LATER]),  # of a CSV
        ("pagerduty", {"status": "resolved", "resolved_at": CREATED, "last_status_change_at": LATER}, "resolved_at",
         CREATED),
        ("pagerduty", {"status": "triggered", "last_status_change_at": LATER}, "resolved_at", None),
        ("pagerduty", {"resolved_at": LATER, "resolve_reason": {"type": "merge_resolve_reason"}}, "resolved_at", None),
        ("pagerduty", {"log_entries": [{"type": "acknowledge_log_entry_reference", "created_at": t}
                                       for t in (LATER, CREATED)]}, "acknowledged_at", CREATED),
        ("opsgenie", {"status": "closed", "createdAt": CREATED, "report": {"closeTime": 2_100_000}}, "closed_at",
         "2026-03-02T10:15:00+00:00"),
        ("opsgenie", {"status": "open", "createdAt": CREATED, "report": {"closeTime": 2_100_000}}, "closed_at", None),
        ("opsgenie", {"status": "closed", "createdAt": CREATED}, "closed_at", None),
        ("opsgenie", {"status": "closed", "createdAt": CREATED, "report": {"closeTime": 1e300}}, "closed_at", None),
    ],
)  # fmt: skip
def test_what_follows_from_other_fields(system: str, record: dict[str, Any], field: str, expected: object) -> None:
    assert SYSTEMS[system].complete(record, read_time).get(field) == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["resolved", "closed", "merge_resolve_reason", "acknowledge_log_entry", CREATED, 10**18]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "closeTime", "name"]), inner),
    max_leaves=4,
)  # fmt: skip
fields = ["status", "resolved_at", "last_status_change_at", "resolve_reason", "log_entries", "createdAt", "report"]


@given(st.sampled_from(sorted(SYSTEMS)), st.dictionaries(st.sampled_from(fields), anything))
def test_no_record_breaks_it(system: str, record: dict[str, Any]) -> None:
    before = repr(record)
    assert set(SYSTEMS[system].complete(record, read_time)) >= set(record)
    assert repr(record) == before
