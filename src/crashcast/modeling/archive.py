"""The bytes of a saved estimator: the same for the same model, and none that no model of its algorithm has.

skops refuses types that it is not told to trust. It does not ask whether a type is in its place, and scikit-learn does
not check what it has fitted itself: a trusted object in the wrong place, or a number that says how much to allocate,
can crash the process or fill its memory. So an archive is compared with that of a small model that is fitted here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn.utils

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
SCHEMA = "schema.json"
PLAIN = "JsonNode"  # skops' loader of numbers and text
MARK, FILE = "__id__", "file"  # of an object, and the member that holds an array


def _skops() -> Any:
    """Import skops without the estimators that it trusts unasked: to list them, it imports all of scikit-learn."""
    list_estimators = sklearn.utils.all_estimators
    sklearn.utils.all_estimators = lambda: []
    try:
        import skops.io
    finally:
        sklearn.utils.all_estimators = list_estimators
    return skops


skops = _skops()


class Node(NamedTuple):
    """What stands in one place of an archive.

    Attributes
    ----------
    place : str
        The names that lead there; all members of a list have one place.
    kind : tuple of str
        Module, class and loader, then the node's other keys.
    value : object
        If it is a number or text that is no float; else None.
    """

    place: str
    kind: tuple[str, ...]
    value: Any


def check_size(archive: Path) -> None:
    """Refuse an archive that would unpack to more than its size and fill the memory; `save` compresses nothing.

    Raises
    ------
    ValueError
        If it would, or is no archive.
    """
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
    unpacked_bytes = sum(member.file_size for member in members)
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_stored or unpacked_bytes > archive.stat().st_size:
        raise ValueError(f"model.skops would unpack to {unpacked_bytes:,} bytes, and is not packed as `train` packs it")


def check_structure(archive: bytes, like: bytes, varying: Collection[str]) -> None:
    """Refuse an archive with an object, or a whole number, text or flag, that has no counterpart in another.

    Parameters
    ----------
    archive, like : bytes
        The archive, and one that `canonical` returned for a model of the same algorithm and number of features.
    varying : collection of str
        Names of plain values that may be other ones than in `like`, of the same type.

    Raises
    ------
    ValueError
        If there is one, or two objects share a mark and are not alike: skops would take the one for the other.
    """
    known: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    values: dict[str, list[Any]] = defaultdict(list)
    for node in _nodes(_schema(like), ""):
        known[node.place].add(node.kind)
        values[node.place].append(node.value)
    schema = _schema(archive)
    for node in _nodes(schema, ""):
        told = node.place.strip("./") or "model.skops"
        if node.kind not in known[node.place]:
            raise ValueError(f"{told}: no model of this algorithm holds {'.'.join(node.kind[:2])} there")
        own = values[node.place]
        is_known = node.value in own and type(node.value) in {type(value) for value in own}
        if node.place.rpartition("/")[2] in varying:
            is_known = type(node.value) in {type(value) for value in own}
        if not is_known:
            raise ValueError(f"{told}: no model of this algorithm has {node.value!r} there")
    _check_marks(schema)


def _schema(archive: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        return json.loads(packed.read(SCHEMA))


def _nodes(node: Any, place: str) -> Iterator[Node]:
    if isinstance(node, list):
        for member in node:
            yield from _nodes(member, f"{place}[]")
    elif isinstance(node, dict):
        if "__loader__" in node:
            kind = [str(node.get(f"__{name}__")) for name in ("module", "class", "loader")]
            value = json.loads(node["content"]) if kind[2] == PLAIN else None
            yield Node(place, (*kind, *sorted(node)), None if isinstance(value, float) else value)
        for name, member in node.items():
            # the content of a node has its place
            yield from _nodes(member, place if name == "content" else f"{place}/{name}")


def _check_marks(schema: Any) -> None:
    marked: dict[Any, list[Any]] = defaultdict(list)

    def collect(node: Any) -> None:
        for member in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(member)
        if isinstance(node, dict) and MARK in node:
            marked[node[MARK]].append(node)

    collect(schema)
    for nodes in marked.values():
        first = _unmarked(nodes[0]) if len(nodes) > 1 else None
        if any(_unmarked(node) != first for node in nodes[1:]):
            raise ValueError("model.skops: two objects share a mark and differ")


def _unmarked(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _unmarked(member) for name, member in node.items() if name not in (MARK, FILE)}
    return [_unmarked(member) for member in node] if isinstance(node, list) else node


def canonical(archive: bytes) -> bytes:
    """Return a skops archive whose bytes depend on the model alone.

    skops names members and marks shared objects by memory addresses, and zip stores the time: number both in order of
    appearance, fix the time, store without compression (whose bytes differ between zlib versions). Numbers and text
    get no mark: whether two equal ones are one object is for the interpreter to choose.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        schema = json.loads(source.read(SCHEMA))
        members = {name: source.read(name) for name in source.namelist() if name != SCHEMA}
    number: dict[int, int] = {}
    renamed: dict[str, str] = {}

    def renumber(key: str, node: Any) -> Any:
        if isinstance(node, Mapping):
            is_plain = node.get("__loader__") == PLAIN
            return {name: renumber(name, item) for name, item in node.items() if not (is_plain and name == MARK)}
        if isinstance(node, list):
            return [renumber("", item) for item in node]
        if key == MARK:
            return number.setdefault(node, len(number) + 1)  # skops takes 0 for no mark
        if key == FILE and node in members:
            stem, _, suffix = node.partition(".")
            return renamed.setdefault(node, f"{number.setdefault(int(stem), len(number) + 1)}.{suffix}")
        return node

    schema = renumber("", schema)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        target.writestr(zipfile.ZipInfo(SCHEMA, ZIP_EPOCH), json.dumps(schema))
        for old, new in renamed.items():
            target.writestr(zipfile.ZipInfo(new, ZIP_EPOCH), _without_padding(members[old]))
    return out.getvalue()


def _without_padding(member: bytes) -> bytes:
    """Zero the bytes between the fields of a structured array, which hold whatever was in memory."""
    array = np.load(io.BytesIO(member), allow_pickle=False)
    names = array.dtype.names or ()
    if not names or sum(array.dtype[name].itemsize for name in names) == array.dtype.itemsize:
        return member
    clean, out = np.zeros(array.shape, array.dtype), io.BytesIO()
    for name in names:
        clean[name] = array[name]
    np.save(out, clean, allow_pickle=False)
    return out.getvalue()
