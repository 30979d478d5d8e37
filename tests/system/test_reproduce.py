"""A commit rebuilt from raw data: a real git and DVC project of two stages, and (slow) this one with a small fleet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from crashcast.cli import main as crashcast
from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.history.rebuild import rebuild
from crashcast.versioning import cache
from crashcast.versioning.revision import RAW, TELEMETRY

ROOT = Path(__file__).parents[2]
CLEAN, EVALUATION, MODEL = "data/clean", "metrics/evaluate.json", "models"
SMALL = {"servers: 300": "servers: 30", "months: 8": "months: 3", "max_iter: 100": "max_iter: 10",
         "C: [0.01, 0.1]": "C: [0.1]", "replicates: 1000": "replicates: 100"}  # fmt: skip
# BIAS stands for what no hash covers: a type of CPU, a clock, another library
STAGES = """
import json, os, shutil, sys
from pathlib import Path
import polars as pl
bias = float(os.environ.get("BIAS", 0))
if sys.argv[1] == "clean":
    assert os.environ["CRASHCAST_MEMO"] == os.environ.get("EXPECTED_MEMO", "off")
    for path in sorted(Path("data/raw/telemetry").rglob("*.parquet")):
        target = Path("data/clean", *path.parts[3:])
        target.parent.mkdir(parents=True)
        factor = 1 + bias * (path.parts[3] == "month=2026-02")
        pl.read_parquet(path).with_columns(pl.col("cpu_pct") * factor, row=pl.int_range(pl.len())).write_parquet(target)
else:
    mean = pl.read_parquet("data/clean/*/*.parquet")["cpu_pct"].mean()
    Path("models").mkdir()
    Path("models/model.json").write_text(json.dumps({"mean": mean}))
    Path("models/card.md").write_text(repr(mean))
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/evaluate.json").write_text(json.dumps({"mean": mean, "rows": 6}))
"""
PIPELINE = """
stages:
  clean:
    cmd: python stages.py clean
    deps: [data/raw/telemetry, stages.py]
    outs: [data/clean]
  train:
    cmd: python stages.py train
    deps: [data/clean, stages.py]
    outs: [models]
    metrics: [{metrics/evaluate.json: {cache: false}}]
"""


def sh(command: str, cwd: Path | str = ".", **variables: str) -> str:
    done = subprocess.run(
        command, shell=True, cwd=cwd, text=True, capture_output=True, env={**os.environ, **variables}, timeout=1200
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of two stages, run and committed."""
    import polars as pl

    here = tmp_path_factory.mktemp("reproduce") / "project"
    for month in ("01", "02"):
        path = here / TELEMETRY / f"month=2026-{month}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pl.DataFrame({"server_id": ["a", "b", "c"], "cpu_pct": [10.0, 20.0, 40.0]}).write_parquet(path)
    for name in RAW[1:]:
        pl.DataFrame({"server_id": ["a"]}).write_parquet(here / name)
    (here / "stages.py").write_text(STAGES)
    (here / "dvc.yaml").write_text(PIPELINE)
    (here / "params.yaml").write_text("{}\n")
    (here / "requirements.txt").write_text("polars\n")
    sh(f"git init -q -b main && dvc init -q && dvc add -q {' '.join(RAW)} && dvc repro -q", here, CRASHCAST_MEMO="off")
    sh("git add -A && git commit -q -m one", here)
    return here


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    sh(f"cp -a {template} {tmp_path / 'project'}")
    monkeypatch.chdir(tmp_path / "project")
    yield tmp_path / "project"
    assert sh("git worktree list").count("\n") == 0
    assert [*(Path(".dvc/cache") / cache.REVIEW / "temporary").iterdir()] == []


def commit(change: dict[str, str]) -> None:
    """Change dvc.lock, as a hand or a bad merge may, and commit it."""
    text = Path("dvc.lock").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    Path("dvc.lock").write_text(text)
    sh("git commit -q -a -m tampered")


def recorded(stage: str, path: str) -> str:
    outs = yaml.safe_load(Path("dvc.lock").read_text())["stages"][stage]["outs"]
    return next(out["md5"] for out in outs if out["path"] == path)


def test_a_commit_that_gives_its_own_bytes_is_reproduced(project: Path) -> None:
    before = sorted(path for path in Path(".dvc/cache/files").rglob("*") if path.is_file())

    found = rebuild("HEAD")

    assert (found.verdict, found.stages, found.differing, found.notes) == ("same", ("clean", "train"), {}, ())
    assert sorted(path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()) == before
    assert sh("git status --porcelain") == ""


def test_every_stage_runs_whatever_the_work_tree_and_the_cache_hold(project: Path) -> None:
    shutil.rmtree(CLEAN)
    shutil.rmtree(".dvc/cache/runs")
    cache.cached(recorded("train", MODEL)).unlink()
    Path("stages.py").write_text("raise SystemExit(3)")

    assert rebuild("HEAD").verdict == "same"


