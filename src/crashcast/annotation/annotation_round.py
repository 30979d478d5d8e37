"""One round of annotation: the most informative windows to Label Studio, and the answers back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np

from crashcast import tables
from crashcast.annotation import answers
from crashcast.annotation.answers import windows_with_answers
from crashcast.annotation.committee import MEMBERS, votes_out_of_fold
from crashcast.annotation.label_studio import configuration, read_export, tasks
from crashcast.annotation.selection import select
from crashcast.annotation.windows import KEYS
from crashcast.canonical import write_json, write_text
from crashcast.errors import UserError
from crashcast.params.telemetry import Telemetry
from crashcast.paths import CLEAN_PATH


def export_tasks(folder: Path, budget: int, length: timedelta, seed: int) -> list[str]:
    """Write the most informative windows as Label Studio's tasks, and their configuration; return the lines to print.

    The record gets as many votes as the committee on telemetry: if they differ about a window, it is uncertain.
    """
    telemetry = Telemetry.read()
    windows, is_answered = windows_with_answers(length)
    votes = votes_out_of_fold(windows.evidence, windows.crash, windows.frame["server_id"].to_numpy(), seed)
    votes = np.hstack([votes, np.repeat(windows.crash[:, None], MEMBERS, axis=1)])
    left = np.flatnonzero(~is_answered)
    if not left.size:
        raise UserError("annotators have answered for every window: no window is left")
    chosen = windows.take(left[select(votes[left], windows.evidence[left], budget, seed)])
    write_text(folder / "labelling.xml", configuration(telemetry))
    write_json(folder / "tasks.json", tasks(chosen, CLEAN_PATH, telemetry))
    return [
        f"{folder / 'tasks.json'}: {len(chosen):,} of {left.size:,} server-windows, the most informative first",
        f"{folder / 'labelling.xml'}: the labelling configuration of the project that they are imported into",
    ]


def import_answers(file: Path) -> list[str]:
    """Add an export of Label Studio to the annotations, which git tracks; return the lines to print."""
    found = read_export(file, Telemetry.read().interval)
    before = answers.read(answers.PATH)
    after = answers.merge(before, found.annotations)
    tables.write(answers.PATH, after)
    windows = found.annotations.select(KEYS).n_unique()
    people = found.annotations["annotator"]
    deleted = people.str.starts_with(answers.DELETED)
    who = f"{people.filter(~deleted).n_unique()} annotators"
    who += f" and {deleted.sum():,} of deleted users" if deleted.any() else ""
    verdicts = [f"{found.annotations.filter(verdict=verdict).height:,} {verdict}" for verdict in answers.VERDICTS]
    return [
        f"{file}: {found.annotations.height:,} annotations of {windows:,} windows by {who}: "
        f"{', '.join(verdicts)}; {found.skipped:,} skipped, {found.unanswered:,} tasks without an answer",
        f"{answers.PATH}: {before.height:,} annotations became {after.height:,}",
        *answers.agreement(after),
    ]
