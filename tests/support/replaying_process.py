"""A process that ticks on from what the log says was issued, to be killed: `python replaying_process.py UNTIL`.

It prints, for each moment, the alarms that stand.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from replayed_fleet import HOUR, QUARTER, new_service

from crashcast.operate.serving import ModelInUse
from crashcast.operate.tick import tick

first, until = map(datetime.fromisoformat, sys.argv[1:])
used, service = ModelInUse().find(), new_service()
moment = service.log.last() or first
state = None
print("ready", flush=True)
while moment <= until:
    state = tick(used, service, moment + QUARTER, state)
    assert not state.problems, state.problems
    alarms = sorted((one.server_id, str(one.opened_at), str(one.ends_at), str(one.reasons)) for one in state.alarms)
    print(json.dumps([str(moment), alarms]), flush=True)
    moment += HOUR
