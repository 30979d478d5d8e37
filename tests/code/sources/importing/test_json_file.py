"""JSON as a table: values as they are written, series as rows, or an error that names the row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crashcast.errors import UserError
from crashcast.sources.importing import json_file
from crashcast.sources.importing.json_file import read_json
from crashcast.sources.importing.table_file import read_sheet

RECORD = '{"a": 1.50, "b": {"c": true, "d": null}, "e": ["x", "y"], "f": [1]}'
ROW = {"a": "1.50", "b.c": "true", "b.d": None, "e": "x, y", "f": "1"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", f"[{RECORD}]"),
        ("t.json", f'{{"took": 3, "hits": {{"total": 1, "hits": [{RECORD}]}}}}'),
        ("t.json", f'{{"status": "ok", "meta": {{"page": 1}}, "data": {{"result": [{RECORD}]}}}}'),
        ("t.jsonl", f"{RECORD}\n\n"),
        ("t.ndjson.gz", f"\ufeff{RECORD}"),
    ],
)
def test_records_keep_what_is_written(name: str, text: str) -> None:
    frame, numbers = read_json(Path(name), text.encode())
    assert frame.to_dicts() == [ROW]
    assert list(numbers) == [1]


def test_series_become_rows() -> None:
    series = {"metric": {"__name__": "up", "instance": "a:9100"}, "values": [[1767225600, "1"], [1767225660.5, "0"]]}
    rows = [
        {"timestamp": "1767225600", "metric": "up", "instance": "a:9100", "value": "1"},
        {"timestamp": "1767225660.5", "metric": "up", "instance": "a:9100", "value": "0"},
    ]
    instant = {"metric": series["metric"], "value": series["values"][0]}
    answer = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
    assert read_json(Path("t.json"), json.dumps(answer).encode())[0].to_dicts() == rows
    assert read_json(Path("t.json"), json.dumps(instant).encode())[0].to_dicts() == rows[:1]
    exported = {"metric": series["metric"], "values": [1, 0.5], "timestamps": [1767225600000, 1767225660500]}
    lines = f"{json.dumps(exported)}\n{json.dumps(instant)}"
    frame, numbers = read_json(Path("t.jsonl"), lines.encode())
    assert frame["value"].to_list() == ["1", "0.5", "1"]
    assert frame["timestamp"].to_list() == ["1767225600000", "1767225660500", "1767225600"]
    assert list(numbers) == [1, 1, 2]


def test_many_records_are_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "ROWS_AT_ONCE", 2)
    lines = [f'{{"a": {n}, "b{n}": "x"}}' for n in range(5)]
    frame, numbers = read_json(Path("t.jsonl"), "\n".join(lines).encode())
    assert frame["a"].to_list() == ["0", "1", "2", "3", "4"]
    assert frame["b4"].to_list() == [None, None, None, None, "x"]
    assert list(numbers) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", "t.json is not valid JSON"),
        ("t.json", "[" * 100_000, "t.json is not valid JSON"),
        ("t.jsonl", '{"a": 1}\nx', "t.jsonl is not valid JSON"),
        ("t.json", "3", "t.json holds no list of records"),
        ("t.json", "[]", "t.json holds no list of records"),
        ("t.json", '{"a": [{"b": 1}], "c": [{"b": 2}]}', "t.json holds no list of records"),  # which of the two?
        ("t.json", '[{"a": 1}, 2]', "t.json, row 2: no JSON object"),
        ("t.json", '[{"metric": {}, "values": [[1, 2, 3]]}]', "t.json, row 1: samples are no pairs"),
        ("t.jsonl", '{"metric": {}, "values": [1], "timestamps": []}', "t.jsonl, row 1: samples are no pairs"),
        ("t.json", '[{"a": "b"}, {"a": "\\ud800"}]', "t.json up to row 2: half of a character"),
        ("t.jsonl", '{"\\udc00": 1}', "t.jsonl up to row 1: half of a character"),
    ],
)
def test_what_holds_no_records_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_json(Path(name), text.encode())


def test_an_error_names_the_line_of_annotated_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("#datatype,string,long\n#default,,7\n,_time,n\n,a,1\n,b,\n\n#group,false\n,_time\n,c\n")
    sheet = read_sheet(path)
    assert sheet.frame.rows() == [("a", "1"), ("b", "7"), ("c", None)]
    assert [sheet.row(index) for index in range(3)] == ["row 4", "row 5", "row 9"]
    path.write_text("#datatype,string\n,_time\n,a,1\n")
    with pytest.raises(UserError, match="row 3: 3 values for 2 columns"):
        read_sheet(path)
