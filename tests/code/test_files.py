from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crashcast import files
from crashcast.canonical import json_text, write_json, write_text
from crashcast.errors import UserError, refusal
from crashcast.files import create, held_alone, link, md5, replacing, replacing_folder

ROOT = Path(__file__).parents[2]


def test_a_lock_has_one_holder_at_a_time(tmp_path):
    lock = tmp_path / "folder/lock"
    with held_alone(lock, "first"), pytest.raises(UserError, match="second"), held_alone(lock, "second"):
        pass
    with held_alone(lock, "third"):
        assert lock.exists()


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_json_has_one_form():
    text = '{\n  "a": [\n    1,\n    2\n  ],\n  "b": "\N{LATIN SMALL LETTER U WITH DIAERESIS}"\n}'
    assert json_text({"b": "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "a": (1, 2)}) == text
    assert json_text({"a": [1, 2], "b": "\N{LATIN SMALL LETTER U WITH DIAERESIS}"}) == text


def test_numbers_keep_six_significant_digits_and_counts_every_one():
    value = {"share": 0.123456789, "large": 1234567.8, "tiny": 1.23456789e-12, "count": 123456789}
    assert json.loads(json_text(value)) == {
        "share": 0.123457,
        "large": 1234570.0,
        "tiny": 1.23457e-12,
        "count": 123456789,
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_seventeen_digits_keep_every_bit(number):
    assert float.hex(json.loads(json_text(number, digits=17))) == float.hex(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_again_changes_nothing(number):
    once = json_text(number)
    assert json_text(json.loads(once)) == once


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (float("nan"), r"\$ is nan"),
        ({"a": {"b": [1.0, float("inf")]}}, r"\$\.a\.b\[1\] is inf"),
        ({"a": np.float32("-inf")}, r"\$\.a is -inf"),
        ({"a": ({"b": np.nan},)}, r"\$\.a\[0\]\.b is nan"),
    ],
)
def test_what_is_no_finite_number_is_refused_by_its_key(tmp_path, value, where):
    with pytest.raises(ValueError, match=where):
        write_json(tmp_path / "metrics.json", value)
    assert names(tmp_path) == []


def test_numpy_scalars_are_plain_numbers():
    value = {"f": np.float32(0.1), "i": np.int64(7), "b": np.bool_(True), "u": np.uint8(3), 5: np.float64(0.5)}
    assert json.loads(json_text(value)) == {"f": 0.1, "i": 7, "b": True, "u": 3, "5": 0.5}
    assert '"b": true' in json_text(value)


def test_none_is_null_and_text_is_left_alone():
    assert json.loads(json_text({"a": None, "b": "NaN", "c": True})) == {"a": None, "b": "NaN", "c": True}


def test_text_ends_in_one_newline(tmp_path):
    for text in ("one\ntwo", "one\ntwo\n", "one\ntwo\n\n"):
        write_text(tmp_path / "deep" / "text", text)
        assert (tmp_path / "deep" / "text").read_bytes() == b"one\ntwo\n"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """Set up a project in which DVC itself has hashed a file and a folder."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvcignore").write_bytes((ROOT / ".dvcignore").read_bytes())
    (root / "file.bin").write_bytes(b"\r\n\x00" * 70_000)
    for name in (
        "month=2026-01/part-0.parquet",
        "month=2026-02/part-0.parquet",
        "a/b",  # sorts after a-b and a.b where whole paths are compared
        "a-b",
        "a.b",
        "Z",
        "empty",
        "with space, \N{LATIN SMALL LETTER U WITH DIAERESIS}",
        ".hidden",
        ".hidden.d/file",
        "a/.part-0.parquet.4711",
        "__pycache__/module.cpython-311.pyc",
        "a/__pycache__/x",
        "a/module.pyc",
    ):
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty" else name)
    (root / "folder" / "nothing").mkdir()
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "file.bin", "folder"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True)
    return root


def recorded(root, name):
    return yaml.safe_load((root / f"{name}.dvc").read_text())["outs"][0]


@pytest.mark.parametrize("name", ["file.bin", "folder"])
def test_md5_is_what_dvc_records(tracked, name):
    assert md5(tracked / name) == recorded(tracked, name)["md5"]


def test_dvc_ignores_what_md5_ignores(tracked, tmp_path):
    assert recorded(tracked, "folder")["nfiles"] == 8
    folder = shutil.copytree(tracked / "folder", tmp_path / "folder")
    for name in (".hidden", "a/.part-0.parquet.4711", "__pycache__/module.cpython-311.pyc"):
        (folder / name).write_text("changed")
    assert md5(folder) == md5(tracked / "folder")
    (folder / "a" / "b").write_text("changed")
    assert md5(folder) != md5(tracked / "folder")


def test_md5_of_a_file_by_hand(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert md5(tmp_path / "file") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321


def test_md5_of_a_folder_by_hand(tmp_path):
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    listing = (
        '[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "a"}, '
        '{"md5": "900150983cd24fb0d6963f7d28e17f72", "relpath": "b"}]'
    )
    assert md5(tmp_path) == hashlib.md5(listing.encode()).hexdigest() + ".dir"


def write(path, content, then=None):
    with replacing(path) as aside:
        aside.write_text(content)
        if then:
            raise then


def fill(path, then=None, **contents):
    with replacing_folder(path) as aside:
        for name, content in contents.items():
            (aside / name).write_text(content)
        if then:
            raise then


def test_a_file_is_replaced(tmp_path):
    for content in ("old", "new"):
        write(tmp_path / "deep" / "file", content)
    assert names(tmp_path) == ["deep", "deep/file"]
    assert (tmp_path / "deep" / "file").read_text() == "new"


def test_a_folder_is_replaced_with_all_it_held(tmp_path):
    fill(tmp_path / "deep" / "folder", a="old", b="old")
    fill(tmp_path / "deep" / "folder", b="new", c="new")
    assert names(tmp_path / "deep") == ["folder", "folder/b", "folder/c"]
    assert (tmp_path / "deep" / "folder" / "b").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_all_as_it_was(tmp_path, error):
    write(tmp_path / "file", "old")
    fill(tmp_path / "folder", a="old")
    with pytest.raises(error):
        write(tmp_path / "file", "half", then=error)
    with pytest.raises(error):
        fill(tmp_path / "folder", a="half", then=error)
    assert names(tmp_path) == ["file", "folder", "folder/a"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("write", ["write_csv", "write_json", "write_parquet"])
def test_a_full_disk_is_told_whatever_library_writes(tmp_path, write):
    with pytest.raises(Exception, match="No space left") as raised, replacing(tmp_path / "f"):
        getattr(pl.DataFrame({"x": ["x" * 50] * 2000}), write)("/dev/full")
    assert "No space left on device; make room" in str(refusal(raised.value))
    assert list(tmp_path.iterdir()) == []


def test_what_was_never_written_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from collections.abc import Callable
from pathlib import Path
from crashcast.files import replacing, replacing_folder

with replacing_folder(Path("folder")) as folder, replacing(Path("file")) as file:
    (folder / "deep").mkdir()
    (folder / "deep" / "half").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_confuses_nobody(tmp_path):
    write(tmp_path / "file", "old")
    fill(tmp_path / "folder", a="old")
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "old"
    assert names(tmp_path / "folder") == ["a"]
    assert [name for name in names(tmp_path) if name.startswith(".")]  # what it left

    write(tmp_path / "file", "new")
    fill(tmp_path / "folder", b="new")
    assert names(tmp_path) == ["file", "folder", "folder/b"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "b").read_text() == "new"


def test_what_a_killed_process_of_the_same_number_left_is_not_mixed_in(tmp_path):
    left = tmp_path / f".folder.{os.getpid()}"
    left.mkdir()
    (left / "half").write_text("half")
    (tmp_path / f".file.{os.getpid()}").write_text("a longer half")
    fill(tmp_path / "folder", a="new")
    write(tmp_path / "file", "new")
    assert names(tmp_path) == ["file", "folder", "folder/a"]
    assert (tmp_path / "file").read_text() == "new"


def test_what_a_running_process_is_writing_is_left_alone(tmp_path):
    others = [f".folder.{os.getppid()}", ".folder.backup", ".folderx.999999999", "folder.999999999"]
    for name in others:
        (tmp_path / name).mkdir()
    fill(tmp_path / "folder", a="new")
    assert names(tmp_path) == sorted([*others, "folder", "folder/a"])


def test_somebody_elses_process_counts_as_running(tmp_path, monkeypatch):
    def forbid(process, signal):
        raise PermissionError

    monkeypatch.setattr(files.os, "kill", forbid)
    (tmp_path / ".file.1").write_text("half")
    write(tmp_path / "file", "new")
    assert names(tmp_path) == [".file.1", "file"]


def test_hard_links_are_made_in_one_place() -> None:
    calls = {
        file.relative_to(ROOT / "src").as_posix()
        for file in (ROOT / "src").rglob("*.py")
        if "os.link(" in file.read_text()
    }
    assert calls == {"crashcast/files.py"}


def test_a_folder_that_cannot_be_moved_into_place_is_an_error_and_the_old_one_stays(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    replace = os.replace

    def refuse_the_new(source, target):
        if (Path(source) / "new").exists():
            raise OSError(errno.EIO, "no such luck")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new)
    with pytest.raises(OSError, match="no such luck"), replacing_folder(tmp_path / "folder") as aside:
        (aside / "new").touch()
    assert names(tmp_path) == ["folder", "folder/old"]


def refusing(number):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_link_is_the_same_file_or_a_copy_if_the_file_system_cannot_link(tmp_path, monkeypatch, number):
    (tmp_path / "source").write_bytes(b"one")
    if number:
        monkeypatch.setattr(os, "link", refusing(number))
    link(tmp_path / "source", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == b"one"
    assert (tmp_path / "new" / "target").samefile(tmp_path / "source") == (number is None)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_any_other_refusal_of_a_link_is_an_error_and_copies_nothing(tmp_path, monkeypatch, number):
    (tmp_path / "source").write_bytes(b"one")
    (tmp_path / "target").write_bytes(b"two")
    with pytest.raises(FileExistsError):
        link(tmp_path / "source", tmp_path / "target")
    monkeypatch.setattr(os, "link", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"two"


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_file_is_created_once_also_if_the_file_system_cannot_link(tmp_path, monkeypatch, number):
    if number:
        monkeypatch.setattr(os, "link", refusing(number))
    assert create(tmp_path / "new" / "file", b"one")
    assert not create(tmp_path / "new" / "file", b"two")
    assert (tmp_path / "new" / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["new", "new/file"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_created_is_an_error_that_names_it(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refusing(number))
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        create(tmp_path / "file", b"one")
    assert str(tmp_path / "file") in str(refusal(error.value))
    assert names(tmp_path) == []


def test_of_processes_that_create_the_same_files_each_file_is_of_one(tmp_path):
    program = (
        "import sys; from pathlib import Path; from crashcast.files import create\n"
        "print(sum(create(Path(sys.argv[1], str(n)), sys.argv[2].encode() * 1000) for n in range(300)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "made")]
    processes = [subprocess.Popen([*command, word], stdout=subprocess.PIPE, text=True) for word in "ab"]
    counts = dict(zip("ab", [int(process.communicate()[0]) for process in processes], strict=True))
    assert sum(counts.values()) == 300
    contents = [path.read_bytes() for path in (tmp_path / "made").iterdir()]
    assert {word: contents.count(word.encode() * 1000) for word in "ab"} == counts


WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: write_text(folder / "made", "x"),
    "a file deep below": lambda folder: write_text(folder / "a/b/made", "x"),
    "a link": lambda folder: files.link(Path(__file__), folder / "made"),
    "a folder": lambda folder: fill(folder / "made", one="x"),
    "a new file": lambda folder: create(folder / "made", b"x"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("link", ["reports", "metrics", "data/clean", "plots/deep/er"])
def test_nothing_is_written_through_a_link_of_a_commit(tmp_path, monkeypatch, shell, link, write):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "project" / link).parent.mkdir(parents=True)
    (tmp_path / "project" / link).symlink_to(elsewhere)
    monkeypatch.chdir(tmp_path / "project")
    shell("git init -q && git add .", cwd=tmp_path / "project")
    for folder in (Path(link), Path(link).absolute()):
        with pytest.raises(UserError, match=f"{link} is a symbolic link in git, to {elsewhere}$"):
            write(folder)
    assert [*elsewhere.iterdir()] == []


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_of_the_users_own_is_followed(tmp_path, monkeypatch, shell, write):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "reports").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    write(Path("reports"))
    shell("git init -q && rm -r elsewhere && mkdir elsewhere")
    files._is_committed.cache_clear()
    write(Path("reports"))
    assert len([*(tmp_path / "elsewhere").iterdir()]) == 1
