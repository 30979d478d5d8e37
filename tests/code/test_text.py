"""Lists of names and numbers with their noun read as a person writes them, and no text steers a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.text import all_of, clean_output, counted, printable, some_of

ROOT = Path(__file__).parents[2]
ATTACKS = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;title\x07",
    "hides text": "\x1b[8m",
    "in one byte": "\x9b2J",
    "overwrites the line": "\rall is well",
    "deletes": "\x08\x08\x7f",
    "turns the direction": "\u202eexe.",
    "half a character": "\udc9b",
}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (["a"] * 2003, "a, a, a and 2,000 more"),
    ],
)
def test_some_names_stand_for_all(names: list[str], shown: str) -> None:
    assert some_of(names) == shown


def test_how_many_names_are_shown_can_be_chosen() -> None:
    assert some_of(["a", "b", "c"], 1) == "a and 2 more"


@pytest.mark.parametrize(("names", "shown"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_every_name_is_listed(names: list[str], shown: str) -> None:
    assert all_of(names) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 rows"), (1, "1 row"), (2000, "2,000 rows")])
def test_a_noun_follows_its_number(number: int, shown: str) -> None:
    assert counted(number, "row") == shown


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_steers_a_terminal_is_shown(attack: str) -> None:
    shown = printable(f"a{attack}b")
    assert shown.encode().isascii()
    assert all(letter.isprintable() for letter in shown)
    assert "\\u00" in shown or "\\u202e" in shown or "\\udc9b" in shown


def test_other_text_stays() -> None:
    text = "Zürich\tdb-01 [prod]\n日本 ✓ \\n"
    assert printable(text) == text


@given(st.text(st.characters(codec="utf-8")))
def test_json_stays_what_it_says(text: str) -> None:
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


def test_prints_and_errors_are_clean_and_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with clean_output(), clean_output():
        print("\x1b[2J")
        print("\x1b[3J", file=sys.stderr, flush=True)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("\\u001b[2J\n", "\\u001b[3J\n")


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "crashcast", "score", "--at", "{}"],
        ["-m", "crashcast", "annotate", "import", "{}.json"],
        ["src/run.py", "split", "{}", "c", "o", "m"],
    ],
    ids=["an option", "a file's name", "a stage"],
)
def test_no_command_passes_them_on(command: list[str]) -> None:
    attack = "x\x1b]0;title\x07\x9b2J\u202e"
    if command[0] == "-m":
        command = ["-c", "from crashcast.cli import main; main()", *command[2:]]
    done = subprocess.run(
        [sys.executable, *(word.replace("{}", attack) for word in command)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "x\\u001b]0;title\\u0007\\u009b2J\\u202e" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:pass@s3.example:9000/b", "at http://***@s3.example:9000/b"),
        ("HTTPS://token@git.example/a.git", "HTTPS://***@git.example/a.git"),
        ("http://a:b@one, https://c:d@two", "http://***@one, https://***@two"),
        ("http://git.example/a@b", "http://git.example/a@b"),
        ("ssh://git@git.example/a", "ssh://git@git.example/a"),
    ],
)
def test_no_password_of_an_address_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
