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
        Each may include `page_head.html`, with `title`, `style` and `policy`: that of `policy_of`, or None if the
        page's server sends it.
    clean : callable
        Makes a string one that can be shown; it is escaped afterwards.
    """
    return Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup is a string, too, and has been escaped
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def policy_of(style: str, script: str | None = None) -> str:
    """Return the Content-Security-Policy of a page that fetches nothing, and has this style and this script alone."""
    own = f"style-src {_hash(style)}" + (f"; script-src {_hash(script)}" if script else "")
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
