"""All sections of params.yaml at once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from crashcast.errors import UserError
from crashcast.params.base import PATH, SECTIONS, Section, check_names


def section(name: str) -> type[Section]:
    """Return the class of a section."""
    module = import_module(f"crashcast.params.{name}")
    found: type[Section] = getattr(module, name.capitalize())
    return found


def check(path: Path = PATH) -> None:
    """Refuse a file in which any section is wrong: a mistake must not wait for its stage.

    Raises
    ------
    UserError
        Naming every mistake of every section.
    """
    problems = []
    for name in check_names(path):
        if name in SECTIONS:
            try:
                section(name).read(path)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
