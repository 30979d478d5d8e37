"""From data to a verdict and the tag of a version: nothing stands in for the pipeline, the review, git or S3.

A small fleet shows little, so the policy asks for few crashes and tolerates a large loss.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from crashcast import registry
from crashcast.cli import main as crashcast
from crashcast.registry import Model

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("_ask_dvc_here", "_few_moments")]

POLICY = {
    "  train: 0.70": "  train: 0.50",
    "  validation: 0.15": "  validation: 0.20",
    "  test: 0.15": "  test: 0.30",
    "min_gain: 0.01 ": "min_gain: 0.0 ",
    "margin: 0.03 ": "margin: 0.1 ",
    "stale_after: 45d ": "stale_after: 10d ",
    "replicates: 2000": "replicates: 200",
    "min_groups: 40 ": "min_groups: 20 ",
    "min_servers: 20": "min_servers: 10",
}
WEAK = {"max_iter: 10": "max_iter: 4", "[7, 15]": "[3]"}
STRONG = WEAK | {"max_iter: 10": "max_iter: 30", "[7, 15]": "[15]"}
RETRAINED = STRONG | {"months: 3": "months: 4"}
ALIKE = RETRAINED | {"max_iter: 10": "max_iter: 29"}
WORSE = RETRAINED | {"max_iter: 10": "max_iter: 2", "[7, 15]": "[3]"}


def run(command: str, cwd: Path, expected: int = 0) -> str:
    done = subprocess.run(command, shell=True, cwd=cwd, text=True, capture_output=True)
    assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Project:
    """A clone whose main branch gets one model after the other."""

    folder: Path
    params: str
    dvc: Callable[..., None]
    repro: Callable[[Path], None]

    def merge(self, changed: dict[str, str], data: str = "true") -> None:
        """Run the pipeline with other parameters, after a command that brings data; merge and push what came of it."""
        text = self.params
        for old, new in (POLICY | changed).items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (self.folder / "params.yaml").write_text(text)
        run(f"{data} && git add data/raw", self.folder)
        self.repro(self.folder)
        run("git commit -q -a -m model --allow-empty && git push -q origin main", self.folder)
        self.dvc(self.folder, "push")

    def tags(self) -> list[str]:
        """Return the tags on the remote."""
        return run("git -C ../remote.git tag", self.folder).split()


def command(*arguments: str) -> tuple[int, str]:
    """Run a command of crashcast in this process, and return its exit status and what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(sys, "argv", ["crashcast", *arguments])
        with pytest.raises(SystemExit) as ended:
            crashcast()
    return ended.value.code, printed.getvalue()


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    small_fleet: Callable[[Path], Path],
    dvc: Callable[..., None],
    repro: Callable[[Path], None],
    s3: dict[str, str],
) -> Iterator[Project]:
    folder = small_fleet(tmp_path_factory.mktemp("accept") / "project")
    dvc(folder, "remote", "modify", "s3", "endpointurl", s3["AWS_ENDPOINT_URL"])
    dvc(folder, "remote", "modify", "s3", "url", f"s3://crashcast/{folder.parent.name}")
    run("git clone -q --bare . ../remote.git && git remote add origin ../remote.git", folder)
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        yield Project(folder, (folder / "params.yaml").read_text(), dvc, repro)


@pytest.fixture(scope="module")
def first(project: Project) -> Model:
    project.merge(WEAK)
    status, printed = command("accept")
    assert status == 0, printed
    told = "Registered crash-model@v1.0.0, a git tag: ACCEPT, the first model, compared only with chance and one-rule"
    assert told in printed
    return registry.models()[-1]


@pytest.fixture(scope="module")
def improvement(project: Project, first: Model) -> Model:
    project.merge(STRONG)
    status, printed = command("accept")
    assert status == 0, printed
    assert "Registered crash-model@v1.1.0, a git tag: ACCEPT, better than the last model" in printed
    return registry.models()[-1]


@pytest.fixture(scope="module")
def renewal(project: Project, improvement: Model) -> Model:
    project.merge(RETRAINED, data="crashcast demo")
    status, printed = command("accept")
    assert status == 0, printed
    assert "Registered crash-model@v1.1.1, a git tag: ACCEPT, as good as the last model, which was stale" in printed
    return registry.models()[-1]


def primary(model: Model) -> dict:
    assert model.record is not None
    row = model.record["differences"][0]
    assert row["name"] == "pr_auc"
    return row


def commit_of(tag: str, project: Project) -> str:
    return run(f"git -C ../remote.git rev-parse {tag}^{{commit}}", project.folder).strip()