def test_a_really_different_stage_is_the_first_that_differs_with_file_and_column(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIAS", "0.5")  # 10, 20, 40 become 15, 30, 60 in February

    found = rebuild("HEAD")

    assert (found.verdict, [*found.differing]) == ("different", ["clean", "train"])
    [clean] = found.differing["clean"]
    [file] = clean.files  # January is the same
    assert (clean.path, file.path, file.what) == (CLEAN, f"{CLEAN}/month=2026-02/part-0.parquet", "changed")
    assert file.difference is not None
    # the table has no keys that are known, so whole rows are compared
    assert (file.difference.added, file.difference.removed) == (3, 3)
    metrics, model = sorted(found.differing["train"], key=lambda output: output.path)
    assert metrics.files[0].figures == {"mean": (pytest.approx(70 / 3), pytest.approx(175 / 6))}
    assert [Path(file.path).name for file in model.files] == ["card.md", "model.json"]
    assert not metrics.is_close


def test_within_the_tolerance_other_bytes_are_told_apart_from_other_results(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIAS", "0.001")
    # a model that is a little off, on good data
    text = STAGES.replace("factor = 1 + bias", "factor = 1 + 0").replace(".mean()", ".mean() * (1 + bias)")
    Path("stages.py").write_text(text)
    sh("dvc repro -q && git commit -q -a -m two", BIAS="0", CRASHCAST_MEMO="off")

    found = rebuild("HEAD")

    assert ([*found.differing], found.verdict) == (["train"], "close")
    monkeypatch.setenv("BIAS", "0.02")
    assert rebuild("HEAD").verdict == "different"


def test_a_lock_that_names_other_bytes_is_told_at_its_stage(project: Path) -> None:
    commit({recorded("clean", CLEAN): "0" * 32 + ".dir"})  # as an output and as what `train` read

    found = rebuild("HEAD")

    assert (found.verdict, [*found.differing]) == ("different", ["clean"])
    [clean] = found.differing["clean"]
    assert (clean.committed, clean.rebuilt) == ("0" * 32 + ".dir", md5(Path(CLEAN)))
    assert "remote" in (clean.unread or "")
    assert found.notes == ()  # the lock agrees with itself: only a rebuild shows it


def test_a_metric_edited_in_git_and_lock_does_not_stand_up(project: Path) -> None:
    before = recorded("train", EVALUATION)
    Path(EVALUATION).write_text(json.dumps({"mean": 99.0, "rows": 6}))
    commit({before: md5(Path(EVALUATION))})

    found = rebuild("HEAD")

    assert (found.verdict, [*found.differing]) == ("different", ["train"])
    assert found.differing["train"][0].files[0].figures == {"mean": (99.0, pytest.approx(70 / 3))}


def test_a_lock_that_does_not_belong_to_its_commit_is_noted(project: Path) -> None:
    Path("stages.py").write_text(STAGES + "# other code\n")
    sh("git commit -q -a -m stale")

    found = rebuild("HEAD")

    assert found.verdict == "same"  # the bytes are what it records, for all that
    assert "stages.py changed since it ran" in found.notes[0]


def test_raw_data_that_is_damaged_or_gone_is_never_rebuilt_from(project: Path) -> None:
    listing = yaml.safe_load(Path(f"{TELEMETRY}.dvc").read_text())["outs"][0]["md5"]
    path = cache.cached(next(iter(cache.members(listing, "telemetry").values())))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        rebuild("HEAD")
    path.unlink()
    with pytest.raises(UserError, match="no default remote"):
        rebuild("HEAD")


def test_code_that_was_not_merged_runs_only_if_its_authors_are_trusted(project: Path, tmp_path: Path) -> None:
    sh("git switch -q -c theirs")
    with Path("stages.py").open("a") as file:
        file.write(f"Path({str(tmp_path / 'marker')!r}).touch()\n")
    sh("git commit -q -a -m theirs && git switch -q main")

    with pytest.raises(UserError, match="not in HEAD's history"):
        rebuild("theirs")
    assert not (tmp_path / "marker").exists()
    assert rebuild("theirs", trust_authors=True).verdict == "same"
    assert (tmp_path / "marker").exists()


def test_a_stage_that_fails_is_an_error(project: Path) -> None:
    Path("stages.py").write_text("raise SystemExit('no such disk')")
    sh("git commit -q -a -m broken")

    with pytest.raises(
        UserError, match=r"(?s)`dvc repro --force` failed with the code of another commit.*no such disk"
    ):
        rebuild("HEAD")


@pytest.mark.parametrize(
    ("bias", "status", "words"),
    [
        ("0", 0, ["is reproduced: all 2 stages gave the bytes"]),
        ("0.5", 1, ["clean is the first stage that differs", "month=2026-02", "Then train: ", "Not reproduced"]),
    ],
)
def test_the_command_says_so(
    project: Path, bias: str, status: int, words: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("BIAS", bias)
    monkeypatch.setattr("sys.argv", ["crashcast", "reproduce"])
    with pytest.raises(SystemExit) as ended:
        crashcast()

    assert ended.value.code == status
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed


@pytest.mark.slow
def test_this_project_is_reproduced_and_another_rule_of_cleaning_is_found(
    tmp_path: Path, copy_project: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = copy_project(tmp_path / "project")
    params = (here / "params.yaml").read_text()
    for old, new in SMALL.items():
        assert params.count(old) == 1
        params = params.replace(old, new)
    (here / "params.yaml").write_text(params)
    sh("git init -q -b main && git add -A && git commit -q -m code && crashcast demo && dvc repro -q", here)
    sh("git add -A && git commit -q -m run", here)
    monkeypatch.chdir(here)
    assert rebuild("HEAD").verdict == "same"

    # what the commit's code does not do: its lock is that of another rule
    sh("git switch -q -c other && sed -i 's/fill_limit: 2h/fill_limit: 5h/' params.yaml && dvc repro -q")
    sh("git checkout -q main -- params.yaml && git commit -q -a -m lock")
    found = rebuild("HEAD")

    assert next(iter(found.differing)) == "clean"
    assert found.verdict == "different"
    assert any("clean changed since it ran" in note for note in found.notes)
    cpu = [column for file in found.differing["clean"][0].files if file.difference
           for column in file.difference.columns if column.name == "cpu_pct"]  # fmt: skip
    assert cpu
    assert cpu[0].missing[0] < cpu[0].missing[1]  # what was committed filled longer gaps
