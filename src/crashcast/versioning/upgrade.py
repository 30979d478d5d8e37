"""`crashcast upgrade`: a newer version of Crashcast, merged into a project with a fleet of its own.

What a team made of its fleet stays: data, dvc.lock, figures and its values in params.yaml. What is new in params.yaml
is added. Code is merged by git, and people resolve what git cannot.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml.comments import CommentedMap

from crashcast.canonical import write_text
from crashcast.errors import UserError
from crashcast.paths import RAW
from crashcast.sources.importing.params_file import round_trip
from crashcast.sources.importing.writing import MAY_BE_EMPTY, write_empty
from crashcast.versioning import git
from crashcast.versioning.dvc_files import LOCK, pointer
from crashcast.versioning.revision import PARAMS
from crashcast.versioning.tracked_data import track

MERGED = "MERGE_HEAD"  # git's name of the commit that is being merged
MADE = ("data", "metrics", LOCK)  # what a fleet's own runs write


@dataclass(frozen=True)
class Upgrade:
    """What was done to a merge.

    Attributes
    ----------
    added : list of str
        Sections and keys of params.yaml that are new, with their values.
    unknown : list of str
        Sections and keys that the new version does not have.
    empty : list of Path
        New tables of raw data, which are empty.
    conflicts : list of str
        Files that are to be resolved by hand.
    """

    added: list[str]
    unknown: list[str]
    empty: list[Path]
    conflicts: list[str]


def upgrade() -> Upgrade:
    """Resolve what a merge of a newer version changes in a fleet's own files.

    Raises
    ------
    UserError
        If no merge is under way.
    """
    if git.commit(MERGED) is None:
        raise UserError(
            "no merge is under way: `git merge --no-commit --no-ff VERSION` begins one, with the tag of a newer version"
        )
    text, added, unknown = merged_params(_file("HEAD"), _file(MERGED))
    ours = set(git.run("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *MADE).entries)
    theirs = set(git.run("ls-tree", "-r", "-z", "--name-only", MERGED, "--", *MADE).entries)
    if foreign := sorted(theirs - ours):
        git.run("rm", "--quiet", "--force", "--ignore-unmatch", "--", *foreign)
    git.run("checkout", "HEAD", "--", *sorted(ours))
    write_text(Path(PARAMS), text)
    git.run("add", "--", PARAMS)
    empty = [path for path in MAY_BE_EMPTY if str(pointer(path)) not in ours]
    if empty and any(name.startswith(f"{RAW}/") for name in ours):
        write_empty(empty, RAW)
        track(empty)
        git.run("add", "--", f"{RAW}/.gitignore")
    conflicts = git.run("diff", "--name-only", "--diff-filter=U", "--relative", "-z").entries
    return Upgrade(added, unknown, empty, conflicts)


def merged_params(ours: bytes, theirs: bytes) -> tuple[str, list[str], list[str]]:
    """Return the text of our params.yaml with what is new in theirs, what that is, and what theirs does not have.

    Values, order and comments of ours stay. Sections and their keys are compared, not what is deeper: that is the
    fleet's own, such as metrics and candidates.
    """
    yaml = round_trip()
    kept, newer = yaml.load(ours), yaml.load(theirs)
    added, unknown = list[str](), [name for name in kept if name not in newer]
    first_new = next((name for name in newer if name not in kept), None)
    for name, section in newer.items():
        if name not in kept:
            kept[name] = section
            if name in newer.ca.items:
                kept.ca.items[name] = newer.ca.items[name]
            if name == first_new:  # each other follows a section of theirs, which ends with a blank line
                kept.yaml_set_comment_before_after_key(name, before="\n")
            added.append(f"{name}: {json.dumps(section)}")
        elif isinstance(section, CommentedMap) and isinstance(kept[name], CommentedMap):
            unknown += [f"{name}.{key}" for key in kept[name] if key not in section]
            added += [f"{name}.{key}: {json.dumps(section[key])}" for key in _add_keys(kept[name], section)]
    text = io.StringIO()
    yaml.dump(kept, text)
    return text.getvalue(), added, unknown


def _add_keys(kept: CommentedMap, section: CommentedMap) -> list[str]:
    """Add what a section has more, with its comments, and return the keys."""
    new = [(place, key) for place, key in enumerate(section) if key not in kept]
    for place, key in new:
        kept.insert(min(place, len(kept) - 1), key, section[key])  # a blank line follows the last
        if comment := section.ca.items.get(key):
            comment[2].value = comment[2].value.rstrip("\n") + "\n"  # without the blank line after it
            kept.ca.items[key] = comment
    return [key for _, key in new]


def _file(revision: str) -> bytes:
    content = git.file(revision, PARAMS)
    if content is None:
        raise UserError(f"{PARAMS} is not in {revision}: is that commit one of Crashcast?")
    return content