def test_a_first_model_that_beats_chance_and_rules_is_version_one(project: Project, first: Model) -> None:
    record = first.record
    assert (first.version, record["verdict"], record["form"], record["base"]) == ("v1.0.0", "ACCEPT", "first", None)
    assert len(record["definitions"]) == 2  # beside the baseline that is shown
    assert primary(first)["low"] > 0
    assert commit_of("crash-model@v1.0.0", project) == first.revision == record["challenger"]["revision"]
    figures = json.loads(run(f"git show {first.revision}:metrics/evaluate.json", project.folder))
    assert primary(first)["challenger"] == pytest.approx(figures["pr_auc"])
    assert record["rows"]["crashes"] == figures["crashes"]


def test_a_model_that_gains_for_certain_is_an_improvement(project: Project, first: Model, improvement: Model) -> None:
    record = improvement.record
    assert (record["verdict"], record["form"], record["rows"]["kind"]) == ("ACCEPT", "improvement", "own")
    assert (record["base"]["model"], record["anchor"]) == (first.model, None)
    assert primary(improvement)["champion"] == pytest.approx(primary(first)["challenger"])
    assert primary(improvement)["low"] > record["policy"]["min_gain"]
    assert record["look"]["number"] == 2  # the first model was judged on these rows too
    assert commit_of("crash-model@v1.1.0", project) == improvement.revision


def test_a_model_as_good_as_a_stale_one_renews_it(project: Project, improvement: Model, renewal: Model) -> None:
    record, gain = renewal.record, primary(renewal)
    assert (record["verdict"], record["form"], record["rows"]["kind"]) == ("ACCEPT", "renewal", "own and later")
    assert record["base"]["model"] == improvement.model
    assert -record["policy"]["margin"] < gain["low"] < record["policy"]["min_gain"]  # not shown to be better
    assert gain["margin"] == record["policy"]["margin"]
    assert registry.anchor() == improvement
    assert commit_of("crash-model@v1.1.1", project) == renewal.revision


def test_a_model_that_may_be_better_or_worse_is_not_registered(
    project: Project, improvement: Model, renewal: Model
) -> None:
    project.merge(ALIKE)
    before = project.tags()
    status, printed = command("accept")
    assert status == 2
    assert "INCONCLUSIVE against crash-model@v1.1.1: Not shown either way: PR-AUC" in printed
    assert project.tags() == before
    assert command("review", "--base", renewal.revision)[0] == 3
    record = json.loads(Path("reports/review/record.json").read_text())
    assert record["anchor"]["model"] == improvement.model
    changes = {row["name"]: row["difference"] for row in record["differences"]}
    assert changes.keys() >= {"pr_auc", "pr_auc_against_anchor"}
    assert changes["pr_auc_against_anchor"] != changes["pr_auc"]


def test_a_worse_model_is_rejected_though_dvc_reports_success(project: Project, renewal: Model) -> None:
    project.merge(WORSE)
    before = project.tags()
    status, printed = command("accept")
    assert status == 2
    assert "REJECT against crash-model@v1.1.1: Not better enough: PR-AUC" in printed
    assert project.tags() == before

    assert command("review", "--base", renewal.revision)[0] == 1
    record = json.loads(Path("reports/review/record.json").read_text())
    assert (record["verdict"], record["form"]) == ("REJECT", None)
    assert record["differences"][0]["high"] < 0
    project.dvc(project.folder, "metrics", "diff", renewal.revision)  # status 0


@pytest.mark.slow
def test_make_reviews_and_accepts_in_a_fresh_clone(project: Project, renewal: Model) -> None:
    """Main is put back to the renewal, whose tag is gone; the worse model is an attempt."""
    project.merge(WORSE)
    assert command("review", "--base", renewal.revision)[0] == 1
    run(f"git push -q -f origin HEAD:attempt {renewal.revision}:main :refs/tags/{renewal.tag}", project.folder)
    run(f"git clone -q remote.git clone && ln -s {sys.prefix} clone/.venv", project.folder.parent)
    clone = project.folder.parent / "clone"

    run("git checkout -q attempt", clone)
    assert "REJECT" in run("make --old-file=env review", clone, expected=2)  # against main
    records = [json.loads((folder / "reports/review/record.json").read_text()) for folder in (project.folder, clone)]
    for name in ("verdict", "look", "rows", "differences", "slices", "base", "challenger", "anchor"):
        assert records[0][name] == records[1][name]

    run("git checkout -q main", clone)
    printed = run("make --old-file=env accept", clone)
    assert f"Registered {renewal.tag}, a git tag: ACCEPT, as good as the last model, which was stale" in printed
    assert commit_of(renewal.tag, project) == renewal.revision
