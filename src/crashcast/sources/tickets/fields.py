"""Values of a record: what a ticket system gives, nested as it came.

Fields are found by dotted paths: `service.summary`; a path through a list goes through each of its members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from crashcast.sources.value_formats import NULLS

Record = dict[str, Any]
# an object stands for the first of these that it has: a priority for its name
IN_WORDS, AS_WRITTEN = ("display_value", "name", "summary", "value"), ("value", "display_value")


def values_at(record: Any, path: str) -> Iterator[Any]:
    """Yield the values at a dotted path: several if it leads through lists, none if it leads nowhere."""
    if isinstance(record, list):
        for member in record:
            yield from values_at(member, path)
    elif not path:
        yield record
    elif isinstance(record, dict):
        if path in record:  # names may have dots in them, such as `cmdb_ci.name`
            yield from values_at(record[path], "")
            return
        head, _, rest = path.partition(".")
        if rest and head in record:
            yield from values_at(record[head], rest)


def first_values(record: Record, paths: Iterable[str], of_object: tuple[str, ...] = IN_WORDS) -> list[Any]:
    """Return the values at the first path that leads to any, without missing ones."""
    for path in paths:
        found = []
        for value in values_at(record, path):
            if isinstance(value, dict):
                value = next((value[key] for key in of_object if value.get(key)), None)
            # JSON can write half of a character, which no table can hold
            text = str(value).encode(errors="replace").decode().strip() if value is not None else ""
            if text.lower() not in NULLS:
                found.append(text if isinstance(value, str) else value)
        if found:
            return found
    return []


def text_at(record: Record, *paths: str) -> str | None:
    """Return the text at the first path that leads to one."""
    return next((" ".join(str(value).split()) for value in first_values(record, paths)), None)
