"""What is drawn has rich's own control sequences and no others."""

from __future__ import annotations

import io
import sys

import pytest
from rich.markup import escape
from rich.table import Table

from crashcast.console import Console
from crashcast.progress import progress
from crashcast.text import clean_output

ATTACK = "a\x1b[2J\x9b3Jb"


def drawn(thing: object) -> str:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="standard", width=80, highlight=False).print(thing)
    return stream.getvalue()


def test_cells_titles_and_lines_are_clean_and_keep_their_style() -> None:
    table = Table(ATTACK, title=escape(ATTACK))
    table.add_row(f"[red]{escape(ATTACK)}[/red]")
    for thing in (table, f"[red]{escape(ATTACK)}[/red]"):
        shown = drawn(thing)
        assert "\x1b[31m" in shown
        assert "a\\u001b[2J\\u009b3Jb" in shown
        assert "\x1b[2J" not in shown
        assert "\x9b" not in shown


@pytest.mark.parametrize("stderr", [False, True])
def test_it_draws_past_a_stream_that_shows_sequences(stderr: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr" if stderr else "stdout", stream)
    with clean_output():
        Console(stderr=stderr, force_terminal=True, color_system="standard").print("[red]x")
    assert "\x1b[31mx" in stream.getvalue()


def test_a_line_printed_beside_a_bar_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with clean_output(), progress("collect", 2, "chunk") as advance:
        print(ATTACK + "\x1b[8mhidden", file=sys.stderr)
        advance()
    assert "a\\u001b[2J\\u009b3Jb\\u001b[8mhidden" in stream.getvalue()
    assert "\x1b[?25l" in stream.getvalue()  # the bar's own
