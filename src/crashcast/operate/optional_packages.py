"""Packages that only operating needs: an extra, so that training installs none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crashcast.errors import UserError


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Say how to install the extra if the block imports a package that is missing.

    Raises
    ------
    UserError
        Naming `what` needs it.
    """
    try:
        yield
    except ImportError:
        advice = ".venv/bin/pip install --require-hashes -r requirements-operate.txt"
        raise UserError(f"{what} needs the extra `operate`: {advice}") from None
