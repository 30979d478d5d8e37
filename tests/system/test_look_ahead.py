"""The review names features that know the future, and passes those that do not."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import polars as pl
import pytest

from crashcast import tables
from crashcast.errors import UserError
from crashcast.modeling import split_rule
from crashcast.review import look_ahead
from crashcast.review.test_set import FEATURES, read_rule
from crashcast.versioning.revision import Revision

pytestmark = pytest.mark.ci  # attacks

# the end of `featurize_partition`, and what somebody adds to it in good faith
ROWS = "    return pl.DataFrame([*(rows[name].tail(height) for name in tables.KEYS), *columns]), "
FRAME = "    frame = pl.DataFrame([*(rows[name].tail(height) for name in tables.KEYS), *columns])\n"
LEAKS = {
    "cpu_of_the_next_hour": 'pl.col("cpu_pct").shift(-1).over("server_id")',
    "cpu_rank_in_the_day": 'pl.col("cpu_pct").rank().over(pl.col("timestamp").dt.date()).cast(pl.Float32)',
    "cpu_of_the_server": 'pl.col("cpu_pct").mean().over("server_id")',
}
# the length of a server's last outage that was reported, though it may not be over
LENGTH = """
    ended = incidents.select("server_id", "reported_at", hours_of_outage=(pl.col("resolved_at") - pl.col("started_at")))
    frame = frame.sort("timestamp").join_asof(
        ended.sort("reported_at"), left_on="timestamp", right_on="reported_at", by="server_id", check_sortedness=False
    ).sort("timestamp", "server_id").drop("reported_at").with_columns(
        pl.col("hours_of_outage").dt.total_minutes().cast(pl.Float32))
"""
# crashes count from their start on, though nobody knew of them yet
UNREPORTED = 'known.with_columns(reported_at="started_at")'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, small_fleet: Callable[[Path], Path]) -> Iterator[Path]:
    folder = small_fleet(tmp_path_factory.mktemp("look-ahead") / "project")
    with chdir(folder):
        yield folder


def edit(old: str, new: str) -> None:
    path = Path("src/stages/featurize.py")
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def check(name: str = "HEAD") -> None:
    revision = Revision.find(name)
    period = split_rule.period(read_rule(revision), "test")
    look_ahead.check(revision, revision.outs[FEATURES], revision.raw, period)


def committed() -> str:
    for command in ("dvc repro -q featurize", "git commit -q -a -m leak"):
        subprocess.run(command, shell=True, check=True)
    return subprocess.run("git rev-parse HEAD", shell=True, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def leaking(fleet: Path) -> str:
    """Return a commit whose features know the future in four ways."""
    added = ", ".join(f"{name}={value}" for name, value in LEAKS.items())
    edit(ROWS, f"{FRAME}    frame = frame.with_columns({added})\n{LENGTH}    return frame, ")
    edit(
        '                "features": features,\n',
        '                "features": features,\n                "incidents": known,\n',
    )
    edit(
        "    features: Features,\n) -> tuple[pl.DataFrame, dict",
        "    features: Features,\n    incidents: pl.DataFrame,\n) -> tuple[pl.DataFrame, dict",
    )
    edit("crashes_that_show(partition, known, features),", f"crashes_that_show(partition, {UNREPORTED}, features),")
    try:
        return committed()
    finally:
        subprocess.run("git reset -q --hard HEAD~1", shell=True, check=True)


def test_features_of_the_past_alone_pass_and_are_checked_once(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check()
    monkeypatch.setattr(look_ahead, "_run", lambda *_: pytest.fail("they were computed again"))
    check()


def named_by_the_review(leaking: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(look_ahead, "some_of", ", ".join)
    with pytest.raises(UserError, match=r"look ahead: .* if the data ends then") as caught:
        check(leaking)
    return str(caught.value).partition("look ahead: ")[2].partition(". For example")[0].split(", ")


@pytest.mark.slow
def test_each_is_named_whatever_moments_are_drawn(leaking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, found = look_ahead._moments, Counter[str]()
    for number in range(10):
        monkeypatch.setattr(look_ahead, "_moments", lambda features, *rest: draw(f"{features}{number}", *rest))  # noqa: B023
        found.update(named_by_the_review(leaking, monkeypatch))
    leaks = (*LEAKS, "hours_of_outage", "hours_since_crash")
    assert {name: found[name] for name in leaks} == dict.fromkeys(leaks, 10)


def test_each_feature_that_knows_the_future_is_named(leaking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = named_by_the_review(leaking, monkeypatch)
    assert {*LEAKS, "hours_of_outage", "hours_since_crash"} <= {*named}
    assert not [name for name in named if name not in (*LEAKS, "hours_of_outage") and "crash" not in name]


@pytest.mark.parametrize("months", [("2025-03",), ("2025-01", "2025-02")], ids=["test", "train"])
def test_features_that_no_stage_made_are_named(fleet: Path, months: tuple[str, ...]) -> None:
    """A dvc.lock can name any. Here each of some hundred rows has a feature that knows the crash."""
    subprocess.run("dvc checkout -q -f data/features", shell=True, check=True)
    for month in months:
        path = Path(f"data/features/month={month}/part-0.parquet")
        rows = tables.read(path)
        is_forged = pl.int_range(pl.len()) % 1000 == 7
        path.unlink()  # a link to DVC's cache
        tables.write(path, rows.with_columns(cpu_pct=pl.when(is_forged).then(99).otherwise("cpu_pct").cast(pl.Float32)))
    subprocess.run("dvc commit -q -f featurize && git commit -q -a -m forged", shell=True, check=True)
    try:
        named = rf"(are not what its stages make: cpu_pct in month=({'|'.join(months)})/|look ahead: cpu_pct)"
        with pytest.raises(UserError, match=named):
            check()
    finally:
        subprocess.run("git reset -q --hard HEAD~1", shell=True, check=True)


def test_a_commit_whose_stages_are_called_otherwise_is_refused_unless_it_was_accepted(
    fleet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(look_ahead, "COMMAND", ["python", "src/other.py"])
    with pytest.raises(UserError, match="whether its features look ahead is not known"):
        check()
    revision = Revision.find("HEAD")
    period = split_rule.period(read_rule(revision), "test")
    look_ahead.check(revision, revision.outs[FEATURES], revision.raw, period, was_accepted=True)
    assert "was not checked" in capsys.readouterr().err
