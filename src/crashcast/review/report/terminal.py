"""The review on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crashcast.review.report import wording
from crashcast.review.report.comment import LONGEST_SENTENCE
from crashcast.review.report.schema import Record
from crashcast.review.report.wording import MARKS, OUTCOMES, in_words, plain

COLOURS = {"ACCEPT": "green", "REJECT": "red", "INCONCLUSIVE": "yellow"}


def show(record: Record, console: Console) -> None:
    """Print a record for people."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(plain(text, LONGEST_SENTENCE), style))

    differences = record["differences"]
    header = ("figure", wording.rival(record), "challenger", "difference", wording.interval_title(differences), "")
    table = Table(*header, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for found in differences:
        table.add_row(*(Text(plain(cell)) for cell in in_words(found, record["form"], differences)[:6]))
    say(wording.on_rows(record))
    console.print()
    if differences:
        console.print(table)
        console.print()
    weighty, passed = wording.weighed_reasons(record)
    for reason in weighty:
        outcome = reason["outcome"]
        say(f"{MARKS[outcome]} {OUTCOMES[outcome]}, {reason['check']}: {wording.sentence(reason['text'])}")
    if passed:
        say(f"{MARKS['pass']} {wording.in_short(passed)}")
    about = wording.recipes(record), wording.could_show(record), wording.looks(record), wording.how_it_ran(record)
    for sentence in filter(None, about):
        say(sentence)
    console.print()
    say(
        f"{record['verdict']}: {record['headline']} {wording.meaning(record)}",
        style=f"bold {COLOURS[record['verdict']]}",
    )
