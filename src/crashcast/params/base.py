"""The base of every section of params.yaml: frozen, unknown keys refused, durations with their units.

A stage reads a section with `Clean.read()`; dvc.yaml declares the same section as its parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from crashcast import strict_yaml
from crashcast.errors import UserError

PATH = Path("params.yaml")
DAY, WEEK = timedelta(days=1), timedelta(days=7)
CENTURY = 36_525 * DAY
UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": DAY}


def parse_duration(value: Any) -> timedelta:
    """Turn `90s`, `30m`, `6h` or `7d` into a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("write a duration as a whole number and a unit: 90s, 30m, 6h or 7d")
    duration = int(match[1]) * UNITS[match[2]]
    if duration > CENTURY:
        raise ValueError("must be at most a century")  # subtracted from a date it must leave a date
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration in its largest whole unit: the inverse of `parse_duration`."""
    for unit in ("d", "h", "m", "s"):
        if duration % UNITS[unit] == timedelta(0) and duration >= UNITS[unit]:
            return f"{duration // UNITS[unit]}{unit}"
    return "0s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
PositiveDuration = Annotated[Duration, Field(gt=timedelta(0))]
Share = Annotated[float, Field(gt=0, lt=1)]


def _is_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s?#]*)?", value):
        raise ValueError("must be http(s)://host:port, with a path if need be; the environment holds passwords")
    return value.rstrip("/")


Address = Annotated[str, AfterValidator(_is_address)]  # of an HTTP server


# one file of this folder for each
SECTIONS = sorted(
    file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "base", "every_section")
)


class Group(BaseModel):
    """Any piece of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Section(Group):
    """A top-level section of params.yaml, named like its class in lower case."""

    @classmethod
    def read(cls, path: Path = PATH) -> Self:
        """Read this section.

        Raises
        ------
        UserError
            If the file is missing or no YAML, or a key is unknown, missing or out of range.
        """
        name = cls.__name__.lower()
        content = check_names(path)
        if name not in content:
            raise UserError(f"{path}: section '{name}' is missing")
        try:
            return cls.model_validate(content[name])
        except ValidationError as error:
            raise UserError("\n".join(_explain(path, content, cls, error))) from None


def check_names(path: Path) -> dict[str, Any]:
    """Return the content of params.yaml, section by section.

    Raises
    ------
    UserError
        If the file is missing or no YAML, or a section is unknown.
    """
    content = _load(path)
    for key in content:
        if key not in SECTIONS:
            raise UserError(f"{path}: unknown section '{key}'{_suggest(str(key), SECTIONS)}")
    return content


def _load(path: Path) -> dict[str, Any]:
    try:
        content = strict_yaml.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the root of the project") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold named sections, not a {type(content).__name__}")
    return content


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"


def _explain(path: Path, content: dict[str, Any], model: type[Section], error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        *parents, key = problem["loc"] or ("",)
        where = ".".join(_keys(content, [model.__name__.lower(), *problem["loc"]], problem["type"] == "missing"))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{path}: {where}: unknown key{_suggest(str(key), _fields(model, parents))}")
        else:
            got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
            lines.append(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return lines


def _keys(content: Any, loc: list[Any], is_missing: bool) -> Iterator[str]:
    for key in loc:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            if not is_missing:  # pydantic also names which alternative of a type it tried
                continue
        yield str(key)


def _fields(model: Any, parents: list[Any]) -> list[str]:
    for name in parents:
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:  # the key of a mapping: its values are described by the same model
            continue
        nested = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in nested if issubclass(a, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
