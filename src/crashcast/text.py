"""Words for people: lists of names, numbers with their noun."""

from __future__ import annotations

from collections.abc import Sequence


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and the number of the others, such as "a, b, c and 4 more"."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others:,} more" if others > 0 else "")


def all_of(names: Sequence[str]) -> str:
    """Return every name, such as "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 row" or "2,000 rows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
