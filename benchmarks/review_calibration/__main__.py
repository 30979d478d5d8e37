"""Is the judge fair? Reviews of pairs of models whose true difference is known.

    python benchmarks/review_calibration run FOLDER [--condition chronic] [--fleets 0-399] [--looks]
    python benchmarks/review_calibration run FOLDER --condition chain --fleets 0-199
    python benchmarks/review_calibration run FOLDER --condition windows --fleets 0-119
    python benchmarks/review_calibration report FOLDER

Each pair is trained on its own simulated fleet: one model on half of the servers, the other on the other half. Of equal
pairs both see the sensors as they are; for a true gain the champion, and for a true loss the challenger, is trained and
used on sensors with noise. The review judges the fleet's own later period; the truth is measured on another fleet, 20
times as large. FOLDER keeps a file for each fleet, so that a run may be interrupted and go on, and several may share
it; `report` writes benchmarks/results/review_calibration.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

CONDITIONS = ("plain", "chronic", "outages")
CHAIN = "chain"  # twelve retrainings, each a little worse
ON_WINDOWS = "windows"  # recipes of small fleets (windows.py)


def main() -> None:
    """Run some fleets, or report on all that have been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--condition", choices=[*CONDITIONS, CHAIN, ON_WINDOWS], default=CONDITIONS[0])
    parser.add_argument("--fleets", default="0-399", help="first and last")
    parser.add_argument("--looks", action="store_true", help="20 equal challengers on the same rows, too")
    options = parser.parse_args()
    for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(library, "1")  # several of these run side by side; read when they are first imported
    import fleets  # type: ignore[import-not-found]
    from pairs import one_chain, one_fleet, truth_of  # type: ignore[import-not-found]
    from summary import report  # type: ignore[import-not-found]
    from windows import one_small, read_truth  # type: ignore[import-not-found]

    from crashcast.canonical import write_json

    folder = options.folder.resolve()
    if options.command == "report":
        report(folder, CONDITIONS, CHAIN, ON_WINDOWS)
        return
    first, _, last = options.fleets.partition("-")
    for number in range(int(first), int(last or first) + 1):
        out = folder / options.condition / f"fleet-{number:04d}.json"
        if out.exists():
            continue
        began = time.process_time()
        if options.condition == ON_WINDOWS:
            write_json(out, one_small(number, truth_of(folder / ON_WINDOWS / "truth.npz", read_truth)))
            continue
        of = CONDITIONS[0] if options.condition == CHAIN else options.condition
        truth = truth_of(folder / of / "truth.npz", partial(fleets.read_truth, of))
        found = one_chain(number, truth) if options.condition == CHAIN else one_fleet(of, number, truth, options.looks)
        write_json(out, found)
        print(f"{options.condition} {number}: {time.process_time() - began:.0f} CPU-s", file=sys.stderr)


if __name__ == "__main__":
    main()
