"""`crashcast serve` in a time that is told: `python told_clock.py MOMENT FILE`.

It begins at a moment, ticks each hour up to the one that the file holds, and then waits until the file holds a later
one. The first line that it prints is its address.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from crashcast.operate import serving
from crashcast.operate.http_app import HttpServer
from crashcast.operate.state import State
from crashcast.operate.tick import Service
from crashcast.params.collect import Collect
from crashcast.params.serve import Serve

HOUR = timedelta(hours=1)
serving.LONGEST_WAIT_S = 0.1
now, file = datetime.fromisoformat(sys.argv[1]), Path(sys.argv[2])


def clock() -> datetime:
    return min(now, datetime.fromisoformat(file.read_text()))


def turn(state: State) -> None:
    global now
    now = state.ticked_at + HOUR


section, models = Serve.read(), serving.ModelInUse()
service = Service.of(section, Collect.read())
with HttpServer(section, models.find().telemetry.interval, service.log) as server:
    print(server.url, flush=True)
    sys.exit(serving.run(service, models, [server.show, turn], clock=clock))
