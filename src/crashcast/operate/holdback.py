"""Which alarms are held back: a control group, drawn by a hash, so that anybody can draw it again (docs/outcomes.md).

An alarm is drawn once, at its opening, and its renewals follow it. So whether a server is warned of depends on nothing
that happens later.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from crashcast.params.serve import Serve

DRAWN_BYTES = 8


def is_held_back(serve: Serve, server_id: str, opened_at: datetime) -> bool:
    """Draw whether an alarm is held back.

    Parameters
    ----------
    serve : Serve
        `holdback` is the probability, 0 for servers in `never_hold_back`.
    server_id : str
    opened_at : datetime
        Time of the row that opened it; naive, meaning UTC.
    """
    if server_id in serve.never_hold_back:
        return False
    digest = hashlib.sha256(f"{serve.seed} {opened_at.isoformat()} {server_id}".encode()).digest()
    return int.from_bytes(digest[:DRAWN_BYTES]) / 256**DRAWN_BYTES < serve.holdback
