"""`crashcast retrain` on a small fleet: a real git remote, a real S3 server, the APIs of GitHub and GitLab."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from code_sites import PROJECT, TOKEN, CodeSite, serving
from retraining_fleet import BRANCH, branches, make, run, write_policy

from crashcast.errors import UserError
from crashcast.versioning.lock_checks import check
from crashcast.versioning.revision import Revision
from crashcast.watch import retrain as retraining
from crashcast.watch.retrain import NOT_DUE, NOTHING_NEW, OPEN

pytestmark = pytest.mark.ci
ABOUT_S = 30.0  # of a run


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path], s3: dict[str, str]
) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (s3 | {"RETRAIN_TOKEN": TOKEN, "GITHUB_REPOSITORY": PROJECT}).items():
            patch.setenv(name, value)
        yield make(tmp_path_factory.mktemp("retrain"), small_fleet, s3)


@pytest.fixture
def fleet(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy with a git remote of its own, and make it the place to work in."""
    shutil.rmtree(tmp_path)
    subprocess.run(["cp", "-a", original.parent, tmp_path], check=True)
    monkeypatch.chdir(tmp_path / "fleet")
    return tmp_path / "fleet"


@pytest.fixture
def site(fleet: Path) -> Iterator[CodeSite]:
    with serving(fleet.parent / "remote.git") as served:
        yield served


def retrain(site: CodeSite, reason: str | None = None) -> tuple[int, str]:
    done = retraining.retrain(reason, collects=False, api=site.api)
    return done.status, done.text


def seen(fleet: Path) -> str:
    """Return what a user sees of the clone: branch, commit, changes, data."""
    return run("git branch --show-current; git rev-parse HEAD; git status --short; ls -lR data; dvc status", fleet)


def test_from_due_to_merged(fleet: Path, site: CodeSite, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = seen(fleet)
    said = retraining.plan(site.api)
    assert "has nothing new" in said
    assert branches(fleet).keys() == {"main"}

    assert retrain(site) == (OPEN, "A pull request is open: https://github.example/team/fleet/pull/1")

    (request,) = site.requests
    assert request["title"] == "Train the model again, with labels until 2025-04-30"
    assert "- The model's data ended 30 days before the newest labels (max_age: 20d)." in request["text"]
    assert "| labels until | 2025-03-31 | 2025-04-30 |" in request["text"]
    assert "beside data and figures: nothing" in request["text"]
    assert seen(fleet) == before
    assert len(run("git worktree list", fleet).splitlines()) == 1
    tip = branches(fleet)[BRANCH]
    check(Revision(tip))
    assert run(f"git log --format=%s main..{tip}", fleet).splitlines() == ["Train the model again", "Bring in data"]
    run(f"git clone -q -b {BRANCH} ../remote.git ../clone && cd ../clone && crashcast pull", fleet)
    assert (tmp_path / "clone/data/raw/telemetry/month=2025-04").is_dir()

    # nothing new: one request, the same commit, and no change of a text that a person completed
    request["text"] += "\nLooks good to me."
    assert retrain(site)[0] == OPEN
    assert branches(fleet)[BRANCH] == tip
    assert len(site.requests) == 1
    assert request["text"].endswith("me.")

    # a request that people closed is not opened again for the same model
    site.close(1)
    status, said = retrain(site, reason="once more")
    assert (status, len(site.requests)) == (NOTHING_NEW, 1)
    assert "The last pull request was closed: https://github.example/team/fleet/pull/1" in said

    # merged, squashed: its own data and model are no reason for another one
    site.requests.clear()
    run("git stash -q && git merge -q --squash origin/crashcast/retrain && git commit -q -m squashed", fleet)
    run("git push -q origin main", fleet)
    status, said = retraining.retrain(None, collects=False, api=site.api).status, capfd.readouterr()
    assert status == NOT_DUE
    assert site.requests == []


def test_if_it_is_not_due_the_data_is_kept(fleet: Path, site: CodeSite) -> None:
    run("git stash -q", fleet)
    write_policy(fleet / "params.yaml", {"min_crashes": "1000"})
    run("git commit -q -a -m policy && git push -q origin main && git checkout -q stash@{0} -- data", fleet)

    status, said = retrain(site)

    assert status == NOT_DUE
    assert "Too few new crashes" in said
    assert site.requests == []
    assert run(f"git log --format=%s main..{branches(fleet)[BRANCH]}", fleet) == "Bring in data"


def test_a_site_that_fails_after_the_push_gets_its_request_in_the_next_run(
    fleet: Path, site: CodeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = retraining.Work.push

    def push_and_fall(work: retraining.Work) -> None:
        push(work)
        site.down = work.state.is_trained

    with monkeypatch.context() as patch:
        patch.setattr(retraining.Work, "push", push_and_fall)
        patch.setattr("crashcast.watch.pull_request.WAIT_S", 0.01)
        with pytest.raises(UserError, match=r"pushed, but no pull request is open: .*503.*\n.*trains nothing again"):
            retrain(site, reason="a new kernel")
    tip, site.down = branches(fleet)[BRANCH], False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining.Work, "run", None)  # no step is done again
        assert retrain(site)[0] == OPEN
    assert branches(fleet)[BRANCH] == tip
    assert "- a new kernel" in site.requests[0]["text"]


def test_data_that_the_main_branch_changed_meanwhile_wins(fleet: Path, site: CodeSite) -> None:
    """Two clones collected: the branch's older data gives way, and nobody's commit is lost."""
    retraining.retrain(only="collect", collects=False)
    retraining.retrain(only="push", collects=False, api=site.api)
    old = branches(fleet)[BRANCH]
    params = fleet / "params.yaml"
    params.write_text(params.read_text().replace("months: 4", "months: 5"))
    run("crashcast demo && git commit -q -a -m 'another month' && dvc push -q && git push -q origin main", fleet)
    state = retraining.read_state()
    with retraining.Work.at(state) as work:
        assert work._head() == state.base.sha  # nothing of the branch is left
    run(f"git switch -q -c mine {old} && echo '# mine' >> README.md && git commit -q -a -m mine", fleet)
    run(f"git push -q origin mine:{BRANCH} && git switch -q main", fleet)

    with retraining.Work.at(retraining.read_state()) as work:
        merged = Revision(work._head())
        assert merged.raw == state.base.raw
        assert merged.file("README.md").endswith(b"# mine\n")

    run("echo '# ours' >> README.md && git commit -q -a -m ours && git push -q origin main", fleet)
    state = retraining.read_state()
    refused = pytest.raises(UserError, match=r"both changed README.md: merge main into crashcast/retrain by hand")
    with refused, retraining.Work.at(state):
        pass


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("echo 'import os' >> src/stages/train.py", "src/stages/train.py"),
        ("echo 'import os' > dvc.py", "dvc.py"),  # `python -m dvc` finds it first
        ("sed -i 's/seed: 1 /seed: 3 /' params.yaml", "params.yaml"),
        ("ln -sf ../Makefile metrics/evaluate.json", "metrics/evaluate.json"),
    ],
)
def test_code_that_nobody_merged_does_not_run(fleet: Path, attack: str, named: str) -> None:
    """Whoever may push branches may push this one, too."""
    run(f"git switch -q -c attack && {attack} && git add {named} && git commit -q -m attack {named}", fleet)
    run(f"git push -q origin attack:{BRANCH} && git switch -q main", fleet)
    with pytest.raises(UserError, match=rf"the branch {BRANCH} \(\w+\) changes {named}: "):
        retraining.read_state()


