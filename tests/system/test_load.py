"""`crashcast.load`: tables of the work tree and of revisions, in a real git and DVC project with a real S3 server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import crashcast
from crashcast import tables
from crashcast.errors import UserError
from crashcast.versioning import cache

START = {month: datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2)}
HOURS = 3  # of a month


def part(table: str, month: int) -> Path:
    return Path("data", table, f"month=2026-0{month}", tables.FILE_NAME)


def rows(month: int, **columns: Any) -> pl.DataFrame:
    """Return the rows of two servers."""
    times = [START[month] + timedelta(hours=hour) for hour in range(HOURS)]
    keys = pl.DataFrame({"timestamp": times}, schema={"timestamp": tables.TIMESTAMP})
    keys = keys.join(pl.DataFrame({"server_id": ["a", "b"]}), how="cross")
    return keys.with_columns(**columns)


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, s3: dict[str, str], dvc: Callable[..., None]
) -> tuple[Path, dict[str, str]]:
    """Return a project with two months of a fleet, pushed and registered; then its features are changed."""
    here = tmp_path_factory.mktemp("load")
    subprocess.run(["git", "init", "-q", "-b", "main", here], check=True)
    dvc(here, "init")
    (here / ".dvc/config").write_text(
        f"[core]\nremote = s3\n['remote \"s3\"']\nurl = s3://crashcast/{here.name}\n"
        f"endpointurl = {s3['AWS_ENDPOINT_URL']}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for name, value in s3.items():
            patch.setenv(name, value)
        for month in START:
            tables.write(part("features", month), rows(month, cpu_pct=pl.lit(month, pl.Float32)))
            label = pl.Series([1, 0, None, 0, 0, 0], dtype=pl.Int8)
            labels = rows(month, observed=True, label=label, reason=pl.when(label.is_null()).then(pl.lit("outage")))
            tables.write(part("labels", month), labels)
        predictions = rows(2, label=pl.lit(0, pl.Int8), observed=True, score=pl.lit(0.25))
        tables.write(part("predictions", 2), predictions.head(2))  # the test part
        crashes = [START[1], START[2]]
        incidents = pl.DataFrame({"server_id": ["a", "b"], "started_at": crashes, "kind": ["crash", "crash"]})
        tables.write(Path("data/raw/incidents.parquet"), incidents)
        dvc(here, "add", "data/features", "data/labels", "data/predictions", "data/raw/incidents.parquet")
        subprocess.run("git add -A && git commit -qm one && git tag crash-model@v1.0.0", shell=True, check=True)
        dvc(here, "push")
        part("features", 2).unlink()
        tables.write(part("features", 2), rows(2, cpu_pct=pl.lit(50.0, pl.Float32)))
    return here, s3


@pytest.fixture
def project(template: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    original, s3 = template
    folder = tmp_path / "project"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.mark.usefixtures("project")
def test_labels_and_scores_are_joined_to_features() -> None:
    frame = crashcast.load("features")
    assert isinstance(frame, pd.DataFrame)
    assert [*frame.columns] == ["timestamp", "server_id", "cpu_pct", "label", "reason", "score"]
    assert len(frame) == 2 * HOURS * 2
    assert frame["cpu_pct"].tolist() == [1.0] * 6 + [50.0] * 6
    assert frame["label"].isna().tolist() == [False, False, True, False, False, False] * 2
    assert frame["reason"].notna().sum() == 2
    assert frame["score"].notna().tolist() == [False] * 6 + [True, True] + [False] * 4
    assert frame["timestamp"].iloc[0] == pd.Timestamp(START[1])


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("2026-02-01", None, 3),
        (None, "2026-01-01T02:00", 2),
        (date(2026, 1, 1), date(2026, 2, 1), 3),
        ("2026-02-01T02:00+01:00", datetime(2026, 2, 1, 2), 1),  # 01:00 UTC
        (datetime(2026, 2, 1, 2, tzinfo=timezone(timedelta(hours=-1))), None, 0),  # 03:00 UTC
        ("2027-01-01", None, 0),
    ],
)
def test_a_period_and_servers(since: str | date | None, until: str | date | None, expected: int) -> None:
    frame = crashcast.load("features", servers=["b"], since=since, until=until, columns=["cpu_pct"])
    assert len(frame) == expected
    assert [*frame.columns] == ["timestamp", "server_id", "cpu_pct", "label", "reason", "score"]
    assert set(frame["server_id"]) <= {"b"}


def test_of_a_revision_only_the_partitions_of_the_period_are_fetched(project: Path) -> None:
    for store in (".dvc/cache", "data"):
        shutil.rmtree(project / store)
    (project / ".dvc/cache").mkdir()
    frame = crashcast.load("features", rev="v1.0.0", servers=["a"], since="2026-02-01")
    assert frame["cpu_pct"].tolist() == [2.0] * HOURS  # not the 50.0 of the work tree
    assert frame["score"].notna().tolist() == [True, False, False]
    held = [path for path in cache.root().rglob("*") if path.is_file() and not path.name.endswith(".dir")]
    assert len(held) == 3  # February of features, labels and predictions
    assert not (project / "data").exists()
    assert len(crashcast.load("incidents", rev="HEAD", until="2026-02-01")) == 1


def test_scores_are_empty_before_there_is_a_model(project: Path) -> None:
    shutil.rmtree(project / "data/predictions")
    assert crashcast.load("features")["score"].isna().all()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"table": "feature"},
            "the work tree has no table 'feature'; it has features, labels, predictions and raw/inc",
        ),
        ({"table": "clean", "rev": "HEAD"}, "has no table 'clean'; it has features, labels"),
        ({"table": "features", "rev": "v9"}, "git knows no commit 'v9'"),
        ({"table": "features", "columns": ["gpu"]}, "column gpu is missing"),
        ({"table": "features", "since": "yesterday"}, "since yesterday: write a moment such as"),
    ],
)
def test_what_cannot_be_had_is_said(options: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        crashcast.load(**options)


def test_a_damaged_file_of_the_cache_is_refused(project: Path) -> None:
    file = max(
        (path for path in (project / ".dvc/cache").rglob("*") if path.is_file()), key=lambda one: one.stat().st_size
    )
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="damaged"):
        crashcast.load("labels", rev="HEAD"), crashcast.load("features", rev="HEAD")


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, crashcast; assert not {'numpy', 'polars', 'pandas', 'dvc', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
