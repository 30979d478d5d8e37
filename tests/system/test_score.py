"""`crashcast score` on a small fleet: the pipeline's own scores, the newest observed rows, the model in use."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from scipy.special import logit

from crashcast import tables
from crashcast.errors import UserError
from crashcast.operate import deployment, look_back
from crashcast.operate.reasons import reasons
from crashcast.operate.score import score
from crashcast.paths import COVERAGE_PATH
from crashcast.versioning import cache
from crashcast.versioning.revision import Revision
from stages import featurize

Shell = Callable[..., subprocess.CompletedProcess[str]]
TELEMETRY, FEATURES, PREDICTIONS = (Path("data", name) for name in ("raw/telemetry", "features", "predictions"))
CAUSES = {  # the simulator's episodes, and the metrics that show them
    "leak": {"memory_pct"}, "overload": {"cpu_pct", "latency_ms"}, "disk": {"disk_used_pct"},
    "errors": {"error_rate_pct"},
}  # fmt: skip


def table(folder: Path) -> pl.DataFrame:
    return pl.concat(tables.read(partition.path(folder)) for partition in tables.partitions(folder))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Path:
    """Return a repository of this project with a small fleet, run once and committed."""
    return small_fleet(tmp_path_factory.mktemp("score") / "project")


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the project."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def used(project: Path) -> deployment.Deployment:
    """Return HEAD's model."""
    with chdir(project):
        return deployment.find("HEAD")[0]


