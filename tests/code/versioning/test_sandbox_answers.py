"""Answers of a commit's code, carried from the machine that runs it to the one that judges."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.versioning import sandbox_answers
from crashcast.versioning.sandbox import Room

COMMIT = "c" * 40
CODE = "import pathlib as p; p.Path('out').mkdir(); p.Path('out/a').write_text('written'); print('printed')"
TALK = "import sys; [print(line.strip() + '!', flush=True) for line in sys.stdin]"
Rooms = Callable[..., Room]


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    """Return what gives a room, outside the sandbox, whose answers are kept or given."""

    def make(content: str = "given") -> Room:
        place = tmp_path / f"room-{len([*tmp_path.iterdir()])}"
        (place / "code").mkdir(parents=True)
        room = Room(Path(sys.executable), place, place / "code", is_apart=False, answers=sandbox_answers.of(COMMIT))
        room.input("table").write_text(content)
        return room

    return make


@pytest.fixture
def kept(rooms: Rooms, tmp_path: Path) -> Path:
    """Return a folder with what two commands answered."""
    folder = tmp_path / "answers"
    with sandbox_answers.keeping(folder, COMMIT, "it is not installed"):
        room = rooms()
        assert room.run(room.python, "-c", CODE, failure="the code fails") == b"printed\n"
        assert room.written("out")["a"].read_text() == "written"
        assert talk(rooms()) == [b"one!\n", b"two!\n"]
    return folder


def talk(room: Room, asked: str = "one, two") -> list[bytes]:
    with room.running(room.python, "-c", TALK, failure="the code fails", asked=asked) as talk:
        found = []
        for word in (b"one\n", b"two\n"):
            talk.stdin.write(word)
            talk.stdin.flush()
            found.append(talk.stdout.read(5))
            if not found[-1]:
                raise EOFError
    return found


def test_a_judge_gets_them_and_runs_nothing(kept: Path, rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("something runs"))
    with sandbox_answers.given(kept, COMMIT):
        room = rooms()
        assert room.run(room.python, "-c", CODE, failure="the code fails") == b"printed\n"
        assert {name: file.read_bytes() for name, file in room.written("out").items()} == {"a": b"written"}
        assert talk(rooms()) == [b"one!\n", b"two!\n"]
        given = sandbox_answers.of(COMMIT)
        assert given is not None
        assert sandbox_answers.missing_sandbox(given) == "it is not installed"
        assert sandbox_answers.of("d" * 40) is None  # code of other commits runs here
    assert sandbox_answers.of(COMMIT) is None


@pytest.mark.parametrize(
    ("content", "code"), [("given", "1"), ("changed", CODE)], ids=["another command", "another input"]
)
def test_an_answer_belongs_to_its_question(kept: Path, rooms: Rooms, content: str, code: str) -> None:
    with sandbox_answers.given(kept, COMMIT):
        room = rooms(content)
        with pytest.raises(UserError, match="have none to this question"):
            room.run(room.python, "-c", code, failure="the code fails")


def test_an_answer_belongs_to_what_was_said_to_the_command(kept: Path, rooms: Rooms) -> None:
    with sandbox_answers.given(kept, COMMIT), pytest.raises(UserError, match="have none to this question"):
        talk(rooms(), "three")


def test_an_answer_that_is_cut_is_none(kept: Path, rooms: Rooms) -> None:
    for printed in kept.rglob(sandbox_answers.PRINTED):
        printed.write_bytes(printed.read_bytes()[:5])
    with sandbox_answers.given(kept, COMMIT), pytest.raises(UserError, match="have none to this question"):
        talk(rooms())


def test_links_among_them_are_not_followed(kept: Path) -> None:
    next(kept.rglob("a")).unlink()
    next(kept.rglob("out")).joinpath("a").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="/written/out/a is no regular file"), sandbox_answers.given(kept, COMMIT):
        pass


@pytest.mark.parametrize("note", [None, "no json", "[]", "{}", '{"missing": ' + "[" * 5000])
def test_a_folder_without_the_note_about_the_sandbox_holds_no_answers(tmp_path: Path, note: str | None) -> None:
    if note is not None:
        (tmp_path / sandbox_answers.SANDBOX).write_text(note)
    with sandbox_answers.given(tmp_path, COMMIT):
        found = sandbox_answers.of(COMMIT)
        assert found is not None
        with pytest.raises(UserError, match="holds no answers"):
            sandbox_answers.missing_sandbox(found)
