"""Whatever the samples and the form: an import finds the samples, or refuses the files."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis
import polars as pl
import pytest
from exported_forms import FORMS, KEYS, metrics_of
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.sources.importing import run_import

ROOT = Path(__file__).parents[2]
TELEMETRY = Path("data/raw/telemetry")
METRICS = ["cpu_pct", "memory_pct", "latency_ms"]
SERVERS = st.from_regex(r"[a-z]{1,6}-?[0-9]{1,3}(\.[a-z]{2,4}){0,2}", fullmatch=True)
VALUES = st.integers(0, 10_500).map(lambda whole: whole / 100 if whole <= 10_000 else None)  # some are missing
QUARTER = timedelta(minutes=15)


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Draw samples of some servers at some quarters of an hour, rows and metrics in any order."""
    names = draw(st.lists(SERVERS, min_size=2, max_size=4, unique=True))
    start = draw(st.datetimes(datetime(2026, 1, 1), datetime(2026, 9, 1))).replace(minute=0, second=0, microsecond=0)
    metrics = draw(st.permutations(METRICS))
    rows = []
    for name in names:
        gone = draw(st.sets(st.integers(1, 19), max_size=3))
        for step in sorted(set(range(draw(st.integers(8, 20)))) - gone):
            some = VALUES if step else VALUES.filter(lambda value: value is not None)
            rows.append((start.replace(tzinfo=UTC) + step * QUARTER, name, *(draw(some) for _ in metrics)))
    rows = draw(st.permutations(rows))
    return pl.DataFrame(rows, schema=dict.fromkeys(KEYS) | dict.fromkeys(metrics, pl.Float64), orient="row")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with params.yaml the current one; DVC is left out."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_import, "track", lambda paths: None)
    return tmp_path


EXAMPLES = [pytest.param(25, id="some"), pytest.param(1000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_samples_in_any_form_are_found(project: Path, examples: int) -> None:
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.reuse, hypothesis.Phase.generate],
    )
    @given(frame=frames(), form=st.sampled_from(sorted(FORMS)))
    def check(frame: pl.DataFrame, form: str) -> None:
        shutil.rmtree("in", ignore_errors=True)
        Path("in").mkdir()
        FORMS[form].write(frame, Path("in"))
        crash = frame.row(0, named=True)
        Path("incidents.csv").write_text(
            f"server_id,started_at\n{crash['server_id']},{crash['timestamp'].isoformat()}\n"
        )
        run_import.import_files([Path("in")], Path("incidents.csv"), replace=True, **FORMS[form].options)
        parts = [tables.read(partition.path(TELEMETRY)) for partition in tables.partitions(TELEMETRY)]
        expected = frame.cast(dict.fromkeys(METRICS, pl.Float32)).sort(KEYS)
        assert_frame_equal(
            pl.concat(parts).filter(pl.any_horizontal(pl.col(METRICS).is_not_null())).sort(KEYS),
            expected.filter(pl.any_horizontal(pl.col(METRICS).is_not_null())),
            check_column_order=False,
            check_dtypes=False,
        )
        assert set(metrics_of(parts[0])) == set(METRICS)

    check()
