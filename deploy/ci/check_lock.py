"""Refuse a commit whose dvc.lock is stale, or whose data was not pushed.

    python deploy/ci/check_lock.py

Needs no data: DVC compares hashes. On exit status 2 a message says what is wrong.
"""

from __future__ import annotations

import subprocess
import sys

from crashcast.errors import UserError
from crashcast.text import clean_output
from crashcast.versioning.lock_checks import check_pushed

UP_TO_DATE = "Data and pipelines are up to date."


def check_current() -> None:
    """Refuse a dvc.lock from which `dvc repro` would change anything.

    DVC's exit status is no help: it is 0 even if a stage would run, unless that stage's inputs are missing too.
    """
    done = subprocess.run(["dvc", "repro", "--allow-missing", "--dry"], text=True, capture_output=True)
    if done.returncode or UP_TO_DATE not in done.stdout:
        told = [line for line in (done.stdout + done.stderr).splitlines() if line and "didn't change" not in line]
        raise UserError(
            "\n".join(["dvc.lock is not what this commit's code, parameters and data give:", *told])
            + "\nRun `dvc repro`, commit dvc.lock and metrics/, and `make push`"
        )


if __name__ == "__main__":
    with clean_output():
        try:
            check_current()
            check_pushed()
        except UserError as error:
            print(f"crashcast: {error}", file=sys.stderr)
            sys.exit(2)
        print("dvc.lock is current, and all that it names was pushed")
