"""The locked environment of a commit: the one that runs now if it fits, else a virtual environment of its own."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from crashcast.errors import UserError
from crashcast.params import execution
from crashcast.text import some_of
from crashcast.versioning import git
from crashcast.versioning.revision import Revision

BUILD, RUN = "requirements-build.txt", "requirements.txt"
SHOWN = 5
# what would bring in other code or another environment, or compute partitions by workers with this commit's code
FOREIGN = {
    *("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "DVC_ROOT", "DVC_EXP_BASELINE_REV"),
    *execution.VARIABLES.values(),
}


def interpreter(revision: Revision, folder: Path) -> Path:
    """Return the Python of a commit's environment.

    Parameters
    ----------
    revision : Revision
        Its requirements.txt names every package and version.
    folder : Path
        Where environments are built and kept.

    Raises
    ------
    UserError
        If it cannot be built.
    """
    locked = revision.file(RUN).decode()
    lacking = _lacking(locked)
    if not lacking:
        return Path(sys.executable)
    build = (revision.find_file(BUILD) or b"").decode()
    key = hashlib.sha256("\0".join([sys.version, build, locked]).encode()).hexdigest()
    place = folder / "environments" / key[:16]
    python, whole = place / "bin" / "python", place / ".whole"
    if not whole.exists():
        shown = some_of(lacking, SHOWN)
        print(f"setting up the environment of commit {revision.name}: {shown}", file=sys.stderr)
        _call(revision, sys.executable, "-m", "venv", "--clear", place)
        for name, text in ((BUILD, build), (RUN, locked)):
            (place / name).write_text(text, encoding="utf-8")
            isolation = ("--no-build-isolation",) if name == RUN and build else ()
            _call(
                revision, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--require-hashes", *isolation, "-r", place / name,
            )  # fmt: skip
        whole.touch()
    return python


@cache  # a tenth of a second for each question, and what this process has installed stays
def _lacking(locked: str) -> tuple[str, ...]:
    return tuple(differences(locked))


def differences(locked: str) -> Iterator[str]:
    """Name the packages of a lock that are not installed here in the version that it names.

    Parameters
    ----------
    locked : str
        The text of a requirements.txt, with hashes or without.
    """
    for line in re.sub(r"\\\n", " ", locked).splitlines():
        text = re.split(r"\s#|^#|\s--hash", line.strip())[0].strip()
        if not text or text.startswith("-"):
            continue
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            here = version(wanted.name)
        except PackageNotFoundError:
            here = "missing"
        if here == "missing" or not wanted.specifier.contains(here, prereleases=True):
            yield f"{wanted.name}{wanted.specifier} (here {here})"


def variables(python: Path) -> dict[str, str]:
    """Return the environment variables in which a commit's own code, in its own Python, is what runs."""
    kept = {name: value for name, value in git.environment().items() if name not in FOREIGN}
    return {**kept, "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])}


def _call(revision: Revision, *command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "\n".join((done.stderr or done.stdout).strip().splitlines()[-SHOWN:])
        raise UserError(f"the environment of commit {revision.name} ({RUN}) cannot be set up:\n{reason}")
