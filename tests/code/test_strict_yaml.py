"""YAML that a parser takes, and that would end what reads it."""

from __future__ import annotations

import pytest
import yaml

from crashcast.strict_yaml import parse


def bomb(depth: int) -> str:
    """Return a few lines that stand for 9 ** depth values."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(["a0: &a0 [x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (bomb(12), "more than 1,000,000 values"),
        ("x: &x {y: *x}", "more than 1,000,000 values"),  # without an end
        ("x: 2026-99-99", "month must be in 1..12"),
        ("x: 1" + "0" * 5000, "integer string conversion"),
        ("[" * 20_000, "recursion"),
        ("x: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
    ids=["bomb", "loop", "date", "number", "depth", "object"],
)
def test_what_no_reader_can_use_is_an_error_of_yaml(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError, match=told):
        parse(text)


def test_aliases_of_people_are_followed() -> None:
    assert parse("a: &a [1, 2]\nb: *a\n") == {"a": [1, 2], "b": [1, 2]}
