"""What the system refuses is told as such, whichever library passes it on; a fault of ours stays one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from crashcast import cli, files
from crashcast.errors import refusal

CODES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM")
RUST = pl.exceptions.ComputeError("parquet: File out of specification: underlying IO error: (os error 28)")
ARROW = OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")
COPYING = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")])


@pytest.mark.parametrize("code", CODES)
def test_each_refusal_names_the_file_and_what_to_do(code: str) -> None:
    number = getattr(errno, code)
    told = str(refusal(OSError(number, os.strerror(number), "out/table.parquet")))
    assert told.startswith(f"out/table.parquet: {os.strerror(number)}; ")
    assert told.endswith(", then run the same command again")
    assert ("make room" in told) == (code in ("ENOSPC", "EDQUOT", "EFBIG"))


@pytest.mark.parametrize(
    "error",
    [RUST, ARROW, COPYING, sqlite3.OperationalError("database or disk is full")],
    ids=lambda e: type(e).__name__,
)
def test_a_full_disk_is_recognised_in_the_words_of_each_library(error: Exception) -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert str(refusal(one)) == "No space left on device; make room, then run the same command again"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "missing", "x"), ValueError("28"), OSError("28"), KeyError("errno")]
)
def test_another_fault_is_none(error: Exception) -> None:
    assert refusal(error) is None


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process become larger than 100 bytes, such as the one that pytest writes to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(path: Path) -> None:
    with files.replacing(path) as aside:
        aside.write_text("after " * 100)


def test_a_file_that_cannot_be_replaced_is_named_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("before")
    with pytest.raises(OSError, match="too large") as found, no_room():
        write(path)
    assert str(refusal(found.value)).startswith(f"{path}: File too large; make room")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("kept", "before")]


def test_a_copy_that_finds_no_room_names_its_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large") as found, no_room():
        shutil.copyfile(__file__, tmp_path / "copy")
    assert str(refusal(found.value)).startswith(f"{tmp_path / 'copy'}: File too large; make room")


@pytest.mark.parametrize("code", CODES)
def test_a_command_ends_in_a_message_and_status_2(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), "data/raw/telemetry")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crashcast.sources.demo.simulator.write", refuse)
    monkeypatch.setattr(sys, "argv", ["crashcast", "demo"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(f"crashcast: data/raw/telemetry: {os.strerror(getattr(errno, code))}; ")
    assert told.count("\n") == 1


def test_a_stage_ends_in_a_message_and_status_2_and_a_fault_of_ours_in_a_traceback(tmp_path: Path) -> None:
    src = tmp_path / "src"
    (src / "stages").mkdir(parents=True)
    shutil.copytree(Path(cli.__file__).parents[1], src / "crashcast", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(cli.__file__).parents[2] / "run.py", src)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    (src / "stages/__init__.py").touch()

    def run(body: str) -> subprocess.CompletedProcess[str]:
        (src / "stages/one.py").write_text(f"import os\ndef main():\n    {body}\n")
        return subprocess.run([sys.executable, "src/run.py", "one"], cwd=tmp_path, capture_output=True, text=True)

    done = run("raise OSError(28, os.strerror(28), 'data/clean')")
    told = "one: data/clean: No space left on device; make room, then run the same command again\n"
    assert (done.returncode, done.stderr) == (2, told)
    done = run("raise KeyError('a fault')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
