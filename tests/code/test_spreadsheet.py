"""No text that comes from outside is a formula in an exported table."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import polars as pl
import pytest

from crashcast import spreadsheet
from crashcast.modeling import plots
from crashcast.operate import score_output

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0d1",
    '=HYPERLINK("http://x","y")',
    "=a,b",
]
PLAIN = ["db-01", "a=b", "1-2", "", "user@host", "'=1", " =1"]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_a_formula_becomes_text_and_nothing_else_changes(dtype: type[pl.DataType]) -> None:
    frame = pl.DataFrame({"server_id": [*FORMULAS, *PLAIN]}, schema={"server_id": dtype}).with_columns(risk=-0.5)
    read = [*csv.DictReader(io.StringIO(spreadsheet.write_csv(frame), newline=""))]
    assert [row["server_id"] for row in read] == [*(f"'{text}" for text in FORMULAS), *PLAIN]
    assert {row["risk"] for row in read} == {"-0.5"}


def test_missing_texts_and_numbers_stay() -> None:
    frame = pl.DataFrame({"a": [None, "=x"], "b": [-1, None], "c": [True, False]})
    assert spreadsheet.write_csv(frame) == "a,b,c\n,-1,true\n'=x,,false\n"


def test_plots_have_no_formulas_and_negative_numbers_stay_numbers() -> None:
    frame = pl.DataFrame({"incident": ["=cmd at 2026-01-01 00:00"], "pr_auc_lost": [-0.0123456789]})
    assert plots.as_csv(frame) == "incident,pr_auc_lost\n'=cmd at 2026-01-01 00:00,-0.0123457\n"


def test_scores_are_written_that_way(tmp_path: Path) -> None:
    score_output.WRITERS[".csv"](pl.DataFrame({"server_id": ["=1", "db"], "reason": ["@x", None]}), tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "server_id,reason\n'=1,'@x\ndb,\n"


def test_every_csv_of_this_project_is_written_here() -> None:
    files = Path(spreadsheet.__file__).parents[1].rglob("*.py")
    writers = {
        file.name for file in files if re.search(r"\.write_csv\(|csv\.(Dict)?[wW]riter|\.to_csv\(", file.read_text())
    }
    assert writers == {"spreadsheet.py", "plots.py"}  # of the latter see above
