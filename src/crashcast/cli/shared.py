"""What several commands share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer

from crashcast.canonical import SIGNIFICANT_DIGITS, json_text

Result = TypeVar("Result")
InUse = Annotated[
    str | None,
    typer.Option(
        help="The registered version, or the commit, whose model is used.", show_default="the version in stage prod"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parsed_duration(text: str | timedelta) -> timedelta:
    """Turn an option's text, or its default, into a duration."""
    from crashcast.params.base import parse_duration

    return parse_duration(text)


def print_result(
    result: Result,
    as_json: bool,
    to_json: Callable[[Result], Any],
    show: Callable[[Result, Any], object],
    digits: int = SIGNIFICANT_DIGITS,
) -> None:
    """Print a result for people or, if asked, as JSON with so many significant digits."""
    from crashcast.console import Console

    if as_json:
        print(json_text(to_json(result), digits))
    else:
        show(result, Console())
