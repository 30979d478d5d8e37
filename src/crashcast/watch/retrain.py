"""`crashcast retrain`: from new data to an open pull request (docs/retraining.md).

It works in a temporary worktree, on the branch `BRANCH`: a clone that also serves has collected data that nobody
committed, and none of it is touched. What a step leaves lies in git, in DVC's cache or on a remote, and nothing else
says how far a run came. So after a run that was killed, the next one goes on.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crashcast import paths, run_record
from crashcast.errors import UserError
from crashcast.files import held_alone
from crashcast.operate.deployment import in_use
from crashcast.params.serve import Serve
from crashcast.params.telemetry import Telemetry
from crashcast.params.tickets import Tickets
from crashcast.review import ledger
from crashcast.text import some_of
from crashcast.versioning import cache, dvc_files, environment, git
from crashcast.versioning.dvc_files import LOCK, pointer
from crashcast.versioning.lock_checks import stale_stages
from crashcast.versioning.revision import MODELS, PARAMS, RAW, REMOTES, Revision, main_branch
from crashcast.versioning.worktree import worktree
from crashcast.watch import proposal
from crashcast.watch.pull_request import Request, Site, find_site
from crashcast.watch.steps import Step

BRANCH = "crashcast/retrain"
REF = f"refs/heads/{BRANCH}"
LOCK_NAME = "crashcast-retrain.lock"  # in git's folder
ANOTHER = "another `crashcast retrain` runs in this repository: wait until it is done"
FEATURES = ("label", "featurize")  # the stages that `crashcast due` needs
TRAINED = "Train the model again"  # the subject of a commit with a new model; its body says why
# what may differ from the main branch: data, what the pipeline writes, and texts; anything else decides what runs here
HARMLESS = re.compile(r"dvc\.lock|metrics/[^/]+\.json|data/([^/]+/)*([^/]+\.dvc|\.gitignore)|.*\.md")
OPEN, NOT_DUE, NOTHING_NEW = 0, 1, 4  # exit statuses

WHOLE: tuple[Step, ...] = ("collect", "incidents", "push", "due", "train")  # `due` computes features; then a request
ASKING = (None, "push", "request")  # what asks the site


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit status, and what to say."""

    status: int
    text: str


@dataclass(frozen=True)
class State:
    """What git says before a run.

    Attributes
    ----------
    remote : str
        The git remote that the team shares.
    main : str
        The name of its main branch.
    base : Revision
        That branch's commit.
    published : str or None
        The commit of `BRANCH` there.
    tip : Revision or None
        The newest commit of `BRANCH` here or there; None if the main branch has all that is in it.
    """

    remote: str
    main: str
    base: Revision
    published: str | None
    tip: Revision | None

    @property
    def is_trained(self) -> bool:
        """Whether the branch has a model that the main branch does not have, and a dvc.lock that belongs to it."""
        if self.tip is None or self.tip.find_file(LOCK) is None or stale_stages(self.tip):
            return False
        return self.tip.outs[MODELS] != self.base.outs[MODELS]


def retrain(
    reason: str | None = None, collects: bool = True, only: Step | None = None, api: str | None = None
) -> Outcome:
    """Collect, train and open a pull request, if `crashcast due` says so.

    Parameters
    ----------
    reason : str, optional
        Why it is done whatever `due` says.
    collects : bool
        Whether telemetry and incidents are collected; otherwise the raw data of this work tree is taken as it is.
    only : str, optional
        One step, instead of all.
    api : str, optional
        See `find_site`.

    Raises
    ------
    UserError
        If a step fails. What the steps before it did is kept.
    """
    with held_alone(git.common_folder() / LOCK_NAME, ANOTHER):
        state = read_state()
        site = find_site(git.run("remote", "get-url", state.remote).text, api) if only in ASKING else None
        known = site.newest(BRANCH, state.main) if site else None
        if site and only != "push" and is_unfinished(state, known):
            return _finish(state, site)
        if only != "request":
            with Work.at(state) as work:
                for step in WHOLE if only is None else [only]:
                    if step == "push" and known and known.is_open:
                        continue  # a request's check would fail: its dvc.lock is not that of the new data
                    if outcome := work.run(step, reason, collects):
                        return _told(outcome, known)
        if only not in (None, "request"):
            return Outcome(OPEN, f"{only}: done")
        state = read_state()
        if site and is_unfinished(state, known):
            return _finish(state, site)
        return _told(Outcome(NOTHING_NEW, "Nothing is new: the data gives the model that is known."), known)


