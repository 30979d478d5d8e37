"""Mutants of files: most of them can still be parsed, so that they reach the code behind the parser."""

from __future__ import annotations

import copy
import csv
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

BYTES_SHARE = 0.2  # of mutants, damaged without regard to their structure
EXTREMES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63),
        10**30,
        1e308,
        -1e308,
        5e-324,
        0.1,
        float("nan"),
        float("inf"),
    ),
    *("", " ", "-", "null", "NaN", "0", "-1", "1e999", "9" * 40, "9" * 5000, "x" * 10_000, "\0", "\x1b[2J", "\ud800"),
    *(
        "../../x",
        "/",
        "..",
        "a/b",
        "\\",
        "'",
        '"',
        "<b>",
        "{x}",
        "%s",
        "$x",
        "=1+1",
        "ß\u202e",
        "a\nb",
        "a\r\nb",
        "a,b;c",
    ),
    *("2026-01-31T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", "2026-02-30", "1969-12-31"),
    *("2026-03-29 02:30:00", "2026-01-01T00:00:00.123456789+05:30", "1e9", "1767225600", "99999999999999999", "24:00"),
    *(253402300800, -62135596801, [], {}, [[]], [None], {"": None}, ["a", 1, {}], {"name": {"name": {}}}),
]


def bytes_of(content: bytes, dice: Random) -> bytes:
    """Truncate, flip, insert, double or remove bytes."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 5, 20))):
        at, kind = dice.randrange(len(changed) + 1), dice.randrange(6)
        if kind == 0 and dice.random() < 0.3:
            del changed[at:]
        elif kind == 1:
            changed[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 4, 64))))
        elif kind == 2:
            del changed[at : at + dice.choice((1, 4, 64))]
        elif kind == 3:
            end = at + dice.choice((1, 8, 200))
            changed[at:at] = changed[at:end]
        elif at < len(changed):
            changed[at] = dice.choice((0, 255, changed[at] ^ (1 << dice.randrange(8)), dice.randrange(256)))
    return bytes(changed)


def tree(value: Any, dice: Random) -> Any:
    """Change some nodes of nested mappings and lists: values, keys, order, depth, size."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4, 12))):
        places = list(_places(value))
        if not places:
            return dice.choice(EXTREMES)
        holder, key = dice.choice(places)
        kind = dice.randrange(11)
        if kind <= 3:
            holder[key] = copy.deepcopy(dice.choice(EXTREMES))
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, its_key = dice.choice(places)
            if other is not holder:  # or a tree would hold itself
                taken = copy.deepcopy(other[its_key])
                holder[key] = taken
        elif kind == 6 and isinstance(holder, dict):
            holder[dice.choice([str(extreme) for extreme in EXTREMES[:40]] + list(holder))] = holder.pop(key)
        elif kind == 6:
            holder.insert(key, copy.deepcopy(holder[dice.randrange(len(holder))]))
        elif kind == 7:
            holder[key] = [holder[key]] if dice.random() < 0.5 else {"value": holder[key]}
        elif kind == 8:
            holder[key] = _near(holder[key], dice)
        elif kind == 9 and isinstance(holder, list):
            dice.shuffle(holder)
        elif dice.random() < 0.1:
            for _ in range(dice.choice((50, 500))):
                holder[key] = [holder[key]]
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _near(value: Any, dice: Random) -> Any:
    """Return a value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return dice.choice((-value, value + 1, value * 1000, value / 7, str(value), f" {value} "))
    if isinstance(value, str) and value:
        at = dice.randrange(len(value))
        change = dice.choice(("0", "9", "-", ":", " ", "ä", "T", "", value))
        return value[:at] + change + value[at + 1 :]
    return value


def as_json(content: bytes, dice: Random) -> bytes:
    """Return a mutant of JSON."""
    if dice.random() < BYTES_SHARE:
        return bytes_of(content, dice)
    if dice.random() < 0.005:
        return b'[{"a":' * 50_000
    try:
        return json.dumps(tree(json.loads(content), dice)).encode()
    except (ValueError, RecursionError):  # it is a mutant already, or too deep to be written
        return bytes_of(content, dice)


def as_yaml(content: bytes, dice: Random) -> bytes:
    """Return a mutant of YAML."""
    draw = dice.random()
    if draw < BYTES_SHARE:
        return bytes_of(content, dice)
    if draw < BYTES_SHARE + 0.02:
        return content + dice.choice(YAML_TAILS)
    if draw < BYTES_SHARE + 0.25:
        return _lines(content, dice)
    try:
        text = yaml.dump(tree(_loaded(content), dice), Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)
    except (RecursionError, UnicodeError, yaml.YAMLError):
        return _lines(content, dice)
    return text.encode(errors="surrogatepass")


@cache
def _loaded(content: bytes) -> Any:
    return yaml.load(content, yaml.CSafeLoader)


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
YAML_TAILS = [
    f"\n{BOMB}\ntelemetry: *a11\nstages: *a11\nouts: *a11\n".encode(),
    b"\n" + b"[" * 20_000,
    b"\nx: &x {y: *x}\n",
    b"\n<<<<<<< HEAD\n=======\n>>>>>>> b\n",
    b"\nx: !!python/object/apply:os.system ['true']\n",
    b"\nx: !!binary x\n",
    b"\n? [a, b]\n: c\n",
    b"\n<<: 3\n",
    b"\nx: 2026-99-99\n",
    b"\nx: 1" + b"0" * 5000 + b"\n",
    b"\nx: 0x" + b"f" * 5000 + b"\n",
    b"\nx: 190:20:30:15.5\n",
    b"\n---\nb: 1\n",
]


def _lines(content: bytes, dice: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(lines))
        kind = dice.randrange(5)
        if kind == 0:
            lines.insert(at, lines[dice.randrange(len(lines))])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            other = dice.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines[at] = dice.choice((b"  ", b"\t", b"- ")) + lines[at]
        else:
            head, colon, _ = lines[at].partition(b":")
            extreme = dice.choice(EXTREMES)
            lines[at] = head + colon + b" " + str(extreme).encode(errors="surrogatepass")[:200] + b"\n"
    return b"".join(lines)


def as_csv(content: bytes, dice: Random) -> bytes:
    """Return a mutant of a table of text."""
    if dice.random() < BYTES_SHARE:
        return bytes_of(content, dice)
    rows = list(csv.reader(io.StringIO(content.decode())))
    header = rows[0]
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        row, column, kind = dice.randrange(len(rows)), dice.randrange(len(header)), dice.randrange(12)
        cells = rows[row]
        if not cells:
            continue
        at = min(column, len(cells) - 1)
        if kind <= 3:
            cells[at] = _cell(dice)
        elif kind == 4:
            cells[at] = str(_near(cells[at], dice))
        elif kind == 5:
            other = dice.choice(rows)
            if other:
                cells[at] = dice.choice(other)
        elif kind == 6:
            header[column] = dice.choice((*header, *NAMES, _cell(dice)))
        elif kind == 7:
            extreme = _cell(dice)
            for one in rows[1:]:
                if len(one) > column:
                    one[column] = extreme if dice.random() < 0.9 else one[column]
        elif kind == 8:
            rows.insert(dice.randrange(1, len(rows) + 1), list(cells))
        elif kind == 9 and len(rows) > 1:
            del rows[dice.randrange(dice.choice((1, len(rows) - 1)), len(rows))]
        elif kind == 10:
            for one in rows:
                one.insert(min(column, len(one)), dice.choice((*NAMES, "1", "")))
        elif dice.random() < 0.3:
            cells.pop()
        header = rows[0]
        if not header:
            break
    out = io.StringIO()
    delimiter, end = dice.choice((",", ",", ",", ";", "\t", "|")), dice.choice(("\n", "\n", "\n", "\r\n"))
    quoting = dice.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return dice.choice((b"", b"", b"", b"\xef\xbb\xbf")) + out.getvalue().encode(errors="surrogatepass")


def _cell(dice: Random) -> str:
    return str(dice.choice(EXTREMES))[:2000]


NAMES = ("timestamp", "time", "server_id", "host", "value", "metric", "id", "kind", "start", "end", "group", "label")
TYPES = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string()),
    *(pa.large_string(), pa.binary(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("us")),
    *(
        pa.timestamp(unit, tz=zone)
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "+05:30", "Asia/Kolkata")
    ),
    *(pa.decimal128(38, 10), pa.decimal256(76, 0), pa.list_(pa.int64()), pa.struct([("a", pa.int64())])),
    *(pa.map_(pa.string(), pa.int64()), pa.dictionary(pa.int32(), pa.string()), pa.binary(4)),
]


def as_parquet(content: bytes, dice: Random) -> bytes:
    """Return a mutant of a table in Parquet."""
    if dice.random() < BYTES_SHARE:
        return bytes_of(content, dice)
    table = pq.read_table(io.BytesIO(content), use_threads=False)
    names, columns = list(table.column_names), [column.combine_chunks() for column in table.columns]
    for _ in range(dice.choice((1, 1, 2, 4))):
        if not columns:
            break
        at, kind = dice.randrange(len(columns)), dice.randrange(7)
        if kind == 0:
            columns[at] = _cast(columns[at], dice.choice(TYPES))
        elif kind <= 2:
            columns[at] = _with_extremes(columns[at], dice)
        elif kind == 3:
            names[at] = dice.choice((*names, *NAMES, _cell(dice)[:100]))
        elif kind == 4:
            del names[at], columns[at]
        elif kind == 5:
            names.append(dice.choice((*NAMES, f"{names[at]}_2")))
            columns.append(columns[at])
        else:
            rows = dice.choice((0, 1, 3))
            columns = [column[:rows] for column in columns]
    try:
        out = io.BytesIO()
        pq.write_table(
            pa.Table.from_arrays(columns, names=[name.encode(errors="replace").decode() for name in names]),
            out,
            compression=dice.choice(("zstd", "snappy", "none", "gzip")),
            version=dice.choice(("1.0", "2.6")),
            use_dictionary=dice.random() < 0.5,
            store_schema=dice.random() < 0.5,
        )
        return out.getvalue()
    except (pa.ArrowException, ValueError, OverflowError):
        return bytes_of(content, dice)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind, safe=False)
    except (pa.ArrowException, ValueError):
        return pa.nulls(len(column), kind)


def _with_extremes(column: pa.Array, dice: Random) -> pa.Array:
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError):  # times that Python does not have
        return column
    numbers = [None, 0, -1, 1, 2**31, 2**62, -(2**62), 253402300800, 10**15, 10**18]
    for _ in range(dice.choice((1, 2, len(values)))):
        if values:
            at = dice.randrange(len(values))
            if pa.types.is_temporal(column.type):
                values[at] = dice.choice(numbers)
            elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values[at] = _cell(dice).encode(errors="replace").decode()
            else:
                values[at] = dice.choice((*numbers[:6], float("nan"), float("inf"), -1e308, None))
    try:
        if pa.types.is_temporal(column.type):
            whole = [None if one is None else one if isinstance(one, int) else 0 for one in values]
            return pa.array(whole, pa.int64()).cast(column.type, safe=False)
        return pa.array(values, column.type)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return column


def as_skops(content: bytes, dice: Random) -> bytes:
    """Return a mutant of a model's archive."""
    if dice.random() < BYTES_SHARE:
        return bytes_of(content, dice)
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    for _ in range(dice.choice((1, 1, 2, 3))):
        name = dice.choice(sorted(members))
        kind = dice.randrange(8)
        if kind <= 2:
            name = "schema.json" if "schema.json" in members else name
            members[name] = as_json(members[name], dice) if name.endswith(".json") else members[name]
        elif kind <= 5:
            members[name] = _array(members[name], dice) if name.endswith(".npy") else bytes_of(members[name], dice)
        elif kind == 6:
            del members[name]
        else:
            members[dice.choice(("../x", f"{name}.npy", "schema.json"))] = members[name]
        if not members:
            break
    out = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if dice.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", how) as target:
        for name, member in members.items():
            target.writestr(name, member)
    return out.getvalue()


def _array(content: bytes, dice: Random) -> bytes:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return bytes_of(content, dice)
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array.astype(dice.choice(("f4", "f8", "i8", "u1", "U3", "c16", "M8[s]"))),
        lambda: array.reshape(-1),
        lambda: array[:0],
        lambda: np.concatenate([array, array]),
        lambda: np.full(array.shape, dice.choice((np.nan, np.inf, -1, 2**31, 1e300))).astype(array.dtype),
        lambda: array[..., None],
    ]
    out = io.BytesIO()
    with np.errstate(all="ignore"):
        try:
            np.save(out, dice.choice(changes)(), allow_pickle=False)
        except (ValueError, TypeError, OverflowError, IndexError):
            return bytes_of(content, dice)
    return out.getvalue()


def as_text(content: bytes, dice: Random) -> bytes:
    """Return a mutant of a note: front matter and text."""
    return bytes_of(content, dice) if dice.random() < BYTES_SHARE else _lines(content, dice)
