"""Entries of the memo, by hand; test_runner.py shows it at work."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from crashcast.execution import memo
from crashcast.execution.memo import Memo

COUNTS = {"rows": 3, "share": 0.1}


@pytest.fixture
def store(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo")


def result(path: Path, text: str = "one") -> Path:
    path.write_text(text)
    return path


def kept(store: Memo, key: str = "abc", text: str | None = "one", partition: str = "day=1") -> Path:
    """Keep a result, and return where the memo has it; without text it is empty."""
    path = store.folder.parent / f"result-{key}"
    if text is not None:
        result(path, text)
    store.keep(key, "clean", partition, path, COUNTS)
    path.unlink(missing_ok=True)
    return store.folder / key[:2] / f"{key}.parquet"


def keys(store: Memo) -> list[str]:
    return [entry.record.stem for entry in store.entries()]


def test_a_result_comes_back_with_its_counts_as_the_same_file(store: Memo, tmp_path: Path) -> None:
    data = kept(store)
    assert store.recall("abc", tmp_path / "again") == COUNTS
    assert (tmp_path / "again").read_text() == "one"
    assert (tmp_path / "again").samefile(data)
    assert store.recall("abd", tmp_path / "other") is None
    assert not (tmp_path / "other").exists()


def test_an_empty_result_comes_back_without_a_file(store: Memo, tmp_path: Path) -> None:
    data = kept(store, text=None)
    assert store.recall("abc", tmp_path / "again") == COUNTS
    assert not (tmp_path / "again").exists()
    assert not data.exists()


def test_a_memo_that_recalls_nothing_keeps_all_the_same(store: Memo, tmp_path: Path) -> None:
    forced = Memo(store.folder, recalls=False)
    kept(forced)
    assert forced.recall("abc", tmp_path / "again") is None
    assert store.recall("abc", tmp_path / "again") == COUNTS


def test_a_damaged_result_is_forgotten_and_told(
    store: Memo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = kept(store)
    data.write_text("two")
    assert store.recall("abc", tmp_path / "again") is None
    assert not (tmp_path / "again").exists()
    assert keys(store) == []
    assert not data.exists()
    assert capsys.readouterr().err == "clean: the memo's day=1 is damaged: computed again\n"


def test_a_result_whose_file_is_gone_is_computed_again(store: Memo, tmp_path: Path) -> None:
    kept(store).unlink()
    assert store.recall("abc", tmp_path / "again") is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace("day=1", "day=2"),
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"content": {}}',
        lambda text: "3",
    ],
)
def test_a_damaged_record_is_no_record(store: Memo, tmp_path: Path, harm) -> None:
    record = kept(store).with_suffix(".json")
    record.write_text(harm(record.read_text()))
    assert memo.read(record) is None
    assert store.recall("abc", tmp_path / "again") is None
    assert [(entry.stage, entry.partition) for entry in store.entries()] == [("damaged", "")]
    assert [entry.stage for entry in store.verify()] == ["damaged"]
    assert keys(store) == []


@pytest.mark.parametrize(
    ("text", "counts", "is_told"),
    [("one", COUNTS, False), ("two", COUNTS, True), ("one", COUNTS | {"rows": 4}, True), (None, COUNTS, True)],
)
def test_only_a_result_that_differs_from_the_earlier_one_is_told(
    store: Memo, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, counts: dict, is_told: bool
) -> None:
    data = kept(store)
    assert capsys.readouterr().err == ""
    path = tmp_path / "result"
    if text:
        result(path, text)
    store.keep("abc", "clean", "day=1", path, counts)
    told = "clean: day=1 differs from an earlier run's: is it reproducible?\n"
    assert capsys.readouterr().err == told * is_told
    assert store.recall("abc", tmp_path / "again") == (counts if text != "one" else COUNTS)
    assert data.exists() == bool(text)
    if text:
        assert (tmp_path / "again").read_text() == text
        assert path.samefile(data)


def test_a_result_is_never_replaced_by_a_damaged_one_of_the_memo(store: Memo, tmp_path: Path) -> None:
    data = kept(store)
    data.write_text("damaged")
    store.keep("abc", "clean", "day=1", result(tmp_path / "result"), COUNTS)
    assert (tmp_path / "result").read_text() == data.read_text() == "one"


def test_a_result_that_is_empty_now_leaves_no_file_of_the_earlier_one(store: Memo, tmp_path: Path) -> None:
    data = kept(store)
    store.keep("abc", "clean", "day=1", tmp_path / "nothing", COUNTS)
    assert not data.exists()
    assert store.recall("abc", tmp_path / "again") == COUNTS


def test_entries_say_what_they_take_and_whether_another_place_has_them(store: Memo, tmp_path: Path) -> None:
    before_s = time.time() - 1
    data = kept(store, text="x" * 1000)
    (entry,) = store.entries()
    record_bytes = data.with_suffix(".json").stat().st_size
    assert (entry.stage, entry.partition, entry.size_bytes) == ("clean", "day=1", 1000 + record_bytes)
    assert not entry.is_linked
    assert before_s < entry.used_at_s < time.time() + 1
    (tmp_path / "elsewhere").hardlink_to(data)
    assert [entry.is_linked for entry in store.entries()] == [True]
    kept(store, "bcd", None)
    (_, empty) = store.entries()
    assert (empty.is_linked, empty.size_bytes) == (True, empty.record.stat().st_size)  # there is nothing to lose


def test_a_recalled_result_counts_as_used(store: Memo, tmp_path: Path) -> None:
    record = kept(store).with_suffix(".json")
    os.utime(record, (0, 0))
    store.recall("abc", tmp_path / "again")
    assert record.stat().st_mtime > time.time() - 60


def test_the_longest_unused_go_until_the_rest_is_within_the_limit(store: Memo) -> None:
    for age, key in enumerate(("bbb", "aaa", "ccc")):
        os.utime(kept(store, key, "x" * 1000).with_suffix(".json"), (100 - age, 100 - age))
    sizes = {entry.record.stem: entry.size_bytes for entry in store.entries()}
    store.trim(sizes["bbb"] + sizes["aaa"] + sizes["ccc"])
    assert keys(store) == ["aaa", "bbb", "ccc"]
    store.trim(sizes["bbb"] + sizes["aaa"])
    assert keys(store) == ["aaa", "bbb"]
    store.trim(sizes["bbb"] + sizes["aaa"] - 1)
    assert keys(store) == ["bbb"]


def test_verifying_reads_every_result_anew_and_forgets_the_damaged_ones(store: Memo) -> None:
    data = {key: kept(store, key, text) for key, text in (("aaa", "one"), ("bbb", "two"), ("ccc", None))}
    kept(store, "ddd").unlink()
    time.sleep(0.06)  # until their hashes are remembered
    assert [entry.record.stem for entry in store.verify()] == ["ddd"]
    status = data["bbb"].stat()
    data["bbb"].write_text("owt")  # as a disk that decays: neither size nor time change
    os.utime(data["bbb"], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.digests.of(data["bbb"]) == hashlib.sha256(b"two").hexdigest()  # remembered
    assert [entry.record.stem for entry in store.verify()] == ["bbb"]
    assert keys(store) == ["aaa", "ccc"]
    assert (store.folder / "digests.json").exists()


def test_a_slices_hash_is_computed_once(store: Memo) -> None:
    digests = iter(["a" * 64, "b" * 64, "c" * 64])
    assert store.slice_digest("one", lambda: next(digests)) == "a" * 64
    assert store.slice_digest("one", lambda: next(digests)) == "a" * 64
    assert store.slice_digest("two", lambda: next(digests)) == "b" * 64
    (file,) = (path for path in store.folder.glob("slices/*") if path.read_text() == "a" * 64)
    for damaged in ("a" * 63, "a" * 65, "g" * 64, "\xff"):
        file.write_text(damaged, encoding="latin-1")
        assert store.slice_digest("one", lambda: "d" * 64) == "d" * 64
    os.utime(file, (0, 0))
    store.slice_digest("one", lambda: "e" * 64)
    assert file.stat().st_mtime > time.time() - 60  # used now


def test_the_slices_used_last_are_kept(store: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memo.MAX_SLICES == 20_000
    monkeypatch.setattr(memo, "MAX_SLICES", 2)
    for age, name in enumerate("abc"):
        store.slice_digest(name, lambda name=name: name * 64)
        (file,) = (path for path in store.folder.glob("slices/*") if path.read_text() == name * 64)
        os.utime(file, (age, age))
    store.trim(1e9)
    assert sorted(path.read_text()[0] for path in store.folder.glob("slices/*")) == ["b", "c"]


def test_clearing_forgets_everything(store: Memo) -> None:
    kept(store)
    store.clear()
    assert not store.folder.exists()
    store.clear()


def test_the_table_of_entries_adds_up_by_stage(store: Memo, tmp_path: Path) -> None:
    for key, size, partition in (("aaa", 2_000_000, "day=1"), ("bbb", 1_000_000, "day=1"), ("ccc", 500_000, "day=2")):
        data = kept(store, key, "x" * size, partition)
    (tmp_path / "elsewhere").hardlink_to(data)
    text = io.StringIO()
    memo.show(store, Console(file=text, width=100))
    (row,) = (line.split() for line in text.getvalue().splitlines() if "clean" in line)
    assert row == ["clean", "2", "3", "3.5", "MB", "3.0", "MB"]


@pytest.mark.parametrize(
    ("command", "is_forced"),
    [
        ("dvc repro", False),
        ("dvc repro --force", True),
        ("dvc repro -f", True),
        ("dvc repro -sf train", True),
        ("dvc repro --force-downstream", False),
        ("dvc repro featurize", False),
        (None, False),
    ],
)
def test_a_forced_run_recalls_nothing(monkeypatch: pytest.MonkeyPatch, command: str | None, is_forced: bool) -> None:
    dvc = command and SimpleNamespace(cmdline=command.split)
    monkeypatch.setattr(memo, "dvc_above", lambda process: dvc)
    assert memo._is_forced() is is_forced


def test_a_dvc_that_was_killed_meanwhile_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> list[str]:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(memo, "dvc_above", lambda process: SimpleNamespace(cmdline=gone))
    assert memo._is_forced() is False


def test_the_memo_is_in_dvcs_cache_if_there_is_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memo, "dvc_above", lambda process: None)
    monkeypatch.setattr(memo.cache, "root", lambda: tmp_path / "cache")
    assert memo.find() is None
    (tmp_path / ".dvc").mkdir()
    assert memo.find() == Memo(tmp_path / "cache" / "crashcast-memo", recalls=True)
    monkeypatch.setattr(memo, "_is_forced", lambda: True)
    assert memo.find() == Memo(tmp_path / "cache" / "crashcast-memo", recalls=False)
