"""Mutation testing: do the tests fail if a stage, a statistic or a rule of the labels is wrong?

    python benchmarks/mutants.py [NAME ...] [--sample 40] [--seed 1]

A mutant is the code with one error: another comparison, sign or constant, a condition negated, a guard, a term or a
step of a method chain dropped. It is killed if a test of its module fails. Documentation, type hints and messages are
left as they are. Mutants that change no result are in equivalent_mutants.yaml, with the reason, and do not count.

mutmut 3.8 and cosmic-ray 8.7 do not suit: the first mutates every message, but no constant of a module, and neither
draws a sample; the second starts Python anew for each mutant. Here a process that has imported all libraries is forked.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
LEAST_KILLED = 0.95
LIMIT_S, LIMIT_FACTOR = 20, 3  # a mutant may take so much longer than the tests take without one

LABELLING = "interruptions planned_work candidate_events labelling_functions label_model confirmed_incidents consensus"
SUBJECTS = {
    "clean": ["stages/clean.py"],
    "label": ["stages/label.py"],
    "featurize": ["stages/featurize.py"],
    "split": ["stages/split.py", "crashcast/modeling/split_rule.py"],
    "train": ["stages/train.py", "crashcast/modeling/sampling.py", "crashcast/modeling/validation_scores.py"],
    "choice": [
        f"crashcast/modeling/{name}.py"
        for name in ("compared_servers", "folds", "choice", "skill", "algorithms/one_rule")
    ],
    "evaluate": ["stages/evaluate.py", "crashcast/modeling/slices.py"],
    "alarms": ["crashcast/modeling/alarms.py"],
    "row_metrics": ["crashcast/modeling/row_metrics.py"],
    "bootstrap": ["crashcast/modeling/bootstrap.py"],
    "comparison": [f"crashcast/review/{name}.py" for name in ("comparison", "standard_error", "alarm_curve")],
    "policy": ["crashcast/review/policy.py"],
    "rescoring": ["crashcast/review/rescoring.py", "crashcast/review/test_set.py"],
    "labelling": [f"crashcast/labelling/{name}.py" for name in (*LABELLING.split(), "source_quality")],
    "memo": ["crashcast/execution/memo.py"],
}
# beside tests/code/PATH/test_MODULE*.py and tests/model/test_MODULE.py
MORE_TESTS = {
    "stages/clean.py": ["code/test_no_looking_ahead.py"],
    "stages/featurize.py": ["code/test_no_looking_ahead.py"],
    "crashcast/modeling/sampling.py": ["model/test_train.py"],
    "crashcast/modeling/validation_scores.py": ["model/test_train.py"],
    "crashcast/modeling/algorithms/one_rule.py": ["model/test_algorithms.py", "model/test_model_file.py"],
    "crashcast/modeling/slices.py": ["model/test_evaluate.py"],
    "crashcast/labelling/source_quality.py": ["code/labelling/test_consensus.py"],
    "crashcast/labelling/confirmed_incidents.py": ["code/labelling/test_consensus.py"],
    "crashcast/review/standard_error.py": ["code/review/test_comparison.py"],
    "crashcast/review/alarm_curve.py": ["code/review/test_comparison.py"],
    "crashcast/review/test_set.py": ["code/review/test_rescoring.py"],
    "crashcast/execution/memo.py": ["code/execution/test_runner.py"],
}

COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
CALCULATED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
PAIRS = ("min max", "first last", "any all", "head tail", "minimum maximum", "floor ceil", "argmin argmax")
PAIRS += ("min_horizontal max_horizontal", "any_horizontal all_horizontal", "forward_fill backward_fill")
CALLED = {a: b for pair in PAIRS for a, b in (pair.split(), reversed(pair.split()))}
STEPS = {"filter", "sort", "unique", "fill_null", "drop_nulls", "shift", "abs", "round", "clip", "explode", "unlink"}
WORDS = {"closed": {"left": "both", "both": "left", "right": "both"}, "side": {"left": "right", "right": "left"}}
WORDS |= {"strategy": {"forward": "backward", "backward": "forward"}, "keep": {"first": "last", "last": "first"}}
WORDS |= {"how": {"left": "inner", "anti": "semi", "semi": "anti"}}
# of a check that nothing fails here, or of speed
UNCHANGED_KEYWORDS = {"repr", "strict", "check_sortedness", "maintain_order", "rechunk", "ascii", "encoding"}
LEAVES = (ast.Raise, ast.Continue, ast.Break, ast.Return)


class Mutant(NamedTuple):
    """One error: bytes of a file that become others."""

    file: str
    number: int
    line: str
    change: str
    start: int
    end: int
    new: bytes

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.change}\n      {self.line}"


def mutants_of(source: str, file: str = "") -> list[Mutant]:
    """Return every mutant of a module."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for node, new in _changes(ast.parse(source).body):
        text = ast.unparse(new)
        is_atom = isinstance(new, ast.Constant | ast.Name | ast.stmt)
        found.append(
            Mutant(
                file,
                node.lineno,
                lines[node.lineno - 1].decode().strip(),
                f"{ast.unparse(node)} -> {text}",
                starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset,
                (text if is_atom else f"({text})").encode(),
            )
        )
    return found


