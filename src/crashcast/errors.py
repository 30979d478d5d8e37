"""The error for mistakes that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message says what is wrong, in which file, column, row or key, and what to do.

    Commands print it without a traceback and exit with 2, stages with 1.
    """
