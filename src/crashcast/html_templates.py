"""Templates of HTML pages: every string is cleaned and escaped, and a name that is missing is an error."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(folder: Path, clean: Callable[[str], str]) -> Environment:
    """Return what renders the templates of a folder.

    Parameters
    ----------
    folder : Path
    clean : callable
        Makes a string one that can be shown; it is escaped afterwards.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup is a string, too, and has been escaped
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source(text: str) -> str:
    """Return what a page's policy calls a stylesheet or a script of its own: only text with this hash counts."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
