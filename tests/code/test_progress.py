"""Progress of long work: a bar on a terminal, a bounded number of lines elsewhere."""

from __future__ import annotations

import pytest

from crashcast.progress import LINES, progress


def shown(capsys: pytest.CaptureFixture[str], total: int, noun: str = "file", step: int = 1) -> list[str]:
    with progress("import", total, noun) as advance:
        for _ in range(0, total, step):
            advance(step)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_few_items_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, 2) == ["import: file 1 of 2", "import: file 2 of 2"]


@pytest.mark.parametrize("total", [LINES, LINES + 1, 1_000, 1_234])
def test_many_items_have_a_bounded_number_of_lines(capsys: pytest.CaptureFixture[str], total: int) -> None:
    lines = shown(capsys, total)
    assert len(lines) <= LINES
    assert lines[-1] == f"import: file {total:,} of {total:,}"


def test_nothing_to_do_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, 0) == []


def test_bytes_are_shown_as_megabytes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, 4_000_000, "byte", 2_000_000)
    assert lines == ["import: 2 of 4 MB", "import: 4 of 4 MB"]


def test_a_terminal_shows_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert any("2/2" in line for line in shown(capsys, 2))
