"""How long a server asks to wait, and how its words are shown."""

from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from crashcast.sources.http import SHOWN_CHARACTERS, asked_wait, in_short
from crashcast.sources.tickets.systems import SYSTEMS


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3),
        ({"Retry-After": "soon", "ratelimit-reset": "12"}, 12),
        ({"X-RateLimit-State": "THROTTLED", "X-RateLimit-Period-In-Sec": "60"}, 60),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_how_long_each_system_asks_to_wait(headers: dict[str, str], wait: float | None) -> None:
    names = [name for system in SYSTEMS.values() for name in system.wait_headers]
    assert asked_wait(CaseInsensitiveDict(headers), names) == wait


def test_words_of_a_server_are_one_bounded_line() -> None:
    assert in_short("<html>\n  try again\t</html>") == "<html> try again </html>"
    assert len(in_short("x" * 10_000)) == SHOWN_CHARACTERS + 3
