"""Errors that the user can correct: bad input, and a system that refuses to write."""

from __future__ import annotations

import errno
import os
import re

REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "give this user access"),
    errno.EIO: "check the disk",
}
SQLITE = {  # DVC's notes
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "disk I/O error": errno.EIO,
}
NUMBER = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)  # of libraries that pass on the system's words alone


class UserError(Exception):
    """Bad input: the message says what is wrong, in which file, column, row or key, and what to do.

    Commands and stages print it without a traceback and exit with 2.
    """


def refusal(error: BaseException) -> UserError | None:
    """Return what the user can do: a UserError itself, or one for a full disk, a quota or missing rights; else None."""
    if isinstance(error, UserError):
        return error
    number: int | None = getattr(error, "errno", None) or SQLITE.get(str(error))
    if number is None and (found := NUMBER.search(str(error))):
        number = int(found[1])
    if number in REFUSALS:
        place = getattr(error, "filename2", None) or getattr(error, "filename", None)
        where = f"{place}: " if place else ""
        return UserError(f"{where}{os.strerror(number)}; {REFUSALS[number]}, then run the same command again")
    return refusal(error.__cause__) if error.__cause__ else None
