"""The objects that commits need, against what DVC's cache and remote hold.

DVC trusts names: whatever the remote lists is taken for what its name says, and of a folder whose list was pushed, all
files count as pushed. Here the remote is asked for every object, and an object counts as right by the server's own
checksums of it, or, with `deep`, by its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from crashcast.doctor import repair
from crashcast.doctor.cache import State, states
from crashcast.doctor.findings import Finding
from crashcast.text import some_of
from crashcast.versioning.bucket import REQUESTS, Bucket, read_list
from crashcast.versioning.cache import cached
from crashcast.versioning.dvc_files import RefusedListError, is_of, members
from crashcast.versioning.outputs import Object, Output
from crashcast.versioning.threads import side_by_side

REPAIR = "crashcast doctor --repair"


def check(
    outputs: list[Output], bucket: Bucket | None, parts: Collection[str], deep: bool = False
) -> Iterator[Finding]:
    """Compare what commits need with the cache and the remote.

    Parameters
    ----------
    outputs : list of Output
        See `outputs.outputs_of`.
    bucket : Bucket or None
        None if the remote cannot be reached: then only the cache is looked at.
    parts : collection of str
        What to look at: "remote", "cache" or both.
    deep : bool
        Read everything, on the remote too.

    Raises
    ------
    UserError
        If the remote stops answering.
    """
    inside: dict[Output, list[Object]] = {}
    for output in outputs:
        try:
            things = _objects(output, bucket)
        except RefusedListError as error:
            yield Finding("error", _where(output), str(error), f"find out who committed it; dvc add {output.path}")
            continue
        if things is None:
            yield Finding(
                "error",
                _where(output),
                "the list of its files is lost or damaged, in the cache and on the remote",
                f"in a clone that has it: dvc push {output.path}",
                partial(repair.rebuild_list, output, bucket),
            )
        else:
            inside[output] = things
    everything = {thing.md5: thing for things in inside.values() for thing in things}
    here = states(everything, deep) if "cache" in parts else {}
    there = _on_remote(inside, bucket, deep) if bucket and "remote" in parts else {}
    files: dict[str, list[Path]] = {}
    for things in inside.values():
        for thing in things:
            files.setdefault(thing.md5, []).append(Path(thing.path))
    stores = repair.Stores(bucket, files)
    for output, things in inside.items():
        yield from _in_cache(output, things, here, stores)
        yield from _missing_or_damaged(output, things, here, there, stores)
    for where, known in (("cache", here), ("remote", there)):
        if known:
            yield Finding("note", where, f"of {len(known)} objects that are needed, {_counts(known)}")


def _objects(output: Output, bucket: Bucket | None) -> list[Object] | None:
    """Return an output's objects: of a folder the list first; None if the list cannot be had."""
    if not output.is_folder:
        return [Object(output.md5, output.path, output.size_bytes)]
    listing = read_list(output.md5, bucket)
    if listing is None:
        return None
    files = members(listing, _where(output)).items()
    return [
        Object(output.md5, output.path, len(listing)),
        *(Object(md5, f"{output.path}/{name}", None) for name, md5 in files),
    ]


def _in_cache(
    output: Output, things: list[Object], states: dict[str, State], stores: repair.Stores
) -> Iterator[Finding]:
    if bad := [thing for thing in things if states.get(thing.md5) == "damaged"]:
        linked = [thing for thing in bad if stores.linked(thing.md5)]
        why = f"; the same file in the work tree, a link, was edited in place: {_names(linked)}" if linked else ""
        mend = partial(repair.mend_cache, [thing.md5 for thing in bad], stores)
        yield Finding("error", _where(output), f"damaged in the cache: {_share(bad, things)}{why}", REPAIR, mend)
    if not output.is_pushed and (gone := [thing for thing in things if states.get(thing.md5) == "missing"]):
        what = f"not in the cache, and never pushed: {_share(gone, things)}"
        yield Finding("warning", _where(output), what, "dvc repro")


def _missing_or_damaged(
    output: Output, things: list[Object], here: dict[str, State], there: dict[str, State], stores: repair.Stores
) -> Iterator[Finding]:
    for state, told in (("missing", "not on the remote"), ("damaged", "damaged on the remote")):
        if bad := [thing for thing in things if there.get(thing.md5) == state]:
            is_lost = any(here.get(thing.md5) in ("missing", "damaged") for thing in bad)
            # of a folder whose list is there, `dvc push` says that all of it is
            is_forgotten = state == "missing" and there.get(output.md5) == "missing"
            yield Finding(
                "error",
                _where(output),
                f"{told}{', nor whole in the cache' if is_lost else ''}: {_share(bad, things)}",
                "make push" if is_forgotten and not is_lost else REPAIR,
                partial(repair.mend_remote, [thing.md5 for thing in bad], stores),
            )


def _on_remote(inside: dict[Output, list[Object]], bucket: Bucket, deep: bool) -> dict[str, State]:
    needed = {output: things for output, things in inside.items() if output.is_pushed}
    sizes = {thing.md5: thing.size_bytes for things in needed.values() for thing in things}
    stored = bucket.stored(sizes)
    found: dict[str, State] = {md5: "missing" for md5 in sizes if md5 not in stored}

    found |= dict.fromkeys(stored, "unread")
    names = [] if deep else sorted(stored)
    answers = side_by_side(lambda md5: bucket.is_sound(md5, stored[md5]), names, REQUESTS)
    for md5, is_sound in zip(names, answers, strict=True):
        found[md5] = "unread" if is_sound is None else "good" if is_sound else "damaged"

    def has_wrong_size(md5: str) -> bool:
        size_bytes, copy = sizes[md5], cached(md5)
        if size_bytes is None and copy.exists():
            size_bytes = copy.stat().st_size
        return size_bytes is not None and size_bytes != stored[md5].size_bytes

    unread = {md5 for md5, state in found.items() if state == "unread"}
    suspects = set(unread) if deep else {md5 for md5 in unread if has_wrong_size(md5)}
    for output, things in needed.items():
        files = [thing.md5 for thing in things[1:]]
        if all(md5 in stored for md5 in files) and output.size_bytes is not None:
            total_bytes = sum(stored[md5].size_bytes for md5 in files)
            suspects |= unread.intersection(files) if total_bytes != output.size_bytes else set()
    # a size that differs from a record may be the record's fault: the bytes decide
    for md5, digest in bucket.hashes_of({md5: stored[md5].size_bytes for md5 in suspects}).items():
        found[md5] = "good" if is_of(md5, digest) else "damaged"
    return found


def _where(output: Output) -> str:
    return f"{output.path} of {output.revision}"


def _names(things: list[Object]) -> str:
    return some_of([thing.path for thing in things])


def _share(bad: list[Object], things: list[Object]) -> str:
    if len(things) == 1:
        return "the file"
    if len(bad) == len(things):
        return f"all {len(things) - 1} files and their list"
    lists, files = [thing for thing in bad if thing == things[0]], [thing for thing in bad if thing != things[0]]
    told = [f"{len(files)} of {len(things) - 1} files ({_names(files)})"] if files else []
    return " and ".join(told + ["the list of its files"] * bool(lists))


def _counts(known: dict[str, State]) -> str:
    words: dict[State, str] = {
        "good": "have the right hash",
        "unread": "may have (the server's checksum does not say; --deep reads them)",
        "damaged": "are damaged",
        "missing": "are not there",
    }
    counts = Counter(known.values())
    return ", ".join(f"{counts[state]} {phrase}" for state, phrase in words.items() if counts[state])
