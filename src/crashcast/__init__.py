"""Crashcast: a predictor of server crashes."""

import os

# Threads that wait must not spin: on a busy machine that made a fit cost five times the CPU. OpenMP reads this
# only once, as the first library loads it, so it is set before anything of this project can load one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
