"""Run the code of a commit where it can read nothing but its inputs, and change nothing but a folder of its own.

Whoever may push a branch writes that code. So it gets no network, no secret, an environment of a few variables, and of
this machine only the system's programs, its Python, its inputs (read-only) and one folder to write into. Its time,
memory, processes and disk are bounded. What it writes is foreign: regular files alone are taken, once every process of
it has ended. The sandbox is bubblewrap's.

Source: https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache as remembered
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import psutil
import yaml

from crashcast import files
from crashcast.errors import UserError
from crashcast.text import printable
from crashcast.versioning import cache, commit_limits, environment, git, sandbox_answers
from crashcast.versioning.revision import PARAMS, Revision
from crashcast.versioning.sandbox_answers import Answers, Readable

PROGRAM, NAME = "bwrap", "bubblewrap"
PROJECT = Path("/project")  # where the code finds itself
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache")
VARIABLES = {"HOME": "/tmp", "LANG": "C.UTF-8", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": "src"}
# passed on: they decide how many threads compute, and with which instructions
THREADS = re.compile(r"(OMP|OPENBLAS|MKL|POLARS_MAX)_\w+|NPY_DISABLE_CPU_FEATURES")
NOBODY = 65534  # a bound on processes does not hold for root
OWN = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent --new-session"
AS_ROOT = "--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID"
# begins in the sandbox, before the code: -S keeps the packages of the environment out of it
ENTER = """
import os, resource, sys
user, *bounds = map(int, sys.argv[1:6])
for kind, bound in zip(("CORE", "CPU", "FSIZE", "NPROC"), bounds):
    resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (bound, bound))
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
os.execvp(sys.argv[6], sys.argv[6:])
"""
LOOK_EVERY_S = 0.1
TAIL_LINES, TAIL_BYTES = 30, 20_000  # of what a failed run said
MAX_ANSWER_BYTES = 1_000_000  # on standard output


@dataclass(frozen=True)
class Bounds:
    """What one run may use.

    Attributes
    ----------
    time_s : int
        Of the clock for the run, and of CPU for each process.
    memory_bytes, disk_bytes : int
        Of all processes together.
    processes, threads : int
        Of all processes together. Threads are the system's own bound, which stops a flood that the look at processes
        is too slow for.
    """

    time_s: int = 4 * 3600
    memory_bytes: int = psutil.virtual_memory().total * 9 // 10
    disk_bytes: int = 200_000_000_000
    processes: int = 100 + 4 * (os.cpu_count() or 1)
    threads: int = 400 + 150 * (os.cpu_count() or 1)


BOUNDS = Bounds()


@remembered
def missing() -> str | None:
    """Say why there is no sandbox here; None if there is one."""
    if sys.platform != "linux":
        return f"{NAME} needs Linux"
    if shutil.which(PROGRAM) is None:
        return f"{NAME} is not installed"
    with cache.temporary() as place:
        (place / "code").mkdir()
        room = Room(Path(sys.executable), place, place / "code", is_apart=True)
        try:
            room.run("true", failure=f"{NAME} does not run here")
        except UserError as error:
            return str(error)
    return None


class Talk(NamedTuple):
    """The standard input and output of a command that runs."""

    stdin: IO[bytes]
    stdout: Readable


@dataclass
class Room:
    """A folder in which code runs, with its inputs and what it writes.

    Attributes
    ----------
    python : Path
        Of the environment.
    place : Path
        An empty folder of this machine.
    folder : Path
        The project in it.
    is_apart : bool
        Whether the code runs in the sandbox; without one, only that of trusted authors does.
    answers : Answers or None
        Where its answers are kept, or given.
    """

    python: Path
    place: Path
    folder: Path
    is_apart: bool
    answers: Answers | None = None
    _inputs: list[str] = field(default_factory=list)
    _excess: str = ""
    _answer: Path | None = None

    def input(self, path: str) -> Path:
        """Return where to lay out an input that the code finds at a path of the project, read-only."""
        self._inputs.append(path)
        target = self.place / "inputs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, path: str, text: str) -> None:
        """Write a file of the project; never through a symbolic link of the commit."""
        self._refuse_links(path)
        target = self.folder / path
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def run(self, *command: str | Path, failure: str) -> bytes:
        """Run a command in the project, and return what it prints.

        Raises
        ------
        UserError
            If it fails or uses more than `BOUNDS`: the sentence that `failure` begins.
        """
        with self.running(*command, failure=failure) as talk:
            talk.stdin.close()
            answer = talk.stdout.read(MAX_ANSWER_BYTES + 1)
            if len(answer) > MAX_ANSWER_BYTES:
                raise UserError(f"{failure}: it prints more than {MAX_ANSWER_BYTES:,} bytes")
        return answer

    @contextmanager
    def running(self, *command: str | Path, failure: str, asked: str = "") -> Iterator[Talk]:
        """Run a command whose standard input and output are the caller's, and wait for its end.

        Parameters
        ----------
        *command : str or Path
        failure : str
            The beginning of an error.
        asked : str
            Names what the caller writes to standard input: see `answers`.

        Raises
        ------
        UserError
            See `run`. An `EOFError` in the block means that the command has ended, and becomes this one.
        """
        self._answer = self._place_of_answer(command, asked)
        if self._answer and self._is_given:
            with self._given(failure) as talk:
                yield talk
        elif self._answer:
            self._answer.mkdir(parents=True, exist_ok=True)
            with (self._answer / sandbox_answers.PRINTED).open("wb") as copy, self._run_here(command, failure) as talk:
                yield Talk(talk.stdin, sandbox_answers.Copied(talk.stdout, copy))
        else:
            with self._run_here(command, failure) as talk:
                yield talk

    @contextmanager
    def _given(self, failure: str) -> Iterator[Talk]:
        """Give what the command answered on another machine."""
        assert self._answer
        with suppress(FileNotFoundError, EOFError), (self._answer / sandbox_answers.PRINTED).open("rb") as printed:
            yield Talk(io.BytesIO(), printed)
            return
        raise UserError(f"{failure}: the answers that were given of this commit's code have none to this question")

    def _place_of_answer(self, command: Sequence[str | Path], asked: str) -> Path | None:
        if self.answers is None:
            return None
        words = ["python" if word == self.python else str(word) for word in command]
        inputs = {path: files.md5(self.place / "inputs" / path) for path in self._inputs}
        return self.answers.place(words, asked, inputs)

    @property
    def _is_given(self) -> bool:
        return self.answers is not None and self.answers.are_given

    @contextmanager
    def _run_here(self, command: Sequence[str | Path], failure: str) -> Iterator[Talk]:
        self._excess = ""
        shutil.rmtree(self.place / "tmp", ignore_errors=True)
        (self.place / "tmp").mkdir()
        outside, inside = os.pipe()  # by which bubblewrap says what it started; it needs a reader until then
        with os.fdopen(inside, "wb"), (self.place / "said").open("wb") as said:
            words, variables = self._prepared([str(word) for word in command], inside)
            process = subprocess.Popen(
                words, cwd=self.folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                pass_fds=[inside] if self.is_apart else [],
            )  # fmt: skip
        info = os.fdopen(outside, "rb", buffering=0)
        first = _first_process(info.read(TAIL_BYTES))
        ended, is_whole = threading.Event(), False
        watch = threading.Thread(target=self._watch, args=(process, ended), daemon=True)
        watch.start()
        try:
            with suppress(EOFError, BrokenPipeError):  # it has ended, and below it is said why
                assert process.stdin
                assert process.stdout
                yield Talk(process.stdin, process.stdout)
                is_whole = True
        except BaseException:
            _kill(process)
            raise
        finally:
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            status = process.wait()
            ended.set()
            watch.join()
            while first and _runs(first):  # the system lets it end after all others
                time.sleep(LOOK_EVERY_S / 10)
            info.close()
        if self._excess:
            raise UserError(f"{failure}: it uses more than {self._excess}")
        if status or not is_whole:
            raise UserError(f"{failure}: {self._said() or f'it ended with status {status}'}")

    def written(self, path: str) -> dict[str, Path]:
        """Return the files that the code wrote at a path, by their names in that folder; a file's own name is empty.

        Raises
        ------
        UserError
            If there is none, or anything else than regular files and folders: links and devices lead elsewhere.
        """
        if self._answer and self._is_given:
            return sandbox_answers.regular_files(self._answer / sandbox_answers.WRITTEN / path, path)
        self._refuse_links(path)
        found = sandbox_answers.regular_files(self.folder / path, path)
        if self._answer:
            for name, file in found.items():
                kept = self._answer / sandbox_answers.WRITTEN / path / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept)
        return found

    def _refuse_links(self, path: str) -> None:
        for name in (path, *map(str, PurePosixPath(path).parents)):
            if (self.folder / name).is_symlink():
                raise UserError(f"{name} is a symbolic link: it is not followed")

    def _prepared(self, command: Sequence[str], info: int) -> tuple[list[str], dict[str, str]]:
        """Return the command as it runs here, and its environment."""
        chosen = {name: value for name, value in os.environ.items() if THREADS.fullmatch(name)} | VARIABLES
        for path in self._inputs:
            self._refuse_links(str(PurePosixPath(path).parent))
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not self.is_apart:
            return self._bare(command, chosen)
        for path in self._inputs:
            place = self.folder / path
            place.mkdir(exist_ok=True) if (self.place / "inputs" / path).is_dir() else place.touch()
        is_root = os.getuid() == 0
        if is_root:
            self._hand_over()
        words = [PROGRAM, *OWN.split(), *(AS_ROOT.split() if is_root else ["--unshare-user"]), "--info-fd", str(info)]
        own = str(self.place / "tmp")
        # before what is shown, since the environment may lie in /tmp too
        words += ["--bind", own, "/tmp", *self._shown(), "--proc", "/proc", "--dev", "/dev", "--bind", own, "/dev/shm"]
        words += ["--bind", str(self.folder), str(PROJECT)]
        for path in self._inputs:
            words += ["--ro-bind", str(self.place / "inputs" / path), str(PROJECT / path)]
        words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(PROJECT)]
        bounds = (0, BOUNDS.time_s, BOUNDS.disk_bytes, BOUNDS.threads)
        words += [str(self.python), "-ISc", ENTER, *map(str, (NOBODY if is_root else 0, *bounds)), *command]
        path = os.pathsep.join([str(self.python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
        return words, chosen | {"PATH": path}

    def _bare(self, command: Sequence[str], chosen: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return them for code that runs outside the sandbox: its inputs are links, its variables those here."""
        for path in self._inputs:
            link = self.folder / path
            if link.is_dir() and not link.is_symlink():
                shutil.rmtree(link)
            if not link.is_symlink():
                link.symlink_to(self.place / "inputs" / path)
        return [*command], environment.variables(self.python) | chosen | {"HOME": str(Path.home())}

    def _shown(self) -> list[str]:
        """Return what of this machine is visible: the system's programs, Python and the environment's packages."""
        words = ["--dir", "/etc"]
        for path in SYSTEM:
            if Path(path).is_symlink():
                words += ["--symlink", str(Path(path).readlink()), path]
            elif Path(path).exists():
                words += ["--ro-bind", path, path]
        visible = [Path(sys.base_prefix), *map(Path, SYSTEM)]
        words += _at(Path(sys.base_prefix))
        for hidden in (Path.home(), git.common_folder(), cache.root(), Path.cwd()):
            if any(hidden != path and hidden.is_relative_to(path) for path in visible):
                words += ["--tmpfs", str(hidden)]
        if (self.python.parents[1] / "pyvenv.cfg").exists():
            words += _at(self.python.parents[1])
        return words

    def _hand_over(self) -> None:
        """Let `NOBODY`, as whom a command of root's runs, write into the project and read the inputs."""
        for top in (self.folder, self.place / "tmp"):
            for folder, _, names in os.walk(top):
                for path in (Path(folder), *(Path(folder, name) for name in names)):
                    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        for folder, _, _ in os.walk(self.place / "inputs"):
            Path(folder).chmod(0o755)

    def _watch(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        begun, looks = time.monotonic(), 0
        while not ended.wait(LOOK_EVERY_S):
            looks += 1
            used_bytes, count = _used(process.pid)
            if used_bytes > BOUNDS.memory_bytes:
                self._excess = f"{BOUNDS.memory_bytes / 1e9:.1f} GB of memory"
            elif count > BOUNDS.processes:
                self._excess = f"{BOUNDS.processes:,} processes"
            elif time.monotonic() - begun > BOUNDS.time_s:
                self._excess = f"{BOUNDS.time_s:,} seconds"
            elif looks % 10 == 0 and _disk_bytes(self.place) > BOUNDS.disk_bytes:
                self._excess = f"{BOUNDS.disk_bytes / 1e9:.1f} GB of disk"
            if self._excess:
                _kill(process)
                return

    def _said(self) -> str:
        """Return the end of what the command said on standard error."""
        with (self.place / "said").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").rstrip().splitlines()
        return printable("\n".join(lines[-TAIL_LINES:]))


@contextmanager
def room(revision: Revision) -> Iterator[Room]:
    """Give a commit's files, without data, a folder in which its code can run in its environment.

    Raises
    ------
    UserError
        If its environment cannot be set up, or it has files in places of this machine.
    """
    commit_limits.check_places(revision)
    python = environment.interpreter(revision, cache.review_folder())
    with cache.temporary() as place:
        index = {"GIT_INDEX_FILE": str(place / "index")}
        git.run("read-tree", "--no-sparse-checkout", revision.sha, variables=index)
        git.run("checkout-index", "--all", "--quiet", f"--prefix={place / 'code'}/", variables=index)
        found = Room(python, place, place / "code" / git.prefix(), missing() is None, sandbox_answers.of(revision.sha))
        found.write(".dvc/config.local", "[cache]\n    dir = cache\n")  # its memo's, which none but this run uses
        workers = revision.params.get("execution", {}).get("workers")
        if isinstance(workers, str) and "://" in workers:  # a cluster
            local = {**revision.params["execution"], "workers": "auto", "shared": None}
            found.write(PARAMS, yaml.safe_dump({**revision.params, "execution": local}, sort_keys=False))
        yield found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it started: what runs in the sandbox dies with it."""
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    process.kill()


def _first_process(told: bytes) -> psutil.Process | None:
    """Return the sandbox's first process, as bubblewrap names it; None if there is none any more."""
    found = re.search(rb'"child-pid": (\d+)', told)
    try:
        return psutil.Process(int(found[1])) if found else None
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; the system may take seconds to forget one that has."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _at(folder: Path) -> list[str]:
    """Return the words that show a folder at its own path, whose parents anybody may pass."""
    made = [word for parent in [*folder.parents][-2::-1] for word in ("--dir", str(parent))]
    return [*made, "--ro-bind", str(folder), str(folder)]


def _used(pid: int) -> tuple[int, int]:
    """Return the memory and the number of a process's descendants."""
    used, children = 0, list[psutil.Process]()
    with suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
    for child in children:
        with suppress(psutil.Error):
            used += child.memory_info().rss
    return used, len(children)


def _disk_bytes(folder: Path) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(top, name).lstat().st_blocks * 512
    return total