def test_the_collectors_find_the_files_of_the_clone(fleet: Path) -> None:
    ticket_source = "{type: notes, files: [notes/**/*.md, exports/july.md]}"
    params = fleet / "params.yaml"
    params.write_text(params.read_text().replace("sources: {}", f"sources: {{wiki: {ticket_source}}}"))
    for path in ("notes/2026/one.md", "exports/july.md", "data/served/alarms/one"):
        (fleet / path).parent.mkdir(parents=True, exist_ok=True)
        (fleet / path).write_text("one")
    run("git commit -q -m sources params.yaml && git push -q origin main", fleet)
    with retraining.Work.at(retraining.read_state()) as work:
        for path in ("notes/2026/one.md", "exports/july.md", "data/served/alarms/one"):
            assert (work.folder / path).read_text() == "one"
        work._commit("nothing")
        assert work._head() == work.state.base.sha
    assert (fleet / "notes/2026/one.md").exists()


def test_one_runs_at_a_time(fleet: Path, site: CodeSite) -> None:
    with Path(".git/crashcast-retrain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another `crashcast retrain` runs"):
            retrain(site)
    assert site.calls == []


def killed(fleet: Path, site: CodeSite, after_s: float, draw: random.Random) -> bool:
    """Start a run and kill all its processes, itself alone or the last it started; return whether there was time."""
    command = [sys.executable, "-m", "crashcast", "retrain", "--no-collect", "--api", site.api]
    with subprocess.Popen(
        command, cwd=fleet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as running:
        try:
            running.wait(after_s)
            return False
        except subprocess.TimeoutExpired:
            family = psutil.Process(running.pid).children(recursive=True)
            match draw.choice(["all", "itself", "last"]):
                case "last" if family:
                    family[-1].kill()
                case "itself":
                    running.kill()
                case _:
                    os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            return True


@pytest.mark.parametrize(("kills", "seed"), [(1, 3), pytest.param(30, 30, marks=pytest.mark.slow)])
def test_a_killed_run_is_finished_by_the_next(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, seed: int
) -> None:
    draw, done, locks = random.Random(seed), 0, set()
    while done < kills:
        top = tmp_path / str(done)
        subprocess.run(["cp", "-a", original.parent, top], check=True)
        fleet = top / "fleet"
        monkeypatch.chdir(fleet)
        before = seen(fleet)
        with serving(top / "remote.git") as site:
            for _ in range(min(kills, 3)):
                done += killed(fleet, site, draw.uniform(0, ABOUT_S), draw)
            began = time.monotonic()
            assert retrain(site)[0] == OPEN
            print(f"{done} kills; the last run took {time.monotonic() - began:.0f} s")
            assert [request["state"] for request in site.requests] == ["open"]
        assert branches(fleet).keys() == {"main", BRANCH}
        tip = Revision(branches(fleet)[BRANCH])
        check(tip)
        subjects = run(f"git log --format=%s main..{tip.sha}", fleet).splitlines()
        assert subjects == ["Train the model again", "Bring in data"]
        locks.add(tip.file("dvc.lock"))
        assert seen(fleet) == before
        clone = f"git clone -q -b {BRANCH} ../remote.git ../clone && cd ../clone && crashcast pull && dvc status"
        assert "Data and pipelines are up to date" in run(clone, fleet)
        shutil.rmtree(top)
    assert len(locks) == 1
