"""Which alarms are held back: by the draw alone, and never those of servers that a team excludes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from crashcast.errors import UserError
from crashcast.operate.holdback import is_held_back
from crashcast.params.serve import Serve

NOON = datetime(2026, 1, 5, 12)
SERVERS = [f"web-{number}" for number in range(100)]


def serve(**changes: Any) -> Serve:
    plain = {"listen": "127.0.0.1:0", "log": "served", "delay": "10m", "late_window": "2h", "max_ticket_age": "1d"}
    return Serve.model_validate(plain | changes)


def held_back(found: Serve, hours: int = 100) -> set[tuple[str, int]]:
    """Return which of the alarms that open on 100 servers, one an hour on each, are held back."""
    return {
        (server, hour)
        for server in SERVERS
        for hour in range(hours)
        if is_held_back(found, server, NOON + timedelta(hours=hour))
    }


def test_by_default_every_alarm_is_delivered() -> None:
    assert held_back(serve()) == set()


def test_the_share_is_held_back_over_servers_and_over_time() -> None:
    found = held_back(serve(holdback=0.05))
    assert 435 < len(found) < 565  # of 10,000: 500 within 3 standard deviations
    of_server = [sum(server == one for one, _ in found) for server in SERVERS]
    of_hour = [sum(hour == one for _, one in found) for hour in range(100)]
    for counts in (of_server, of_hour):  # binomial: variance 4.75
        assert 3 < sum((count - 5) ** 2 for count in counts) / 100 < 7


def test_the_draw_is_the_same_everywhere_and_another_with_another_seed() -> None:
    # sha256("1 2026-01-05T12:00:00 web-16") begins with 100b: 0.0627 of its range
    assert is_held_back(serve(holdback=0.063), "web-16", NOON)
    assert not is_held_back(serve(holdback=0.062), "web-16", NOON)
    one, other = held_back(serve(holdback=0.5)), held_back(serve(holdback=0.5, seed=2))
    assert 2_300 < len(one & other) < 2_700  # independent


def test_a_larger_share_adds_alarms_and_releases_none() -> None:
    assert held_back(serve(holdback=0.05)) < held_back(serve(holdback=0.2))


def test_a_server_that_is_excluded_is_always_warned_of() -> None:
    found = held_back(serve(holdback=0.9, never_hold_back=SERVERS[:50]), hours=10)
    assert {server for server, _ in found} == {*SERVERS[50:]}


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "much"])
def test_a_share_is_at_least_0_and_below_1(tmp_path: Any, share: Any) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        f"serve: {{listen: '127.0.0.1:1', log: x, delay: 1m, late_window: 1h, max_ticket_age: 1d, holdback: {share}}}"
    )
    with pytest.raises(UserError, match=r"serve.holdback"):
        Serve.read(path)