def plan(api: str | None = None) -> str:
    """Say what `retrain` would do, without doing any of it."""
    state = read_state()
    site = find_site(git.run("remote", "get-url", state.remote).text, api)
    known = site.newest(BRANCH, state.main)
    here = f"{state.remote}/{state.main} ({state.base.name})"
    has = "has nothing new" if state.tip is None else f"is at {state.tip.name}"
    said = f"the last is {known.url} ({'open' if known.is_open else 'closed'})" if known else "there is none yet"
    lines = [f"Branch {BRANCH} {has}; base: {here}. Pull request: {said}."]
    if is_unfinished(state, known):
        assert state.tip is not None
        return "\n".join([*lines, f"It would push {state.tip.name} and its data, and open a pull request."])
    sources = ", ".join(["telemetry", *(Tickets.read().sources)])
    lines.append(f"It would collect {sources}, compute labels and features, and ask `crashcast due`.")
    lines.append("If a retraining is due: `dvc repro`, commit, push data and branch, open or update the pull request.")
    return "\n".join(lines)


def read_state() -> State:
    """Fetch, and return what git says.

    Raises
    ------
    UserError
        If there is no remote, or the branch is checked out somewhere, or it changes what would run here.
    """
    remote = git.shared_remote()
    if remote is None:
        raise UserError("there is no git remote: a pull request is opened on the site of one")
    if f"branch {REF}\n" in git.run("worktree", "list", "--porcelain").text + "\n":
        raise UserError(f"the branch {BRANCH} is checked out in a work tree: switch that to another branch")
    git.run("fetch", "--quiet", "--tags", remote)
    looks = f"{ledger.REF}:{ledger.REF}"  # `due` asks for the last one
    git.run("fetch", "--quiet", remote, looks, expected=git.ANY_STATUS)
    published = git.run("ls-remote", remote, REF).text.partition("\t")[0] or None
    branch = main_branch(remote)
    base = Revision.find(branch)
    ours, theirs = git.commit(REF), published
    candidates = [sha for sha in (theirs, ours) if sha and not _is_in(sha, base.sha)]
    ahead = len(candidates) == 2 and git.is_ancestor(candidates[0], candidates[1])
    tip = Revision(candidates[-1 if ahead else 0]) if candidates else None
    if tip:
        _check_code(tip, base)
    return State(remote, branch.removeprefix(f"{REMOTES}{remote}/"), base, published, tip)


def is_unfinished(state: State, known: Request | None) -> bool:
    """Tell whether the branch has a new model for which no pull request, open or closed, was opened."""
    return state.is_trained and not (known and state.tip and known.head == state.tip.sha == state.published)


def _check_code(tip: Revision, base: Revision) -> None:
    """Refuse a branch whose code nobody merged: whoever may push it would run that with the keys of this machine."""
    changed = git.run("diff", "--name-only", "--relative", "-z", f"{base.sha}...{tip.sha}").entries
    modes = git.modes(tip.sha)
    if refused := [path for path in changed if not HARMLESS.fullmatch(path) or modes.get(path) == git.LINK]:
        raise UserError(
            f"the branch {BRANCH} ({tip.name}) changes {some_of(refused)}: a retraining changes only data and results. "
            "Code and settings that nobody merged would run here: merge them on their own, or delete the branch"
        )


def _is_in(sha: str, base: str) -> bool:
    """Tell whether a branch was merged: by a merge, or squashed, and then its files are the same."""
    if git.is_ancestor(sha, base):
        return True
    changed = git.run("diff", "--name-only", "--relative", "-z", f"{base}...{sha}").entries
    return not changed or git.run("diff", "--quiet", sha, base, "--", *changed, expected=(0, 1)).status == 0


def _told(outcome: Outcome, known: Request | None) -> Outcome:
    """Add what is known of a pull request; as long as one is open, that is the answer."""
    if known is None:
        return outcome
    if known.is_open:
        return Outcome(OPEN, f"{outcome.text}\nA pull request is open: {known.url}")
    return Outcome(outcome.status, f"{outcome.text}\nThe last pull request was closed: {known.url}")


