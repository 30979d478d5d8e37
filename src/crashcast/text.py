"""Words for people: lists of names, numbers with their noun, and output that cannot steer a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

# control characters but tab and line feed; those that turn the direction of writing; halves of characters
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

CREDENTIALS = re.compile(r"(https?://)[^/\s@]+@", re.IGNORECASE)  # in an address


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


def printable(text: str) -> str:
    r"""Return a text without passwords in addresses; characters that steer a terminal are shown as in JSON: \u001b."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", CREDENTIALS.sub(r"\1***@", text))


@contextmanager
def clean_output() -> Iterator[None]:
    """Make what the block prints printable. A file's cell, a server's answer or a git tag can hold any character."""
    out, err = map(_Printable, (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Printable:
    """A stream for `print`; consoles of rich, typer's too, write past it to `rich_proxied_file`."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
