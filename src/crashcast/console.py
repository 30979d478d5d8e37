"""The console of rich for everything that is drawn: text from outside cannot steer the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from crashcast.text import printable


class Console(rich.console.Console):
    """Draws with rich's own control sequences, and shows all others as text."""

    def __init__(self, **options: Any) -> None:
        stream = sys.stderr if options.get("stderr") else sys.stdout
        # the stream below that of `text.clean_output`, which would show rich's own sequences as text too
        options.setdefault("file", getattr(stream, "rich_proxied_file", stream))
        super().__init__(**options)

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """Yield what is drawn."""
        for segment in super().render(*arguments, **options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
