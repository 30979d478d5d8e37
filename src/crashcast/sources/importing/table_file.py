"""A file as a table, as it is: text stays text, and every error can name its row.

Rows are numbered as a spreadsheet shows them: a CSV file's header is row 1.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crashcast.errors import UserError
from crashcast.sources.importing.influx_file import is_annotated, read_annotated
from crashcast.sources.importing.json_file import read_json
from crashcast.sources.value_formats import PER_SECOND
from crashcast.text import some_of

TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
PACKED = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (".parquet", ".pq", *TEXTS, *(f"{text}{suffix}" for text in TEXTS for suffix in PACKED))
DELIMITERS = ",;\t|"
BLOCK_BYTES = 1 << 26  # a row must fit into a block
HEADER_CHARACTERS = 1 << 20  # the first row must fit into these
SHOWN = 12  # names in an error message


@dataclass(frozen=True)
class Sheet:
    """The table in a file.

    Attributes
    ----------
    path : Path
        The file.
    frame : DataFrame
        Its columns; all text if the file is CSV.
    numbers : sequence of int
        Those of the file's rows, or of its lines.
        The frame may repeat them all: for each of several columns.
    """

    path: Path
    frame: pl.DataFrame
    numbers: Sequence[int]

    def row(self, index: int) -> str:
        """Return the name of a row by its index in the frame."""
        return f"row {self.numbers[index % len(self.numbers)]}"

    def error(self, message: str, column: str | None = None, index: int | None = None) -> UserError:
        """Return an error that names the file and, if they are given, column and row."""
        place = [str(self.path)]
        place += [f"column '{column}'"] if column is not None else []
        place += [self.row(index)] if index is not None else []
        return UserError(f"{', '.join(place)}: {message}")

    def first(self, mask: pl.Series) -> int | None:
        """Return the index of the first row for which `mask` is true, if any."""
        index = mask.fill_null(False).arg_max()
        return index if index is not None and mask[index] else None


def read_sheet(path: Path, may_repeat: bool = False) -> Sheet:
    """Read a file of one of the kinds in `SUFFIXES`.

    Parameters
    ----------
    path : Path
        The file.
    may_repeat : bool
        Columns of CSV may have one name, as labels have in exports of tickets: the later ones get a number.

    Raises
    ------
    UserError
        If it is missing, empty, damaged, ragged, not UTF-8, without a header, or repeats a column.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}")
    if not path.name.lower().endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of file; give {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    sheet = _read_parquet(path) if path.name.lower().endswith(SUFFIXES[:2]) else _read_text(path, may_repeat)
    seen: dict[str, str] = {}
    for column in sheet.frame.columns:
        if (other := seen.setdefault(plain_name(column), column)) != column:
            raise sheet.error(f"columns '{other}' and '{column}' have the same name; rename or remove one")
        check_years(sheet, column, sheet.frame[column])
    return sheet


def check_years(sheet: Sheet, column: str, values: pl.Series) -> None:
    """Raise an error if a column of times has one outside of the years 1 to 9999, which Python cannot name."""
    kind, per_day = values.dtype, 0
    if isinstance(kind, pl.Datetime) and kind.time_unit != "ns":  # which reach to the year 2262
        per_day = 86_400 * PER_SECOND[kind.time_unit]
    elif kind == pl.Date:
        per_day = 1
    if per_day:
        first, last = -719_162 * per_day, 2_932_897 * per_day - 1
        if (index := sheet.first(~values.to_physical().is_between(first, last))) is not None:
            raise sheet.error("its year is not one of 1 to 9999: a wrong unit, or a clock not set", column, index)


def _read_text(path: Path, may_repeat: bool) -> Sheet:
    start = _content(path, HEADER_CHARACTERS)
    if start.startswith(b"PAR1"):
        raise UserError(f"{path} is a Parquet file; name it .parquet")
    try:
        if ".json" in path.name.lower() or ".ndjson" in path.name.lower():
            return Sheet(path, *read_json(path, _content(path)))
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
        if is_annotated(text):
            return Sheet(path, *read_annotated(path, _content(path).decode("utf-8-sig")))
        frame = _read_csv(path, text, may_repeat)
        return Sheet(path, frame, range(2, frame.height + 2))
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _content(path: Path, size: int | None = None) -> bytes:
    kind = PACKED.get(path.suffix.lower())
    try:
        with pa.input_stream(str(path), compression=kind) as stream:
            return bytes(stream.read(size))
    except (OSError, EOFError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable {kind or 'text'} file ({error}); export it again") from None


def _read_parquet(path: Path) -> Sheet:
    try:
        table = pq.read_table(path, partitioning=None)
        table.validate(full=True)  # text that is no UTF-8 would end polars
        known = pa.schema([field.with_type(_known(field.type)) for field in table.schema])
        return Sheet(path, pl.DataFrame(pl.from_arrow(table.cast(known))), range(1, len(table) + 1))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable Parquet file ({reason}); export it again") from None


def _known(kind: pa.DataType) -> pa.DataType:
    # polars panics at offsets such as +05:30; the stored moments are in UTC, whatever zone is written beside them
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if pa.types.is_decimal256(kind):
        return pa.float64()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_known(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _known(kind.item_type))
    return pa.large_list(_known(kind.value_type)) if pa.types.is_nested(kind) else kind


def _read_csv(path: Path, start: str, may_repeat: bool) -> pl.DataFrame:
    delimiter, header = _header(path, start)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated and not may_repeat:
        raise UserError(f"{path}: column '{repeated[0]}' is there twice; rename or remove one")
    values = [
        name for name in header if re.fullmatch(r"[-+]?\d[\d.,]*([eE][-+]?\d+)?|\d{4}-\d\d?-\d\d?.*", name.strip())
    ]
    if 2 * len(values) >= len(header):
        raise UserError(f"{path}, row 1: {some_of(header, SHOWN)} is no header; add a row that names the columns")
    try:
        table = pa_csv.read_csv(
            pa.input_stream(str(path), compression=PACKED.get(path.suffix.lower())),
            pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # one thread numbers the rows in errors
            pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
        )
    except (pa.ArrowException, OSError, EOFError) as error:
        if "UTF8" in str(error):
            raise _not_utf8(path) from None
        message = re.sub(r"^CSV parse error: Row #(\d+): ", r"row \1: ", str(error).splitlines()[0])
        raise UserError(f"{path}, {message}; export it again") from None
    if table.column_names != header:
        raise UserError(f"{path}, row 1: the header cannot be read; see its quotes, and export it again")
    names = [name if name not in header[:index] else f"{name} {index + 1}" for index, name in enumerate(header)]
    return pl.DataFrame([pl.Series(name, table.column(index)) for index, name in enumerate(names)])


def _header(path: Path, block: str) -> tuple[str, list[str]]:
    delimiter = max(DELIMITERS, key=block.partition("\n")[0].count)
    try:
        header = next(csv.reader(io.StringIO(block, newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise UserError(f"{path}, row 1: {error}; export it again") from None
    if not any(name.strip() for name in header):
        raise UserError(f"{path}, row 1: no header; add a row that names the columns")
    return delimiter, header


def _not_utf8(path: Path) -> UserError:
    return UserError(f"{path} is not UTF-8 text; save it as CSV in UTF-8")


def plain_name(column: str) -> str:
    """Return a column's name for comparison: `startedAt`, `Started At` and `started-at` are all `started_at`."""
    snake = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", column.strip())
    return re.sub(r"[\s.-]+", "_", snake).lower()
