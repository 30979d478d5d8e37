"""CSV files as tables, and names of columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from crashcast.sources.importing.table_file import plain_name, read_sheet


@pytest.mark.parametrize("column", ["startedAt", " Started At", "started-at", "STARTED_AT", "started.at"])
def test_names_are_compared_without_their_spelling(column: str) -> None:
    assert plain_name(column) == "started_at"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_as_text_whatever_separates_it(delimiter: str, tmp_path: Path) -> None:
    rows = [["time", "host", "note"], ["2026-01-01", "007", '"two\nlines"']]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n")
    frame = read_sheet(tmp_path / "t.csv").frame
    assert frame.to_dicts() == [{"time": "2026-01-01", "host": "007", "note": "two\nlines"}]
