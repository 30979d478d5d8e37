"""Crashcast: a predictor of server crashes.

`crashcast.load("features")` returns a table as a frame, and `crashcast.plot.server("web-03")` draws a server.
"""

import os
from importlib import import_module
from typing import Any

# Threads that wait must not spin: on a busy machine that made a fit cost five times the CPU. OpenMP reads this
# only once, as the first library loads it, so it is set before anything of this project can load one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """Import what people use in notebooks when it is asked for: the package itself loads no library."""
    if name == "load":
        return import_module("crashcast.explore.frames").load
    if name == "plot":
        return import_module("crashcast.explore.plot")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
