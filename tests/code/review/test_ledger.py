"""The ledger of looks: real git repositories, real processes that race."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.params.acceptance import look_error
from crashcast.review import ledger
from crashcast.review.ledger import Look, look, record

Shell = Callable[..., subprocess.CompletedProcess[str]]
PROCESSES = 8
LOOK = "import sys; from crashcast.review import ledger; print(ledger.look('rows', sys.argv[1]).number)"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a repository without a remote."""
    shell("git init -q -b main alone && cd alone && git commit -q --allow-empty -m one")
    monkeypatch.chdir(tmp_path / "alone")
    monkeypatch.setattr(ledger, "WAIT_S", 0.01)
    return tmp_path / "alone"


@pytest.fixture
def clone(alone: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a clone of a bare remote."""
    shell("git clone -q --bare alone remote.git && git clone -q remote.git clone")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def remote(clone: Path, tmp_path: Path) -> Path:
    """Return that remote."""
    return tmp_path / "remote.git"


def numbers(rows: str, *challengers: str) -> list[int]:
    return [look(rows, challenger).number for challenger in challengers]


def written(repository: Path, shell: Shell) -> dict:
    return json.loads(shell(f"git show {ledger.REF}:{ledger.FILE}", cwd=repository).stdout)


def write(repository: Path, text: str, shell: Shell) -> None:
    """Put `text` in the place of the ledger."""
    command = (
        f"git update-ref {ledger.REF} $(git commit-tree -m x "
        f'$(printf "100644 blob $(git hash-object -w --stdin)\\t{ledger.FILE}\\n" | git mktree))'
    )
    shell(command, cwd=repository, input=text)


def test_each_distinct_challenger_takes_the_next_number_on_its_rows() -> None:
    assert numbers("rows", "a", "b", "a", "c") == [1, 2, 1, 3]
    assert numbers("other rows", "c", "a") == [1, 2]


def test_a_look_knows_the_verdicts_on_those_before_it() -> None:
    look("rows", "a")
    record("rows", "a", "REJECT")
    look("rows", "b")  # never judged
    seen = look("rows", "c")
    record("rows", "c", "ACCEPT")

    assert (seen.number, seen.previous) == (3, ("REJECT", "no verdict"))
    assert seen.error == look_error(3)
    assert look("rows", "c") == seen
    assert look("rows", "a").previous == ()


JANUARY, FROM_MID_JANUARY, FEBRUARY = (
    ("2026-01-01T00:00:00", "2026-01-31T00:00:00"),
    ("2026-01-16T00:00:00", "2026-02-15T00:00:00"),
    ("2026-01-31T00:00:00", "2026-03-02T00:00:00"),
)  # of 30 days each


def taken(rows: str, challenger: str, period: tuple[str, str] | None, reserve: bool = True) -> float:
    return look(rows, challenger, reserve=reserve, period=period).number


def test_looks_at_other_rows_of_the_same_period_count_by_their_share() -> None:
    assert taken("january", "a", JANUARY) == 1
    assert taken("from mid-january", "b", FROM_MID_JANUARY) == 1.5  # half of its days are in january
    assert taken("from mid-january", "c", FROM_MID_JANUARY) == 2.5
    assert taken("february", "d", FEBRUARY) == 2  # b and c saw 15 days of its 30
    assert look("february", "d").error == look_error(2)
    assert taken("later", "e", ("2027-01-01T00:00:00", "2027-01-31T00:00:00")) == 1


def test_a_number_is_fixed_when_it_is_taken() -> None:
    assert taken("february", "a", FEBRUARY) == 1
    assert taken("from mid-january", "b", FROM_MID_JANUARY) == 1.5
    record("february", "a", "REJECT")
    assert taken("february", "a", FEBRUARY) == 1
    assert taken("february", "c", FEBRUARY) == 2.5
    assert taken("from mid-january", "d", FROM_MID_JANUARY, reserve=False) == 3
    assert look("february", "c").previous == ("REJECT",)


def test_shares_are_rounded_up_to_hundredths() -> None:
    taken("january", "a", JANUARY)
    third = ("2026-01-21T00:00:00", "2026-02-20T00:00:00")  # 10 of its 30 days
    assert taken("a third", "b", third) == 1.34


def test_looks_without_a_period_count_as_they_did(alone: Path, shell: Shell) -> None:
    old = '{"january": [{"challenger": "a", "verdict": "REJECT"}], "other": [{"challenger": "x", "policy": null}]}'
    write(alone, old, shell)
    assert look("january", "a").number == 1
    assert taken("january", "b", JANUARY) == 2
    assert taken("from mid-january", "c", FROM_MID_JANUARY) == 1.5  # of b, as nobody knows what a saw
    assert look("from mid-january", "d").number == 2
    assert written(alone, shell)["january"] == [
        {"challenger": "a", "policy": None, "verdict": "REJECT"},
        {"challenger": "b", "policy": None, "verdict": None, "period": list(JANUARY), "number": 2},
    ]


def test_a_challenger_is_its_hashes_and_no_commit() -> None:
    one = ledger.identity("m", {"x": "1", "y": "2"}, "p")

    assert one == ledger.identity("m", {"y": "2", "x": "1"}, "p")
    others = [("n", {"x": "1", "y": "2"}, "p"), ("m", {"x": "1", "y": "3"}, "p"), ("m", {"x": "1", "y": "2"}, "q")]
    assert len({one, *(ledger.identity(*other) for other in others)}) == 4


def test_a_verdict_on_a_look_that_nobody_reserved_is_refused() -> None:
    look("rows", "a")
    with pytest.raises(UserError, match="no look of challenger b: it is reserved before it is judged"):
        record("rows", "b", "ACCEPT")


def test_without_a_remote_it_says_that_the_ledger_is_this_clones_alone(alone: Path, shell: Shell) -> None:
    taken = look("rows", "a", policy="strict")

    assert taken == Look(
        1,
        look_error(1),
        (),
        True,
        "No git remote: the ledger of looks (refs/crashcast/looks) is kept in this clone alone.",
    )
    assert written(alone, shell) == {"rows": [{"challenger": "a", "policy": "strict", "verdict": None}]}


def test_windows_are_written_down_with_a_look_at_recipes_and_with_no_other(alone: Path, shell: Shell) -> None:
    look("rows", "a", windows=[])
    look("rows", "b", windows=["2026-01-01/2026-01-15", "2026-01-15/2026-01-29"])
    record("rows", "b", "ACCEPT")
    one, other = written(alone, shell)["rows"]
    assert one == {"challenger": "a", "policy": None, "verdict": None}
    assert other["windows"] == ["2026-01-01/2026-01-15", "2026-01-15/2026-01-29"]
    assert other["verdict"] == "ACCEPT"


def test_it_leaves_branches_index_and_work_tree_alone(clone: Path, shell: Shell) -> None:
    (clone / "file").write_text("mine")
    shell("git add file", cwd=clone)
    before = shell("git status --porcelain --branch && git for-each-ref refs/heads refs/remotes", cwd=clone).stdout

    look("rows", "a")

    assert (
        shell("git status --porcelain --branch && git for-each-ref refs/heads refs/remotes", cwd=clone).stdout == before
    )


def test_looks_from_pull_requests_that_were_never_merged_still_count(
    clone: Path, remote: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("git switch -q -c attempt && git commit -q --allow-empty -m attempt && git push -q origin attempt", cwd=clone)
    assert look("rows", "a").note is None
    record("rows", "a", "REJECT")
    shell("git push -q origin --delete attempt", cwd=clone)
    shell("git clone -q remote.git second")
    monkeypatch.chdir(tmp_path / "second")

    assert look("rows", "b").previous == ("REJECT",)
    assert [entry["verdict"] for entry in written(remote, shell)["rows"]] == ["REJECT", None]


@pytest.mark.parametrize("shared_clone", [True, False], ids=["one clone", "a clone each"])
def test_reviews_at_once_lose_no_look(
    clone: Path, remote: Path, tmp_path: Path, shell: Shell, shared_clone: bool
) -> None:
    folders = [clone if shared_clone else tmp_path / f"clone-{index}" for index in range(PROCESSES)]
    for folder in folders:
        folder.exists() or shell(f"git clone -q remote.git {folder.name}")

    racing = [
        subprocess.Popen(
            [sys.executable, "-c", LOOK, f"challenger {index}"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        for index, folder in enumerate(folders)
    ]
    taken = [int(process.communicate(timeout=600)[0]) for process in racing]

    assert sorted(taken) == list(range(1, PROCESSES + 1))
    looks = [entry["challenger"] for entry in written(remote, shell)["rows"]]
    assert [looks.index(f"challenger {index}") + 1 for index in range(PROCESSES)] == taken


def test_reviews_at_once_without_a_remote_lose_no_look(alone: Path) -> None:
    racing = [
        subprocess.Popen([sys.executable, "-c", LOOK, str(index)], cwd=alone, stdout=subprocess.PIPE, text=True)
        for index in range(PROCESSES)
    ]
    assert sorted(int(process.communicate(timeout=600)[0]) for process in racing) == list(range(1, PROCESSES + 1))


@pytest.fixture
def refusing(remote: Path) -> Path:
    """Return the remote, which now takes no push to the ledger."""
    hook = remote / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'you may not push here' >&2\nexit 1\n")
    hook.chmod(0o755)
    return remote


def test_a_remote_that_takes_no_push_is_an_error(refusing: Path, shell: Shell) -> None:
    with pytest.raises(UserError, match=r"`origin` takes no push to refs/crashcast/looks(.|\n)*you may not push here"):
        look("rows", "a")

    assert shell(f"git rev-parse --quiet --verify {ledger.REF}", cwd=refusing, check=False).stdout == ""
    assert shell(f"git rev-parse --quiet --verify {ledger.REF}", cwd=Path.cwd(), check=False).stdout == ""


def test_a_remote_that_cannot_be_reached_is_an_error(clone: Path, shell: Shell) -> None:
    shell("git remote set-url origin ../nowhere.git", cwd=clone)
    for reserve in (True, False):
        with pytest.raises(UserError, match=r"git ls-remote failed: .*nowhere\.git"):
            look("rows", "a", reserve=reserve)


def test_who_may_not_push_takes_the_next_number_unreserved_and_is_told(clone: Path, remote: Path, shell: Shell) -> None:
    look("rows", "a")
    before = written(remote, shell)

    unreserved = look("rows", "b", reserve=False)

    assert (unreserved.number, unreserved.reserved) == (2, False)
    assert unreserved.note is not None
    assert "not written down" in unreserved.note
    assert look("rows", "a", reserve=False).number == 1
    assert written(remote, shell) == before
    assert look("rows", "c").number == 2


def test_a_push_runs_no_hook_of_the_clone(clone: Path) -> None:
    hook = clone / ".git/hooks/pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)

    assert look("rows", "a").number == 1


def test_looks_from_before_there_was_a_remote_are_kept(alone: Path, tmp_path: Path, shell: Shell) -> None:
    numbers("rows", "a", "b")
    numbers("other rows", "z")
    shell(
        "git init -q --bare new.git && git clone -q new.git elsewhere && git -C elsewhere commit -q --allow-empty -m x"
    )
    subprocess.run([sys.executable, "-c", LOOK, "c"], cwd=tmp_path / "elsewhere", check=True, capture_output=True)
    shell("git remote add origin ../new.git", cwd=alone)

    assert numbers("rows", "d", "a", "c") == [4, 2, 1]
    assert [entry["challenger"] for entry in written(tmp_path / "new.git", shell)["rows"]] == ["c", "a", "b", "d"]
    assert [entry["challenger"] for entry in written(tmp_path / "new.git", shell)["other rows"]] == ["z"]


def test_a_ledger_that_the_remote_lost_comes_back_from_a_clone_that_wrote_to_it(remote: Path, shell: Shell) -> None:
    numbers("rows", "a", "b")
    shell(f"git update-ref -d {ledger.REF}", cwd=remote)

    assert look("rows", "b").number == 2  # nothing new, and yet something to push
    assert [entry["challenger"] for entry in written(remote, shell)["rows"]] == ["a", "b"]
    assert look("rows", "c").number == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<<<<<<< HEAD",
        "[]",
        '{"rows": [{"challenger": ""}]}',
        '{"rows": [{"challenger": "a", "verdict": "MAYBE"}]}',
        '{"rows": [{"challenger": "a", "verdict": null, "error": 1}]}',
        '{"rows": [{"challenger": "a"}, {"challenger": "a"}]}',
    ],
)
@pytest.mark.parametrize("reserve", [True, False])
def test_a_corrupt_ledger_is_an_error_that_says_how_to_go_back(
    remote: Path, shell: Shell, text: str, reserve: bool
) -> None:
    look("rows", "a")
    write(remote, text, shell)
    before = shell(f"git rev-parse {ledger.REF}", cwd=remote).stdout

    with pytest.raises(UserError, match=rf"corrupt: (.|\n)*git push --force origin COMMIT:{ledger.REF}"):
        look("rows", "b", reserve=reserve)
    assert shell(f"git rev-parse {ledger.REF}", cwd=remote).stdout == before


def test_a_ref_that_holds_something_else_is_a_corrupt_ledger(clone: Path, shell: Shell) -> None:
    shell(f"git push -q origin HEAD:{ledger.REF}", cwd=clone)
    with pytest.raises(UserError, match="corrupt: git cat-file failed"):
        look("rows", "a")


def test_several_remotes_and_none_called_origin_is_an_error(clone: Path, shell: Shell) -> None:
    shell("git remote rename origin ours && git remote add theirs ../remote.git", cwd=clone)
    with pytest.raises(UserError, match="several git remotes, ours, theirs, and none called `origin`"):
        look("rows", "a")
    shell("git remote remove theirs", cwd=clone)
    assert look("rows", "a").note is None


def test_outside_a_repository_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="git remote failed: fatal: not a git repository"):
        look("rows", "a")


def test_it_needs_no_name_or_address_of_the_user(clone: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("git config user.useConfigOnly true", cwd=clone)  # or git may guess them
    for name in ("NAME", "EMAIL"):
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.delenv(f"GIT_{role}_{name}")

    assert look("rows", "a").number == 1
