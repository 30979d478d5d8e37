"""The memo: results of partitions that were computed before, by a hash of everything they depend on.

It is in DVC's cache folder, so that worktrees and experiments share it. Results are stored as hard links: those of
tables to the files of DVC's cache and the work tree, which takes no extra disk. If it is deleted, results are computed
again.

An entry is two files: KEY.parquet, absent for an empty result, and KEY.json, its hash and the task's counts. The record
is written last and checked against its own hash, so an incomplete entry is ignored. A result is checked against its
hash before it is used (file_hashes.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from crashcast.canonical import json_text
from crashcast.errors import UserError
from crashcast.execution.file_hashes import Digests
from crashcast.execution.orphan_guard import dvc_above
from crashcast.files import link, replacing
from crashcast.progress import MB
from crashcast.versioning import cache

SWITCH = "CRASHCAST_MEMO"
NAME = "crashcast-memo"
MAX_SLICES = 20_000  # of 64 bytes


class Entry(NamedTuple):
    """One task's result in the memo."""

    stage: str
    partition: str
    size_bytes: int
    is_linked: bool  # a hard link to a file of DVC's cache or a work tree
    used_at_s: float
    record: Path


@dataclass(frozen=True)
class Memo:
    """A folder of results.

    Attributes
    ----------
    folder : Path
        Created when needed.
    recalls : bool
        Whether results may be taken from it; they are kept in any case.
    """

    folder: Path
    recalls: bool = True

    @cached_property
    def digests(self) -> Digests:
        """The hashes of files that stages read and wrote."""
        return Digests(self.folder / "digests.json")

    def recall(self, key: str, path: Path) -> dict[str, Any] | None:
        """Put the result of a task at `path` and return its counts; None if there is none, or it is damaged."""
        record = self._record(key)
        content = read(record) if self.recalls else None
        if content is None:
            return None
        if content["sha256"] is not None:
            try:
                link(record.with_suffix(".parquet"), path)
            except FileNotFoundError:
                return None
            if self.digests.of(path) != content["sha256"]:
                path.unlink()
                self.forget(key)
                print(
                    f"{content['stage']}: the memo's {content['partition']} is damaged: computed again", file=sys.stderr
                )
                return None
        os.utime(record)  # used now: trim takes the longest unused first
        counts: dict[str, Any] = content["counts"]
        return counts

    def keep(self, key: str, stage: str, partition: str, path: Path, counts: dict[str, Any]) -> None:
        """Remember the result at `path`; without a file there, it is empty."""
        record, digest = self._record(key), self.digests.of(path) if path.exists() else None
        before, data = read(record), record.with_suffix(".parquet")
        if before is not None and (before["sha256"], before["counts"]) != (digest, counts):
            print(f"{stage}: {partition} differs from an earlier run's: is it reproducible?", file=sys.stderr)
        if before is not None and data.exists() and self.digests.of(data) == digest:
            with replacing(path) as aside:  # the same bytes as what DVC's cache has linked already
                link(data, aside)
            return
        self.forget(key)
        if digest is not None:
            with replacing(data) as aside:
                link(path, aside)
        with replacing(record) as aside:
            write(aside, stage, partition, digest, counts)

    def forget(self, key: str) -> None:
        """Remove an entry, the record first."""
        record = self._record(key)
        record.unlink(missing_ok=True)
        record.with_suffix(".parquet").unlink(missing_ok=True)

    def slice_digest(self, name: str, compute: Callable[[], str]) -> str:
        """Return `compute()`, remembered by `name`, which must identify all that it depends on."""
        path = self.folder / "slices" / hashlib.sha256(name.encode()).hexdigest()
        with suppress(OSError, UnicodeDecodeError):
            if re.fullmatch("[0-9a-f]{64}", text := path.read_text(encoding="ascii")):
                os.utime(path)
                return text
        digest = compute()
        with replacing(path) as aside:
            aside.write_text(digest, encoding="ascii")
        return digest

    def entries(self) -> Iterator[Entry]:
        """Yield every entry."""
        for record in sorted(self.folder.glob("??/*.json")):
            with suppress(FileNotFoundError):  # another run may be trimming
                content, used_at_s = read(record), record.stat().st_mtime
                data = record.with_suffix(".parquet")
                size, links = (data.stat().st_size, data.stat().st_nlink) if data.exists() else (0, 2)
                stage, partition = (content["stage"], content["partition"]) if content else ("damaged", "")
                yield Entry(stage, partition, size + record.stat().st_size, links > 1, used_at_s, record)

    def trim(self, limit_bytes: float) -> None:
        """Forget the entries that have been unused the longest, until the rest is within the limit."""
        held = 0
        for entry in sorted(self.entries(), key=lambda entry: entry.used_at_s, reverse=True):
            held += entry.size_bytes
            if held > limit_bytes:
                self.forget(entry.record.stem)
        slices = sorted(self.folder.glob("slices/*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in slices[MAX_SLICES:]:
            path.unlink(missing_ok=True)

    def verify(self) -> list[Entry]:
        """Read every result, forget those that are damaged, and return them."""
        self.digests.forget()
        damaged = []
        for entry in list(self.entries()):
            content, data = read(entry.record), entry.record.with_suffix(".parquet")
            if content is None or (
                content["sha256"] and (not data.exists() or self.digests.of(data) != content["sha256"])
            ):
                damaged.append(entry)
                self.forget(entry.record.stem)
        self.digests.save()
        return damaged

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def find() -> Memo | None:
    """Return the memo of the project in the working directory; None if it is switched off or there is no DVC.

    `dvc repro --force` computes everything: it recalls nothing, and renews what it computes.

    Raises
    ------
    UserError
        If the switch in the environment is neither `on` nor `off`.
    """
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise UserError(f"{SWITCH} is '{switch}': set it to `off` to compute every partition, or leave it out")
    if switch == "off" or not Path(".dvc").is_dir():
        return None
    return Memo(cache.shared_root() / NAME, recalls=not _is_forced())


@contextmanager
def temporary() -> Iterator[Path]:
    """Give an empty folder on the memo's file system, so that results can be links, and killed runs leave nothing."""
    if Path(".dvc").is_dir():
        with cache.temporary() as place:
            yield place
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)


def show(store: Memo, console: Console) -> None:
    """Draw a table of the memo's entries by stage."""
    groups: dict[str, list[Entry]] = {}
    for entry in store.entries():
        groups.setdefault(entry.stage, []).append(entry)
    table = Table("Stage", "Partitions", "Results", "Size", "Only here", box=box.SIMPLE_HEAD)
    for stage, entries in groups.items():
        size = sum(entry.size_bytes for entry in entries)
        alone = sum(entry.size_bytes for entry in entries if not entry.is_linked)
        partitions = len({entry.partition for entry in entries})
        table.add_row(stage, str(partitions), str(len(entries)), f"{size / MB:,.1f} MB", f"{alone / MB:,.1f} MB")
    console.print(table)
    console.print(f"{store.folder}\nThe others are hard links to files of DVC's cache or a work tree.")


def _is_forced() -> bool:
    dvc = dvc_above(psutil.Process())
    with suppress(psutil.Error):  # it was killed meanwhile, and takes this stage with it
        return dvc is not None and any(re.fullmatch(r"--force|-[a-zA-Z]*f[a-zA-Z]*", word) for word in dvc.cmdline())
    return False


def read(record: Path) -> dict[str, Any] | None:
    """Return the `stage`, `partition`, `sha256` and `counts` of a record; None if it is missing or damaged."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        content: dict[str, Any] = found["content"]
        return content if found["sha256"] == _hash(content) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(record: Path, stage: str, partition: str, digest: str | None, counts: dict[str, Any]) -> None:
    """Write the record of a result: the hash of its file, None if it is empty, and its counts."""
    content = {"stage": stage, "partition": partition, "sha256": digest, "counts": counts}
    record.write_text(json.dumps({"content": content, "sha256": _hash(content)}), encoding="utf-8")


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(content, digits=17).encode()).hexdigest()
