"""Lists of names and numbers with their noun read as a person writes them."""

from __future__ import annotations

import pytest

from crashcast.text import all_of, counted, some_of


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (["a"] * 2003, "a, a, a and 2,000 more"),
    ],
)
def test_some_names_stand_for_all(names: list[str], shown: str) -> None:
    assert some_of(names) == shown


def test_how_many_names_are_shown_can_be_chosen() -> None:
    assert some_of(["a", "b", "c"], 1) == "a and 2 more"


@pytest.mark.parametrize(("names", "shown"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_every_name_is_listed(names: list[str], shown: str) -> None:
    assert all_of(names) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 rows"), (1, "1 row"), (2000, "2,000 rows")])
def test_a_noun_follows_its_number(number: int, shown: str) -> None:
    assert counted(number, "row") == shown
