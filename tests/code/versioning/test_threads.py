"""Many items at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crashcast.versioning.threads import side_by_side


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=5))
def test_what_is_read_side_by_side_comes_back_in_order(items: list[int], workers: int) -> None:
    assert list(side_by_side(str, items, workers)) == [str(item) for item in items]
