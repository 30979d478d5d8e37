"""What people say that they did: a comment that begins with `acted:`. Without that, it proves nothing."""

from __future__ import annotations

import re

ACTED = re.compile(r"\s*acted:(.*)", re.IGNORECASE | re.DOTALL)
UNSPECIFIED = "unspecified"
MOST_CHARACTERS = 200


def acted(text: str) -> str | None:
    """Return what a comment says was done, such as `restarted` of `acted: restarted`; None if it says nothing."""
    found = ACTED.fullmatch(text)
    return (one_line(found[1]) or UNSPECIFIED) if found else None


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, cut if it is long."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())[:MOST_CHARACTERS]
