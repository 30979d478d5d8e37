"""The doctor's own rules, without a server: what commits need, what a push brings, what is repaired, how it ends."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from crashcast import canonical, files
from crashcast.doctor import checks, examine, garbage, pushed
from crashcast.doctor.cache import Cache
from crashcast.doctor.findings import SOUND, UNKNOWN, WRONG, Finding, as_json, exit_status, mended, show
from crashcast.errors import UserError
from crashcast.versioning.bucket import Bucket, Stored
from crashcast.versioning.outputs import Output, Unread, find_revisions, outputs_of
from crashcast.versioning.revision import Revision
from crashcast.versioning.side_by_side import side_by_side

A, B, C, D = ("0123456789abcdef0123456789abcde" + letter for letter in "abcd")
POINTER = f"outs:\n- md5: {A}.dir\n  size: 30\n  nfiles: 2\n  hash: md5\n  path: raw\n"
LOCK = f"""schema: '2.0'
stages:
  join:
    cmd: join
    outs:
    - {{path: out/kept, hash: md5, md5: {B}, size: 3}}
    - {{path: out/local, hash: md5, md5: {C}, size: 4}}
    - {{path: out/figures.json, hash: md5, md5: {D}, size: 5}}
    - {{path: out/no-cache, hash: md5, md5: {D}, size: 5}}
"""
PIPELINE = """stages:
  join:
    cmd: join
    outs: [out/kept, {out/local: {push: false}}, {out/no-cache: {cache: false}}]
    metrics: [{out/figures.json: {cache: false}}]
"""

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git repository with what DVC writes, in its folder `sub`."""
    here = tmp_path / "sub"
    for name, text in {
        "data/raw.dvc": POINTER,
        "dvc.lock": LOCK,
        "dvc.yaml": PIPELINE,
        "out/figures.json": "{}",
        ".dvc/config": "",
    }.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    shell("git init -q -b main && git add -A && git commit -q -m one")
    monkeypatch.chdir(here)
    return here


def outputs() -> tuple[list[Output], list[Unread]]:
    return outputs_of(find_revisions())