def _changes(nodes: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield nodes and what they become."""
    for node in nodes:
        if node is None or _is_kept(node):
            continue
        yield from _changes_of(node)
        if isinstance(node, ast.FunctionDef):
            yield from _changes([*node.args.defaults, *node.args.kw_defaults, *node.body])
        elif isinstance(node, ast.AnnAssign):
            yield from _changes([node.value])
        else:
            yield from _changes(node.body if isinstance(node, ast.ClassDef) else list(ast.iter_child_nodes(node)))


def _is_kept(node: Any) -> bool:
    """Say whether a node is left as it is: messages, types, and options that change no result."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.FunctionDef(name="__str__") | ast.Call(func=ast.Name(id="print")):
            return True
        case ast.keyword(arg=name):
            return name in UNCHANGED_KEYWORDS
        case ast.Assign(value=value):
            return _is_type(value)
    return False


def _is_type(value: ast.expr) -> bool:
    """Say whether a value is an alias of a type, such as `Ints = NDArray[np.integer] | None`."""
    match value:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_type(left) and _is_type(right)
        case ast.Subscript(value=ast.Name(id="NDArray" | "Callable" | "tuple")) | ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return name in ("str", "int", "float") or (name[0].isupper() and not name.isupper())
    return False


def _changes_of(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what one node becomes."""

    def with_(**fields: Any) -> Any:
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed

    def is_text(part: ast.expr) -> bool:
        return isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))

    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for other in COMPARED[type(op)]:
                    yield node, with_(ops=[*ops[:place], other(), *ops[place + 1 :]])
        case ast.BinOp(left=left, op=op, right=right) if not (is_text(left) or is_text(right)):
            if type(op) in CALCULATED:
                yield node, with_(op=CALCULATED[type(op)]())
                yield node, left
                yield node, right
        case ast.BoolOp(op=op, values=values):
            yield node, with_(op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for place in range(len(values)):
                yield node, with_(values=values[:place] + values[place + 1 :]) if len(values) > 2 else values[1 - place]
        case ast.UnaryOp(operand=operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield node, ast.Constant(value + 1 if value < 100 else 2 * value)
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(2 * value or 1.0)
        case ast.AugAssign(op=op) if type(op) in CALCULATED:
            yield node, with_(op=CALCULATED[type(op)]())
        case ast.If(test=test, body=body, orelse=orelse):
            is_guard = not orelse and isinstance(body[-1], LEAVES)
            yield test, ast.Constant(False) if is_guard else ast.UnaryOp(ast.Not(), test)
        case ast.IfExp(test=test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=ifs):
            for test in ifs:
                yield test, ast.Constant(True)
        case ast.Call(func=ast.Attribute(value=value, attr=name)):
            if name in CALLED:
                yield node, with_(func=ast.Attribute(value, CALLED[name]))
            if name in STEPS:
                yield node, value
        case ast.Call(func=ast.Name(id=name)) if name in CALLED:
            yield node, with_(func=ast.Name(CALLED[name]))
        case ast.keyword(arg=name, value=ast.Constant(value=word) as value) if word in WORDS.get(name, ()):
            yield value, ast.Constant(WORDS[name][word])


def tests_of(file: str) -> list[str]:
    """Return the files of tests that concern a module."""
    path, tests = Path(file), ROOT / "tests"
    mirrored = tests / "code" / path.parent.relative_to("crashcast" if path.parts[0] == "crashcast" else ".")
    found = [*mirrored.glob(f"test_{path.stem}.py"), *mirrored.glob(f"test_{path.stem}_*.py")]
    found += [*tests.glob(f"model/test_{path.stem}.py"), *(tests / name for name in MORE_TESTS.get(file, ()))]
    return sorted({str(path) for path in found})


class Fixed:
    """Lets hypothesis draw the same examples each time, and report the first that fails."""

    def pytest_configure(self) -> None:
        """Once tests/conftest.py has chosen its own profile."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile(
            "mutants", settings.get_profile("patient"), derandomize=True, database=None, phases=phases
        )
        settings.load_profile("mutants")


class Bench:
    """A copy of src in which one file at a time is a mutant, and forks that run tests with it."""

    def __init__(self, folder: Path) -> None:
        self.src = shutil.copytree(SRC, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "requirements.txt", folder)  # code that a commit shares is run with its lock
        self.log, self.modules, self.folder = folder / "log", folder / "modules", folder
        self.clock = int(time.time())
        self.known: dict[str, float] = {}
        os.environ["PYTHONPATH"] = str(self.src)  # of processes that tests start
        sys.path.insert(0, str(self.src))

    def run(self, tests: list[str], limit_s: float, *options: str) -> int | None:
        """Return the exit status of pytest; None if it takes too long."""
        import pytest

        if not (child := os.fork()):
            os.setsid()
            with self.log.open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            options += ("-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'tmp'}")
            os.chdir(ROOT)
            status = pytest.main([*options, *tests], plugins=[Fixed()])
            libraries = (n for n, m in sys.modules.items() if "/site-packages/" in str(getattr(m, "__file__", "")))
            self.modules.write_text(" ".join(libraries))
            os._exit(status)
        until, status = time.monotonic() + limit_s, None
        while status is None and time.monotonic() < until:
            done, waited = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(waited) if done else None
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
        return status

    def warm(self, tests: list[str]) -> None:
        """Import what tests import, but for this project's own code."""
        self.run(tests, 600, "--collect-only")
        for name in self.modules.read_text().split():
            with suppress(Exception):
                importlib.import_module(name)

    def seconds(self, test: str) -> float:
        """Return how long a file of tests takes without a mutant."""
        if test not in self.known:
            began = time.monotonic()
            if self.run([test], 3600):
                sys.exit(f"{test} fails without a mutant:\n{self.log.read_text()[-3000:]}")
            self.known[test] = time.monotonic() - began
        return self.known[test]

    def judge(self, mutant: Mutant, tests: list[str]) -> str:
        """Say whether a mutant was killed, survived or ran into the limit."""
        limit_s = LIMIT_S + LIMIT_FACTOR * sum(map(self.seconds, tests))
        path = self.src / mutant.file
        original = path.read_bytes()
        path.write_bytes(original[: mutant.start] + mutant.new + original[mutant.end :])
        self._touch(path)
        try:
            status = self.run(tests, limit_s)
        finally:
            path.write_bytes(original)
            self._touch(path)
        if status in (4, 5):
            sys.exit(f"pytest cannot run {tests}:\n{self.log.read_text()[-3000:]}")
        return "timed_out" if status is None else "killed" if status else "survived"

    def _touch(self, path: Path) -> None:
        """Let the file be newer than its .pyc by a whole second, for that is how Python tells."""
        self.clock += 1
        os.utime(path, (self.clock, self.clock))


def read_equivalent() -> dict[tuple[str, str], list[str]]:
    """Return the changes of each listed line, none for all; by file and line."""
    listed = yaml.safe_load(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    return {(file, entry["line"]): entry.get("changes", []) for file, entries in listed.items() for entry in entries}


def drawn(file: str, sample: int, seed: int) -> tuple[list[Mutant], int]:
    """Draw mutants of a file by a hash of what they change, so that edits elsewhere draw no others.

    Returns
    -------
    list of Mutant
        In order of the file.
    int
        How many are listed as equivalent.
    """
    equivalent, found = read_equivalent(), []
    every = mutants_of((SRC / file).read_text(), file)
    for mutant in every:
        listed = equivalent.get((file, mutant.line))
        if listed is None or (listed and mutant.change not in listed):
            found.append(mutant)
    ranked = sorted(found, key=lambda m: hashlib.sha256(f"{seed} {m.file} {m.line} {m.change}".encode()).hexdigest())
    return sorted(ranked[:sample], key=lambda m: (m.start, m.change)), len(every) - len(found)


def main() -> None:
    """Run the mutants of the subjects named, of all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each subject")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := set(args.names) - set(SUBJECTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose of {', '.join(SUBJECTS)}")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    is_short = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name in args.names or SUBJECTS:
            counts = measure(bench, SUBJECTS[name], args.sample, args.seed)
            results[name] = {"sample": args.sample, "seed": args.seed, **counts}
            is_short |= counts["share_killed"] < LEAST_KILLED
            told = f"{counts['share_killed']:.1%} killed of {counts['mutants']}"
            print(f"{name}: {told}; {counts.get('equivalent', 0)} listed as equivalent", flush=True)
            args.results.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    sys.exit(1 if is_short else 0)


def measure(bench: Bench, files: list[str], sample: int, seed: int) -> dict[str, Any]:
    """Run mutants of some files, of each as many as its share of all."""
    sizes = {file: len(mutants_of((SRC / file).read_text())) for file in files}
    counts: dict[str, Any] = defaultdict(int)
    bench.warm(sorted({test for file in files for test in tests_of(file)}))
    for file in files:
        some, equivalent = drawn(file, max(1, round(sample * sizes[file] / sum(sizes.values()))), seed)
        tests = sorted(tests_of(file), key=bench.seconds)
        counts["equivalent"] += equivalent
        for mutant in some:
            outcome = bench.judge(mutant, tests)
            counts["mutants"] += 1
            counts[outcome] += 1
            if outcome != "killed":
                print(f"  {outcome}: {mutant}", flush=True)
    counts["share_killed"] = 1 - counts["survived"] / max(1, counts["mutants"])
    return dict(counts)


if __name__ == "__main__":
    main()
