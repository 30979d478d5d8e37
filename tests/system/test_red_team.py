"""Branches that mean to rule their own review: each attack fails, and the message names it."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from datetime import datetime
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.modeling import split_rule
from crashcast.review import look_ahead, rescoring, retraining, review
from crashcast.review.test_set import read_rule
from crashcast.versioning import cache, sandbox
from crashcast.versioning.revision import Revision

pytestmark = [
    pytest.mark.ci,
    pytest.mark.usefixtures("_few_moments"),
    pytest.mark.skipif(sandbox.missing() is not None, reason=str(sandbox.missing())),
]
MODEL, FEATURIZE = Path("src/crashcast/modeling/model.py"), Path("src/stages/featurize.py")


def run(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Iterator[Path]:
    folder = small_fleet(tmp_path_factory.mktemp("red-team") / "project")
    with chdir(folder):
        yield folder


@pytest.fixture
def branch(fleet: Path) -> Callable[[Path, str], Revision]:
    """Return what commits code that runs when a file is imported, as somebody who never ran it would."""

    def commit(file: Path, code: str) -> Revision:
        run("git checkout -q -f -B attack main")
        file.write_text(f"{file.read_text()}\n\n{code}\n")
        run("git commit -q -a -m attack")
        return Revision.find("HEAD")

    return commit


@pytest.fixture(autouse=True)
def _on_a_branch(fleet: Path) -> Iterator[None]:
    run("git checkout -q -f -B attack main")
    yield
    run("git checkout -q -f main")


@pytest.fixture
def places(fleet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, object]]:
    """Put secrets where the review's own are, and return where."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("s3cret")
    (cache.review_folder() / "judged").mkdir(parents=True, exist_ok=True)
    labels = next(file for file in (fleet / "data/labels").rglob("month=2025-03/*.parquet"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            "home": tmp_path, "review": cache.review_folder(), "labels": labels, "fleet": fleet,
            "port": server.getsockname()[1],
        }  # fmt: skip


ATTACKS = {
    "a token": ("import os; os.environ['GITHUB_TOKEN']", "KeyError: 'GITHUB_TOKEN'"),
    "keys of the home": ("open('{home}/.aws/credentials')", "No such file or directory: .*credentials"),
    "the judge's memory": ("import os; os.listdir('{review}/judged')", "No such file or directory: .*crashcast-review"),
    "test labels": ("open('{labels}')", "No such file or directory: .*labels"),
    "labels beside it": ("import os; os.listdir('data/labels')", "No such file or directory: 'data/labels'"),
    "the network": ("import socket; socket.create_connection(('127.0.0.1', {port}))", "Connection refused"),
    "the web": ("import socket; socket.create_connection(('192.0.2.1', 443), 5)", "Network is unreachable"),
    "a write elsewhere": ("open('{fleet}/Makefile', 'a')", "No such file or directory: .*Makefile"),
    "a write into the system": ("open('/usr/bin/git', 'a')", "Read-only file system|Permission denied"),
    "its inputs": ("open('{input}', 'a')", "Read-only file system|Permission denied"),
}
INPUTS = {MODEL: "scoring/script.py", FEATURIZE: "data/raw/incidents.parquet"}


@pytest.mark.parametrize("what", ATTACKS)
@pytest.mark.parametrize("file", INPUTS, ids=["model", "featurize"])
def test_code_of_a_branch_gets(
    branch: Callable[[Path, str], Revision], places: dict[str, object], file: Path, what: str
) -> None:
    code, told = ATTACKS[what]
    base, head = Revision.find("main"), branch(file, code.format(input=INPUTS[file], **places))
    with pytest.raises(UserError, match=rf"(?s)commit {head.name} cannot be .*{told}"):
        rescoring.rescore(base, head) if file is MODEL else look_ahead_of(head)


def look_ahead_of(head: Revision) -> None:
    period = rescoring.split_rule.period(read_rule(head), "test")
    look_ahead.check(head, head.outs["data/features"], head.raw, period)


AT_THE_END = "import atexit, os, pathlib as p; atexit.register(lambda"
NO_SCORES = {
    f"{AT_THE_END}: (os.rename('scoring/scores', 'x'), os.symlink('/', 'scoring/scores')))": "is a symbolic link",
    "import numpy; Model.predict = lambda self, rows: numpy.full(len(rows), 2.0)": "a score is no probability",
    f"{AT_THE_END}: p.Path('scoring/scores/month=2025-03.npy').write_text('x'))": "it writes no scores",
}


@pytest.mark.parametrize("code", NO_SCORES)
def test_scores_that_are_none_are_not_taken(branch: Callable[[Path, str], Revision], code: str) -> None:
    base, head = Revision.find("main"), branch(MODEL, code)
    with pytest.raises(UserError, match=NO_SCORES[code]):
        rescoring.rescore(base, head)


def test_scores_that_depend_on_later_rows_are_named(branch: Callable[[Path, str], Revision]) -> None:
    """Such as a rank among all rows that are scored together, which nobody has on call."""
    ranks = "def of_rank(self, rows): return rows['cpu_pct'].fill_null(0).rank().to_numpy() / (len(rows) + 1)"
    base, head = Revision.find("main"), branch(MODEL, f"{ranks}\nModel.predict = of_rank")
    with pytest.raises(
        UserError, match=f"the scores of the model of commit {head.name} look ahead: .* if the rows end"
    ):
        rescoring.rescore(base, head)


def forge(train_until: datetime) -> Revision:
    """Return a commit whose model was fitted on all rows until then, with a dvc.lock that names it."""
    split = Path("data/split.json")
    honest = split.read_bytes()
    rule = json.loads(honest)
    begin, validated = rule["periods"]["train"]["from"], rule["periods"]["validation"]
    length = datetime.fromisoformat(validated["to"]) - datetime.fromisoformat(validated["from"])
    between = (datetime.fromisoformat(begin) + length).isoformat()  # validation moves to the beginning
    rule["periods"]["validation"] = {"from": begin, "to": between}
    rule["periods"]["train"] = {"from": between, "to": train_until.isoformat()}
    split.unlink()
    split.write_text(json.dumps(rule))
    shutil.rmtree("models")
    paths = run("python -c \"import yaml; print(yaml.safe_load(open('dvc.yaml'))['stages']['train']['cmd'])\"").split()[
        3:
    ]
    importlib.import_module("stages.train").main(*map(Path, paths))
    split.write_bytes(honest)
    run("dvc commit -q -f train && dvc repro -q evaluate && git add -A && git commit -q -m better")
    return Revision.find("HEAD")


@pytest.mark.slow
def test_however_many_test_rows_a_model_was_fitted_on_it_is_refused(fleet: Path) -> None:
    honest = Revision.find("main")
    start, end = split_rule.period(read_rule(honest), "test")
    refused = 0
    for tenths in range(1, 11):
        run("git checkout -q -f -B attack main && dvc checkout -q -f")
        with pytest.raises(UserError, match="is not the one that its `train` makes"):
            rescoring.rescore(honest, forge(start + (end - start) * tenths / 10))
        refused += 1
    assert refused == 10


def test_a_model_that_was_fitted_on_test_rows_is_refused(fleet: Path) -> None:
    honest = Revision.find("main")
    forged = forge(split_rule.period(read_rule(honest), "test")[1])
    told = rf"^the model of commit {forged.name} is not the one that its `train` makes"
    with pytest.raises(UserError, match=told):
        rescoring.rescore(honest, forged)
    rule = read_rule(honest)
    assert retraining.is_same(honest, retraining.train(honest, rule))


def test_a_judge_runs_no_commit_that_nobody_merged(branch: Callable[[Path, str], Revision]) -> None:
    """Such as the one that a forged version's tag names."""
    attack = branch(MODEL, "print()")
    run("git checkout -q -f main")
    review._check_history(Revision.find("main"), None)
    with pytest.raises(UserError, match=f"commit {attack.name} is not in the history .* does not run its code"):
        review._check_history(Revision.find("main"), attack)


def test_a_model_is_trained_again_once(fleet: Path, capfd: pytest.CaptureFixture[str]) -> None:
    honest = Revision.find("main")
    first = retraining.train(honest, read_rule(honest))
    capfd.readouterr()
    assert retraining.train(honest, read_rule(honest)) == first
    assert capfd.readouterr().err == ""