def test_a_commit_needs_what_dvc_keeps_and_nothing_that_git_keeps(project: Path) -> None:
    name = Revision.find("HEAD").name

    assert outputs() == (
        [
            Output("data/raw", f"{A}.dir", 30, name),
            Output("out/kept", B, 3, name),
            Output("out/local", C, 4, name, is_pushed=False),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("name", "text", "severity", "reason"),
    [
        ("dvc.lock", f"<<<<<<< HEAD\n{LOCK}=======\n>>>>>>> theirs\n", "error", "merge conflict"),
        ("dvc.lock", "stages: [", "error", "is unreadable"),
        ("dvc.lock", "", "error", "no named sections"),
        ("dvc.lock", LOCK.replace("path: out/kept, ", ""), "error", "not as DVC writes it"),
        ("data/raw.dvc", POINTER.replace("  hash: md5\n", ""), "unknown", "no MD5 as DVC 3 records it"),
        ("dvc.yaml", "stages: [", "error", "is unreadable"),
    ],
)
def test_what_cannot_be_read_is_never_passed_over(
    project: Path, shell: Shell, name: str, text: str, severity: str, reason: str
) -> None:
    (project / name).write_text(text)
    shell("git commit -q -a -m two")

    [finding] = outputs()[1]

    assert finding.severity == severity
    assert reason in finding.what
    assert exit_status([finding]) != SOUND


def test_of_all_commits_each_output_is_named_once_with_a_commit_that_needs_it(project: Path, shell: Shell) -> None:
    (project / "data/raw.dvc").write_text(POINTER.replace(A, D))
    shell("git commit -q -a -m two")

    found, _ = outputs_of(find_revisions(all_commits=True))

    assert sorted(output.md5 for output in found) == sorted([f"{A}.dir", f"{D}.dir", B, C])
    assert {output.md5: output.revision for output in found}[f"{A}.dir"] == Revision.find("HEAD~1").name


def test_the_hook_asks_for_what_the_other_side_lacks(project: Path, shell: Shell) -> None:
    def sha(name: str) -> str:
        return Revision.find(name).sha

    zeros = "0" * 40
    for number in (2, 3):
        shell(f"git commit -q --allow-empty -m {number}")
    shell("git tag -a -m tag v1 && git init -q --bare other && git remote add other other")
    shell("git push -q other HEAD~2:refs/heads/main")

    assert pushed.commits([f"refs/heads/main {sha('main')} refs/heads/main {sha('HEAD~2')}"], "other") == [
        sha("HEAD"),
        sha("HEAD~1"),
    ]
    assert pushed.commits([f"refs/heads/new {sha('HEAD~1')} refs/heads/new {zeros}"], "other") == [sha("HEAD~1")]
    assert len(pushed.commits([f"refs/heads/new {sha('HEAD')} refs/heads/new {zeros}"], "file:///unnamed")) == 3
    tag = shell("git rev-parse v1").stdout.strip()
    assert pushed.commits([f"refs/tags/v1 {tag} refs/tags/v1 {zeros}"], "other") == [sha("HEAD"), sha("HEAD~1")]
    assert pushed.commits([f"(delete) {zeros} refs/heads/main {sha('HEAD')}"], "other") == []
    unknown = "1" * 40  # what somebody else pushed meanwhile
    assert len(pushed.commits([f"refs/heads/main {sha('main')} refs/heads/main {unknown}"], "other")) == 2


def test_every_hash_that_any_commit_names_is_kept_even_from_files_that_cannot_be_parsed(
    project: Path, shell: Shell
) -> None:
    (project / "dvc.lock").write_text(f"<<<<<<< {'e' * 32}\n")
    shell("git commit -q -a -m conflict && git reset -q --hard HEAD~1")  # in the reflog alone
    (project / "not-in-git.dvc").write_text(POINTER.replace(A, "f" * 32))
    (project / "staged.dvc").write_text(POINTER.replace(A, "1" * 32))
    shell("git add sub/staged.dvc")
    (project / "staged.dvc").unlink()

    named = garbage._named(garbage._work_trees())

    assert named >= {f"{A}.dir", B, C, D, "e" * 32, f"{'f' * 32}.dir", f"{'1' * 32}.dir"}


def test_nothing_is_garbage_if_the_data_of_head_was_not_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERYWHERE", [":(literal)*.dvc"])

    with pytest.raises(UserError, match=r"no file names data/raw, out/kept, out/local, though HEAD has it"):
        garbage._named(garbage._work_trees())


def test_our_side_of_a_conflict_is_taken_and_the_file_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = Path("dvc.lock")
    ours, base, theirs = (f"stages: {{a: {number}}}\n" for number in (1, 0, 2))
    text = f"schema: '2.0'\n<<<<<<< HEAD\n{ours}||||||| base\n{base}=======\n{theirs}>>>>>>> b\n"
    lock.write_text(text)

    checks._take_ours(lock)

    assert lock.read_text() == "schema: '2.0'\nstages: {a: 1}\n"
    assert (checks.NOTES / "dvc.lock.1").read_text() == text


def test_a_conflict_whose_our_side_is_no_yaml_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\nstages: [\n=======\nstages: {}\n>>>>>>> b\n")

    with pytest.raises(UserError, match=r"our side of .* is unreadable"):
        checks._take_ours(lock)

    assert lock.read_text().startswith("<<<<<<<")


def test_an_environment_that_is_not_the_locked_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = ".".join(map(str, sys.version_info[:3]))
    Path("requirements.txt").write_text("pyyaml>=1 \\\n    --hash=sha256:00\nrich==0.0.1\nno-such-package==1.0\n")
    Path("pyproject.toml").write_text(f'[project]\nrequires-python = "=={here}"\n')

    [lock] = checks.environment()
    assert (lock.severity, lock.where) == ("error", "requirements.txt")
    assert "rich==0.0.1 (here " in lock.what
    assert "no-such-package==1.0 (here missing)" in lock.what
    assert "pyyaml" not in lock.what

    Path("pyproject.toml").write_text('[project]\nrequires-python = "<3"\n')
    assert next(checks.environment()).what == f"{here} runs, the project wants <3"


def test_the_cache_is_hashed_again_where_it_changed_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    md5 = hashlib.md5(b"text").hexdigest()
    path = Cache(tmp_path).path(md5)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"text")
    read: list[Path] = []
    monkeypatch.setattr(files, "md5", lambda path, md5=files.md5: read.append(path) or md5(path))

    def states(deep: bool = False) -> tuple[str, int]:
        read.clear()
        return Cache(tmp_path).states([md5], deep)[md5], len(read)

    assert states() == ("good", 1)
    assert states() == ("good", 0)
    assert states(deep=True) == ("good", 1)
    path.write_bytes(b"tex!")
    assert states() == ("damaged", 1)
    assert states() == ("damaged", 1)
    path.unlink()
    assert states() == ("missing", 0)


M = hashlib.md5(b"abc").hexdigest()


class Answers(Bucket):
    """A bucket of which only the answers about one object are asked."""

    def __init__(self, head: dict[str, str], content: str) -> None:
        self.head, self.content_md5 = head, content

    def object_key(self, md5: str) -> str:
        return md5

    def call(self, method: str, **arguments: object) -> dict[str, str]:
        return self.head

    def hash_of(self, md5: str) -> str:
        return self.content_md5


CRC = "NSRBwg=="  # 0x352441c2, the CRC-32 of abc
KMS = {"ServerSideEncryption": "aws:kms"}
WHOLE = {"ChecksumCRC32": CRC, "ChecksumType": "FULL_OBJECT"}


@pytest.mark.parametrize(
    ("etag", "head", "content", "expected"),
    [
        (M, {}, B, True),  # the server hashed what it was sent
        (f"{B}-2", {}, M, None),  # sent in pieces
        (B, {}, M, True),  # another hash: read
        (B, {}, B, False),
        (B, {"ServerSideEncryption": "AES256"}, B, False),
        (B, KMS, B, None),  # such an ETag is no MD5
        (B, {"SSECustomerAlgorithm": "AES256"}, B, None),
        (B, KMS | WHOLE, B, True),  # as the copy's
        (B, KMS | WHOLE | {"ChecksumCRC32": "AAAAAA=="}, B, False),  # another: read
        (B, KMS | WHOLE | {"ChecksumType": "COMPOSITE"}, B, None),
    ],
)
def test_what_a_servers_checksums_show(
    tmp_path: Path, etag: str, head: dict[str, str], content: str, expected: bool | None
) -> None:
    copy, damaged = tmp_path / "copy", tmp_path / "damaged"
    copy.write_bytes(b"abc")
    damaged.write_bytes(b"abd")

    for name in (M, f"{M}.dir"):
        bucket = Answers(head, content)
        assert bucket.vouches(name, Stored(3, etag, 0), copy) is expected
        if "ChecksumCRC32" in head:  # a copy that is not whole shows nothing
            assert bucket.vouches(name, Stored(3, etag, 0), damaged) is None


SEVERITIES = st.sampled_from(["error", "unknown", "warning", "repaired", "note"])


@given(st.lists(SEVERITIES))
def test_the_exit_status_is_sound_only_where_nothing_is_wrong_or_unknown(severities: list) -> None:
    found = [Finding(severity, "here", "what") for severity in severities]

    expected = WRONG if "error" in severities else UNKNOWN if "unknown" in severities else SOUND
    assert exit_status(found) == as_json(found)["status"] == expected
    assert json.loads(canonical.json_text(as_json(found)))["findings"] == as_json(found)["findings"]


def test_a_repair_that_fails_leaves_the_finding_and_says_why() -> None:
    def fail() -> str:
        raise UserError("no copy")

    found = Finding("error", "data", "damaged", "crashcast doctor --repair", fail)

    assert mended(found) == Finding("error", "data", "damaged; not repaired: no copy", "crashcast doctor --repair")
    assert mended(Finding("error", "data", "damaged", "type", lambda: "mended")) == Finding(
        "repaired", "data", "damaged; mended"
    )


def test_the_worst_is_shown_first_with_what_to_type() -> None:
    console = Console(file=StringIO(), width=200)

    show(
        [Finding("note", "a", "told"), Finding("warning", "b", "look", "dvc repro"), Finding("error", "c", "bad")],
        console,
    )

    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "error    c: bad\nwarning  b: look\n         type: dvc repro\nnote     a: told\n1 error, 1 warning.\n"
    )


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=5))
def test_what_is_read_side_by_side_comes_back_in_order(items: list[int], workers: int) -> None:
    assert list(side_by_side(str, items, workers)) == [str(item) for item in items]


def test_a_place_that_is_no_project_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no \.dvc folder here"):
        examine()
    Path(".dvc").mkdir()
    with pytest.raises(UserError, match="git rev-parse failed: fatal: not a git repository"):
        examine()


def test_a_commit_or_a_part_that_is_not_there_is_told(project: Path) -> None:
    with pytest.raises(UserError, match="git knows no commit 'nowhere'"):
        examine(["nowhere"])
    with pytest.raises(UserError, match="no part 'remotes': environment, project, bucket, remote, cache"):
        examine(parts=["remotes"])
