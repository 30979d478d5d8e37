"""DVC's list of a folder's files: the object whose hash ends in `.dir`."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

from crashcast.errors import UserError

HASH = re.compile(r"[0-9a-f]{32}")


class RefusedListError(UserError):
    """A list that DVC did not write."""


def members(content: bytes, what: str) -> dict[str, str]:
    """Return the hash of each file of a folder.

    Parameters
    ----------
    content : bytes
        The list, its own hash checked.
    what : str
        What it is, for an error.

    Raises
    ------
    RefusedListError
        Where it is no such list, or a name leads out of the folder: a file would be written or linked there.
    """
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
    except (ValueError, TypeError, KeyError):
        raise RefusedListError(f"{what} is refused: the list of its files is not as DVC writes it") from None
    for path, md5 in files.items():
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in path or "\0" in path or not HASH.fullmatch(md5):
            raise RefusedListError(f"{what} is refused: the list of its files names {path!r}, which no folder holds")
    return files
