"""What clients of HTTP servers share.

Each client has its own loop that asks again, because urllib3's `Retry` is not enough. It does not see that a body
breaks off, nor what is in it (a login page, a warning that half of the fleet is missing), and it sleeps as long as a
server asks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from crashcast.errors import UserError

SHOWN_CHARACTERS = 300


class PassingError(Exception):
    """A failure that may pass: asking again can help, after `wait_s` if the server asks to wait."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def in_short(text: object) -> str:
    """Return an error, or the words of a server, on one line of a bounded length."""
    line = " ".join(str(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


def words_of(answer: requests.Response, said: str = "") -> str:
    """Return the status of an answer and the server's words: what it `said`, or the whole text."""
    status, words = f"{answer.status_code} {answer.reason}", in_short(said or answer.text)
    return status if words.strip("{}[]") in ("", answer.reason) else f"{status}: {words}"


def asked_wait(headers: Mapping[str, str], names: Iterable[str] = ()) -> float | None:
    """Return how many seconds a server asks to wait, in Retry-After or in headers of its own; None if it does not."""
    for name in ("Retry-After", *names):
        try:
            return Retry().parse_retry_after(headers[name])
        except (KeyError, InvalidHeader):
            pass
    return None


def basic(user: str, password: str) -> str:
    """Return the value of the header of basic authentication, in UTF-8: all letters are allowed (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode(errors='surrogateescape')).decode()}"


def with_headers(
    headers: Mapping[str, str], secret: str
) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what adds headers to each request of a session as its `auth`: as its headers, a .netrc would win.

    Raises
    ------
    UserError
        If the token that they hold, of the variable `secret`, is no token.
    """
    if not all(re.fullmatch(r"[!-~]+( [!-~]+)?", value) for value in headers.values()):
        raise UserError(f"{secret} holds more than a token: blanks, several lines or other letters")

    def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(headers)
        return request

    return add
