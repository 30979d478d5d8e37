"""PromQL for one metric: ranges of exactly one interval, no stale samples, nothing that looks ahead.

A row at t holds the samples in (t - interval, t]. Range selectors alone give exactly them: an instant selector repeats
the last sample for five minutes.
"""

from __future__ import annotations

import re
from datetime import timedelta

from crashcast.errors import UserError
from crashcast.params.base import PATH
from crashcast.params.collect import Query

FUNCTIONS = {"mean": "avg_over_time", "last": "last_over_time"} | {
    name: f"{name}_over_time" for name in ("min", "max", "sum")
}
PLACEHOLDER = "$interval"

# as much of PromQL as it takes to find selectors
NO_CODE = r'"(?:\\.|[^"\\])*"|' r"'(?:\\.|[^'\\])*'|`[^`]*`|#[^\n]*"
LABEL_LIST = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
SELECTOR = r"(?<![\w:.$])(?:[a-zA-Z_:][\w:]*(?:\s*\{[^}]*\})?|\{[^}]*\})"
WORDS = {"and", "or", "unless", "atan2", "bool", "offset", "by", "without", "on", "ignoring", "inf", "nan"}
WORDS |= {"group_left", "group_right"}


def promql(metric: str, query: Query, interval: timedelta, is_left_open: bool) -> str:
    """Return the query of one metric, as it is sent.

    Parameters
    ----------
    metric : str
        Its name in params.yaml.
    query : str or mapping
        PromQL in which `[$interval]` stands for (t - interval, t], or an aggregate and its selector, such as
        `{mean: node_load1}`.
    interval : timedelta
        Of rows.
    is_left_open : bool
        Whether the server's ranges leave out their left end.

    Raises
    ------
    UserError
        If the query would give stale samples, later ones, or other values in other chunks.
    """
    if isinstance(query, str):
        filled = query
        _check(metric, query)
    else:
        ((aggregate, selector),) = query.items()
        if re.fullmatch(SELECTOR, re.sub(NO_CODE, "", selector.strip())) is None:
            message = (
                f"{key_of(metric)}: {aggregate} is taken of one metric, such as up{{job='node'}}, not of '{selector}'"
            )
            raise UserError(f"{message}; write an expression out, with [{PLACEHOLDER}] for its ranges")
        filled = f"{FUNCTIONS[aggregate]}({selector.strip()}[{PLACEHOLDER}])"
    milliseconds = interval // timedelta(milliseconds=1)
    return filled.replace(PLACEHOLDER, f"{milliseconds if is_left_open else milliseconds - 1}ms")


def key_of(metric: str) -> str:
    """Return the key of a metric's query, for messages."""
    return f"{PATH}: collect.queries.{metric}"


def _check(metric: str, query: str) -> None:
    code = re.sub(LABEL_LIST, " ", re.sub(r"\[[^\]]*\]", "[]", re.sub(NO_CODE, "", query)))
    if "@" in code or re.search(r"\boffset\s*-", code):
        raise UserError(f"{key_of(metric)}: @ and a negative offset can look ahead of a row's own time; leave them out")
    for found in re.finditer(SELECTOR, code):
        following = code[found.end() :].lstrip()
        is_word = found[0].lower() in WORDS or (following.startswith("(") and "{" not in found[0])
        if not is_word and not following.startswith("["):
            name = found[0].partition("{")[0].strip() or found[0]
            message = f"'{name}' has no range, and the server would repeat its last sample for five minutes"
            raise UserError(f"{key_of(metric)}: {message}; write last_over_time({name}[{PLACEHOLDER}])")
