"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do.

    Commands print it without a traceback and exit with 2, stages with 1.
    """
