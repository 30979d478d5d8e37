"""What the code of a commit cannot do in the sandbox, though without it the same code can."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.review import stage_runs
from crashcast.versioning import environment, sandbox
from crashcast.versioning.revision import Revision
from crashcast.versioning.sandbox import Bounds, Room

pytestmark = pytest.mark.skipif(sandbox.missing() is not None, reason=str(sandbox.missing()))

SECRET = "what the judge knows"
Rooms = Callable[[bool], Room]


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    """Return what gives a room with an input, in the sandbox or outside it."""

    def make(is_apart: bool) -> Room:
        place = tmp_path / f"apart={is_apart}"
        (place / "code").mkdir(parents=True)
        room = Room(Path(sys.executable), place, place / "code", is_apart)
        room.input("data/raw").mkdir()
        (place / "inputs/data/raw/table").write_text("given")
        return room

    return make


def run(room: Room, code: str) -> str:
    return room.run(room.python, "-c", code, failure="the code fails").decode()


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_it_reads_its_inputs_and_writes_into_its_folder(rooms: Rooms) -> None:
    room = rooms(True)
    code = (
        "import pathlib as p; p.Path('out').mkdir(); p.Path('out/a').write_text(p.Path('data/raw/table').read_text())"
    )
    run(room, code)
    assert {name: file.read_text() for name, file in room.written("out").items()} == {"a": "given"}


STOLEN = {
    "a variable": "import os; print(os.environ['AWS_SECRET_ACCESS_KEY'])",
    "the home": "import pathlib as p; print(p.Path('{home}/.aws/credentials').read_text())",
    "the judge's folder": "import pathlib as p; print(p.Path('{review}/judged').read_text())",
    "another folder's input": "import pathlib as p; print(p.Path('{labels}').read_text())",
}


@pytest.mark.parametrize("what", STOLEN)
def test_it_reads_no_secret(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    places = {"home": tmp_path / "home", "review": tmp_path / ".git/crashcast-review", "labels": tmp_path / "labels"}
    for file in (places["home"] / ".aws/credentials", places["review"] / "judged", places["labels"]):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
    code = STOLEN[what].format(**places)
    assert SECRET in run(rooms(False), code)
    with pytest.raises(UserError, match=r"KeyError|No such file") as told:
        run(rooms(True), code)
    assert SECRET not in str(told.value)


DONE = {
    "a connection": ("import socket; socket.create_connection(('127.0.0.1', {port})); {done}", "Connection refused"),
    "a file elsewhere": ("open('{elsewhere}', 'w'); {done}", "No such file"),
    "another input": ("open('data/raw/more', 'w'); {done}", "Read-only file system"),
    "a process told": ("import os; os.kill({pid}, 0); {done}", "No such process"),
}


@pytest.mark.parametrize("what", DONE)
def test_it_reaches_nothing_else(rooms: Rooms, tmp_path: Path, listener: int, what: str) -> None:
    code, why = DONE[what]
    code = code.format(port=listener, elsewhere=tmp_path / "x", pid=os.getpid(), done="print('done')")
    assert run(rooms(False), code) == "done\n"
    with pytest.raises(UserError, match=f"(?s)^the code fails: .*{why}"):
        run(rooms(True), code)


EXCESS = {
    "processes": ("import os, time\nwhile True:\n    os.fork()", Bounds(processes=20, threads=60), "20 processes"),
    "memory": ("b = []\nwhile True: b.append(bytes(10**7) + b'1')", Bounds(memory_bytes=300_000_000), "0.3 GB"),
    "time": ("while True: pass", Bounds(time_s=1), "1 seconds|status"),
    "disk": (
        "import time\nfor n in range(9): open(f'{n}', 'wb').write(bytes(10**7))\ntime.sleep(9)",
        Bounds(disk_bytes=50_000_000), "0.1 GB of disk",
    ),
    "one file": ("open('f', 'wb').write(bytes(10**8))", Bounds(disk_bytes=50_000_000), "File too large"),
}  # fmt: skip


@pytest.mark.parametrize("what", EXCESS)
def test_it_is_stopped_at_its_bounds_and_no_process_of_it_stays(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    code, bounds, why = EXCESS[what]
    monkeypatch.setattr(sandbox, "BOUNDS", bounds)
    room = rooms(True)
    with pytest.raises(UserError, match=why):
        run(room, code)
    monkeypatch.setattr(sandbox, "BOUNDS", Bounds())
    assert (
        run(room, "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))") == "2\n"
    )  # its first, itself


WRITTEN = {
    "os.symlink('/etc', 'out')": "out is a symbolic link",
    "os.mkdir('out'); os.symlink('/etc/passwd', 'out/a')": "out/a is no regular file",
    "os.mkfifo('out')": "out is no regular file",
    "os.rename('data', 'gone'); os.symlink('/etc', 'data')": "data is a symbolic link|No such|busy",
    "os.mkdir('out'); open('out/.venv', 'w')": "out/.venv is no regular file",
    "pass": "out was not written",
}


@pytest.mark.parametrize("code", WRITTEN)
def test_only_regular_files_of_plain_names_are_taken(rooms: Rooms, code: str) -> None:
    room = rooms(True)

    def take() -> None:
        run(room, f"import os; {code}")
        room.written("data/out" if "'data'" in code else "out")

    with pytest.raises(UserError, match=WRITTEN[code]):
        take()


def test_a_link_of_the_commit_is_not_written_through(rooms: Rooms, tmp_path: Path) -> None:
    room = rooms(True)
    (room.folder / "data").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"^data is a symbolic link"):
        room.write("data/raw/table.dvc", "x")
    with pytest.raises(UserError, match=r"^data is a symbolic link"):
        run(room, "pass")


def test_an_answer_has_an_end(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="prints more than"):
        run(rooms(True), "while True: print('y' * 1000)")


def test_a_commit_runs_with_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "interpreter", lambda *_: Path(sys.executable))
    for path, text in {
        "src/own.py": "told = 1",
        "params.yaml": "execution: {workers: 'tcp://there:1', shared: /x}",
    }.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    subprocess.run("git init -q . && git add . && git commit -q -m one", shell=True, check=True)
    Path("src/own.py").write_text("told = 2")  # not committed
    with sandbox.room(Revision.find("HEAD")) as room:
        assert run(room, "import own; print(own.told, open('params.yaml').read())").split() == [
            "1", "execution:", "workers:", "auto", "shared:", "null",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (pl.DataFrame({"x": [float("inf")]}), "not finite"),
        (pl.DataFrame({"x": [[1]]}), "no plain values: x"),
        (pl.DataFrame({"x": range(9)}), "9 rows"),
    ],
)
def test_a_table_that_no_stage_writes_is_not_taken(tmp_path: Path, frame: pl.DataFrame, why: str) -> None:
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"^it .*{why}"):
        stage_runs.check_table(tmp_path / "t.parquet", "it", max_rows=5)
    with pytest.raises(UserError, match=r"^it is no readable table"):
        stage_runs.check_table(b"PAR1", "it")