def test_scores_have_the_bits_of_the_pipelines(
    here: Path, used: deployment.Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, features = table(PREDICTIONS), table(FEATURES)
    moments = predicted["timestamp"].unique().sort().dt.replace_time_zone(None).to_list()
    draw, compared = random.Random(1), 0
    for number in range(12):
        monkeypatch.setattr(look_back, "PIECE_ROWS", (2**18, 300)[number % 2])  # all servers at once, or a few
        found = score(used, draw.choice(moments) + timedelta(minutes=draw.randrange(60)))
        both = found.rows.join(predicted, on=["timestamp", "server_id"])
        assert both["risk"].equals(both["score"].alias("risk"))
        own = features.join(found.features, on=["timestamp", "server_id"], how="semi")
        assert own.equals(found.features.sort("timestamp", "server_id"))
        compared += both.height
    assert compared > 500


def test_categories_are_the_pipelines(here: Path, used: deployment.Deployment, tmp_path: Path) -> None:
    groups = tables.read(COVERAGE_PATH)["group"].unique().sort().to_list()
    features = used.features.model_copy(update={"categories": {"group": [*groups[1:], "none has it"]}})
    params = yaml.safe_load(Path("params.yaml").read_text())
    params |= {"features": features.model_dump(mode="json"), "execution": params["execution"] | {"memo_gb": 0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    places = [Path(name).resolve() for name in ("data/clean", "data/raw/incidents.parquet", COVERAGE_PATH)]
    with chdir(tmp_path):
        featurize.main(*places, Path("features"))
    pipelines = table(tmp_path / "features")
    flags = list(features.flags())
    assert pipelines.columns[-len(flags) :] == flags
    assert pipelines.drop(flags).equals(table(FEATURES))
    moments = pipelines["timestamp"].unique().sort().dt.replace_time_zone(None).tail(1000).to_list()
    for at in random.Random(2).sample(moments, 3):
        found = score(replace(used, features=features), at)
        own = pipelines.join(found.features, on=["timestamp", "server_id"], how="semi")
        assert own.equals(found.features.sort("timestamp", "server_id"))
    of_group = found.features.join(tables.read(COVERAGE_PATH, ["server_id", "group"]), on="server_id")
    for name, (_, value) in features.flags().items():
        assert of_group[name].to_list() == (of_group["group"] == value).to_list()
    assert of_group.select(pl.sum_horizontal(flags).sum()).item() == (of_group["group"] != groups[0]).sum() > 0


def test_corrections_by_server_are_part_of_the_scores_and_of_their_reasons(
    here: Path, used: deployment.Deployment
) -> None:
    whole = score(used)
    server = whole.rows["server_id"][0]
    found = score(replace(used, model=replace(used.model, local={server: 3.0})))
    both = whole.rows.join(found.rows, on="server_id")
    assert both.filter(pl.col("risk") != pl.col("risk_right"))["server_id"].to_list() == [server]
    row = both.row(by_predicate=pl.col("server_id") == server, named=True)
    assert logit(row["risk_right"]) == pytest.approx(logit(row["risk"]) + 3, rel=1e-6)
    for one, same in zip(reasons(found, server), reasons(whole, server), strict=True):
        assert one.source == same.source
        assert logit(one.risk_without) == pytest.approx(logit(same.risk_without) + 3, rel=1e-6)


def changed(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> datetime:
    """Change the newest partition of a copy of the telemetry, and return the time of the newest row before."""
    shutil.copytree(TELEMETRY, folder)
    last = tables.partitions(folder)[-1].path(folder)
    samples = tables.read(last)
    last.unlink()
    tables.write(last, change(samples))
    return samples["timestamp"].max().replace(tzinfo=None)  # type: ignore[union-attr]


def cut(folder: Path, server: str, hours: int) -> datetime:
    """Take a server's last hours out of a copy of the telemetry, and return the time of the newest row."""
    end = pl.col("timestamp").max() - timedelta(hours=hours)
    return changed(
        folder, lambda samples: samples.filter((pl.col("server_id") != server) | (pl.col("timestamp") <= end))
    )


def test_a_server_is_scored_at_its_newest_observed_row(here: Path, used: deployment.Deployment, tmp_path: Path) -> None:
    """Not at a row that fills the gap after it."""
    whole = score(used)
    server = whole.rows.filter(age=timedelta(0))["server_id"][0]
    newest = cut(tmp_path / "telemetry", server, hours=2)
    found = score(used, newest, tmp_path / "telemetry")
    row = found.rows.row(by_predicate=pl.col("server_id") == server, named=True)
    assert row["age"] == timedelta(hours=2)
    features = table(FEATURES).filter(server_id=server, timestamp=row["timestamp"])
    assert row["risk"] == used.model.predict(features)[0]
    others = pl.col("server_id") != server
    assert set(found.rows.filter(others)["server_id"]) == set(whole.rows.filter(others)["server_id"])


def test_a_server_without_a_row_that_still_speaks_of_the_future_is_silent(
    here: Path, used: deployment.Deployment, tmp_path: Path
) -> None:
    server = score(used).rows["server_id"][0]
    newest = cut(tmp_path / "telemetry", server, hours=8)  # lead + horizon are 7
    found = score(used, newest, tmp_path / "telemetry")
    assert server in found.silent
    assert server not in found.rows["server_id"]


def test_a_repeated_sample_counts_as_little_as_in_the_pipeline(
    here: Path, used: deployment.Deployment, tmp_path: Path
) -> None:
    """`clean` keeps the first of them, so if that one has no possible value, the row only fills a gap."""
    server, metrics = score(used).rows.filter(age=timedelta(0))["server_id"][0], list(used.telemetry.metrics)

    def repeat(samples: pl.DataFrame) -> pl.DataFrame:
        last = (pl.col("server_id") == server) & (pl.col("timestamp") == pl.col("timestamp").max())
        bad = samples.filter(last).with_columns(pl.lit(-1.0, pl.Float32).alias(name) for name in metrics)
        return pl.concat([bad, samples]).sort("timestamp", "server_id", maintain_order=True)

    newest = changed(tmp_path / "telemetry", repeat)
    found = score(used, newest, tmp_path / "telemetry").rows.row(by_predicate=pl.col("server_id") == server, named=True)
    assert found["age"] == timedelta(hours=1)


def test_what_the_model_does_not_see_is_told(here: Path, used: deployment.Deployment, tmp_path: Path) -> None:
    assert score(used).warnings == []
    day = pl.col("timestamp") > pl.col("timestamp").max() - timedelta(days=1)
    for name, value in {"null": pl.lit(None), "impossible": pl.lit(-1.0)}.items():
        without = pl.when(~day).then("latency_ms").otherwise(value)
        changed(tmp_path / name, lambda samples, without=without: samples.with_columns(latency_ms=without))
        (told,) = score(used, None, tmp_path / name).warnings
        assert "the newest row of no server has latency_ms:" in told
    coverage = tables.read(COVERAGE_PATH)
    server, end = coverage["server_id"][0], coverage["covered_to"].max()
    for name, hours, some in (("fresh", 23, []), ("stale", 26, [server])):
        old = pl.when(server_id=server).then(end - timedelta(hours=hours)).otherwise("covered_to")
        tables.write(tmp_path / f"{name}.parquet", coverage.with_columns(covered_to=old))
        assert [
            told.rpartition(": ")[2] for told in score(used, coverage=tmp_path / f"{name}.parquet").warnings
        ] == some


@pytest.mark.parametrize(
    "change",
    [
        lambda samples: samples.reverse(),
        lambda samples: samples.with_columns(latency_ms=pl.lit("fast")),
        lambda samples: samples.with_columns(server_id=pl.lit(None, pl.String)),
    ],
    ids=["order", "type", "key"],
)
def test_samples_that_validate_would_refuse_are_refused(
    here: Path, used: deployment.Deployment, tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    newest = changed(tmp_path / "telemetry", change)
    with pytest.raises(UserError, match="out of order, or has a wrong type or no key: `dvc repro validate` says where"):
        score(used, newest, tmp_path / "telemetry")


def test_an_empty_newest_partition_hides_no_sample(here: Path, used: deployment.Deployment, tmp_path: Path) -> None:
    newest = changed(tmp_path / "telemetry", lambda samples: samples)
    empty = tables.partition_at(newest + timedelta(days=20), "month")
    tables.write(empty.path(tmp_path / "telemetry"), tables.read(tables.partitions(TELEMETRY)[-1].path(TELEMETRY))[:0])
    assert score(used, None, tmp_path / "telemetry").rows.equals(score(used).rows)


def test_a_folder_without_git_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not a git repository"):
        deployment.find()


def test_a_moment_without_any_row_is_refused(here: Path, used: deployment.Deployment) -> None:
    told = r"no server has a row from 2030-12-31 18:00 to .*: the newest sample of .* is of 2025-03-31"
    with pytest.raises(UserError, match=told):
        score(used, datetime(2031, 1, 1))


def first_reasons() -> tuple[int, int]:
    """Of each episode that ended in a crash and reached the threshold: how often the first reason is its cause."""
    used = deployment.find("HEAD")[0]
    high = table(PREDICTIONS).filter(pl.col("score") >= used.model.threshold)
    episodes = tables.read(Path("data/demo/episodes.parquet")).filter("crashed").with_row_index("episode")
    during = pl.col("timestamp").is_between("onset_at", "ended_at", closed="left")
    caught = high.join(episodes, on="server_id").filter(during).sort("timestamp").unique("episode", keep="first")
    rows = caught.select("timestamp", "server_id", "kind").iter_rows()
    found = [
        reasons(score(used, when.replace(tzinfo=None)), server)[0].source in CAUSES[kind] for when, server, kind in rows
    ]
    return sum(found), len(found)


def test_the_first_reason_is_the_simulators_cause(here: Path) -> None:
    right, caught = first_reasons()
    assert right == caught >= 5


@pytest.mark.slow
def test_the_first_reason_is_the_simulators_cause_on_the_whole_demo(
    copy_project: Callable[[Path], Path], shell: Shell, tmp_path: Path
) -> None:
    project = copy_project(tmp_path / "demo")
    shell("git init -q -b main && crashcast demo && dvc repro -q && git add -A && git commit -q -m run", cwd=project)
    with chdir(project):
        right, caught = first_reasons()
    assert caught >= 140
    assert right >= 0.95 * caught


def test_the_command_names_the_model_and_writes_every_server(here: Path, shell: Shell, tmp_path: Path) -> None:
    done = shell(f"crashcast score --out {tmp_path}/scores.parquet", cwd=here)
    assert "no version is in stage prod, so HEAD's model is used" in done.stderr
    assert f"servers scored by {Revision.find('HEAD').name}: " in done.stdout
    written = pl.read_parquet(tmp_path / "scores.parquet")
    assert written.columns == ["server_id", "timestamp", "risk", "is_at_risk", "age_s", "reason"]
    assert written["reason"].is_not_null().equals(written["is_at_risk"].alias("reason"))
    plain = json.loads(shell("crashcast score --json --at 2025-03-20T12:30Z", cwd=here).stdout)
    assert (plain["at"], len(plain["servers"]) > 50) == ("2025-03-20T12:00:00", True)
    predicted = table(PREDICTIONS).filter(pl.col("timestamp") == datetime(2025, 3, 20, 12, tzinfo=UTC))
    risks = {row["server_id"]: row["risk"] for row in plain["servers"] if row["age_s"] == 0}
    own = predicted.filter(pl.col("server_id").is_in([*risks]))
    assert dict(own.select("server_id", "score").iter_rows()).items() <= risks.items()
    assert own.height > 40
    refused = shell("crashcast score --explain nobody", cwd=here, check=False)
    assert (refused.returncode, "no server nobody was scored" in refused.stderr) == (2, True)


def test_the_version_in_stage_prod_is_used(here: Path, shell: Shell) -> None:
    shell("git tag -a crash-model@v1.0.0 -m first && git tag -a 'crash-model#prod#1' -m prod", cwd=here)
    try:
        found, note = deployment.find()
        assert (found.name, note) == ("v1.0.0", "")
    finally:
        shell("git tag -d crash-model@v1.0.0 'crash-model#prod#1'", cwd=here)


def test_a_model_that_is_not_shown_to_be_better_than_chance_is_refused_unless_told_to(here: Path, shell: Shell) -> None:
    evaluation = Path("metrics/evaluate.json")
    figures = json.loads(evaluation.read_text()) | {"lift": 0.79, "lift_low": 0.5, "lift_high": 1.4}
    evaluation.write_text(json.dumps(figures))
    shell("git commit -q -a -m 'No skill'", cwd=here)
    try:
        refused = shell("crashcast score", cwd=here, check=False)
        assert refused.returncode == 2
        said = " ".join(refused.stderr.split())
        assert "is below chance (a lift of 0.79, 0.5 to 1.4; chance 1), so its alarms would say nothing: more " in said
        assert "a longer horizon (params.yaml: label.horizon), or other metrics might help; --without-skill" in said
        assert "servers scored" in shell("crashcast score --without-skill", cwd=here).stdout
    finally:
        shell("git reset -q --hard HEAD~1", cwd=here)


def test_a_model_of_other_code_is_refused_and_of_other_comments_is_not(here: Path, shell: Shell) -> None:
    stage, original = Path("src/stages/clean.py"), Path("src/stages/clean.py").read_text()
    try:
        for text in (original.replace("MICROSECOND = ", "# a comment\nMICROSECOND = "), original + "MORE = 1\n"):
            assert text != original
            stage.write_text(text)
            shell("git commit -q -a -m edited", cwd=here)
            if "MORE" in text:
                with pytest.raises(UserError, match=r"trained by other code than runs here \(src/stages/clean.py\)"):
                    deployment.find("HEAD")
            else:
                assert deployment.find("HEAD")[0].model
    finally:
        shell("git reset -q --hard HEAD~2", cwd=here)


def test_a_work_tree_has_the_cache_that_dvc_gives_it(here: Path, shell: Shell, tmp_path: Path) -> None:
    main = cache.root()
    shell(f"git worktree add -q {tmp_path}/tree", cwd=here)
    try:
        with chdir(tmp_path / "tree"):
            assert cache.root() == tmp_path / "tree/.dvc/cache"
            assert cache.shared_root() == main  # of the memo and of what reviews keep
    finally:
        shell(f"git worktree remove --force {tmp_path}/tree", cwd=here)
