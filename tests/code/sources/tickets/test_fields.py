"""Values at dotted paths."""

from __future__ import annotations

import pytest

from crashcast.sources.tickets.fields import text_at, values_at


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("service.summary", ["mail"]),
        ("labels", ["x", "y"]),
        ("hosts.name", ["a", "b"]),
        ("cmdb_ci.name", ["db-1"]),  # a name with a dot
        ("service.owner.name", []),
        ("nothing", []),
    ],
)
def test_a_path_leads_through_objects_and_lists(path: str, expected: list[str]) -> None:
    record = {"service": {"summary": "mail"}, "labels": ["x", "y"], "hosts": [{"name": "a"}, {"name": "b"}]}
    assert list(values_at({**record, "cmdb_ci.name": "db-1"}, path)) == expected


def test_half_of_a_character_is_no_text_of_a_table() -> None:
    assert text_at({"summary": " out of\ud800 memory "}, "summary") == "out of? memory"
    assert text_at({"labels": ["\ud83d\ude00 up"]}, "labels") == "?? up"
