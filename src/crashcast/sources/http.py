"""What clients of HTTP servers share.

Both clients ask again in a loop of their own: urllib3's `Retry` sees neither a body that breaks off nor what it says (a
login page, a warning that half of the fleet is missing), and it sleeps however long a server asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

SHOWN_CHARACTERS = 300


def in_short(text: object) -> str:
    """Return an error, or the words of a server, on one line of a bounded length."""
    line = " ".join(str(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


def asked_wait(headers: Mapping[str, str], names: Iterable[str] = (), otherwise: float = 0.0) -> float:
    """Return how many seconds a server asks to wait, in Retry-After or in headers of its own; else `otherwise`."""
    for name in ("Retry-After", *names):
        try:
            return Retry().parse_retry_after(headers[name])
        except (KeyError, InvalidHeader):
            pass
    return otherwise


def with_headers(headers: Mapping[str, str]) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what adds headers to each request of a session as its `auth`: as its headers, a .netrc would win."""

    def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(headers)
        return request

    return add
