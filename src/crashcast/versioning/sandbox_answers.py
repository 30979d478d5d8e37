"""What the code of a commit printed and wrote, carried from a machine that runs it to another one that judges it.

In CI, a job without a right or a secret runs a pull request's code, and a job that judges runs nothing of it. Both go
through the same review. The first keeps each answer of that code in a folder, named by the question: the command, and
the hashes of all inputs. The second reads the answers there. They are foreign, as is all that the code writes.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from crashcast import canonical
from crashcast.errors import UserError
from crashcast.files import sha256_of_json
from crashcast.versioning import dvc_files

PRINTED, WRITTEN, SANDBOX = "printed", "written", "sandbox.json"
MAX_FILES = 100_000
MAX_NOTE_BYTES = 10_000


@dataclass(frozen=True)
class Answers:
    """The answers of one commit's code.

    Attributes
    ----------
    folder : Path
    commit : str
        Its full name.
    are_given : bool
        By another machine, so that nothing of that commit runs here. Otherwise its code runs, and they are kept.
    """

    folder: Path
    commit: str
    are_given: bool

    def place(self, command: list[str], asked: str, inputs: Mapping[str, str]) -> Path:
        """Return the folder of an answer.

        Parameters
        ----------
        command : list of str
        asked : str
            Names what is asked on standard input, if anything is.
        inputs : mapping of str to str
            The hash of each.
        """
        return self.folder / sha256_of_json([self.commit, command, asked, inputs])


_current: list[Answers] = []  # at most one


def of(commit: str) -> Answers | None:
    """Return where the answers of a commit's code are kept or given; None if its code runs here and for here alone."""
    return next((answers for answers in _current if answers.commit == commit), None)


@contextmanager
def keeping(folder: Path, commit: str, missing_sandbox: str | None) -> Iterator[None]:
    """Keep the answers of a commit's code in a folder, and why there was no sandbox, if so."""
    shutil.rmtree(folder, ignore_errors=True)
    canonical.write_json(folder / SANDBOX, {"missing": missing_sandbox})
    with _are(Answers(folder, commit, are_given=False)):
        yield


@contextmanager
def given(folder: Path, commit: str) -> Iterator[None]:
    """Read the answers of a commit's code in a folder, instead of running any of that code.

    Raises
    ------
    UserError
        If the folder holds anything but files and folders.
    """
    regular_files(folder, str(folder))
    with _are(Answers(folder, commit, are_given=True)):
        yield


def missing_sandbox(answers: Answers) -> str | None:
    """Return why there was no sandbox where a commit's code ran; None if there was one.

    Raises
    ------
    UserError
        If the answers do not say.
    """
    try:
        with (answers.folder / SANDBOX).open("rb") as file:
            missing = json.loads(file.read(MAX_NOTE_BYTES))["missing"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        raise UserError(f"{answers.folder} holds no answers of a commit's code: {SANDBOX} is missing") from None
    return None if missing is None else str(missing)


class Readable(Protocol):
    """What is asked of a stream."""

    def read(self, size_bytes: int, /) -> bytes:
        """Read as a binary file does."""


class Copied:
    """A stream, of which all that is read is kept in a file."""

    def __init__(self, stream: Readable, copy: BinaryIO) -> None:
        self._stream, self._copy = stream, copy

    def read(self, size_bytes: int, /) -> bytes:
        """Read as the stream does."""
        found = self._stream.read(size_bytes)
        self._copy.write(found)
        return found


def regular_files(top: Path, what: str) -> dict[str, Path]:
    """Return the files below a folder that foreign code wrote, by their names in it; a file's own name is empty.

    Raises
    ------
    UserError
        If there is none, or anything else than regular files and folders: links and devices lead elsewhere.
    """
    found, waiting = dict[str, Path](), [top]
    while waiting:
        entry = waiting.pop()
        name = "" if entry == top else entry.relative_to(top).as_posix()
        try:
            mode = entry.lstat().st_mode
        except OSError:
            raise UserError(f"{what} was not written: it is not taken") from None
        if stat.S_ISDIR(mode):
            waiting += entry.iterdir()
        elif stat.S_ISREG(mode) and not (name and dvc_files.leads_out(name)):
            found[name] = entry
        else:
            raise UserError(f"{'/'.join(filter(None, (what, name)))} is no regular file: it is not taken")
        if len(found) + len(waiting) > MAX_FILES:
            raise UserError(f"{what} holds more than {MAX_FILES:,} files: it is not taken")
    return found


@contextmanager
def _are(answers: Answers) -> Iterator[None]:
    _current.append(answers)
    try:
        yield
    finally:
        _current.remove(answers)
