"""`crashcast --help` groups commands by what their reader is about to do, and the command line starts fast."""

from __future__ import annotations

import re
import subprocess
import sys

from typer.testing import CliRunner

from crashcast.cli import GROUPS, app

# what a command needs is imported when it runs
HEAVY = {"dvc", "numpy", "pandas", "polars", "rich.console", "sklearn", "crashcast.registry"}


def test_help_shows_every_group_in_order() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    titles = re.findall(r"^╭─ (.+?) ─", shown, re.MULTILINE)
    assert titles == ["Options", *GROUPS]  # no command is outside a group


def test_the_command_line_imports_nothing_heavy() -> None:
    program = f"import sys, crashcast.cli; print({HEAVY!r} & sys.modules.keys() or 'light')"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "light\n"