def _finish(state: State, site: Site) -> Outcome:
    """Push the branch and its data, and open or update its pull request."""
    with Work.at(state, merges=False) as work:
        work.push()
    tip = state.tip
    assert tip is not None
    why = git.run("log", "-1", f"--grep=^{TRAINED}$", "--format=%b", f"{state.base.sha}..{tip.sha}").text
    title, text, marker = proposal.write(state.base, tip, why)
    try:
        opened = site.propose(BRANCH, state.main, title, text, marker)
    except UserError as error:
        raise UserError(
            f"data and branch {BRANCH} are pushed, but no pull request is open: {error}\n"
            "Run `crashcast retrain` again when the site answers: it opens the request, and trains nothing again"
        ) from None
    return Outcome(OPEN, f"A pull request is open: {opened.url}")


@dataclass(frozen=True)
class Work:
    """A worktree with the branch merged with the main branch, and its data.

    Attributes
    ----------
    folder : Path
        The project in it.
    state : State
    python : Path
        Of its environment.
    """

    folder: Path
    state: State
    python: Path

    @classmethod
    @contextmanager
    def at(cls, state: State, merges: bool = True) -> Iterator[Work]:
        """Set it up, for as long as needed."""
        start = state.tip or state.base
        if state.tip is None:
            git.run("update-ref", "-d", REF)
        else:
            git.run("update-ref", REF, state.tip.sha)
        with worktree(start) as folder:
            work = cls(folder, state, environment.interpreter(start, cache.review_folder()))
            work._settle(start)
            if merges and state.tip is not None:
                work._merge()
            yield work

    def run(self, step: Step, reason: str | None, collects: bool) -> Outcome | None:
        """Do a step; return how the run ends, if this step decides it."""
        match step:
            case "collect" if not collects:
                self._take_data()
            case "collect":
                self._lay_out()
                self._collect("collect", "Collect telemetry")
            case "incidents" if Tickets.read().sources:
                self._lay_out()
                self._collect("incidents", "Collect incidents")
            case "features":
                self._compute(*FEATURES)
            case "push":
                self.push()
            case "due":
                return self._decide(reason)
            case "train":
                self._train(reason)
        return None

    def push(self) -> None:
        """Push data and branch, if the remote does not have the branch's commit."""
        sha = git.commit(REF)
        if sha is None or sha == self.state.published:
            return
        self._call("crashcast", "push")
        lease = f"--force-with-lease={REF}:{self.state.published or ''}"
        git.run("push", "--quiet", lease, self.state.remote, f"{sha}:{REF}")

    def _settle(self, start: Revision) -> None:
        """Give it this clone's settings of DVC, its cache, its record of runs, and files that the collectors read."""
        from dvc.config import Config

        own, local = Path(".dvc/config.local"), self.folder / ".dvc/config.local"
        if own.is_file():
            shutil.copyfile(own, local)
        with Config(str(self.folder / ".dvc"), validate=False).edit("local") as settings:
            settings.setdefault("cache", {})["dir"] = str(cache.root())
        run_record.FOLDER.mkdir(parents=True, exist_ok=True)
        saved = (name for source in start.section(Tickets).sources.values() for name in source.files)
        for path in (run_record.FOLDER, Path(start.section(Serve).log), *map(_without_pattern, saved)):
            if path.parts and not path.is_absolute() and path.exists() and not (self.folder / path).exists():
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).symlink_to(path.absolute())

    def _merge(self) -> None:
        """Merge the main branch. If both changed data or what the pipeline wrote, the main branch's is taken."""
        base, made = self.state.base, {LOCK, *(f"{path}.dvc" for path in RAW), *self.state.base.metrics}
        if self._git("merge", "--quiet", "--no-edit", base.sha, expected=(0, 1)).status:
            conflicts = self._git("diff", "--name-only", "--diff-filter=U", "--relative", "-z").entries
            if refused := [path for path in conflicts if path not in made]:
                raise UserError(
                    f"{self.state.main} and {BRANCH} both changed {some_of(refused)}: merge {self.state.main} into "
                    f"{BRANCH} by hand and push it, or delete that branch"
                )
            self._git("checkout", "--theirs", "--", *conflicts)
            self._git("add", "--", *conflicts)
            self._git("commit", "--quiet", "--no-edit")
        if self._git("diff", "--quiet", base.sha, "HEAD", expected=(0, 1)).status == 0:  # all of it is merged
            self._git("checkout", "--quiet", "--detach", base.sha)

    def _take_data(self) -> None:
        """Take the raw data that this clone's work tree names."""
        for path in map(Path, RAW):
            if pointer(path).is_file():
                shutil.copyfile(pointer(path), self.folder / pointer(path))
        if Telemetry.read() != Revision(self._head()).section(Telemetry):
            raise UserError(f"{PARAMS}: telemetry is not that of {BRANCH}: commit it to {self.state.main} first")
        self._commit("Bring in data")

    def _collect(self, command: str, subject: str) -> None:
        self._call("crashcast", command)
        self._commit(subject)

    def _compute(self, *stages: str) -> None:
        self._lay_out()
        self._call("dvc", "repro", *stages)

    def _decide(self, reason: str | None) -> Outcome | None:
        if reason is not None:
            return None
        self._compute(*FEATURES)
        found = self._due()
        if found["is_due"]:
            return None
        return Outcome(NOT_DUE, "\n".join(["No retraining is due.", *found["against"], *found["notes"]]))

    def _due(self) -> dict[str, Any]:
        """Return what `crashcast due` says of the model in use: the branch's own is none yet."""
        asked = ("due", "--json", *(() if in_use() else ("--revision", self.state.base.sha)))
        done = self._start("crashcast", *asked, stdout=subprocess.PIPE)
        if done.returncode not in (0, 1):
            raise UserError("`crashcast due` failed; to train all the same, say why: --reason TEXT")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _train(self, reason: str | None) -> None:
        """Run the pipeline, and commit what it wrote if the model is new."""
        self._compute()
        if dvc_files.outs_of(dvc_files.read_lock(self.folder / LOCK))[MODELS] == self.state.base.outs[MODELS]:
            return
        reasons = [reason] if reason is not None else self._due()["reasons"]
        self._commit(TRAINED, "\n".join(f"- {one}" for one in reasons))

    def _lay_out(self) -> None:
        """Bring the data that the worktree names, from DVC's cache or else from its remote."""
        if self._start("dvc", "checkout", "--quiet", stderr=subprocess.DEVNULL).returncode:
            self._call("crashcast", "pull")

    def _commit(self, subject: str, body: str = "") -> None:
        """Commit what changed, if anything, and put the branch there."""
        self._git("add", "--update", "--", ".")
        self._git("add", "--all", "--", str(paths.RAW))
        if self._git("diff", "--cached", "--quiet", expected=(0, 1)).status == 0:
            return
        self._git("commit", "--quiet", "-m", subject, *(("-m", body) if body else ()))
        git.run("update-ref", REF, self._head())

    def _head(self) -> str:
        return self._git("rev-parse", "HEAD").text

    def _git(self, *arguments: str, expected: Sequence[int] = (0,)) -> git.Answer:
        nobody = not git.run("config", "user.email", expected=(0, 1)).text
        names = (f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL"))
        variables = dict.fromkeys(names, "crashcast") if nobody else {}
        return git.run(*arguments, folder=self.folder, variables=variables, expected=expected)

    def _call(self, program: str, *arguments: str) -> None:
        status = self._start(program, *arguments).returncode
        if status:
            command = " ".join([program, *arguments])
            raise UserError(f"`{command}` failed (exit status {status}); its messages are above")

    def _start(
        self, program: str, *arguments: str, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        variables = environment.variables(self.python) | {"PYTHONPATH": str(self.folder / "src")}
        command = [str(self.python), "-m", program, *arguments]
        sys.stdout.flush()
        return subprocess.run(command, cwd=self.folder, env=variables, check=False, stdout=stdout, stderr=stderr)


def _without_pattern(name: str) -> Path:
    """Return the folder of a pattern such as notes/**/*.md, and other names as they are."""
    return Path(*itertools.takewhile(lambda part: not set("*?[") & set(part), Path(name).parts))
