"""What a command costs: wall time, CPU and memory of all its processes.

    python benchmarks/measure.py COMMAND [ARGUMENT...]

CPU is user + system time of the command and of all descendants that were waited for, as the kernel counts it. The
peak of the largest process is the kernel's too (maximum resident set). The peak of all processes together is sampled:
every 100 ms, less often if the kernel answers slowly, the proportional set sizes (shared pages counted once) of
the command and its descendants are added up, so peaks shorter than that are missed. Compare CPU, not wall time, if
the machine does other work meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SAMPLED_EVERY_S = 0.1
MOST_OF_A_CORE = 0.05  # gigabytes take the kernel tens of milliseconds


@dataclass(frozen=True)
class Usage:
    """What a command cost.

    Attributes
    ----------
    wall_s, cpu_s : float
        Seconds.
    largest_process_mib : float
        Peak resident set of the largest process.
    all_processes_mib : float
        Sampled peak of the proportional set sizes of all processes together.
    """

    wall_s: float
    cpu_s: float
    largest_process_mib: float
    all_processes_mib: float


def measure(
    command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[Usage, str]:
    """Run a command.

    Returns
    -------
    Usage
        What it cost.
    str
        What it printed, errors included.

    Raises
    ------
    RuntimeError
        If it fails; the message is its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "usage.json"
        # from a small process: a child's peak includes what its parent held at the fork
        watched = [sys.executable, __file__, "--report", report, *command]
        done = subprocess.run(
            list(map(str, watched)), cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
        return Usage(**json.loads(report.read_text())), done.stdout


def watch(command: Sequence[str]) -> tuple[Usage, int]:
    """Run a command as a child of this process; return what it cost, and its exit status."""
    began = time.perf_counter()
    process = subprocess.Popen(command)
    ended, peak = threading.Event(), [0]

    def sample() -> None:
        took_s = 0.0
        while not ended.wait(max(SAMPLED_EVERY_S, took_s / MOST_OF_A_CORE)):
            asked = time.perf_counter()
            peak[0] = max(peak[0], proportional_set_bytes(process.pid))
            took_s = time.perf_counter() - asked

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    ended.set()
    sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    usage = Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, peak[0] / 2**20)
    return usage, process.returncode


def proportional_set_bytes(pid: int) -> int:
    """Add up the proportional set sizes of a process and its descendants; those that have ended count nothing."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += sum(2**10 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Measure the command line's command; its output and exit status are passed on."""
    arguments = sys.argv[1:]
    report = Path(arguments[1]) if arguments[:1] == ["--report"] else None
    usage, status = watch(arguments[2:] if report else arguments)
    text = json.dumps(asdict(usage))
    if report:
        report.write_text(text)
    else:
        print(text, file=sys.stderr)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
